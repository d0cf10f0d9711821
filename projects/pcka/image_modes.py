"""Images that need care: more than 8 bits a channel, or turned by their EXIF orientation."""

ORIENTATION = 0x0112  # the tag of EXIF
# Pillow's modes of more than 8 bits a channel, which a conversion to RGB clips at 255.
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
CONVERSION = (
    "convert them: a = numpy.asarray(Image.open(FILE), float); Image.fromarray(((a - a.min()) "
    "* 255 / (a.max() - a.min())).astype('uint8')).save(FILE), with one range for all images"
)
