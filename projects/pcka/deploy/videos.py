"""Detections on the frames of a video, read and written by OpenCV."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from pcka.errors import ConfigError, RunError

from .detections import Detections


def open_video(path: Path) -> cv2.VideoCapture:
    """Return an open video; raise ConfigError if OpenCV cannot read it."""
    video = cv2.VideoCapture(str(path))
    if not video.isOpened() or not video.grab():
        raise ConfigError(f"{path} is no video that OpenCV can read: convert it to MP4 (H.264)")
    video.release()
    video.open(str(path))  # from its first frame
    return video


def predict_video(detections: Detections, path: Path, output: Path, *, batch_size: int) -> None:
    """Detect in every frame of a video and write the drawn frames as an MP4 file.

    Args:
        detections: the networks; they keep all detections, with the number of the frame from 0 on.
        path: the path of the video.
        output: the path of the new video, ending in ``.mp4``.
        batch_size: frames at once.

    Raises:
        ConfigError: a video that OpenCV cannot read.
        RunError: OpenCV cannot write a video here.
    """
    video = open_video(path)
    rate = video.get(cv2.CAP_PROP_FPS) or 25.0
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    frames = _frames(video)
    writer: cv2.VideoWriter | None = None
    first = 0
    try:
        with tqdm(
            total=count if count > 0 else None, desc=path.name, unit="frame", disable=None
        ) as progress:
            while batch := list(islice(frames, batch_size)):
                pixels = [detections.detector.from_rgb(frame) for frame in batch]
                records = [
                    {"file_name": str(path), "frame": first + index} for index in range(len(batch))
                ]
                for drawing in detections.draw(pixels, records):
                    writer = writer or _writer(output, rate, drawing)
                    writer.write(np.ascontiguousarray(drawing[:, :, ::-1]))
                    progress.update()
                first += len(batch)
    finally:
        video.release()
        if writer is not None:
            writer.release()


def _frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """Yield the frames, ``(H, W, 3)`` uint8 in RGB."""
    while True:
        is_read, frame = video.read()
        if not is_read:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _writer(output: Path, rate: float, drawing: np.ndarray) -> cv2.VideoWriter:
    height, width = drawing.shape[:2]
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(output), code, rate, (width, height))
    if not writer.isOpened():
        raise RunError(f"OpenCV cannot write {output} ({width}x{height}): its build lacks MPEG-4")
    return writer
