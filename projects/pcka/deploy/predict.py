"""Predict on new images by the student of a finished run.

pcka predict RUN IMAGES... [--output DIR] [--threshold 0.5] [--device auto] [--batch N] [--teacher]

RUN is the output folder of a detector (pcka train) or of a classifier (pcka classify); IMAGES are
files, folders or globs, for detectors also videos. A detector's boxes, and masks if it has them,
are drawn on every image and frame; predictions.json holds all detections in COCO's format. Of a
classifier there are the five most probable classes of every image, in predictions.csv, and contact
sheets of all images.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from pcka.cli import exit_status
from pcka.errors import ConfigError

from .image_sources import find_images, is_video
from .outputs import check_new_folder, unique_names
from .quiet import quiet_libraries
from .runs import TrainedRun, device_of, find_run

THRESHOLD = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="pcka predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders or globs")
    parser.add_argument(
        "--output", type=Path, help="a new or empty folder; default: RUN/predictions"
    )
    parser.add_argument(
        "--threshold",
        type=_score,
        metavar="SCORE",
        help=f"score from which a detection is drawn; default: {THRESHOLD}",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--batch",
        type=_positive,
        metavar="N",
        help="images at once; default: 1 (detector, as in its evaluation) or 32 (classifier)",
    )
    parser.add_argument("--teacher", action="store_true", help="show the teacher beside it")
    args = parser.parse_args(argv)
    quiet_libraries()
    return exit_status("pcka predict", lambda: predict(args))


def predict(args: argparse.Namespace) -> None:
    """Check the request, predict and say where the results are.

    Raises:
        ConfigError: what cannot be predicted, or written; nothing is written then.
    """
    run = find_run(args.run)
    output = args.output or run.folder / "predictions"
    check_new_folder(output)
    device = device_of(args.device)
    images = find_images(args.images)
    (_detect if run.kind == "detection" else _classify)(run, images, output, device, args)
    print(f"{len(images)} file(s): {output}")


def _detect(
    run: TrainedRun,
    images: list[Path],
    output: Path,
    device: torch.device,
    args: argparse.Namespace,
) -> None:
    from .detections import Detections, predict_images
    from .detector import open_detector
    from .videos import open_video, predict_video

    videos = [path for path in images if is_video(path)]
    for path in videos:
        open_video(path).release()
    threshold = THRESHOLD if args.threshold is None else args.threshold
    detector = open_detector(run, device)
    detections = Detections(detector, threshold=threshold, with_teacher=args.teacher)
    output.mkdir(parents=True, exist_ok=True)
    names = dict(zip(images, unique_names([path.stem for path in images]), strict=True))
    pictures = [path for path in images if path not in videos]
    batch_size = args.batch or 1
    predict_images(
        detections, pictures, [names[p] for p in pictures], output, batch_size=batch_size
    )
    for path in videos:
        predict_video(detections, path, output / f"{names[path]}.mp4", batch_size=batch_size)
    detections.write(output)


def _classify(
    run: TrainedRun,
    images: list[Path],
    output: Path,
    device: torch.device,
    args: argparse.Namespace,
) -> None:
    # Imported lazily: classifiers need no detectron2.
    from .classifications import classify_images
    from .classifier import open_classifier

    if args.threshold is not None:
        raise ConfigError("--threshold is for detectors: a classifier lists its top five classes")
    videos = [path for path in images if is_video(path)]
    if videos:
        raise ConfigError(f"{videos[0]} is a video, and videos are for detectors: give images")
    classify_images(
        open_classifier(run, device),
        images,
        output,
        batch_size=args.batch or 32,
        with_teacher=args.teacher,
    )


def _score(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"a number from 0 to 1, not {text!r}")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"1 or more, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
