"""The Frechet distance against scipy and closed forms; extractors and what is wrong with them."""

import h5py
import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf
from keras.src.legacy.saving import legacy_h5_format

from tf_avae.errors import InputError
from tf_avae.evaluation import frechet_distance, open_extractor
from tf_avae.evaluation.fid import features_of

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(7, 12, 12, 3)).astype(np.float32)


def by_scipy(x, y):
    """The usual implementation: the root of the product of the covariances."""
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(s @ t).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * root)


@pytest.mark.parametrize(("count", "size"), [(500, 8), (3000, 64), (2000, 300)])
def test_agrees_with_scipys_matrix_root_to_six_digits(count, size):
    mix = RNG.normal(size=(2, size, size))
    x = np.maximum(RNG.normal(size=(count, size)) @ mix[0], 0)
    y = np.maximum(RNG.normal(size=(count, size)) @ mix[1] + 0.3, 0)
    assert frechet_distance(x, y) == pytest.approx(by_scipy(x, y), rel=1e-6)


def test_one_feature_by_hand_and_no_distance_from_itself():
    x, y = np.array([[0.0], [2.0]]), np.array([[5.0], [9.0]])  # means 1, 7; variances 2, 8
    assert frechet_distance(x, y) == pytest.approx(36 + (np.sqrt(8) - np.sqrt(2)) ** 2)


@pytest.mark.parametrize(("count", "size"), [(2, 1), (10, 30), (50, 200), (600, 64)])
def test_small_distances_are_neither_negative_nor_lost_in_rounding(count, size):
    """With fewer rows than features the covariances are singular; scales differ by thousands."""
    x = RNG.normal(size=(count, size)) * np.exp(2 * RNG.normal(size=size))
    whole = np.trace(np.atleast_2d(np.cov(x, rowvar=False)))
    assert 0 <= frechet_distance(x, x) < 1e-12 * whole
    # The deviations from the mean scaled by 1 + t: t^2 times the variances.
    mean, t = x.mean(0), 1e-4
    assert frechet_distance(x, mean + (1 + t) * (x - mean)) == pytest.approx(t**2 * whole, rel=1e-4)
    assert frechet_distance(x, x + 1e-3) == pytest.approx(1e-6 * size, rel=1e-4)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.ones((5, 2)), np.ones((5, 3)), "shapes"),
        (np.ones((1, 2)), np.ones((5, 2)), "two rows"),
        (np.full((5, 2), np.nan), np.ones((5, 2)), "not all finite"),
    ],
)
def test_bad_features_are_named(x, y, words):
    with pytest.raises(InputError, match=words):
        frechet_distance(x, y)


def small_network():
    return keras.Sequential(
        [keras.Input((12, 12, 3)), keras.layers.Flatten(), keras.layers.Dense(4, "relu")]
    )


def test_a_keras_model_and_its_saved_model_give_the_same_features(tmp_path):
    network = small_network()
    network.save(tmp_path / "features.keras")
    network.export(tmp_path / "features", verbose=False)
    expected = network.predict(IMAGES, verbose=0)
    for name, kind in (("features.keras", "Keras model"), ("features", "SavedModel")):
        extractor = open_extractor(tmp_path / name)
        np.testing.assert_allclose(features_of(extractor, IMAGES, 3), expected, rtol=1e-5)
        assert extractor.notes["kind"] == kind and len(extractor.notes["sha256"]) == 64
        assert extractor.notes["file"] == name


@pytest.mark.long
def test_inception_takes_local_weights_and_its_own_scale(tmp_path):
    """Random weights in the layout of the published file; grey images count as three channels."""
    keras.utils.set_random_seed(1)
    network = keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")
    with h5py.File(tmp_path / "notop.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)
    extractor = open_extractor(tmp_path / "notop.h5")
    assert extractor.notes["kind"] == "Inception v3, unknown weights"
    found = features_of(extractor, IMAGES[:2, :, :, :1], 2)
    resized = tf.image.resize(np.repeat(IMAGES[:2, :, :, :1], 3, axis=3), (299, 299))
    expected = network(keras.applications.inception_v3.preprocess_input(255.0 * resized))
    assert found.shape == (2, 2048)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def files(folder):
    (folder / "broken.h5").write_bytes(b"<html>quota exceeded</html>")
    small_network().save_weights(folder / "other.weights.h5")
    (folder / "broken.keras").write_bytes(b"PK half")
    (folder / "notes.txt").write_text("no model")
    (folder / "empty").mkdir()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.h5", "there is no such feature extractor"),
        ("broken.h5", "does not hold the weights of Inception v3"),
        ("other.weights.h5", "does not hold the weights of Inception v3"),
        ("broken.keras", "is not a Keras model"),
        ("notes.txt", r"a feature extractor is Inception v3 weights \(\.h5\)"),
        ("empty", "holds no SavedModel"),
    ],
)
def test_files_that_are_no_extractor_are_named(tmp_path, name, words):
    files(tmp_path)
    with pytest.raises(InputError, match=words) as refused:
        open_extractor(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_an_extractor_that_does_not_fit_is_named(tmp_path):
    small_network().save(tmp_path / "small.keras")
    with pytest.raises(InputError, match="does not take images"):
        features_of(open_extractor(tmp_path / "small.keras"), np.zeros((2, 9, 9, 3), "f"), 2)
    convolution = keras.Sequential([keras.Input((12, 12, 3)), keras.layers.Conv2D(2, 3)])
    convolution.save(tmp_path / "map.keras")
    with pytest.raises(InputError, match="one vector an image"):
        features_of(open_extractor(tmp_path / "map.keras"), IMAGES, 2)
