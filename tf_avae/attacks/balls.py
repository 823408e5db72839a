"""Norm balls around an image: where to start, which way to step, how to come back."""

from collections.abc import Callable
from dataclasses import dataclass

from tf_avae.backend import tf
from tf_avae.registry import Registry
from tf_avae.types import Images, Tensor


@dataclass(frozen=True)
class Ball:
    """The set of perturbations whose norm is at most a radius.

    Attributes:
        name: the row's name.
        summary: for `--help` and the docs.
        start: (shape of the images, stateless seed [2]) to a perturbation, uniform in the unit
            ball.
        direction: gradient [B, H, W, C] to the steepest ascent direction of norm 1 (zero where
            the gradient is zero).
        project: (perturbation, radius) to the nearest perturbation in the ball.
        norm: perturbation [B, H, W, C] to its norm, [B].
    """

    name: str
    summary: str
    start: Callable[[Tensor, Tensor], Images]
    direction: Callable[[Images], Images]
    project: Callable[[Images, Tensor], Images]
    norm: Callable[[Images], Tensor]


def _linf_start(shape: Tensor, seed: Tensor) -> Images:
    return tf.random.stateless_uniform(shape, seed=seed, minval=-1.0, maxval=1.0)


def _linf_norm(delta: Images) -> Tensor:
    return tf.reduce_max(tf.abs(delta), axis=[1, 2, 3])


def _l2_norm(delta: Images) -> Tensor:
    return tf.sqrt(tf.reduce_sum(tf.square(delta), axis=[1, 2, 3]))


def over_images(values: Tensor) -> Tensor:
    """[B] to [B, 1, 1, 1]."""
    return values[:, tf.newaxis, tf.newaxis, tf.newaxis]


def _l2_start(shape: Tensor, seed: Tensor) -> Images:
    """A normal direction times radius^(1/n), n being the number of pixel values."""
    noise = tf.random.stateless_normal(shape, seed=seed)
    radius = tf.random.stateless_uniform(shape[:1], seed=seed + 1)
    count = tf.cast(tf.reduce_prod(shape[1:]), tf.float32)
    return _l2_direction(noise) * over_images(radius ** (1.0 / count))


def _l2_direction(gradient: Images) -> Images:
    # Scaled by the largest entry first: squares of gradients near 1e-25 are zero in float32.
    largest = over_images(_linf_norm(gradient))
    scaled = tf.math.divide_no_nan(gradient, largest)
    return tf.math.divide_no_nan(scaled, over_images(_l2_norm(scaled)))


def _l2_project(delta: Images, radius: Tensor) -> Images:
    norm = over_images(_l2_norm(delta))
    return delta * tf.where(norm > radius, tf.math.divide_no_nan(radius, norm), 1.0)


BALLS: Registry[Ball] = Registry(
    "norm",
    Ball(
        name="linf",
        summary="largest change of a pixel value",
        start=_linf_start,
        direction=lambda gradient: tf.sign(gradient),
        project=lambda delta, radius: tf.clip_by_value(delta, -radius, radius),
        norm=_linf_norm,
    ),
    Ball(
        name="l2",
        summary="Euclidean length of the change",
        start=_l2_start,
        direction=_l2_direction,
        project=_l2_project,
        norm=_l2_norm,
    ),
)


def knows(balls: tuple[str, ...], name: str) -> bool:
    """Whether names of balls, none of which stand for every ball, have this one."""
    return not balls or name in balls
