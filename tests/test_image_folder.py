"""One's own pictures: read as Pillow reads them; splits, labels, cache; served as trained."""

import fcntl
import json
import os
import shutil
import struct
import threading
import time

import numpy as np
import picture_files
import pytest
import tensorflow as tf
from picture_files import COLOUR, GREY, READABLE, by_pillow, exif, file_of
from PIL import Image

from tf_avae.console import progress
from tf_avae.datasets import DATASETS
from tf_avae.datasets.image_folder import cache as picture_cache
from tf_avae.datasets.image_folder import dataset as image_folder
from tf_avae.datasets.image_folder.dataset import find_files
from tf_avae.errors import InputError
from tf_avae.graphs.saved_models import PROVENANCE, SavedModel
from tf_avae.saved.encoders import open_encoder
from tf_avae.saved.exports import export_run
from training import evaluate, fit

SIDE = 12
BACKGROUND = "#ab34ef"
OPEN = DATASETS["image_folder"].open


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TF_AVAE_CACHE", str(folder))
    return folder


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def folder_of(root, *names):
    """Pictures under these names, each of its own."""
    for number, name in enumerate(names):
        format = {".jpg": "JPEG"}.get(name[-4:].lower(), name.rpartition(".")[2].upper())
        write(root / name, file_of(waves(phase=number), format))
    return root


def held_out(data, batch_size=7):
    return _collect(data.held_out(batch_size))


def trained(data):
    return _collect(data.train_images(7))


def _collect(batches):
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    folders = [y["folder"] for y in labels if y]
    return np.concatenate(images), np.concatenate(folders) if folders else None


def waves(height=SIDE, width=SIDE, channels=3, phase=0.0):
    return picture_files.waves(height, width, channels, phase)


def pixels_of(content):
    return by_pillow(content).astype(np.uint8)


def read_one(tmp_path, content, side=SIDE):
    """What a picture is read as, uint8 [N, N, 3], through the whole data set."""
    write(tmp_path / "pictures" / "test" / "a.png", content)
    folder_of(tmp_path / "pictures", "train/b.png")
    image = held_out(OPEN(tmp_path / "pictures", image_size=side))[0][0]
    return np.round(image * 255).astype(np.uint8)


def test_files_are_read_as_pillow_reads_them(tmp_path):
    for number, content in enumerate(READABLE.values()):
        write(tmp_path / "train" / f"{number:02d}.png", content)
    folder_of(tmp_path, "test/a.png")
    data = OPEN(tmp_path, image_size=SIDE, background="#102030")
    images = dict(zip(_order(tmp_path), trained(data)[0], strict=True))
    for number, (name, content) in enumerate(READABLE.items()):
        expected = by_pillow(content, "#102030", (SIDE, SIDE))
        assert np.abs(images[f"train/{number:02d}.png"] * 255 - expected).max() <= 1.001, name


def _order(folder, prefix="train/", seed=0):
    """The paths of a split in the order of its images."""
    paths = [file.path for file in find_files(folder)[0]]
    split = image_folder._split(folder, paths, True, seed)
    return [paths[at] for at in np.concatenate(split) if paths[at].startswith(prefix)]


def test_of_sixteen_bits_the_upper_eight_are_kept(tmp_path):
    levels = (waves(channels=1)[..., 0].astype(np.uint16) << 8) + 77
    found = read_one(tmp_path, file_of(Image.fromarray(levels), "PNG"))
    np.testing.assert_array_equal(found, np.repeat(levels[..., None] >> 8, 3, -1))


def test_a_picture_of_the_right_size_keeps_its_pixels_the_right_way_up(tmp_path):
    content = file_of(waves(), "PNG", exif=exif(6))
    np.testing.assert_array_equal(read_one(tmp_path, content), np.rot90(waves(), -1))


def webp(sides_at, sides, **options):
    """A small WebP that says it is larger."""
    file = bytearray(file_of(waves(), "WEBP", **options))
    file[sides_at : sides_at + len(sides)] = sides
    return bytes(file)


UNREADABLE = {
    "text.png": (b"not a picture", "neither PNG nor JPEG, WebP or BMP"),
    "empty.jpg": (b"", "an empty file"),
    "cut.gif": (file_of(COLOUR, "GIF")[:-300], "a GIF that Pillow cannot read: image file"),
    "start.gif": (b"GIF89a", "a GIF whose header is damaged"),
    "bits.tiff": (file_of(GREY.convert("F"), "TIFF"), "32 bits a channel; save it with 8 or 16"),
    "bomb.gif": (
        file_of(COLOUR, "GIF")[:6] + b"\xff\x20" * 2 + file_of(COLOUR, "GIF")[10:],
        "a GIF of 8447 x 8447 pixels; at most 16777216 are read",
    ),
    "cut.jpg": (file_of(COLOUR, "JPEG")[:300], "Invalid JPEG data"),
    "cut.png": (file_of(COLOUR, "PNG")[:-60], "Invalid PNG data"),
    "cut.webp": (file_of(COLOUR, "WEBP")[:-40], "a WebP that is cut short"),
    "cut.bmp": (file_of(COLOUR, "BMP")[:-1], "Input size should match"),
    "start.bmp": (b"BM", "not above 0"),
    "start.webp": (b"RIFF\0\0\0\0WEBP", "not above 0"),
    "several.webp": (
        file_of(COLOUR, "WEBP", save_all=True, append_images=[COLOUR.rotate(90)]),
        "several pictures; save one",
    ),
    "palette.bmp": (file_of(COLOUR.quantize(16), "BMP"), "save it as PNG"),
    "bits.bmp": (file_of(GREY.convert("1"), "BMP"), "save it as PNG"),
    "bomb.webp": (webp(26, b"\xff\x3f\xff\x3f"), "at most 16777216 pixels; they are: 16383"),
    "bomb2.webp": (webp(21, b"\xff\xff\xff\x0f", lossless=True), "they are: 16384 16384"),
    "bomb3.webp": (
        webp(24, b"\xff\xff\0\xff\xff\0", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
        "they are: 65536 65536",
    ),
    "lie.webp": (webp(24, b"\x09\0\0", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"), "Failed to decode"),
    "bomb.bmp": (
        file_of(COLOUR, "BMP")[:18] + struct.pack("<ii", 60000, -60000)
        + file_of(COLOUR, "BMP")[26:], "they are: 60000 60000",
    ),
    "header.bmp": (
        file_of(GREY, "BMP")[:14] + b"\xff" * 4 + file_of(GREY, "BMP")[18:], "save it as PNG"
    ),
    "packed.bmp": (
        file_of(COLOUR, "BMP")[:30] + b"\1" + file_of(COLOUR, "BMP")[31:], "save it as PNG"
    ),
}  # fmt: skip


def test_files_that_cannot_be_read_are_named_or_left_out(tmp_path, capsys):
    for name, (content, _) in UNREADABLE.items():
        write(tmp_path / name, content)
    folder_of(tmp_path, "a.png", "b.jpg", "c.webp")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    files, _ = find_files(tmp_path)
    found = picture_cache.read_pictures(tmp_path, files, SIDE)
    assert found.paths == ["a.png", "b.jpg", "c.webp"]
    for name, (_, words) in UNREADABLE.items():
        assert words in found.unreadable[name], name
    assert found.unreadable["gone.png"] == "No such file or directory"
    assert found.unreadable["pipe.png"] == "not a file"

    with pytest.raises(InputError) as error:
        OPEN(tmp_path, image_size=SIDE)
    said = str(error.value)
    assert "24 of 27 pictures cannot be read: bits.bmp (a BMP" in said
    assert sum(f"{name} (" in said for name in found.unreadable) == 10
    assert "and 14 more" in said and "--on-bad-image skip" in said

    data = OPEN(tmp_path, image_size=SIDE, on_bad_image="skip")
    assert data.train_size + data.held_out_size == 3
    assert "24 of 27 pictures cannot be read: bits.bmp (" in capsys.readouterr().err
    assert data.checksums["pictures left out"].startswith("bits.bmp, bits.tiff, ")


def test_files_beyond_the_limit_are_not_read(tmp_path, monkeypatch):
    folder_of(tmp_path, "a.png", "b.bmp", "c.png")
    monkeypatch.setattr(picture_cache, "MOST_BYTES", (tmp_path / "b.bmp").stat().st_size - 1)
    with pytest.raises(InputError, match=r"1 of 3 .* b.bmp \(486 bytes; at most 485 are read"):
        OPEN(tmp_path, image_size=SIDE)


@pytest.mark.skipif(os.geteuid() == 0, reason="this user may read everything")
def test_files_without_permission_are_read_once_there_is(tmp_path):
    folder_of(tmp_path, "a.png", "b.png")
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(InputError, match=r"a.png \(Permission denied\)"):
        OPEN(tmp_path, image_size=SIDE)
    (tmp_path / "a.png").chmod(0o600)
    assert OPEN(tmp_path, image_size=SIDE).train_size == 1


def test_any_nesting_any_case_and_no_loops(tmp_path):
    names = ["a.PNG", "cats/b.Jpg", "cats/old/deep/c.webp", "x.png/d.BMP"]
    folder_of(tmp_path, *names)
    folder_of(tmp_path, ".hidden.png", ".hidden/e.png", "cats/.f.png")
    write(tmp_path / "cats" / "notes.txt", b"")
    (tmp_path / "cats" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "cats")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    files, others = find_files(tmp_path)
    found = [file.path for file in files]
    assert found == ["a.PNG", "again/b.Jpg", "again/old/deep/c.webp", "x.png/d.BMP"]
    assert others == ["again/notes.txt", "circle"]


def test_subfolders_are_the_classes(tmp_path, capsys):
    names = [f"{kind}/{n % 3}/{n}.png" for kind in ("cat", "dog", "é") for n in range(10)]
    data = OPEN(folder_of(tmp_path, *names), image_size=SIDE)
    assert data.labels == {"folder": 3} and data.tasks == ("folder",)
    assert data.class_names == {"folder": ("cat", "dog", "é")}
    files = [pixels_of((tmp_path / name).read_bytes()).tobytes() for name in sorted(names)]
    for split in (trained(data), held_out(data)):
        for image, label in zip(*split, strict=True):
            at = files.index(np.round(image * 255).astype(np.uint8).tobytes())
            assert data.class_names["folder"][label] == sorted(names)[at].partition("/")[0]
    folder_of(tmp_path, "loose.png")
    assert OPEN(tmp_path, image_size=SIDE).labels == {}
    assert "no labels: 1 of 31 pictures are in no subfolder" in capsys.readouterr().err


def test_files_of_other_kinds_are_counted_and_named(tmp_path, capsys):
    """So is a class that has no others."""
    folder_of(tmp_path, *(f"{kind}/{n}.png" for kind in ("cats", "dogs") for n in range(3)))
    for name in (
        "frogs/1.svg",
        "frogs/2.SVG",
        "cats/9.avif",
        "README",
        "cats/b\n.heic",
        ".DS_Store",
    ):
        write(tmp_path / name, file_of(waves(), "GIF"))
    data = OPEN(tmp_path, image_size=SIDE)
    assert data.class_names == {"folder": ("cats", "dogs")}
    said = capsys.readouterr().err
    assert (
        "note: left out: 5 files whose names do not end with one of .bmp, .gif, .jpeg, "
        ".jpg, .png, .tif, .tiff, .webp: README, cats/9.avif, cats/b?.heic, frogs/1.svg, "
        "frogs/2.SVG\n"
    ) in said
    assert "note: no classes, for want of a picture in them: frogs\n" in said
    # Nor is one a class whose pictures cannot be read.
    write(tmp_path / "newts" / "1.png", b"no picture")
    assert OPEN(tmp_path, image_size=SIDE, on_bad_image="skip").labels == {"folder": 2}
    assert "for want of a picture in them: frogs, newts\n" in capsys.readouterr().err


def test_files_of_other_kinds_beside_the_splits_are_nobodys(tmp_path, capsys):
    folder_of(tmp_path, *(f"{split}/{kind}/1.png" for split in ("train", "test") for kind in "ab"))
    write(tmp_path / "notes.txt", b"")
    write(tmp_path / "train" / "c" / "1.svg", b"")
    assert OPEN(tmp_path, image_size=SIDE).labels == {"folder": 2}
    said = capsys.readouterr().err
    assert "left out: 1 files" in said and said.count("train/c/1.svg") == 1
    assert "for want of a picture in them: train/c\n" in said
    # Where pictures are in no class, there are none at all, and none is missed.
    folder_of(tmp_path / "loose", "a.png", "b.png")
    write(tmp_path / "loose" / "old" / "c.svg", b"")
    assert OPEN(tmp_path / "loose", image_size=SIDE).labels == {}
    assert "for want" not in capsys.readouterr().err


@pytest.mark.parametrize("names", [["a.png", "b.png"], ["one/a.png", "one/b.png"]])
def test_fewer_than_two_classes_are_no_label(tmp_path, names):
    data = OPEN(folder_of(tmp_path, *names), image_size=SIDE)
    assert data.labels == {} and data.tasks == () and held_out(data)[1] is None


def test_given_splits_are_used(tmp_path, capsys):
    names = ["train/cat/1.png", "train/dog/2.png", "train/dog/3.png", "test/dog/4.png"]
    data = OPEN(folder_of(tmp_path, *names, "other/5.png"), image_size=SIDE)
    assert (data.train_size, data.held_out_size) == (3, 1)
    assert data.class_names == {"folder": ("cat", "dog")} and held_out(data)[1].tolist() == [1]
    assert "1 pictures outside train/ and test/ are not used" in capsys.readouterr().err
    folder_of(tmp_path, "test/cow/6.png")
    with pytest.raises(InputError, match=r"/test has classes that .*/train has not: cow"):
        OPEN(tmp_path, image_size=SIDE)
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(InputError, match="has 3 in train/ and 0 in test/ of its 4 pictures"):
        OPEN(tmp_path, image_size=SIDE)


def ranks(data, split):
    return {image.tobytes() for image in split(data)[0]}


def test_a_tenth_is_held_out_by_a_seed(tmp_path):
    folder_of(tmp_path, *(f"{n}.png" for n in range(40)))
    data = OPEN(tmp_path, image_size=SIDE)
    assert (data.train_size, data.held_out_size) == (36, 4)
    assert len(ranks(data, trained) | ranks(data, held_out)) == 40
    again = OPEN(str(tmp_path), image_size=SIDE, split_seed=0)
    np.testing.assert_array_equal(held_out(data)[0], held_out(again)[0])
    np.testing.assert_array_equal(trained(data)[0], trained(again)[0])
    other = OPEN(tmp_path, image_size=SIDE, split_seed=1)
    assert ranks(other, held_out) != ranks(data, held_out)
    # One picture more displaces one at the most.
    folder_of(tmp_path / "more", "z.png")
    more = OPEN(tmp_path, image_size=SIDE)
    assert len(ranks(data, held_out) - ranks(more, held_out)) <= 1


def test_validation_images_are_the_last_training_images(tmp_path):
    folder_of(tmp_path, *(f"{n}.png" for n in range(20)))
    whole = trained(OPEN(tmp_path, image_size=SIDE))[0]
    data = OPEN(tmp_path, image_size=SIDE, validation=5)
    np.testing.assert_array_equal(held_out(data)[0], whole[-5:])
    np.testing.assert_array_equal(trained(data)[0], whole[:-5])
    with pytest.raises(InputError, match="validation is 18"):
        OPEN(tmp_path, image_size=SIDE, validation=18)


def test_a_stream_goes_on_to_the_bit(tmp_path):
    data = OPEN(folder_of(tmp_path, *(f"{n % 2}/{n}.png" for n in range(12))), image_size=SIDE)
    images, labels = _collect(data.train(4, seed=5).take(6))
    later, later_labels = _collect(data.train(4, seed=5, start=2).take(4))
    np.testing.assert_array_equal(images[8:], later)
    np.testing.assert_array_equal(labels[8:], later_labels)


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        ([], {}, "holds no picture; names of pictures end with one of .bmp, .gif"),
        (["a.png"], {}, "has 0 pictures to train on and 1 to hold out"),
        (["a.png"], {"image_size": None}, "image_size is not given"),
        (["a.png"], {"image_size": 0}, "image_size is 0; it must be at least 1 and below 4096"),
        (["a.png"], {"on_bad_image": "ignore"}, "unknown on_bad_image 'ignore'"),
        (["a.png"], {"split_seed": -1}, "split_seed is -1"),
        (["a.png"], {"background": "pink"}, "background is 'pink'; it must be black, grey, white"),
        (["a.png"], {"fit": "croop"}, "unknown fit 'croop' .did you mean 'crop'"),
        (["a.png"], {"data_dir": None}, "data_dir is not given"),
        (["a.png"], {"data_dir": "nowhere"}, "nowhere is not a folder"),
    ],
)
def test_bad_input_is_named(tmp_path, names, options, words):
    folder_of(tmp_path, *names)
    with pytest.raises(InputError, match=words):
        OPEN(**({"data_dir": tmp_path, "image_size": SIDE} | options))


@pytest.fixture
def outcomes(monkeypatch):
    """The files that are decoded, in the order that they come."""
    seen = []
    outcome = picture_cache._outcome
    monkeypatch.setattr(
        picture_cache,
        "_outcome",
        lambda path, **options: seen.append(path.name) or outcome(path, **options),
    )
    return seen


def test_the_cache_has_the_same_pixels_and_nothing_is_decoded_again(tmp_path, cache, outcomes):
    folder_of(tmp_path, *(f"{n}.png" for n in range(5)))
    write(tmp_path / "bad.png", b"")
    options = {"image_size": SIDE, "on_bad_image": "skip"}
    first = OPEN(tmp_path, **options)
    assert sorted(outcomes) == [*(f"{n}.png" for n in range(5)), "bad.png"]
    second = OPEN(tmp_path, **options)
    assert len(outcomes) == 6 and first.checksums == second.checksums
    np.testing.assert_array_equal(trained(first)[0], trained(second)[0])
    assert not [path for path in tmp_path.rglob("*") if path.suffix != ".png"]
    # Another size is another entry; this one is still there.
    OPEN(tmp_path, **options | {"image_size": SIDE + 1})
    assert len(outcomes) == 12
    OPEN(tmp_path, **options)
    assert len(outcomes) == 12 and len(list(cache.rglob("pixels"))) == 2


def test_what_changed_is_decoded_anew(tmp_path, outcomes):
    folder_of(tmp_path, "a.png", "b.png")
    before = OPEN(tmp_path, image_size=SIDE)
    # The same size and the same time of change, as copying tools leave them.
    about, content = (tmp_path / "a.png").stat(), file_of(waves(phase=9), "BMP")
    write(tmp_path / "a.png", content)
    os.utime(tmp_path / "a.png", ns=(about.st_atime_ns, about.st_mtime_ns))
    after = OPEN(tmp_path, image_size=SIDE)
    assert before.checksums != after.checksums
    both = [image.tobytes() for split in (trained, held_out) for image in split(after)[0]]
    assert (pixels_of(content) / np.float32(255)).tobytes() in both
    # Names count too: they decide the split and the classes.
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    assert OPEN(tmp_path, image_size=SIDE).checksums != after.checksums


def flipped(at):
    """Damage to one bit of a file, at a place from its start or, below 0, its end."""
    return lambda content: content[:at] + bytes([content[at] ^ 4]) + content[at:][1:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-1], lambda b: b[:40], lambda b: b"", lambda b: b + b"x", lambda b: b[100:],
        *map(flipped, (0, 500, 2 * SIDE * SIDE * 3 - 1)),  # pixels
        *map(flipped, (2 * SIDE * SIDE * 3, -40, -29)),  # the footer
        *map(flipped, (-28, -25, -24, -17, -16, -1)),  # checksum, length and magic
        lambda b: b.replace(b'"holds_pixels"', b'"HOLDS_PIXELS"'),
        lambda b: b.replace(b'"count": 2', b'"count": 1'),
        lambda b: b.replace(b'"unreadable": {}', b'"unreadable": []'),
        lambda b: b.replace(b'"key": "', b'"key": \xff'),
        lambda b: b[:-28] + b"[]" + bytes(4) + (2).to_bytes(8, "big") + b[-16:],
    ],
)  # fmt: skip
def test_a_damaged_cache_is_noticed_and_made_anew(tmp_path, cache, outcomes, damage):
    folder_of(tmp_path, "a.png", "b.png")
    before = OPEN(tmp_path, image_size=SIDE)
    images = trained(before)[0]  # what is mapped into memory must not be cut
    (entry,) = cache.rglob("pixels")
    whole = entry.read_bytes()
    assert damage(whole) != whole
    write(entry, damage(whole))
    after = OPEN(tmp_path, image_size=SIDE)
    np.testing.assert_array_equal(trained(after)[0], images)
    assert len(outcomes) == 4 and after.checksums == before.checksums
    assert entry.read_bytes() == whole


def test_damage_on_the_disk_is_said(tmp_path, cache, capsys):
    folder_of(tmp_path, "a.png", "b.png")
    OPEN(tmp_path, image_size=SIDE)
    (entry,) = cache.rglob("pixels")
    write(entry, flipped(7)(entry.read_bytes()))
    capsys.readouterr()
    OPEN(tmp_path, image_size=SIDE)
    said = capsys.readouterr().err
    assert said.count("damaged on the disk; the pictures are decoded anew") == 1


def test_another_decoding_background_or_fit_makes_other_pictures(
    tmp_path, cache, outcomes, monkeypatch
):
    write(tmp_path / "a.png", READABLE["PNG all transparent"])
    write(tmp_path / "b.png", READABLE["PNG all transparent"])
    white = OPEN(tmp_path, image_size=SIDE)
    grey = OPEN(tmp_path, image_size=SIDE, background="grey")
    assert (trained(white)[0] == 1).all()
    np.testing.assert_array_equal(trained(grey)[0] * 255, np.full((1, SIDE, SIDE, 3), 128))
    (
        OPEN(tmp_path, image_size=SIDE, background="#FFFFFF"),
        OPEN(tmp_path, image_size=SIDE, background="#808080"),
    )
    assert len(outcomes) == 4  # each has its entry, whatever it is called
    # What an older version left is not taken for this one's; a run on it is not resumed unawares.
    monkeypatch.setattr(picture_cache, "DECODING", 1)
    old = OPEN(tmp_path, image_size=SIDE)
    assert len(outcomes) == 6 and old.checksums != white.checksums != grey.checksums
    assert white.checksums["pictures"].endswith(", decoding 2 on #ffffff")
    assert len(list(cache.rglob("pixels"))) == 2
    padded = OPEN(tmp_path, image_size=SIDE, fit="pad")
    assert len(outcomes) == 8 and len(list(cache.rglob("pixels"))) == 3
    assert padded.checksums["pictures"].endswith(" on #ffffff, pad")


def test_pictures_that_do_not_fit_are_decoded_for_each_batch(
    tmp_path, monkeypatch, outcomes, capsys
):
    folder_of(tmp_path, *(f"{n % 2}/{n}.jpg" for n in range(20)))
    monkeypatch.setattr(picture_cache, "SPARE", 2**60)
    anew = OPEN(tmp_path, image_size=SIDE)
    assert "TF_AVAE_CACHE" in capsys.readouterr().err
    found = [_collect(anew.train(8, seed=1).take(5)), held_out(anew)]
    assert len(outcomes) > 20 + 40
    monkeypatch.setattr(picture_cache, "SPARE", 0)
    cached = OPEN(tmp_path, image_size=SIDE)
    decoded = len(outcomes)
    expected = [_collect(cached.train(8, seed=1).take(5)), held_out(cached)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    assert len(outcomes) == decoded and cached.checksums == anew.checksums
    (tmp_path / "0" / "0.jpg").unlink()
    with pytest.raises(Exception, match=r"0.jpg could be read when the data were opened"):
        list(anew.train(20, seed=1).take(1))


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    folder_of(tmp_path, "a.png", "b.png")
    monkeypatch.setenv("TF_AVAE_CACHE", str(tmp_path / "a.png"))
    with pytest.raises(InputError, match=r"cannot keep decoded pictures .* set TF_AVAE_CACHE"):
        OPEN(tmp_path, image_size=SIDE)


def test_one_process_decodes_and_the_others_wait(tmp_path, cache, outcomes, capsys):
    folder_of(tmp_path, "a.png", "b.png")
    OPEN(tmp_path, image_size=SIDE)
    (entry,) = cache.rglob("pixels")
    made = entry.read_bytes()
    entry.unlink()
    write(entry.with_name(".tmp-killed"), b"")
    with entry.with_name("lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process would
        opened = []
        thread = threading.Thread(target=lambda: opened.append(OPEN(tmp_path, image_size=SIDE)))
        thread.start()
        time.sleep(0.5)
        assert thread.is_alive() and "another process" in capsys.readouterr().err
        write(entry, made)
    thread.join(timeout=30)
    assert opened and len(outcomes) == 2
    assert sorted(path.name for path in entry.parent.iterdir()) == ["lock", "pixels"]


def test_a_stopped_process_leaves_nothing(tmp_path, cache, monkeypatch):
    folder_of(tmp_path, "a.png", "b.png")

    def stopped(path, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(picture_cache, "_outcome", stopped)
    with pytest.raises(KeyboardInterrupt):
        OPEN(tmp_path, image_size=SIDE)
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["lock"]


def test_long_work_shows_its_rate_and_the_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    counter = progress.Counter("decoding", 100)
    for second, done in ((5, 10), (20, 40), (25, 99), (26, 100)):
        now[0] = second
        counter.update(done)
    said = capsys.readouterr().err
    assert said == "decoding 40/100  2.0/s  0:30 left\ndecoding 100/100  3.8/s  0:00 left\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on pictures of any format and size, one of which cannot be read: its folder and what
    was printed."""
    root = tmp_path_factory.mktemp("run")
    for number, content in enumerate(READABLE.values()):
        write(root / "pictures" / f"{number:02d}.png", content)
    write(root / "pictures" / "bad.png", b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_AVAE_CACHE", str(root / "cache"))
        options = f"--algo vae --dataset image_folder --data-dir {root / 'pictures'} --arch mlp"
        options += f" --image-size {SIDE} --on-bad-image skip --latent-dim 3 --steps 2"
        options += f" --background {BACKGROUND.upper()} --fit pad"
        assert fit.main([*options.split(), "--run-dir", str(root / "run")]) == 0
    return root


def test_a_served_model_reads_files_as_training_does(run, tmp_path):
    """The embedding of each file, by the exported graph, is that of the data set's image of it."""
    options = {"image_size": SIDE, "on_bad_image": "skip", "background": BACKGROUND}
    options["fit"] = "pad"
    data = OPEN(run / "pictures", **options)
    images = np.concatenate([held_out(data)[0], trained(data)[0]])
    files, _ = find_files(run / "pictures")
    paths = [file.path for file in files if file.path != "bad.png"]
    train, test = image_folder._split(run, paths, False, 0)
    files = [(run / "pictures" / paths[at]).read_bytes() for at in (*test, *train)]
    version = export_run(run / "run", tmp_path / "served", batch_sizes=(1,))
    assert json.loads((version / PROVENANCE).read_text())["config"]["background"] == BACKGROUND
    served = SavedModel(version)
    found = served.call("embed_bytes", image_bytes=tf.constant(files))["embedding"]
    expected = open_encoder(run / "run").embed(tf.constant(images))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_run_on_altered_pictures_is_refused(run, capsys):
    path = run / "pictures" / "00.png"
    before = path.read_bytes()
    assert fit.main(["--run-dir", str(run / "run"), "--resume"]) == 0
    said = capsys.readouterr().out
    assert "this run is complete" in said
    where = f"data_dir='{run / 'pictures'}', image_size={SIDE}, on_bad_image='skip'"
    where += f", background='{BACKGROUND}', fit='pad'"
    assert f'DATASETS["image_folder"].open({where}).held_out(500)' in said
    write(path, file_of(waves(phase=1), "PNG"))
    try:
        assert fit.main(["--run-dir", str(run / "run"), "--resume"]) == 2
        assert "pictures: not what this run was trained on" in capsys.readouterr().err
    finally:
        write(path, before)


def test_a_run_on_pictures_that_were_decoded_otherwise_is_refused(run, capsys):
    """Its config has no background and no fit, and its checksum does not say how: that of an older
    version."""
    kept = {name: (run / "run" / name).read_bytes() for name in ("config.json", "provenance.json")}
    config, notes = map(json.loads, kept.values())
    del config["background"], config["fit"]
    notes["data"]["pictures"] = notes["data"]["pictures"].partition(",")[0]
    try:
        write(run / "run" / "config.json", json.dumps(config).encode())
        write(run / "run" / "provenance.json", json.dumps(notes).encode())
        assert fit.main(["--run-dir", str(run / "run"), "--resume"]) == 2
        said = capsys.readouterr().err
        assert "pictures: not what this run was trained on" in said
        assert ", decoding 2 on #ffffff, was " in said
    finally:
        for name, content in kept.items():
            write(run / "run" / name, content)


def test_an_evaluation_says_that_there_are_no_labels(run, capsys, tmp_path):
    options = ["--section", "probes", "--out", str(tmp_path / "out")]
    assert evaluate.main([str(run / "run"), *options]) == 2
    assert "no label" in capsys.readouterr().err


def test_sizes_that_do_not_fit_the_architecture_are_refused(run, capsys, tmp_path):
    options = f"--algo vae --dataset image_folder --data-dir {run / 'pictures'} --image-size 15"
    assert fit.main([*options.split(), "--arch", "conv", "--on-bad-image", "skip"]) == 2
    assert "multiples of 2 and at least 10" in capsys.readouterr().err
