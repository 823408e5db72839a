"""ColorMNIST against the idx files, its colours, its order, and damaged files."""

import gzip
import hashlib

import numpy as np
import pytest
import tensorflow as tf
from conftest import idx_bytes

import tf_avae
from tf_avae.datasets import DATASETS, base
from tf_avae.datasets.color_mnist.dataset import (
    CHANNELS,
    COLORS,
    held_out_color,
    training_color,
)
from tf_avae.datasets.color_mnist.idx import load_split
from tf_avae.errors import InputError

OPEN = DATASETS["color_mnist"].open


def collect(batches):
    images, labels = [], []
    for x, y in batches.as_numpy_iterator():
        images.append(x)
        labels.append(np.stack([y["digit"], y["color"]]))
    return np.concatenate(images), np.concatenate(labels, axis=1)


def take(data, count, batch_size=64, **how):
    return collect(data.train(batch_size, **({"seed": 0} | how)).take(count))


@pytest.fixture
def folder(tmp_path):
    """A small set in MNIST's format, images 6x5, one file gzipped."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 50), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 6, 5)).astype(np.uint8)
        labels = (np.arange(count) % 4).astype(np.uint8)
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    return tmp_path


def test_images_and_labels_are_those_of_the_published_files(color_mnist):
    """The grey level of a coloured image is its brightest channel; the files' MD5 are MNIST's."""
    images, labels = collect(color_mnist.held_out(997))
    gray = np.round(images.max(-1) * 255).astype(np.uint8)
    assert hashlib.md5(idx_bytes(gray)).hexdigest() == "2646ac647ad5339dbf082846283269ea"
    digits = labels[0].astype(np.uint8)
    assert hashlib.md5(idx_bytes(digits)).hexdigest() == "27ae3e4e09519cfbb04c329615203637"
    images, labels = collect(color_mnist.train_images(1000))
    gray = np.round(images.max(-1) * 255).astype(np.uint8)
    assert hashlib.md5(idx_bytes(gray)).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    digits = labels[0].astype(np.uint8)
    assert hashlib.md5(idx_bytes(digits)).hexdigest() == "a25bea736e30d166cdddb491f175f624"


def test_each_image_has_the_channels_of_its_colour(color_mnist):
    images, labels = take(color_mnist, 3)
    lit = images.max(axis=(1, 2)) > 0
    np.testing.assert_array_equal(lit, CHANNELS[labels[1]].astype(bool))
    assert images.dtype == np.float32 and images.min() == 0 and images.max() == 1
    # The lit channels are equal.
    np.testing.assert_array_equal(images, images.max(-1, keepdims=True) * lit[:, None, None])


def test_seven_colours_are_the_subsets_of_three_channels():
    assert len(COLORS) == len(np.unique(CHANNELS, axis=0)) == 7
    assert CHANNELS.any(axis=1).all()
    named = dict(zip(COLORS, CHANNELS.astype(int).tolist(), strict=True))
    assert named["red"] == [1, 0, 0] and named["yellow"] == [1, 1, 0]
    assert named["blue"] == [0, 0, 1] and named["white"] == [1, 1, 1]


def test_an_epoch_is_a_permutation_and_epochs_differ(folder):
    data = OPEN(folder)
    files = load_split("train", folder).images
    images, _ = take(data, 20, batch_size=5)  # two epochs of 50
    gray = np.round(images.max(-1) * 255).astype(np.uint8)
    rank = {image.tobytes(): i for i, image in enumerate(files)}
    order = [rank[image.tobytes()] for image in gray]
    assert sorted(order[:50]) == sorted(order[50:]) == list(range(50))
    assert order[:50] != order[50:] and order[:50] != list(range(50))


@pytest.mark.parametrize("start", [1, 7, 13])
def test_a_stream_goes_on_to_the_bit_from_any_batch(folder, start):
    """Batches of 7 from 50 images: most cross from one epoch into the next."""
    data = OPEN(folder)
    images, labels = take(data, 20, batch_size=7)
    later, later_labels = take(data, 20 - start, batch_size=7, start=start)
    np.testing.assert_array_equal(images[7 * start :], later)
    np.testing.assert_array_equal(labels[:, 7 * start :], later_labels)


def test_batches_may_be_larger_than_the_set(folder):
    images, _ = take(OPEN(folder), 2, batch_size=120)
    assert images.shape == (240, 6, 5, 3)


def test_seed_decides_order_and_colours(color_mnist):
    one, same, other = (take(color_mnist, 2, seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_global_random_state_plays_no_part(color_mnist):
    tf.random.set_seed(1)
    before, _ = take(color_mnist, 1)
    tf.random.set_seed(2)
    np.random.seed(3)
    np.testing.assert_array_equal(before, take(color_mnist, 1)[0])


def chi_square(counts):
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())


def test_colours_are_uniform_and_independent_of_epoch_seed_neighbour_and_digit():
    index = tf.range(60_000, dtype=tf.int64)
    digits = load_split("train").labels

    def colors(seed, epoch):
        return training_color(index, seed=seed, epoch=tf.fill([60_000], np.int64(epoch))).numpy()

    drawn = [colors(seed, epoch) for seed in (0, 1, 12345) for epoch in (0, 1, 2)]
    drawn.append(held_out_color(index).numpy())
    # Upper quantiles at 1e-5 of chi-square with 6, 36 and 54 degrees of freedom: 33.1, 85.0, 111.
    for one in drawn:
        assert chi_square(np.bincount(one, minlength=7)) < 33.1
        pairs = np.bincount(one[:-1] * 7 + one[1:], minlength=49)
        assert chi_square(pairs) < 6 + 85.0
        table = np.bincount(digits * 7 + one, minlength=70).reshape(10, 7)
        expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
        assert ((table - expected) ** 2 / expected).sum() < 111
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert chi_square(np.bincount(one * 7 + other, minlength=49)) < 12 + 85.0


def test_colour_of_a_held_out_image_depends_on_its_index_alone(color_mnist):
    _, labels = collect(color_mnist.held_out(1000).take(2))
    _, again = collect(color_mnist.held_out(37).take(10))
    np.testing.assert_array_equal(labels[:, :370], again)


def test_keyed_permutation_is_one_for_each_key():
    index = tf.range(101, dtype=tf.int64)
    orders = {
        tuple(base.keyed_permutation(index, 101, (seed, 0, use)).numpy())
        for seed in range(3)
        for use in range(3)
    }
    assert len(orders) == 9
    assert all(sorted(order) == list(range(101)) for order in orders)


def test_validation_part_is_held_out_of_training(folder):
    data = OPEN(folder, validation=10)
    assert (data.train_size, data.held_out_size) == (40, 10)
    held_out, _ = collect(data.held_out(10))
    files = load_split("train", folder).images
    np.testing.assert_array_equal(np.round(held_out.max(-1) * 255).astype(np.uint8), files[40:])
    trained, _ = take(data, 10, batch_size=8)
    seen = {image.tobytes() for image in np.round(trained.max(-1) * 255).astype(np.uint8)}
    assert seen == {image.tobytes() for image in files[:40]}
    for bad in (-1, 50):
        with pytest.raises(InputError, match=f"validation is {bad}"):
            OPEN(folder, validation=bad)


def test_another_set_of_idx_files_is_read(folder):
    data = OPEN(str(folder))
    assert data.image_shape == (6, 5, 3)
    assert data.labels == {"digit": 4, "color": 7}
    assert (data.train_size, data.held_out_size) == (50, 20)
    assert len(data.checksums) == 4


def rewrite(name, change):
    def damage(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "train-images-idx3-ubyte").unlink(), "has neither train-images"),
        (rewrite("train-images-idx3-ubyte", lambda b: b[:-7]), "cut short or altered"),
        (rewrite("train-images-idx3-ubyte", lambda b: b + b"x"), "cut short or altered"),
        (rewrite("train-images-idx3-ubyte", lambda b: b""), "not an idx file"),
        (
            rewrite("train-images-idx3-ubyte", lambda b: b[:8] + b"\xff" * 8 + b[16:]),
            "cut short or altered",
        ),
        (rewrite("train-images-idx3-ubyte", lambda b: b"<html>" + b), "not an idx file"),
        (rewrite("t10k-labels-idx1-ubyte.gz", lambda b: b[:-9]), "cut short or altered"),
        (
            rewrite("t10k-labels-idx1-ubyte.gz", lambda b: b[:20] + bytes([b[20] ^ 255]) + b[21:]),
            "cut short or altered",
        ),
        (rewrite("t10k-labels-idx1-ubyte.gz", lambda b: b"not gzip"), "cut short or altered"),
        (
            lambda f: (f / "train-labels-idx1-ubyte").write_bytes(
                idx_bytes(np.zeros(49, np.uint8))
            ),
            "50 train images and 49 labels",
        ),
        (
            lambda f: (f / "t10k-images-idx3-ubyte").write_bytes(
                idx_bytes(np.zeros((20, 9, 9), np.uint8))
            ),
            "take all four files from one set",
        ),
    ],
)
def test_damaged_files_are_named(folder, damage, words):
    load_split.cache_clear()
    damage(folder)
    with pytest.raises(InputError, match=words):
        OPEN(folder)


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        OPEN(tmp_path / "nowhere")


def test_altered_package_data_is_noticed(monkeypatch):
    from tf_avae.datasets.color_mnist import idx

    read = idx._read_bytes
    monkeypatch.setattr(idx, "_read_bytes", lambda *a: read(*a)[:-1] + b"\x07")
    load_split.cache_clear()
    with pytest.raises(InputError, match="of this package is altered"):
        load_split("test")
    load_split.cache_clear()


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_damaged_package_data_is_named(monkeypatch, tmp_path, damage):
    import importlib.resources

    (tmp_path / "mnist").mkdir()
    if damage == "cut short":
        packaged = importlib.resources.files("tf_avae.datasets.color_mnist") / "mnist"
        name = "t10k-images-idx3-ubyte.xz"
        (tmp_path / "mnist" / name).write_bytes((packaged / name).read_bytes()[:1000])
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    load_split.cache_clear()
    with pytest.raises(InputError, match="install the package again"):
        load_split("test")
    load_split.cache_clear()


@pytest.mark.long
def test_tfds_builder_has_the_pipelines_images_and_both_labels(color_mnist, tmp_path):
    import tensorflow_datasets as tfds

    assert tf_avae.DATASETS  # importing the package has registered the builder
    splits, info = tfds.load("color_mnist", data_dir=tmp_path, with_info=True)
    assert info.features["digit"].num_classes == 10
    assert info.features["color"].names == list(COLORS)
    assert info.splits["train"].num_examples == 60_000
    assert info.splits["test"].num_examples == 10_000

    def digests(batches):
        return sorted(
            hashlib.md5(image.tobytes() + bytes((digit, color))).hexdigest()
            for images, digits, colors in batches
            for image, digit, color in zip(images, digits, colors, strict=True)
        )

    for split, ours in (("test", color_mnist.held_out), ("train", color_mnist.train_images)):
        theirs = splits[split].batch(1000).as_numpy_iterator()
        assert digests((b["image"], b["digit"], b["color"]) for b in theirs) == digests(
            (np.round(x * 255).astype(np.uint8), y["digit"], y["color"])
            for x, y in ours(1000).as_numpy_iterator()
        )
