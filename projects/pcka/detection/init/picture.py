"""Nine training images with their labels."""

from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.utils.visualizer import Visualizer

from pcka.errors import ConfigError

from .profile import Profile

_SIDE = 320  # pixels of a tile


def draw_labels(profile: Profile, path: Path) -> None:
    """Write a picture of nine images, spread over the training set, with boxes and classes.

    Raises:
        ConfigError: an image that cannot be read.
    """
    dicts = DatasetCatalog.get(profile.train)
    metadata = MetadataCatalog.get(profile.train)
    chosen = np.unique(np.linspace(0, len(dicts) - 1, 9).astype(int))
    tiles = [_tile(dicts[index], metadata) for index in chosen]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % 3)
    rows = [np.concatenate(tiles[i : i + 3], 1) for i in range(0, len(tiles), 3)]
    picture = np.concatenate(rows, 0)
    done, encoded = cv2.imencode(".png", picture[:, :, ::-1])
    assert done
    path.write_bytes(encoded.tobytes())


def _tile(record: dict, metadata) -> np.ndarray:
    """Return ``(320, 320, 3)`` uint8, RGB."""
    try:
        image = read_image(record["file_name"], "RGB")
    except OSError as error:
        raise ConfigError(f"{record['file_name']} cannot be read as an image: {error}") from error
    drawn = Visualizer(image, metadata).draw_dataset_dict(record).get_image()
    scale = _SIDE / max(drawn.shape[:2])
    size = [max(1, round(side * scale)) for side in drawn.shape[1::-1]]
    small = cv2.resize(drawn, size, interpolation=cv2.INTER_AREA)
    tile = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small
    return tile
