"""The Square attack (Andriushchenko et al., ECCV 2020): random search, without gradients."""

import numpy as np

from tf_avae.attacks.ascent import better, check, evaluate, start_of
from tf_avae.attacks.balls import BALLS
from tf_avae.attacks.domain import Domain
from tf_avae.attacks.starts import STARTS, Start, random_signs
from tf_avae.backend import tf
from tf_avae.errors import InputError
from tf_avae.inputs import images_of, seed_of
from tf_avae.types import ImageLoss, Images, PerExample, Tensor

# Part of the pixels changed at once: halved after these queries of 10,000 (Section 5 there).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_FIRST_PART = 0.8


def window_sides(
    queries: int, height: int, width: int, first_part: float = _FIRST_PART
) -> np.ndarray:
    """The side of the square that each query changes, [queries], in pixels."""
    at = np.arange(queries) * 10_000 // queries
    halvings = (at[:, np.newaxis] > np.array(_HALVINGS)).sum(1)
    sides = np.sqrt(first_part * 0.5**halvings * height * width)
    return np.clip(np.round(sides), 1, min(height, width)).astype(np.int32)


def square(
    loss: ImageLoss,
    images: Images,
    *,
    epsilon: Tensor,
    queries: int,
    seed: Tensor,
    start: Start | str | Images = STARTS["stripes"],
    first_part: float = _FIRST_PART,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Images:
    """The images in the L-infinity ball around `images` at which the loss was largest.

    Starts from vertical stripes of +-epsilon unless told otherwise; the images themselves are
    compared at the end. Each query sets a square window, at a random place of each example, to
    +-epsilon per channel, and keeps what raises the loss; the window shrinks on the paper's
    schedule. No gradient is taken, so what hides gradients does not hinder it.

    Args:
        loss: images [B, H, W, C] to [B] float32, what is maximised; `margin` for a classifier.
        images: [B, H, W, C], float32, inside `bounds`, at least one.
        epsilon: radius, at least 0, in units of pixel values.
        queries: evaluations of the loss after the first, at least 1.
        seed: an integer, at least 0, or a stateless seed, an int32 tensor of shape [2].
        start: a row of `STARTS`, its name, or points [B, H, W, C] in `bounds`.
        first_part: part of an image's pixels that the first window covers, above 0, at most 1.
        bounds: smallest and largest pixel value.

    Returns:
        [B, H, W, C] float32 with a stopped gradient, in the ball and in the bounds; never worse
        than `images`.

    Raises:
        InputError: images that are none, or a number out of range.
        ValueError: the loss is not one float32 number per example.
    """
    check(epsilon=epsilon, steps=queries, bounds=bounds)
    if not 0 < first_part <= 1:
        raise InputError(f"first_part is {first_part!r}; it must be above 0 and at most 1")
    seed = seed_of(seed)
    images = images_of(images, bounds=bounds)
    batch, (height, width, channels) = tf.shape(images)[0], images.shape[1:]
    domain = Domain(images, BALLS["linf"], epsilon, bounds)
    begin = start_of(start, domain)
    lowest, highest = domain.lowest, domain.highest
    sides = tf.constant(window_sides(queries, height, width, first_part))
    rows, columns = np.arange(height), np.arange(width)

    def query(number: Tensor, best: PerExample, found: Images) -> tuple:
        side = sides[number]
        fold = tf.random.experimental.stateless_fold_in(seed, 2 * number + 2)
        place = tf.random.stateless_uniform([2, batch, 1], fold)
        top = tf.cast(tf.floor(place[0] * tf.cast(height - side + 1, tf.float32)), tf.int32)
        left = tf.cast(tf.floor(place[1] * tf.cast(width - side + 1, tf.float32)), tf.int32)
        in_rows = (rows >= top) & (rows < top + side)
        in_columns = (columns >= left) & (columns < left + side)
        window = (in_rows[:, :, tf.newaxis] & in_columns[:, tf.newaxis, :])[..., tf.newaxis]
        fold = tf.random.experimental.stateless_fold_in(seed, 2 * number + 3)
        up = random_signs([batch, 1, 1, channels], fold) > 0
        candidate = tf.where(window, tf.where(up, highest, lowest), found)
        _, score = evaluate(loss, candidate)
        return (number + 1, *better(score, candidate, best, found))

    first = begin.point(domain, tf.random.experimental.stateless_fold_in(seed, 0))
    _, best = evaluate(loss, first)
    _, best, found = tf.while_loop(
        lambda number, *_: number < queries,
        query,
        (tf.constant(0), best, first),
        parallel_iterations=1,
        maximum_iterations=queries,
    )
    _, clean = evaluate(loss, images)
    _, found = better(clean, images, best, found)
    return tf.stop_gradient(found)
