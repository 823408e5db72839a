"""Projected gradient descent (Madry et al., ICLR 2018), over a loss callable."""

import math

import tensorflow as tf

from tf_avae.attacks.balls import BALLS, Ball
from tf_avae.errors import InputError
from tf_avae.types import ImageLoss, Images, PerExample, Tensor


def pgd(
    loss: ImageLoss,
    images: Images,
    *,
    epsilon: float,
    steps: int,
    seed: Tensor,
    ball: Ball = BALLS["linf"],
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Images:
    """The images in the ball around `images` at which the loss was largest.

    Each restart starts at a random point of the ball (or at the image itself), and takes `steps`
    steps along the ball's steepest ascent direction, projecting to the ball and to the bounds.
    The best iterate of all restarts is kept for each example, the starting points included. The
    loss runs as given, so it belongs to whoever writes it to use the networks in inference mode;
    images and gradients are float32 whatever the training precision, because float16 gradients
    of an image underflow to zero, and sign(0) fakes robustness.

    Args:
        loss: images [B, H, W, C] to [B] float32, what is maximised. An example's value must
            depend on that example alone.
        images: [B, H, W, C], float32, inside `bounds`.
        epsilon: radius of the ball, at least 0, in units of pixel values. At 0 the result is
            equal to `images`.
        steps: gradient steps of each restart, at least 1.
        seed: a stateless seed, an int32 tensor of shape [2], for the starting points.
        ball: a row of `BALLS`.
        step_size: length of a step in the ball's norm; 2.5 * epsilon / steps unless given.
        restarts: independent starts, at least 1.
        random_start: start at a random point of the ball. A distance between q(z|x) and q(z|x')
            has no gradient at x' = x.
        bounds: smallest and largest pixel value.

    Returns:
        [B, H, W, C] float32 with a stopped gradient, in the ball and in the bounds.

    Raises:
        InputError: a number out of range, or `restarts` without a random start.
        ValueError: the loss is not one float32 number per example.
    """
    step_size = 2.5 * epsilon / steps if step_size is None and steps > 0 else step_size
    _check(epsilon, steps, step_size, restarts, random_start, bounds)
    images = tf.convert_to_tensor(images)
    if images.dtype != tf.float32:
        raise ValueError(f"pgd works in float32; the images are {images.dtype.name}")
    shape = tf.shape(images)

    def confine(candidate: Images) -> Images:
        delta = ball.project(candidate - images, epsilon)
        return tf.clip_by_value(images + delta, *bounds)

    def better(
        value: PerExample, candidate: Images, best: PerExample, at: Images
    ) -> tuple[PerExample, Images]:
        # A value that is not a number stays, so that a broken loss does not pass for a robust one.
        improved = ~(value <= best) & ~tf.math.is_nan(best)
        return tf.where(improved, value, best), tf.where(
            improved[:, tf.newaxis, tf.newaxis, tf.newaxis], candidate, at
        )

    def ascend(
        step: Tensor, candidate: Images, best: PerExample, at: Images
    ) -> tuple[Tensor, Images, PerExample, Images]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(candidate)
            value = _evaluate(loss, candidate)
        gradient = tape.gradient(value, candidate, unconnected_gradients="zero")
        best, at = better(value, candidate, best, at)
        return step + 1, confine(candidate + step_size * ball.direction(gradient)), best, at

    def restart(number: Tensor, best: PerExample, at: Images) -> tuple[Tensor, PerExample, Images]:
        candidate = images
        if random_start:
            start_seed = tf.random.experimental.stateless_fold_in(seed, number)
            candidate = confine(images + epsilon * ball.start(shape, start_seed))
        _, candidate, best, at = tf.while_loop(
            lambda step, *_: step < steps,
            ascend,
            (tf.constant(0), candidate, best, at),
            parallel_iterations=1,
            maximum_iterations=steps,
        )
        best, at = better(_evaluate(loss, candidate), candidate, best, at)
        return number + 1, best, at

    worst = tf.fill(shape[:1], -math.inf)
    _, _, found = tf.while_loop(
        lambda number, *_: number < restarts,
        restart,
        (tf.constant(0), worst, images),
        parallel_iterations=1,
        maximum_iterations=restarts,
    )
    return tf.stop_gradient(found)


def _evaluate(loss: ImageLoss, candidate: Images) -> PerExample:
    value = loss(candidate)
    if value.dtype != tf.float32 or value.shape.rank != 1:
        raise ValueError(
            "an attack's loss must be one float32 number per example, shape [B]; "
            f"it is {value.dtype.name} of shape {value.shape}"
        )
    return value


def _check(
    epsilon: float,
    steps: int,
    step_size: float | None,
    restarts: int,
    random_start: bool,
    bounds: tuple[float, float],
) -> None:
    if steps < 1:
        raise InputError(f"steps is {steps}; PGD takes at least 1")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise InputError(f"epsilon is {epsilon}; it must be finite and at least 0")
    if step_size is None or not (math.isfinite(step_size) and step_size >= 0):
        raise InputError(f"step_size is {step_size}; it must be finite and at least 0")
    if restarts < 1:
        raise InputError(f"restarts is {restarts}; PGD starts at least once")
    if restarts > 1 and not random_start:
        raise InputError(
            f"restarts is {restarts} without a random start: each would be the same; "
            "use restarts=1 or random_start=True"
        )
    if not bounds[0] < bounds[1]:
        raise InputError(f"bounds are {bounds}; the first must be below the second")
