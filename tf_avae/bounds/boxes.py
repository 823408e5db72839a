"""Boxes: an interval for each number of a tensor, and how far rounding can carry a number out."""

from typing import NamedTuple

import numpy as np

from tf_avae.backend import tf
from tf_avae.errors import InputError
from tf_avae.types import Images, PerExample, Tensor

ROUNDING = 2.0**-24
"""u: a float32 operation is off by at most this share of its result."""

SMALLEST = 1e-30
"""More than all that numbers too small for float32, which are taken for 0, can add up to."""


class Box(NamedTuple):
    """All x with lower <= x <= upper, number by number; both of one shape."""

    lower: Tensor
    upper: Tensor

    @property
    def center(self) -> Tensor:
        """The middle."""
        return 0.5 * (self.lower + self.upper)

    @property
    def radius(self) -> Tensor:
        """Half of the width, at least 0."""
        return 0.5 * (self.upper - self.lower)

    @property
    def magnitude(self) -> Tensor:
        """The largest absolute value."""
        return tf.maximum(tf.abs(self.lower), tf.abs(self.upper))

    @property
    def sound(self) -> "Box":
        """The box, without an end where bounds overflowed. Some operations pass over what is not a
        number (pooling on a processor), and would make finite bounds of it."""
        low, high = (tf.constant(sign * np.inf, tf.float32) for sign in (-1, 1))
        return Box(
            tf.where(self.lower < high, self.lower, low),
            tf.where(self.upper > low, self.upper, high),
        )

    def wider(self, by: Tensor) -> "Box":
        """The box with `by`, at least 0, more to each side."""
        return Box(self.lower - by, self.upper + by)


def ball(
    images: Images,
    epsilon: Tensor | PerExample,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    outward: bool = False,
) -> Box:
    """The L-infinity ball around images, within the bounds.

    Args:
        images: [B, H, W, C] in `bounds`.
        epsilon: radius, at least 0, one for all or one for each, [B].
        bounds: smallest and largest pixel value.
        outward: allow for the rounding of x - epsilon and x + epsilon, and to float32.

    Returns:
        float32; where an image is not in the bounds, of what in them is nearest to the ball.

    Raises:
        InputError: images that are not floating-point numbers, a radius that is below 0, not a
            number or not there for each image; a tensor of a graph is not checked for values.
    """
    images, radius = tf.convert_to_tensor(images), tf.cast(epsilon, tf.float32)
    if not images.dtype.is_floating:
        raise InputError(
            f"images are {images.dtype.name}; give pixel values from {bounds[0]:g} to "
            f"{bounds[1]:g} in floating point"
        )
    if radius.shape.rank and not radius.shape.is_compatible_with(images.shape[:1]):
        raise InputError(
            f"epsilon has shape {radius.shape}, and there are {images.shape[0]} images; give one "
            "radius for all, or one for each"
        )
    images = tf.cast(images, tf.float32)
    if not tf.is_symbolic_tensor(radius) and not np.all(radius.numpy() >= 0):
        raise InputError(f"epsilon is {epsilon}; a ball's radius must be at least 0")
    if radius.shape.rank:
        radius = tf.reshape(radius, [-1] + [1] * (images.shape.rank - 1))
    box = Box(images - radius, images + radius)
    if outward:
        box = box.wider(4.0 * ROUNDING * (tf.abs(images) + radius) + SMALLEST)
    return Box(*(tf.clip_by_value(end, *bounds) for end in box))


def rounding_of(terms: int) -> float:
    """gamma: a float32 sum of so many products, in whatever order, is off by at most this share of
    the sum of their absolute values (Higham, Accuracy and Stability, section 3.1)."""
    return terms * ROUNDING / (1.0 - terms * ROUNDING)
