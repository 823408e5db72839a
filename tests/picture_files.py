"""Image files of every kind that is read, from Pillow or byte by byte, and as Pillow shows them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

ORIENTATION, SHORT, LONG = 0x0112, 3, 4


def waves(height, width, channels=3, phase=0.0):
    """A smooth picture, uint8 [H, W, C]."""
    y, x, c = np.mgrid[:height, :width, :channels]
    return (127.5 + 120 * np.sin(x / 4 + y / 5 + 2 * c + phase)).astype(np.uint8)


def file_of(image, format, **options):
    out = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(out, format, **options)
    return out.getvalue()


def by_pillow(content, background="#ffffff", size=None, mode="RGB"):
    """What is to be seen of a file, [H, W, C] int: upright, on a colour, stretched to (H, W)."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB")
    if size is not None:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    seen = np.asarray(image.convert(mode)).astype(int)
    return seen.reshape(*seen.shape[:2], -1)


def exif(orientation=6, order="<", kind=SHORT, count=1, before=1, said=None):
    """An EXIF block, without its mark.

    Args:
        order: "<" for II, ">" for MM.
        kind, count: of the orientation's value.
        before: number of other entries that come first.
        said: number of entries that the directory says it has.
    """
    value = struct.pack(f"{order}HH", orientation, 0xAA) if kind == SHORT else b""
    value = value or struct.pack(f"{order}I", orientation)
    entries = [
        struct.pack(f"{order}HHI4s", 0x0100 + n, SHORT, 1, b"\6\0\0\6") for n in range(before)
    ]
    entries += [struct.pack(f"{order}HHI4s", ORIENTATION, kind, count, value)]
    entries += [struct.pack(f"{order}HHI4s", 0x0213, SHORT, 1, b"\1\0\0\1")]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    number = struct.pack(f"{order}H", len(entries) if said is None else said)
    return head + number + b"".join(entries) + bytes(4)


def segment(marker, content):
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def jpeg(*segments, image=None, **options):
    """A JPEG with these segments at its start, before Pillow's own."""
    file = file_of(waves(31, 23) if image is None else image, "JPEG", **options)
    return file[:2] + b"".join(segments) + file[2:]


def app1(block):
    return segment(0xE1, b"Exif\0\0" + block)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels, colour_type, bits=8, before=b"", after=b""):
    """A PNG of pixels [H, W, C] (or [H, W]), packed into so many bits, with chunks around them."""
    rows = pixels.reshape(len(pixels), -1)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in rows]
    else:
        places = np.unpackbits(rows[..., None].astype(np.uint8), axis=-1)[..., 8 - bits :]
        rows = [row.tobytes() for row in np.packbits(places.reshape(len(rows), -1), axis=1)]
    head = struct.pack(">IIBBBBB", pixels.shape[1], len(pixels), bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", data) + after
        + chunk(b"IEND", b"")
    )  # fmt: skip


def bmp(pixels, header=56, packing=3, opacity=0xFF000000):
    """A BMP of pixels [H, W, 4], with masks."""
    data = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    height, width = pixels.shape[:2]
    head = struct.pack(
        "<IiiHHIIiiII4I", header, width, height, 1, 32, packing, len(data), 0, 0, 0, 0,
        0xFF0000, 0xFF00, 0xFF, opacity,
    )  # fmt: skip
    start = 14 + max(header, 52)  # of 40 bytes are followed by three masks
    head = head.ljust(header, b"\0")[: max(header, 52)]
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + data


COLOUR = Image.fromarray(waves(30, 18))
GREY = COLOUR.convert("L")
ALPHA = Image.fromarray(np.concatenate([waves(30, 18), waves(30, 18, 1, 3.0)], -1))
_LEVELS = np.arange(30 * 18).reshape(30, 18)
_PALETTE = chunk(b"PLTE", waves(1, 4).tobytes())
_SEE_THROUGH = chunk(b"tRNS", bytes((0, 90, 200)))
# Columns of two pixels under one sampled colour, which Pillow does not write: rows of two, renamed.
_COLUMNS = jpeg(image=waves(16, 16), subsampling=1).replace(b"\1\x21\0", b"\1\x12\0", 1)

READABLE = {
    "PNG": file_of(COLOUR, "PNG"),
    "PNG grey": file_of(GREY, "PNG"),
    "PNG black and white": file_of(GREY.convert("1"), "PNG"),
    "PNG 2 bits": png(_LEVELS % 4, 0, bits=2),
    "PNG 4 bits": png(_LEVELS % 16, 0, bits=4),
    "PNG 16 bits": png(_LEVELS.repeat(3).reshape(30, 18, 3) * 121, 2, bits=16),
    "PNG palette": file_of(COLOUR.quantize(16), "PNG"),
    "PNG palette, 2 bits": png(_LEVELS % 4, 3, bits=2, before=_PALETTE),
    "PNG alpha": file_of(ALPHA, "PNG"),
    "PNG alpha, many pixels": file_of(ALPHA.resize((700, 400)), "PNG"),
    "PNG grey, alpha": file_of(ALPHA.convert("LA"), "PNG"),
    "PNG grey, alpha, 16 bits": png(np.stack([_LEVELS * 121, _LEVELS[::-1] * 121], -1), 4, bits=16),
    "PNG alpha, 16 bits": png(np.stack([_LEVELS * 121, _LEVELS[::-1] * 97] * 2, -1), 6, bits=16),
    "PNG palette, transparency": file_of(COLOUR.quantize(16), "PNG", transparency=3),
    "PNG palette, 2 bits, alpha": png(_LEVELS % 4, 3, bits=2, before=_PALETTE + _SEE_THROUGH),
    "PNG one transparent grey": png(_LEVELS % 200, 0, before=chunk(b"tRNS", b"\0\7")),
    "PNG one transparent colour": png(
        np.stack([_LEVELS % 5] * 3, -1) * 50, 2, before=chunk(b"tRNS", b"\0\x64\0\x64\0\x64")
    ),
    "PNG all transparent": file_of(Image.new("RGBA", (5, 4), (9, 200, 30, 0)), "PNG"),
    "PNG turned": file_of(ALPHA, "PNG", exif=exif(6)),
    "PNG turned, said behind the pixels": png(waves(30, 18), 2, after=chunk(b"eXIf", exif(5, ">"))),
    "JPEG": file_of(COLOUR, "JPEG"),
    "JPEG odd size, 4:4:4": jpeg(quality=95, subsampling=0),
    "JPEG odd size, 4:2:2": jpeg(quality=75, subsampling=1),
    "JPEG odd size, 4:2:0": jpeg(quality=30, subsampling=2),
    "JPEG 4:1:1": jpeg(quality=95, subsampling="4:1:1"),
    "JPEG 4:4:0": _COLUMNS,
    "JPEG progressive": jpeg(progressive=True, quality=90),
    "JPEG grey": file_of(GREY, "JPEG"),
    "JPEG RGB": file_of(COLOUR, "JPEG", keep_rgb=True),
    "JPEG CMYK": file_of(COLOUR.convert("CMYK"), "JPEG"),
    "JPEG turned": jpeg(app1(exif(8))),
    "WebP": file_of(COLOUR, "WEBP"),
    "WebP lossless": file_of(COLOUR, "WEBP", lossless=True),
    "WebP alpha": file_of(ALPHA, "WEBP"),
    "WebP alpha, lossless": file_of(ALPHA, "WEBP", lossless=True, exact=True),
    "WebP turned": file_of(COLOUR, "WEBP", exif=exif(7, ">")),
    "WebP alpha, turned": file_of(ALPHA, "WEBP", lossless=True, exact=True, exif=exif(2)),
    "BMP": file_of(COLOUR, "BMP"),
    "BMP grey": file_of(GREY, "BMP"),
    "BMP alpha": bmp(np.asarray(ALPHA)),
    "BMP alpha, longest header": bmp(np.asarray(ALPHA), header=124),
    "BMP fourth byte without a meaning": file_of(ALPHA, "BMP"),
    "BMP fourth byte without a mask": bmp(np.asarray(ALPHA), header=108, opacity=0),
    "BMP masks of three": bmp(np.asarray(ALPHA), header=40),
    "one pixel": file_of(waves(1, 1), "PNG"),
    "one pixel, WebP": file_of(waves(1, 1), "WEBP"),
}  # fmt: skip
"""Files by what is odd about them."""
