"""The images that a user names: files, folders and globs, each checked by its header."""

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from pcka.classification.data.pixels import UNREADABLE, check_header
from pcka.errors import ConfigError

VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


def is_video(path: Path) -> bool:
    """Return whether a file is a video, by its name."""
    return path.suffix.lower() in VIDEO_ENDINGS


def find_images(sources: Sequence[str]) -> list[Path]:
    """Return the image files of all sources, each once and in their order; videos as well.

    Args:
        sources: files; folders, of which all files with an image's ending are taken, those of
            folders inside too, but no videos; or globs such as ``photos/*.jpg``, with ``**`` for
            folders inside.

    Raises:
        ConfigError: a source that does not exist, one without images, or a file that is no image
            of 8 bits a channel.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source).expanduser()
        matches = [path] if path.exists() else _matches(str(path))
        if not matches:
            raise ConfigError(f"IMAGES {source}: there is no such file or folder")
        images = [image for match in matches for image in _images_at(match)]
        if not images:
            raise ConfigError(f"IMAGES {source}: no images in it ({', '.join(_usual_endings())})")
        found.update(dict.fromkeys(images))
    for image in (path for path in found if not is_video(path)):
        with naming_image(image), Image.open(image) as header:
            check_header(header, str(image))
    return list(found)


@contextmanager
def naming_image(path: Path | str) -> Iterator[None]:
    """Turn an error of reading an image into a ConfigError that names the file."""
    try:
        yield
    except ConfigError:
        raise
    except Image.DecompressionBombError as error:
        raise ConfigError(f"{path} has more pixels than Pillow opens: make it smaller") from error
    except UNREADABLE as error:
        reason = "its format is none that Pillow knows" if "identify" in str(error) else error
        raise ConfigError(f"{path} is no image that can be read ({reason})") from error


def _matches(pattern: str) -> list[Path]:
    return [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]


def _images_at(path: Path) -> list[Path]:
    """Return a file itself, or the images of a folder; hidden ones are left out."""
    if not path.is_dir():
        return [path]
    endings = Image.registered_extensions()
    return [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in endings
        and not is_video(file)
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]


def _usual_endings() -> list[str]:
    return [".jpg", ".png", ".bmp", ".tif", ".webp", "..."]
