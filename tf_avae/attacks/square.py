"""The Square attack (Andriushchenko et al., ECCV 2020): random search, without gradients."""

import numpy as np

from tf_avae.attacks.ascent import better, check, evaluate
from tf_avae.backend import tf
from tf_avae.inputs import images_of, seed_of
from tf_avae.types import ImageLoss, Images, PerExample, Tensor

# Part of the pixels changed at once: halved after these queries of 10,000 (Section 5 there).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_FIRST_PART = 0.8


def window_sides(queries: int, height: int, width: int) -> np.ndarray:
    """The side of the square that each query changes, [queries], in pixels."""
    at = np.arange(queries) * 10_000 // queries
    halvings = (at[:, np.newaxis] > np.array(_HALVINGS)).sum(1)
    sides = np.sqrt(_FIRST_PART * 0.5**halvings * height * width)
    return np.clip(np.round(sides), 1, min(height, width)).astype(np.int32)


def square(
    loss: ImageLoss,
    images: Images,
    *,
    epsilon: float,
    queries: int,
    seed: Tensor,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Images:
    """The images in the L-infinity ball around `images` at which the loss was largest.

    Starts from vertical stripes of +-epsilon; the images themselves are compared at the end. Each
    query sets a square window, at a random place of each example, to +-epsilon per channel, and
    keeps what raises the loss; the window shrinks on the paper's schedule. No gradient is taken, so
    what hides gradients does not hinder it.

    Args:
        loss: images [B, H, W, C] to [B] float32, what is maximised; `margin` for a classifier.
        images: [B, H, W, C], float32, inside `bounds`, at least one.
        epsilon: radius, at least 0, in units of pixel values.
        queries: evaluations of the loss after the first, at least 1.
        seed: an integer, at least 0, or a stateless seed, an int32 tensor of shape [2].
        bounds: smallest and largest pixel value.

    Returns:
        [B, H, W, C] float32 with a stopped gradient, in the ball and in the bounds; never worse
        than `images`.

    Raises:
        InputError: images that are none, or a number out of range.
        ValueError: the loss is not one float32 number per example.
    """
    check(epsilon=epsilon, steps=queries, bounds=bounds)
    seed = seed_of(seed)
    images = images_of(images, bounds=bounds)
    batch, (height, width, channels) = tf.shape(images)[0], images.shape[1:]
    lowest = tf.maximum(images - epsilon, bounds[0])
    highest = tf.minimum(images + epsilon, bounds[1])
    sides = tf.constant(window_sides(queries, height, width))
    rows, columns = np.arange(height), np.arange(width)

    def signs(shape: list, number: Tensor) -> Tensor:
        """True or False with equal chance."""
        fold = tf.random.experimental.stateless_fold_in(seed, number)
        return tf.random.stateless_uniform(shape, fold) < 0.5

    def query(number: Tensor, best: PerExample, found: Images) -> tuple:
        side = sides[number]
        fold = tf.random.experimental.stateless_fold_in(seed, 2 * number + 2)
        place = tf.random.stateless_uniform([2, batch, 1], fold)
        top = tf.cast(tf.floor(place[0] * tf.cast(height - side + 1, tf.float32)), tf.int32)
        left = tf.cast(tf.floor(place[1] * tf.cast(width - side + 1, tf.float32)), tf.int32)
        in_rows = (rows >= top) & (rows < top + side)
        in_columns = (columns >= left) & (columns < left + side)
        window = (in_rows[:, :, tf.newaxis] & in_columns[:, tf.newaxis, :])[..., tf.newaxis]
        up = signs([batch, 1, 1, channels], 2 * number + 3)
        candidate = tf.where(window, tf.where(up, highest, lowest), found)
        _, score = evaluate(loss, candidate)
        return (number + 1, *better(score, candidate, best, found))

    stripes = tf.where(signs([batch, 1, width, channels], tf.constant(0)), highest, lowest)
    _, best = evaluate(loss, stripes)
    _, best, found = tf.while_loop(
        lambda number, *_: number < queries,
        query,
        (tf.constant(0), best, stripes),
        parallel_iterations=1,
        maximum_iterations=queries,
    )
    _, clean = evaluate(loss, images)
    _, found = better(clean, images, best, found)
    return tf.stop_gradient(found)
