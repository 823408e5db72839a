"""Data sets whose images are fetched by position: order, resuming, labels."""

import numpy as np
import pytest

from tf_avae.datasets.indexed import Indexed, IndexedImages

SIZE = 10
PIXELS = np.random.default_rng(0).integers(0, 256, (SIZE, 4, 6, 3)).astype(np.uint8)


def split(pixels=PIXELS, **labels):
    return Indexed(lambda index: pixels[index], labels, len(pixels))


@pytest.fixture(scope="module")
def data():
    parity = np.arange(SIZE, dtype=np.int32) % 2
    whole = split(parity=parity, rank=np.arange(SIZE, dtype=np.int32))
    return IndexedImages(
        name="numbers",
        image_shape=(4, 6, 3),
        train_split=whole.select(np.arange(7)),
        held_out_split=whole.select(np.array([9, 7, 8])),
        class_names={"parity": ("even", "odd"), "rank": tuple(map(str, range(SIZE)))},
        tasks=("parity",),
        checksums={"numbers": "5"},
    )


def collect(batches):
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(images), {k: np.concatenate([y[k] for y in labels]) for k in labels[0]}


def test_sizes_and_labels(data):
    assert (data.train_size, data.held_out_size) == (7, 3)
    assert data.labels == {"parity": 2, "rank": 10} and data.tasks == ("parity",)


def test_images_come_in_order_with_their_labels(data):
    images, labels = collect(data.train_images(3))  # the last batch is not full
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, PIXELS[:7].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(labels["parity"], [0, 1, 0, 1, 0, 1, 0])
    images, labels = collect(data.held_out(2))
    np.testing.assert_array_equal(np.round(images * 255), PIXELS[[9, 7, 8]])
    np.testing.assert_array_equal(labels["rank"], [9, 7, 8])
    assert labels["rank"].dtype == np.int32


def test_each_epoch_is_a_permutation_of_its_own(data):
    images, labels = collect(data.train(4, seed=3).take(7))  # four epochs of 7
    np.testing.assert_array_equal(np.round(images * 255), PIXELS[labels["rank"]])
    epochs = labels["rank"].reshape(4, 7)
    assert (np.sort(epochs, axis=1) == np.arange(7)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 1
    other = collect(data.train(4, seed=4).take(7))[1]["rank"]
    assert (other != labels["rank"]).any()


@pytest.mark.parametrize("start", [1, 5])
def test_a_stream_goes_on_to_the_bit_from_any_batch(data, start):
    images, labels = collect(data.train(3, seed=1).take(8))
    later, later_labels = collect(data.train(3, seed=1, start=start).take(8 - start))
    np.testing.assert_array_equal(images[3 * start :], later)
    np.testing.assert_array_equal(labels["rank"][3 * start :], later_labels["rank"])


def test_shapes_are_known_before_a_batch_is_there(data):
    assert data.train(5, seed=0).element_spec[0].shape == (5, 4, 6, 3)
    assert data.held_out(5).element_spec[0].shape == (None, 4, 6, 3)


def test_images_may_have_no_labels():
    bare = IndexedImages("bare", (4, 6, 3), split(), split(), class_names={}, tasks=())
    assert bare.labels == {} and collect(bare.held_out(4))[1] == {}
    assert next(iter(bare.train(4, seed=0)))[1] == {}


def test_images_of_another_shape_are_refused():
    wrong = IndexedImages("wrong", (4, 5, 3), split(), split(), class_names={}, tasks=())
    with pytest.raises(Exception, match="shape"):
        next(iter(wrong.held_out(2)))
