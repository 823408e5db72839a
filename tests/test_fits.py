"""Pictures that are not square, and kinds of files that Pillow reads for training."""

import io

import numpy as np
import pytest
import tensorflow as tf
from picture_files import ALPHA, exif, file_of, waves
from PIL import Image, ImageOps, TiffImagePlugin

from tf_avae.errors import InputError
from tf_avae.image_files import converting
from tf_avae.image_files.converting import readable
from tf_avae.image_files.decoding import decode_pixels, fault
from tf_avae.image_files.fitting import FITS

BACKGROUND = "#ab34ef"
SIZE = (16, 24)


def decoded(content, size=SIZE, fit="stretch"):
    file = tf.constant(readable(content))
    return decode_pixels(file, (*size, 3), BACKGROUND, fit).numpy().astype(int)


def middle(image, size):
    """By the definition: the largest window of these proportions, whose sides are whole here."""
    scale = min(image.height / size[0], image.width / size[1])
    height, width = scale * size[0], scale * size[1]
    assert height == int(height) and width == int(width)
    top, left = (image.height - int(height)) // 2, (image.width - int(width)) // 2
    return image.crop((left, top, left + int(width), top + int(height)))


@pytest.mark.parametrize("sides", [(64, 48), (20, 48), (16, 96), (20, 60), (40, 30)])
def test_crop_and_pad_are_pillows(sides):
    image, (height, width) = Image.fromarray(waves(*sides)), SIZE
    content = file_of(image, "PNG")
    by_definition = middle(image, SIZE).resize((width, height), Image.Resampling.BILINEAR)
    assert np.abs(decoded(content, fit="crop") - np.asarray(by_definition)).max() <= 1
    # Pillow puts what is left over by an odd number on the other side.
    scale = min(height / sides[0], width / sides[1])
    assert (height - round(scale * sides[0])) % 2 == (width - round(scale * sides[1])) % 2 == 0
    framed = ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR, BACKGROUND)
    assert np.abs(decoded(content, fit="pad") - np.asarray(framed)).max() <= 1


def test_a_picture_of_the_images_proportions_is_the_same_in_all_fits():
    content = file_of(waves(40, 60), "PNG")
    for name in FITS:
        np.testing.assert_array_equal(decoded(content, fit=name), decoded(content), name)


def test_no_picture_is_too_long_for_a_fit():
    for sides in ((1, 3000), (3000, 1)):
        line = np.full((*sides, 3), 7, np.uint8)
        padded = decoded(file_of(line, "PNG"), (12, 12), "pad")
        colours = {tuple(c) for c in padded.reshape(-1, 3)}
        assert colours == {(7, 7, 7), (0xAB, 0x34, 0xEF)} and (padded == 7).all(-1).sum() == 12
        assert (decoded(file_of(line, "PNG"), (12, 12), "crop") == 7).all()


def few_colours():
    return Image.fromarray(waves(16, 24) // 86 * 85)


def test_a_gif_is_its_first_picture_on_the_background():
    first = few_colours()
    content = file_of(first, "GIF", save_all=True, append_images=[first.rotate(180)] * 3)
    assert Image.open(io.BytesIO(content)).n_frames == 2  # Pillow joins those that are the same
    np.testing.assert_array_equal(decoded(content), np.asarray(first))
    levels = np.arange(16 * 24).reshape(16, 24) % 5
    image = Image.fromarray(levels.astype(np.uint8), "P")
    image.putpalette(bytes(range(10, 25)))
    seen = decoded(file_of(image, "GIF", transparency=3))
    expected = np.array(
        [[10, 11, 12], [13, 14, 15], [16, 17, 18], [0xAB, 0x34, 0xEF], [22, 23, 24]]
    )
    np.testing.assert_array_equal(seen, expected[levels])


def test_a_tiff_is_its_pixels_the_right_way_up():
    pixels = waves(16, 24)
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        content = file_of(pixels, "TIFF", compression=compression)
        np.testing.assert_array_equal(decoded(content), pixels)
    pages = file_of(pixels, "TIFF", save_all=True, append_images=[Image.fromarray(pixels[::-1])])
    np.testing.assert_array_equal(decoded(pages), pixels)
    levels = np.arange(16 * 24, dtype=np.uint16).reshape(16, 24) * 170
    sixteen = [file_of(Image.fromarray(levels), "TIFF")]
    sixteen += [file_of(Image.frombytes("I;16B", (24, 16), levels.astype(">u2").tobytes()), "TIFF")]
    for content in sixteen:
        np.testing.assert_array_equal(decoded(content), np.stack([levels >> 8] * 3, -1))
    size = (ALPHA.height, ALPHA.width)
    np.testing.assert_array_equal(
        decoded(file_of(ALPHA, "TIFF"), size), decoded(file_of(ALPHA, "PNG"), size)
    )
    for number in range(1, 9):
        said = TiffImagePlugin.ImageFileDirectory_v2()
        said[0x0112] = number
        content = file_of(pixels, "TIFF", tiffinfo=said)
        turned = file_of(pixels, "PNG", exif=exif(number))
        np.testing.assert_array_equal(decoded(content), decoded(turned), str(number))


def test_other_files_are_not_touched_and_what_pillow_says_is_a_line():
    for format in ("PNG", "JPEG", "WEBP", "BMP"):
        content = file_of(waves(9, 7), format)
        assert readable(content) is content
    bomb = file_of(few_colours(), "TIFF")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, "MOST_PIXELS", 16 * 24 - 1)
        with pytest.raises(InputError, match="a TIFF of 16 x 24 pixels; at most 383 are read"):
            readable(bomb)
    with pytest.raises(InputError, match="a TIFF that Pillow cannot read: "):
        readable(bomb[:300])


@pytest.mark.parametrize("format", ["GIF", "TIFF"])
def test_a_graph_that_is_served_says_that_it_reads_none(format):
    graph = tf.function(
        lambda file: decode_pixels(file, (8, 8, 3)), [tf.TensorSpec([], tf.string)], False
    )
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        graph(file_of(few_colours(), format))
    assert (
        fault(error.value) == "a GIF or TIFF, which no served model reads; send one picture as PNG"
    )
