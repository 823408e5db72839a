"""Kinds of files that no operation of TensorFlow reads rightly: their first picture as PNG.

TensorFlow has none for TIFF, and its own for GIF decodes all pictures and forgets transparency. So
training and bulk embedding have Pillow turn such a file into a PNG, which `decoding` then reads as
it reads all others. A served graph has no Pillow, and refuses such files.
"""

import io
from typing import TYPE_CHECKING

from tf_avae.errors import InputError, reason
from tf_avae.image_files.decoding import MOST_PIXELS
from tf_avae.image_files.headers import CONVERTED

if TYPE_CHECKING:
    from PIL import Image


def readable(content: bytes) -> bytes:
    """A file as `decode_pixels` takes it: the first picture of a GIF or TIFF as PNG, without loss
    and the right way up; any other file as it is.

    Raises:
        InputError: a GIF or TIFF that is damaged, too large, or of a kind that Pillow would clip.
    """
    kind = next((name for name, marks in CONVERTED.items() if content.startswith(marks)), None)
    if kind is None:
        return content
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as image:
            if image.width * image.height > MOST_PIXELS:  # of the header: nothing is decoded yet
                raise InputError(
                    f"a {kind} of {image.height} x {image.width} pixels; at most {MOST_PIXELS} are "
                    "read"
                )
            return _png(image, kind)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"a {kind} whose header is damaged") from error
    except Exception as error:  # of many kinds, by what is damaged
        raise InputError(f"a {kind} that Pillow cannot read: {reason(error)}") from error


def _png(image: "Image.Image", kind: str) -> bytes:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I", "F"):
        raise InputError(f"a {kind} of 32 bits a channel; save it with 8 or 16")
    if not upright.mode.startswith("I;16"):  # of which the upper 8 bits are kept, as of PNGs
        see_through = upright.has_transparency_data or upright.mode == "RGBa"
        upright = upright.convert("RGBA" if see_through else "RGB")
    out = io.BytesIO()
    upright.save(out, "PNG", compress_level=1, exif=b"")
    return out.getvalue()
