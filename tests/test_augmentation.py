"""Random changes of training images: each by its definition, and the same when a run goes on."""

import colorsys
import functools

import numpy as np
import pytest
import tensorflow as tf

from tf_avae.config import Config
from tf_avae.datasets.augmentation import AUGMENTATIONS, augmented
from tf_avae.datasets.base import Part
from tf_avae.errors import InputError
from tf_avae.runs.plan import resolve

SIDE, BATCH = 16, 8
IMAGES = np.random.default_rng(0).uniform(size=(6 * BATCH, SIDE, SIDE, 3)).astype(np.float32)


@functools.cache
def changed(*names, seed=7, start=0, part=Part(), channels=3):  # noqa: B008 (a constant)
    """The rest of a stream of six batches, of which a worker makes its part, [N, H, W, C]."""
    rows = BATCH // part.of
    mine = IMAGES.reshape(6, part.of, rows, *IMAGES.shape[1:])[start:, part.number, ..., :channels]
    stream = tf.data.Dataset.from_tensor_slices(mine)
    made = augmented(stream, names, seed=seed, batch_size=BATCH, start=start, part=part)
    assert made.element_spec == stream.element_spec
    return np.concatenate(list(made.as_numpy_iterator()))


def test_a_mirrored_image_is_that_and_half_of_them_are():
    found = changed("flip")
    mirrored = (found == IMAGES[:, :, ::-1]).all((1, 2, 3))
    assert ((found == IMAGES).all((1, 2, 3)) ^ mirrored).all()
    assert 12 < mirrored.sum() < 36  # of 48


def test_a_shifted_image_is_a_window_of_it_with_its_edge_mirrored():
    far = SIDE // 8
    places = set()
    for image, found in zip(IMAGES, changed("crop"), strict=True):
        wide = np.pad(image, ((far, far), (far, far), (0, 0)), "symmetric")
        at = [
            (y, x)
            for y in range(2 * far + 1)
            for x in range(2 * far + 1)
            if (wide[y : y + SIDE, x : x + SIDE] == found).all()
        ]
        assert len(at) == 1
        places.update(at)
    assert len(places) > 12 and {y for y, _ in places} == {x for _, x in places} == set(range(5))


def test_colours_are_those_of_the_formulas():
    """Brighter, of more contrast, more saturated: each layer by its definition, the factor found
    from what it made."""
    brightness, contrast, saturation = AUGMENTATIONS["colour"].layers(3)
    images = IMAGES[:16]

    found = brightness(images, training=True).numpy()
    inside = (found > 0) & (found < 1)
    for image, seen, seen_inside in zip(images, found, inside, strict=True):
        (delta,) = np.unique(np.round((seen - image)[seen_inside], 5))
        assert 0 < abs(delta) <= 0.2
        np.testing.assert_allclose(seen, np.clip(image + delta, 0, 1), atol=2e-5)

    found = contrast(images, training=True).numpy()
    for image, seen in zip(images, found, strict=True):
        mean = image.mean((0, 1))
        far = (np.abs(image - mean) > 0.1) & (seen > 0) & (seen < 1)
        factor = np.median(((seen - mean) / (image - mean))[far])
        assert 0.8 <= factor <= 1.2
        np.testing.assert_allclose(seen, np.clip(mean + factor * (image - mean), 0, 1), atol=2e-5)

    found = saturation(images, training=True).numpy()
    for image, seen in zip(images, found, strict=True):
        before, after = (
            np.array([colorsys.rgb_to_hsv(*pixel) for pixel in one.reshape(-1, 3).astype(float)])
            for one in (image, seen)
        )
        factor = np.median((after[:, 1] / before[:, 1])[after[:, 1] < 0.99])
        assert 2 / 3 - 1e-3 <= factor <= 1.5 + 1e-3
        np.testing.assert_allclose(after[:, 1], np.minimum(before[:, 1] * factor, 1), atol=1e-3)
        np.testing.assert_allclose(after[:, 2], before[:, 2], atol=1e-5)
        turned = np.abs(after[:, 0] - before[:, 0])
        assert (np.minimum(turned, 1 - turned) * before[:, 1] < 1e-4).all()


def test_changes_are_a_function_of_seed_step_and_place():
    names = tuple(AUGMENTATIONS)
    whole = changed(*names)
    assert whole.dtype == np.float32 and whole.min() >= 0 and whole.max() <= 1
    # A stream that goes on, and two workers, make the same to the bit.
    np.testing.assert_array_equal(changed(*names, start=4), whole[4 * BATCH :])
    parts = [changed(*names, part=Part(n, 2)).reshape(6, -1, SIDE, SIDE, 3) for n in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts, 1).reshape(whole.shape), whole)
    assert (changed(*names, seed=8) != whole).any((1, 2, 3)).all()
    # Of one image each place and each step makes another.
    same = tf.data.Dataset.from_tensors(np.repeat(IMAGES[:1], BATCH, 0)).repeat(3)
    made = augmented(same, names, seed=7, batch_size=BATCH)
    assert len({image.tobytes() for batch in made.as_numpy_iterator() for image in batch}) == 24


def test_grey_images_have_no_saturation_and_no_name_is_no_change():
    grey = changed("colour", channels=1)
    assert grey.shape[-1] == 1 and grey.min() >= 0 and grey.max() <= 1
    assert (grey != IMAGES[..., :1]).any((1, 2, 3)).all()
    np.testing.assert_array_equal(changed(), IMAGES)


def test_names_are_looked_up_and_kept_in_one_way():
    assert Config(augment=" flip,crop  colour ").augment == "flip crop colour"
    with pytest.raises(InputError, match=r"unknown augmentation 'color' .did you mean 'colour'"):
        resolve(Config(algo="vae", augment="flip color"))
