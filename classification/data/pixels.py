"""One image file as RGB pixels, or a message that names it: damaged, giant, more than 8 bits."""

import io
import zipfile
import zlib
from collections.abc import Callable

from PIL import Image

from pcka.errors import ConfigError
from pcka.image_modes import CONVERSION, DEEP_MODES, orientation

# What Pillow and zipfile raise for damaged bytes.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    KeyError,
    IndexError,
)


def open_rgb(read: Callable[[str], bytes], name: str, root: str) -> Image.Image:
    """Return an image in RGB, decoded.

    Args:
        read: name -> bytes.
        name: the name of the file.
        root: the folder that the name starts from, for messages.

    Raises:
        ConfigError: it cannot be decoded, or has more than 8 bits a channel; names the file.
    """
    try:
        with Image.open(io.BytesIO(read(name))) as image:
            check_header(image, f"{root}/{name}")
            return image.convert("RGB")
    except ConfigError:
        raise
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise ConfigError(_fault(error, f"{root}/{name}")) from error


def check_header(image: Image.Image, path: str) -> None:
    """Raise ConfigError for an image of more than 8 bits a channel."""
    if image.mode in DEEP_MODES:
        raise ConfigError(
            f"{path} has more than 8 bits a channel (mode {image.mode}), which would be clipped: "
            f"{CONVERSION}"
        )


def is_turned(image: Image.Image) -> bool:
    """Return whether an EXIF orientation says that the image is shown turned or mirrored."""
    return orientation(image) != 1


def _fault(error: Exception, path: str) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"{path} has more pixels than Pillow opens: make it smaller, or remove it"
    reason = "its format is none that Pillow knows" if "identify" in str(error) else error
    return (
        f"{path} is not an image that can be read ({reason}): remove it, or extract or download it "
        "again"
    )
