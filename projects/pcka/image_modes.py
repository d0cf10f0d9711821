"""Images that need care: more than 8 bits a channel, or turned by their EXIF orientation."""

from PIL import Image

_ORIENTATION = 0x0112  # the tag of EXIF
# Pillow's modes of more than 8 bits a channel, which a conversion to RGB clips at 255.
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
CONVERSION = (
    "convert them: a = numpy.asarray(Image.open(FILE), float); Image.fromarray(((a - a.min()) "
    "* 255 / (a.max() - a.min())).astype('uint8')).save(FILE), with one range for all images"
)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none that makes sense."""
    try:
        found = int(image.getexif().get(_ORIENTATION) or 1)
    except Exception:  # Pillow raises many kinds; the pixels are fine all the same
        return 1
    return found if found in range(2, 9) else 1
