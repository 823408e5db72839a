"""CelebA from its official files: tasks, crop, splits, the prepared copy, and broken archives."""

import io
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tf_avae.datasets import DATASETS
from tf_avae.datasets.celeb_a import store as celeb_a_store
from tf_avae.datasets.celeb_a import tfds as celeb_a_tfds
from tf_avae.datasets.celeb_a.images import crop
from tf_avae.datasets.celeb_a.tasks import ATTRIBUTES, TASKS
from tf_avae.datasets.drawn_faces.archive import write_archive
from tf_avae.errors import InputError

OPEN = DATASETS["celeb_a"].open
IMAGES, ATTRIBUTE_LIST, PARTITION = (
    "img_align_celeba.zip",
    "list_attr_celeba.txt",
    "list_eval_partition.txt",
)
PARTS = [0] * 7 + [1] * 3 + [2] * 2

# The paper's names and what the data set calls the same; written down by hand.
OFFICIAL_NAMES = {
    "Bald": "Bald",
    "Mustache": "Mustache",
    "Eyeglasses": "Eyeglasses",
    "Necklace": "Wearing_Necklace",
    "Smiling": "Smiling",
    "Lipstick": "Wearing_Lipstick",
    "Bangs": "Bangs",
    "Black Hair": "Black_Hair",
    "Blond Hair": "Blond_Hair",
    "Brown Hair": "Brown_Hair",
    "Gender": "Male",
    "Beard": "No_Beard",
    "Straight Hair": "Straight_Hair",
    "Wavy Hair": "Wavy_Hair",
    "Earrings": "Wearing_Earrings",
    "Hat": "Wearing_Hat",
    "Necktie": "Wearing_Necktie",
}


def jpeg(pixels, kind="JPEG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def photograph(rng, height=218, width=178):
    """Smooth colours, edges and noise."""
    colors = rng.integers(0, 256, (9, 7, 3), np.uint8)
    image = np.array(Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC))
    image[40:90, 30:60] = rng.integers(0, 256, 3)
    noise = rng.integers(-20, 20, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def expected(file):
    """The middle 148x148 of the photograph at 64x64, by Pillow."""
    with Image.open(io.BytesIO(file)) as image:
        square = image.convert("RGB").crop((15, 35, 15 + 148, 35 + 148))
        return np.array(square.resize((64, 64), Image.Resampling.BILINEAR))


def rows(batches):
    """All images as bytes of pixel values, and all labels."""
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    joined = {name: np.concatenate([some[name] for some in labels]) for name in labels[0]}
    return np.round(np.concatenate(images) * 255).astype(np.uint8), joined


@pytest.fixture(scope="module")
def files():
    """Twelve photographs, a grey one among them."""
    rng = np.random.default_rng(0)
    made = [jpeg(photograph(rng), quality=92) for _ in PARTS[1:]]
    return [*made[:2], jpeg(photograph(rng)[..., 0], quality=80), *made[2:]]


@pytest.fixture(scope="module")
def attributes():
    return np.random.default_rng(1).random((len(PARTS), 40)) < 0.5


@pytest.fixture
def folder(tmp_path, files, attributes):
    write_archive(tmp_path, files, attributes, np.array(PARTS))
    return tmp_path


def test_crop_and_resize_are_those_of_pillow(files):
    """Pillow rounds between its two passes too, so that a level or two may be between them."""
    ours = crop(files).numpy().astype(int)
    theirs = np.stack([expected(file) for file in files]).astype(int)
    assert ours.shape == (12, 64, 64, 3)
    assert np.abs(ours - theirs).max() <= 2
    assert np.abs(ours - theirs).mean() < 0.3


def test_splits_are_the_official_ones_in_the_order_of_the_list(folder, files, attributes):
    data = OPEN(str(folder))
    assert (data.name, data.image_shape) == ("celeb_a", (64, 64, 3))
    assert (data.train_size, data.held_out_size) == (7, 2)
    all_images = crop(files).numpy()
    for batches, where in ((data.train_images(3), slice(0, 7)), (data.held_out(2), slice(10, 12))):
        images, labels = rows(batches)
        np.testing.assert_array_equal(images, all_images[where])
        for column, name in enumerate(ATTRIBUTES):
            np.testing.assert_array_equal(labels[name], attributes[where, column])
    assert set(data.labels) == set(OFFICIAL_NAMES) | set(ATTRIBUTES)
    assert set(data.labels.values()) == {2}


def test_splits_need_not_be_in_order(tmp_path, files, attributes):
    parts = np.array([2, 0, 1, 0, 0, 2, 0, 1, 1, 0, 0, 0])
    write_archive(tmp_path, files, attributes, parts)
    all_images = crop(files).numpy()
    np.testing.assert_array_equal(
        rows(OPEN(tmp_path).train_images(5))[0], all_images[np.flatnonzero(parts == 0)]
    )
    np.testing.assert_array_equal(
        rows(OPEN(tmp_path, validation=2).held_out(5))[0], all_images[[2, 7]]
    )


def test_the_17_tasks_of_a_hand_made_attribute_file(tmp_path, files):
    """Image k has attribute k and no other; a last one has all, so that each task has both."""
    write_archive(
        tmp_path, [files[0]] * 43, np.zeros((43, 40), bool), np.repeat([0, 1, 2], [41, 1, 1])
    )
    names = (tmp_path / ATTRIBUTE_LIST).read_text().splitlines()[1]
    lines = ["43", names]
    for image in range(40):
        values = ["-1"] * 40
        values[image] = " 1"
        lines.append(f"{image + 1:06d}.jpg {' '.join(values)}")
    lines += [f"{image:06d}.jpg {'  1' * 40}" for image in (41, 42, 43)]
    (tmp_path / ATTRIBUTE_LIST).write_text("\n".join(lines) + "\n")
    data = OPEN(tmp_path)
    assert data.tasks == tuple(TASKS) == tuple(OFFICIAL_NAMES)
    _, labels = rows(data.train_images(41))
    official = names.split()
    for task, attribute in OFFICIAL_NAMES.items():
        with_it = {official.index(attribute), 40}
        if task == "Beard":  # where No_Beard is not
            with_it = set(range(41)) - with_it
        assert set(np.flatnonzero(labels[task])) == with_it, task
    assert data.class_names["Gender"] == ("female", "male")
    assert data.class_names["Hat"] == ("no", "yes")
    np.testing.assert_array_equal(labels["Gender"], labels["Male"])
    np.testing.assert_array_equal(labels["Beard"], 1 - labels["No_Beard"])


def test_validation_is_the_first_of_the_official_split_and_training_stays_whole(folder, files):
    data = OPEN(folder, validation=2)
    assert (data.train_size, data.held_out_size) == (7, 2)
    np.testing.assert_array_equal(rows(data.held_out(9))[0], crop(files).numpy()[7:9])
    assert OPEN(folder, validation=3).held_out_size == 3
    for bad in (-1, 4):
        with pytest.raises(InputError, match=f"validation is {bad}; .* at most the 3 images"):
            OPEN(folder, validation=bad)


def test_training_batches_depend_on_seed_and_number_alone(folder):
    def take(count, **how):
        return rows(OPEN(folder).train(4, **how).take(count))[0]

    eight = take(8, seed=3)
    np.testing.assert_array_equal(eight[5 * 4 :], take(3, seed=3, start=5))
    assert (eight != take(8, seed=4)).any()
    # An epoch of seven has each image once.
    assert len({image.tobytes() for image in eight[:7]}) == 7


# The prepared copy


def prepares(monkeypatch):
    """A list that grows with each preparation."""
    made = []
    make = celeb_a_store._make
    monkeypatch.setattr(celeb_a_store, "_make", lambda *a: made.append(a) or make(*a))
    return made


def test_the_images_are_prepared_once(folder, monkeypatch):
    made = prepares(monkeypatch)
    before, checksums = rows(OPEN(folder).train_images(7))[0], OPEN(folder).checksums
    assert len(made) == 1
    assert set(checksums) == {IMAGES, ATTRIBUTE_LIST, PARTITION}
    os.utime(folder / IMAGES, (1, 1))  # as after copying
    assert OPEN(folder).checksums == checksums and len(made) == 1
    for name in checksums:
        (folder / name).unlink()
    np.testing.assert_array_equal(rows(OPEN(folder).train_images(7))[0], before)
    assert len(made) == 1


def test_the_images_are_prepared_anew_when_a_file_changes(folder, monkeypatch):
    made = prepares(monkeypatch)
    before = OPEN(folder)
    path = folder / ATTRIBUTE_LIST
    lines = path.read_text().splitlines()
    assert " 1 " in lines[2]
    lines[2] = lines[2].replace(" 1 ", "-1 ", 1)  # of the same size
    path.write_text("\n".join(lines) + "\n")
    after = OPEN(folder)
    assert len(made) == 2
    assert after.checksums[IMAGES] == before.checksums[IMAGES]
    assert after.checksums[ATTRIBUTE_LIST] != before.checksums[ATTRIBUTE_LIST]
    old, new = (rows(data.train_images(7))[1] for data in (before, after))
    assert sum((old[name] != new[name]).sum() for name in ATTRIBUTES) == 1


def test_two_that_prepare_at_once_prepare_once(folder, monkeypatch, capsys):
    made, inside = prepares(monkeypatch), threading.Event()
    cropped = celeb_a_store.cropped

    def slow(records):
        inside.set()
        threading.Event().wait(0.3)
        return cropped(records)

    monkeypatch.setattr(celeb_a_store, "cropped", slow)
    found = []
    threads = [threading.Thread(target=lambda: found.append(OPEN(folder))) for _ in range(2)]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 1 and [data.train_size for data in found] == [7, 7]
    assert "another process is preparing" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [KeyboardInterrupt("Ctrl-C"), OSError("disk full")])
def test_what_was_stopped_midway_leaves_nothing_and_starts_again(folder, monkeypatch, stop):
    cropped = celeb_a_store.cropped

    def stopped(records):
        yield next(cropped(records))
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(celeb_a_store, "cropped", stopped)
        with pytest.raises(type(stop), match=str(stop)):
            OPEN(folder)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set()
    # A process that was killed leaves its half.
    (folder / "celeb_a-64x64.incomplete").mkdir()
    (folder / "celeb_a-64x64.incomplete" / "train-images.npy").write_bytes(b"half")
    assert OPEN(folder).train_size == 7
    assert not (folder / "celeb_a-64x64.incomplete").exists()


def test_a_stale_copy_stays_until_the_new_one_is_whole(folder, monkeypatch):
    before = rows(OPEN(folder).train_images(7))[0]
    changed = (folder / ATTRIBUTE_LIST).read_text().replace(" 1", "  1", 1)
    (folder / ATTRIBUTE_LIST).write_text(changed)

    def stopped(records):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(celeb_a_store, "cropped", stopped)
        with pytest.raises(OSError, match="disk full"):
            OPEN(folder)
    for name in (IMAGES, ATTRIBUTE_LIST, PARTITION):
        (folder / name).unlink()
    np.testing.assert_array_equal(rows(OPEN(folder).train_images(7))[0], before)


@pytest.mark.parametrize("name", ["source.json", "train-images.npy", "test-attributes.npy"])
def test_a_damaged_copy_is_named(folder, name):
    OPEN(folder)
    path = folder / "celeb_a-64x64" / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"celeb_a-64x64.* is (damaged|not JSON).*delete that"):
        OPEN(folder)


def test_a_folder_that_cannot_be_written_is_named(folder, monkeypatch):
    def refuse(**where):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(celeb_a_store.tempfile, "TemporaryFile", refuse)
        with pytest.raises(InputError, match=r"cannot write .*Permission denied.*make it writable"):
            OPEN(folder)
        patch.undo()
        OPEN(folder)
        patch.setattr(celeb_a_store.tempfile, "TemporaryFile", refuse)
        assert OPEN(folder).train_size == 7  # what is prepared needs no writing


def test_a_full_disk_is_named(folder, monkeypatch):
    usage = celeb_a_store.shutil.disk_usage(folder)._replace(free=12 * 64 * 64 * 3 - 1)
    monkeypatch.setattr(celeb_a_store.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="147,455 bytes free and the prepared images take 147,456"):
        OPEN(folder)


def test_the_official_archive_is_verified(folder, monkeypatch, capsys):
    size = (folder / IMAGES).stat().st_size
    monkeypatch.setattr(celeb_a_store, "OFFICIAL_BYTES", size)
    with pytest.raises(InputError, match=r"is altered .SHA-256 .* official 46fb89443c578308"):
        OPEN(folder)
    assert "another archive" not in capsys.readouterr().err
    monkeypatch.undo()
    checksum = OPEN(folder).checksums[IMAGES]
    assert f"holds {size:,} bytes, CelebA's own 1,443,490,838" in capsys.readouterr().err
    monkeypatch.setattr(celeb_a_store, "OFFICIAL_BYTES", size)
    monkeypatch.setattr(celeb_a_store, "OFFICIAL_SHA256", checksum)
    os.utime(folder / IMAGES, (1, 1))
    (folder / "celeb_a-64x64" / "source.json").unlink()
    assert OPEN(folder).checksums[IMAGES] == checksum


# Broken archives


def rewrite(name, change):
    """Changes the bytes of a file."""

    def damage(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return damage


def line(name, number, change):
    """Changes a line of a list, counted from 1; None takes it out."""

    def damage(folder):
        lines = (folder / name).read_text().splitlines()
        changed = change(lines[number - 1])
        lines[number - 1 : number] = [] if changed is None else [changed]
        (folder / name).write_text("\n".join(lines) + "\n")

    return damage


def both(*damages):
    return lambda folder: [damage(folder) for damage in damages]


def member(name, content, under="img_align_celeba/"):
    """Puts another file in place of an image, or takes it out."""

    def damage(folder):
        with zipfile.ZipFile(folder / IMAGES) as archive:
            entries = {entry: archive.read(entry) for entry in archive.namelist()}
        entries = {under + entry.split("/")[1]: file for entry, file in entries.items()}
        entries.pop(under + name, None)
        if content is not None:
            entries[under + name] = content
        with zipfile.ZipFile(folder / IMAGES, "w") as archive:
            for entry, file in entries.items():
                archive.writestr(entry, file)

    return damage


RNG = np.random.default_rng(2)
PHOTOGRAPH = jpeg(photograph(RNG))
PAGE = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / IMAGES).unlink(), r"lacks img_align_celeba.zip; put the official files"),
        (
            lambda f: [(f / name).unlink() for name in (ATTRIBUTE_LIST, PARTITION)],
            "lacks list_attr_celeba.txt and list_eval_partition.txt",
        ),
        (
            lambda f: [(f / name).unlink() for name in (IMAGES, ATTRIBUTE_LIST, PARTITION)],
            "holds none of CelebA's files",
        ),
        (rewrite(IMAGES, lambda b: PAGE), "zip is a web page, not the file.*quota"),
        (rewrite(ATTRIBUTE_LIST, lambda b: b"\n " + PAGE), "celeba.txt is a web page"),
        (rewrite(PARTITION, lambda b: PAGE), "partition.txt is a web page"),
        (rewrite(IMAGES, lambda b: b[: len(b) // 2]), "cut short or altered.*1,443,490,838"),
        (rewrite(IMAGES, lambda b: b""), "is no zip archive .it starts with nothing"),
        (rewrite(IMAGES, lambda b: b"\x1f\x8b\x08\x00" + b), "is no zip archive .* 1f8b0800"),
        (
            rewrite(IMAGES, lambda b: b.replace(b[3000:3100], bytes(100), 1)),
            "img_align_celeba/00000.*cannot be read.*damaged there",
        ),
        (member("000003.jpg", None), "has no image img_align_celeba/000003.jpg, which the lists"),
        (
            member("000001.jpg", PHOTOGRAPH, under="img_celeba/"),
            r"holds other files \(img_celeba/000002.jpg ...\) than img_align_celeba/000001.jpg",
        ),
        (member("000009.jpg", b"text"), "000009.jpg is no JPEG image .it starts with 74657874"),
        (member("000009.jpg", b""), "000009.jpg is no JPEG image .it starts with nothing"),
        (
            member("000009.jpg", jpeg(photograph(RNG), "PNG")),
            "000009.jpg is no JPEG image .it starts with 89504e47",
        ),
        (member("000009.jpg", PHOTOGRAPH[:2000]), "000009.jpg is a damaged JPEG image"),
        (member("000009.jpg", PHOTOGRAPH[:100]), "000009.jpg is a damaged JPEG image"),
        (
            member("000009.jpg", jpeg(photograph(RNG, 178, 218))),
            "000009.jpg is 218 pixels wide and 178 high; .* are 178x218",
        ),
        (
            both(
                line(ATTRIBUTE_LIST, 5, lambda text: None),
                line(ATTRIBUTE_LIST, 1, lambda text: "11"),
            ),
            "list_attr_celeba.txt has no line for 000003.jpg: an incomplete",
        ),
        (line(PARTITION, 3, lambda text: None), "partition.txt has no line for 000003.jpg"),
        (line(ATTRIBUTE_LIST, 5, lambda text: None), "it has 12 images and has the lines of 11"),
        (line(ATTRIBUTE_LIST, 1, lambda text: "13"), "13 images and has the lines of 12"),
        (line(ATTRIBUTE_LIST, 1, lambda text: None), "starts with '5_o_Clock_Shadow Arched"),
        (rewrite(ATTRIBUTE_LIST, lambda b: b""), "starts with ''; its first line must be"),
        (
            line(ATTRIBUTE_LIST, 2, lambda text: text.replace("Bald", "Blad")),
            "line 2, names other attributes than CelebA's 40",
        ),
        (
            line(ATTRIBUTE_LIST, 4, lambda text: text + " 1"),
            "line 4, has 41 values for 000002.jpg; it must have 40",
        ),
        (line(ATTRIBUTE_LIST, 4, lambda text: ""), "line 4, has 0 values for no image"),
        (
            line(ATTRIBUTE_LIST, 4, lambda text: text[:-2] + " 0"),
            "line 4, has '0' for 000002.jpg; it must be 1 or -1",
        ),
        (
            line(ATTRIBUTE_LIST, 4, lambda text: text.replace("000002", "000001")),
            "line 4, lists 000001.jpg a second time",
        ),
        (line(PARTITION, 2, lambda text: "000002.jpg 3"), "puts 000002.jpg into part '3'"),
        (line(PARTITION, 2, lambda text: "000002.jpg"), "line 2, has 1 words"),
        (line(PARTITION, 2, lambda text: "000001.jpg 0"), "lists 000001.jpg a second time"),
        (
            rewrite(PARTITION, lambda b: b.replace(b"jpg 1", b"jpg 2")),
            "has no validation images; at least 1",
        ),
        (rewrite(PARTITION, lambda b: b""), "has no train images"),
        (rewrite(PARTITION, lambda b: bytes(range(256))), "partition.txt, line 1, "),
    ],
)
def test_broken_archives_are_named(folder, damage, words):
    damage(folder)
    with pytest.raises(InputError, match=words) as error:
        OPEN(folder)
    assert "\n" not in str(error.value)
    assert not (folder / "celeb_a-64x64").exists()


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match="is not a folder; make it, and put the official files"):
        OPEN(tmp_path / "nowhere")


# TFDS


def test_tfds_builder_streams_the_same_images_in_the_same_order(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(celeb_a_tfds, "_SHARD", 3)
    builder = tfds.builder("celeb_a64", data_dir=tmp_path / "tfds")
    config = tfds.download.DownloadConfig(manual_dir=folder)
    builder.download_and_prepare(download_config=config)
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {
        "train": 7, "validation": 3, "test": 2
    }  # fmt: skip
    assert builder.info.splits["train"].num_shards == 3
    for split, ours in (
        ("train", OPEN(folder).train_images(7)),
        ("validation", OPEN(folder, validation=3).held_out(3)),
        ("test", OPEN(folder).held_out(2)),
    ):
        images, labels = rows(ours)
        theirs = list(builder.as_dataset(split=split).as_numpy_iterator())
        np.testing.assert_array_equal(images, [example["image"] for example in theirs])
        for name in ATTRIBUTES:
            found = [example["attributes"][name] for example in theirs]
            np.testing.assert_array_equal(labels[name], found)


def test_tfds_builder_says_what_is_wrong_with_the_files(folder, tmp_path):
    member("000009.jpg", b"text")(folder)
    builder = tfds.builder("celeb_a64", data_dir=tmp_path / "tfds")
    config = tfds.download.DownloadConfig(manual_dir=folder)
    with pytest.raises(InputError, match=r"000009.jpg is no JPEG image"):
        builder.download_and_prepare(download_config=config)
    assert not builder.is_prepared()


@pytest.mark.parametrize("given", [True, False])
def test_the_stock_celeb_a_of_tfds_is_used_where_it_is_prepared(
    tmp_path, files, attributes, monkeypatch, given
):
    features = {
        "image": tfds.features.Image(shape=(218, 178, 3), encoding_format="jpeg"),
        "attributes": dict.fromkeys(ATTRIBUTES, np.bool_),
    }
    positions = {"train": range(7), "validation": range(7, 10), "test": range(10, 12)}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="celeb_a",
        version="2.1.0",
        data_dir=tmp_path,
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            split: [
                (
                    i,
                    {
                        "image": io.BytesIO(files[i]),
                        "attributes": dict(zip(ATTRIBUTES, attributes[i], strict=True)),
                    },
                )
                for i in where
            ]
            for split, where in positions.items()
        },
    )
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    data = OPEN(tmp_path if given else None)
    images, labels = rows(data.train_images(7))
    # In another order: each is found by its pixels.
    cropped = crop(files).numpy()
    rank = {image.tobytes(): i for i, image in enumerate(cropped)}
    order = [rank[image.tobytes()] for image in images]
    assert sorted(order) == list(range(7))
    for column, name in enumerate(ATTRIBUTES):
        np.testing.assert_array_equal(labels[name], attributes[order, column])
    assert data.held_out_size == 2 and "dataset_info.json" in data.checksums
    # What was prepared from it is prepared anew from the files, once they are there.
    home = tmp_path if given else tmp_path / "downloads" / "manual"
    write_archive(home, files, attributes, np.array(PARTS))
    again = OPEN(tmp_path if given else None)
    assert set(again.checksums) == {IMAGES, ATTRIBUTE_LIST, PARTITION}
    np.testing.assert_array_equal(rows(again.train_images(7))[0], cropped[:7])


# Memory


MEASURE = """
import ctypes, shutil, sys, threading
from pathlib import Path
import numpy as np
import tensorflow_datasets as tfds
from tf_avae.datasets import DATASETS
from tf_avae.datasets.celeb_a import tfds as celeb_a_tfds
from tf_avae.datasets.celeb_a.files import read_official
from tf_avae.datasets.celeb_a.images import cropped
from tf_avae.datasets.drawn_faces.archive import write_archive

celeb_a_tfds._SHARD = 100
root, jpeg = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()

def archive(count):
    parts = np.zeros(count, int)
    parts[-2:] = 1, 2
    write_archive(root / str(count), [jpeg] * count, np.zeros((count, 40), bool), parts)
    return root / str(count)

def prepare(folder):
    DATASETS["celeb_a"].open(folder)

def build(folder):
    config = tfds.download.DownloadConfig(manual_dir=folder)
    tfds.builder("celeb_a64", data_dir=folder / "tfds").download_and_prepare(download_config=config)

def gather(folder):
    return [*cropped(read_official(folder).records("train"))]

def forget(folder):
    for made in ("celeb_a-64x64", "tfds"):
        shutil.rmtree(folder / made, ignore_errors=True)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

def growth(work, folder):
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide anything
    before, seen, done = resident(), [], threading.Event()
    def watch():
        while not done.wait(0.005):
            seen.append(resident())
    thread = threading.Thread(target=watch)
    thread.start()
    work(folder)
    done.set()
    thread.join()
    return max(seen) - before

small, large = archive(150), archive(1000)
for work in (prepare, build, gather):
    growth(work, small)  # what is loaded and traced the first time
    forget(small)
    print("MB", growth(work, large) - growth(work, small))
"""


def test_memory_stays_flat_as_the_archive_grows(tmp_path):
    """In a process of its own, from whose memory nothing has been freed. The 850 images more take
    10 MB; gathered in a list, they show."""
    file = tmp_path / "gray.jpg"
    file.write_bytes(jpeg(np.full((218, 178, 3), 128, np.uint8)))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), str(file)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    grown = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("MB")]
    prepared, built, gathered = grown
    assert prepared < 6 and built < 6
    assert gathered > 7


def test_the_page_has_the_tasks_of_the_registry():
    page = (Path(__file__).parent.parent / "docs/celeba.md").read_text()
    table = page.split("## The 17 tasks")[1].split("|---|---|\n")[1].split("\n\n")[0]
    rows = [(t.name, f"not {t.attribute}" if t.negated else t.attribute) for t in TASKS.values()]
    assert table == "\n".join(f"| {name} | {derivation} |" for name, derivation in rows)
