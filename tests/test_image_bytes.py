"""Image files are decoded as Pillow decodes them, and nothing in a file makes it much work."""

import functools
import itertools
import struct

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import (
    LONG,
    READABLE,
    SHORT,
    app1,
    by_pillow,
    chunk,
    exif,
    file_of,
    jpeg,
    png,
    segment,
    waves,
)

from tf_avae.colours import colour
from tf_avae.errors import InputError
from tf_avae.image_files.decoding import decode_images, decode_pixels
from tf_avae.image_files.exif import MOST_PARTS, jpeg_segment, orientation

SIZE = (13, 17)


@functools.cache
def decoder(channels=3, background="#ffffff", size=SIZE):
    """Of a file to uint8 [H, W, C], as the data set and the served graph make it."""
    return compiled(lambda file: decode_pixels(file, (*size, channels), background))


def compiled(function):
    spec = [tf.TensorSpec([], tf.string)]
    graph = tf.function(function, input_signature=spec, autograph=False)
    return lambda content: graph(tf.constant(content)).numpy()


@pytest.mark.parametrize(
    ("channels", "background"), [(3, "#ffffff"), (3, "#0a8cf0"), (1, "#0a8cf0")]
)
def test_files_are_seen_as_pillow_sees_them(channels, background):
    """Within a level, whatever the format, with the colour under it and the right way up."""
    decode, mode = decoder(channels, background), "RGB" if channels == 3 else "L"
    for name, content in READABLE.items():
        found, expected = decode(content), by_pillow(content, background, SIZE, mode)
        assert np.abs(found - expected).max() <= 1, name


def test_jpegs_are_decoded_by_the_exact_transform():
    """At their own size: no level is off by more than one, where the fast transform's are by 14."""
    noise = np.random.default_rng(0).integers(0, 256, (31, 23, 3)).astype(np.uint8)
    qualities, subsamplings = (30, 75, 95, 100), (0, 1, 2, "4:1:1")
    for image in (waves(31, 23), noise):
        for kind in itertools.product(qualities, subsamplings, (False, True)):
            options = dict(zip(("quality", "subsampling", "progressive"), kind, strict=True))
            content = file_of(image, "JPEG", **options)
            off = np.abs(decoder(size=(31, 23))(content) - by_pillow(content)).max()
            assert off <= 1, options


def test_all_orientations_of_all_formats():
    """0 and 9 say nothing. To the bit what the picture is, turned beforehand."""
    for said in itertools.product(range(10), "<>", (SHORT, LONG)):
        block = exif(*said)
        for content in (
            png(waves(31, 23), 2, before=chunk(b"eXIf", block)),
            file_of(waves(31, 23), "WEBP", lossless=True, exif=block),
        ):
            upright = file_of(by_pillow(content).astype(np.uint8), "PNG")
            np.testing.assert_array_equal(decoder()(content), decoder()(upright), str(said))
        content = jpeg(app1(block))
        assert np.abs(decoder()(content) - by_pillow(content, size=SIZE)).max() <= 1, said


XMP = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation='3'/>")
PREVIEW = jpeg(app1(exif(3)))  # a small picture in a big one's EXIF


def with_chunk(name, content):
    return png(waves(31, 23), 2, before=chunk(name, content))


TURNED = {
    "behind APP0, as Pillow writes it": (jpeg(exif=b"Exif\0\0" + exif(6)), 6),
    "before APP0": (jpeg(app1(exif(6))), 6),
    "not the first entry": (jpeg(app1(exif(6, before=30))), 6),
    "XMP first": (jpeg(XMP, app1(exif(6))), 6),
    "many segments first": (jpeg(*[segment(0xE5, b"some")] * 300, app1(exif(6))), 6),
    "a comment that quotes it": (jpeg(segment(0xFE, app1(exif(3)) * 2), app1(exif(6))), 6),
    "a preview in it": (jpeg(app1(exif(6) + PREVIEW)), 6),
    "fillers and rubbish first": (jpeg(XMP, b"\0\0\xff\xff" + app1(exif(6))), 6),
    "two: the first counts": (jpeg(app1(exif(6)), app1(exif(3))), 6),
    "twice in one: the last counts": (
        jpeg(app1(exif(3, said=4)[:34] + exif(6)[22:34] + exif(3)[34:])), 6
    ),
    "behind the picture": (jpeg() + app1(exif(6)), 1),
    "none": (jpeg(), 1),
    "empty": (jpeg(app1(b"")), 1),
    "no such entry": (jpeg(app1(exif(6).replace(b"\x12\1", b"\x13\1", 1))), 1),
    "no byte order": (jpeg(app1(b"XX" + exif(6)[2:])), 1),
    "cut short before it": (jpeg(app1(exif(6)[:30])), 1),
    "cut short behind it": (jpeg(app1(exif(6)[:34])), 6),
    "more entries than there are": (jpeg(app1(exif(6, said=60_000))), 6),
    "fewer entries than there are": (jpeg(app1(exif(6, said=1))), 1),
    "a directory beyond the end": (jpeg(app1(exif(6)[:4] + b"\xff" * 4 + exif(6)[8:])), 1),
    "a directory at the last byte": (jpeg(app1(exif(6)[:4] + b"\x31\0\0\0" + exif(6)[8:])), 1),
    "several values": (jpeg(app1(exif(6, count=9))), 1),
    "text": (jpeg(app1(exif(6, kind=2))), 1),
    "XMP alone": (jpeg(XMP), 1),
    "a chunk": (with_chunk(b"eXIf", exif(6)), 6),
    "a chunk with a mark in it": (with_chunk(b"eXIf", b"Exif\0\0" + exif(6)), 6),
    "a chunk that quotes one": (with_chunk(b"tEXt", b"a\0eXIf" + exif(3)), 1),
    "an empty chunk": (with_chunk(b"eXIf", b""), 1),
    "a chunk behind the end": (png(waves(31, 23), 2) + chunk(b"eXIf", exif(6)), 1),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of Pillow's, over damaged EXIF
def test_where_the_orientation_is_found():
    for name, (content, number) in TURNED.items():
        stored = by_pillow(jpeg() if content.startswith(b"\xff") else png(waves(31, 23), 2))
        upright = np.rot90(stored, -1) if number == 6 else stored
        expected = by_pillow(file_of(upright.astype(np.uint8), "PNG"), size=SIZE)
        assert np.abs(decoder()(content) - expected).max() <= 1, name
        if name != "XMP alone":  # which Pillow goes by where there is no EXIF, and browsers do not
            np.testing.assert_array_equal(expected, by_pillow(content, size=SIZE), name)


def oriented(block):
    """A plain reading of a block, for comparison."""
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    found = 1
    if order is None or len(block) < 8:
        return found
    (at,) = struct.unpack_from(f"{order}I", block, 4)
    said = struct.unpack_from(f"{order}H", block, at)[0] if at + 2 <= len(block) else 0
    for start in range(at + 2, at + 2 + 12 * said, 12):
        if start + 12 > len(block):
            break
        tag, kind, count = struct.unpack_from(f"{order}HHI", block, start)
        if tag == 0x0112 and count == 1 and kind in (SHORT, LONG):
            form = "H" if kind == SHORT else "I"
            (found,) = struct.unpack_from(f"{order}{form}", block, start + 8)
    return found if 1 <= found <= 8 else 1


BLOCKS = st.builds(
    exif, st.integers(0, 9), st.sampled_from("<>"), st.sampled_from((SHORT, LONG, 2)),
    st.sampled_from((1, 1, 2)), st.integers(0, 3), st.sampled_from((None, 0, 1, 65535)),
)  # fmt: skip
READ_ORIENTATION = compiled(orientation)


@given(
    st.binary(max_size=40) | BLOCKS,
    st.sampled_from((b"", b"Exif\0\0")),
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=3),
    st.integers(0, 90),
)
@settings(max_examples=150)
def test_damaged_exif_is_read_as_far_as_it_goes(block, mark, damage, kept):
    content = bytearray(mark + block)
    for place, value in damage:
        if place < len(content):
            content[place] = value
    content = bytes(content[:kept])
    assert READ_ORIENTATION(content) == oriented(content)


FIRST_EXIF = compiled(lambda file: jpeg_segment(file, 0xE1, b"Exif\0\0"))


@given(
    st.lists(
        # After a filler, rubbish that begins with 0: another byte there is a marker, with a length.
        st.sampled_from((b"\xff\xff", b"\xff\0", b"\0", b"\0ab", b"\xff\xd0", b"\xff\x01"))
        | st.builds(segment, st.sampled_from((0xE0, 0xE1, 0xFE, 0xDB)), st.binary(max_size=9))
        | st.just(app1(b"here")),
        max_size=8,
    )
)
@settings(max_examples=100)
def test_the_first_segment_is_found_among_others(parts):
    """Fillers, rubbish and what has no content are gone past."""
    found = FIRST_EXIF(b"\xff\xd8" + b"".join(parts) + b"\xff\xda\0\2")
    assert found == (b"Exif\0\0here" if app1(b"here") in parts else b"")


def test_hostile_files_are_little_work():
    """A million segments, or chunks, are not gone through; the picture is read all the same."""
    far = jpeg(b"\xff\xd0" * (MOST_PARTS + 1), app1(exif(6)))
    near = jpeg(b"\xff\xd0" * (MOST_PARTS - 1), app1(exif(6)))
    million = png(waves(31, 23), 2, before=chunk(b"teSt", b"") * 1_000_000)
    million += chunk(b"eXIf", exif(6))
    segments = compiled(lambda file: tf.strings.length(jpeg_segment(file, 0xE1, b"Exif\0\0")))
    assert segments(far) == 0 and segments(near) > 0
    plain = decoder()(png(waves(31, 23), 2))
    np.testing.assert_array_equal(decoder()(million), plain)


def test_cmyk_that_does_not_say_how_its_inks_are_stored_is_refused():
    """Of such a file Pillow and TensorFlow make negatives of one another."""
    content = READABLE["JPEG CMYK"]
    at = content.index(b"Adobe") - 4
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"CMYK JPEG .* save it as RGB"):
        decoder()(content[:at] + content[at + 16 :])


def test_hidden_colours_do_not_reach_the_edge():
    """Red that nobody sees, beside black: where they meet it is grey, with nothing of red."""
    image = np.zeros((33, 33, 4), np.uint8)
    image[:, :16] = 0, 0, 0, 255
    image[:, 16:] = 255, 0, 0, 0
    found = decoder()(file_of(image, "PNG"))
    assert (np.ptp(found, axis=-1) == 0).all() and len(np.unique(found)) > 2


def test_one_transparent_level_of_few_is_that_level():
    """Pillow takes it for one of 256 levels, and shows what is not to be seen."""
    levels = np.arange(31 * 23).reshape(31, 23) % 4
    content = png(levels, 0, bits=2, before=chunk(b"tRNS", b"\0\2"))
    opacity = np.where(levels == 2, 0, 255)
    whole = np.stack([levels * 85] * 3 + [opacity], -1).astype(np.uint8)
    expected = by_pillow(file_of(whole, "PNG"), size=SIZE)
    assert np.abs(decoder()(content) - expected).max() <= 1


def test_colours_are_written_in_one_way():
    assert [colour(text) for text in ("white", "White", "#FFFFFF")] == ["#ffffff"] * 3
    for text in (
        "",
        "whit",
        "#fff",
        "ffffff",
        "#fffffff",
        "#ffffg0",
        "#ffffff\n",
        "#٣٣٣٣٣٣",
        "rgb(0,0,0)",
    ):
        with pytest.raises(InputError, match="six hexadecimal digits"):
            colour(text)


def test_a_batch_is_its_files():
    """All levels among them: divided by 255 to the last bit."""
    levels = file_of(np.arange(256, dtype=np.uint8).reshape(16, 16), "PNG")
    contents = [levels, *(READABLE[name] for name in ("PNG alpha", "JPEG turned", "BMP alpha"))]
    found = tf.function(decode_images)(tf.constant(contents), (16, 16, 3)).numpy()
    decode = decoder(size=(16, 16))
    for image, content in zip(found, contents, strict=True):
        np.testing.assert_array_equal(image, decode(content) / np.float32(255))
    assert len(np.unique(found[0])) == 256
