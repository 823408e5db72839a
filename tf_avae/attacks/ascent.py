"""The loop that every gradient attack is: start, step, come back, keep the best."""

import math
import numbers
from typing import Any, Protocol

from tf_avae.attacks.balls import BALLS, Ball, over_images
from tf_avae.backend import tf
from tf_avae.backend.replicas import own_rows
from tf_avae.errors import InputError
from tf_avae.inputs import images_of, seed_of
from tf_avae.types import ImageLoss, Images, PerExample, Tensor


class Rule(Protocol):
    """How an attack goes from one point to the next.

    The state is a tuple of tensors whose shapes stay; a rule that needs none uses ().
    """

    def begin(self, start: Images) -> tuple[Tensor, ...]:
        """The state before the first step of a restart."""

    def step(
        self, number: Tensor, at: Images, value: PerExample, gradient: Images, state: Any,
        ball: "Domain",
    ) -> tuple[Images, tuple[Tensor, ...]]:  # fmt: skip
        """The next point, inside the ball, and the next state.

        Args:
            number: of the step, from 0.
            at: the point, [B, H, W, C].
            value: the loss there, [B].
            gradient: of the loss there, as `at`.
            state: from `begin` or the step before.
            ball: where the attack may go.
        """


class Domain:
    """The points in the ball around some images that lie within the bounds of pixel values.

    Attributes:
        images: the centres, [B, H, W, C].
        ball: a row of `BALLS`.
        epsilon: radius.
        bounds: smallest and largest pixel value.
    """

    def __init__(self, images: Images, ball: Ball, epsilon: float, bounds: tuple[float, float]):
        self.images, self.ball, self.epsilon, self.bounds = images, ball, epsilon, bounds

    def confine(self, candidate: Images) -> Images:
        """The point of the ball, and then of the bounds, next to a candidate."""
        delta = self.ball.project(candidate - self.images, self.epsilon)
        return tf.clip_by_value(self.images + delta, *self.bounds)

    def start(self, seed: Tensor) -> Images:
        """A random point."""
        delta = own_rows(lambda shape: self.ball.start(shape, seed), tf.shape(self.images))
        return self.confine(self.images + self.epsilon * delta)


def ascend(
    loss: ImageLoss,
    images: Images,
    rule: Rule,
    *,
    epsilon: float,
    steps: int,
    seed: Tensor,
    ball: Ball | str,
    restarts: int,
    random_start: bool,
    bounds: tuple[float, float],
) -> Images:
    """The best point that a rule finds for each example; see `pgd` for the arguments, of which
    `check` has seen its own."""
    seed = seed_of(seed)
    if not is_number(restarts, numbers.Integral) or restarts < 1:
        raise InputError(
            f"restarts is {restarts!r}; an attack starts a whole number of times, at least once"
        )
    if restarts > 1 and not random_start:
        raise InputError(
            f"restarts is {restarts} without a random start: each would be the same; "
            "use restarts=1 or random_start=True"
        )
    images = images_of(images, bounds=bounds)
    domain = Domain(images, BALLS.row(ball), epsilon, bounds)

    def step(number: Tensor, at: Images, best: PerExample, found: Images, state: Any) -> tuple:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(at)
            value, score = evaluate(loss, at)
        gradient = tape.gradient(value, at, unconnected_gradients="zero")
        best, found = better(score, at, best, found)
        at, state = rule.step(number, at, value, gradient, state, domain)
        return number + 1, at, best, found, state

    def restart(number: Tensor, best: PerExample, found: Images) -> tuple:
        at = images
        if random_start:
            at = domain.start(tf.random.experimental.stateless_fold_in(seed, number))
        _, at, best, found, _ = tf.while_loop(
            lambda step, *_: step < steps,
            step,
            (tf.constant(0), at, best, found, rule.begin(at)),
            parallel_iterations=1,
            maximum_iterations=steps,
        )
        _, score = evaluate(loss, at)
        best, found = better(score, at, best, found)
        return number + 1, best, found

    worst = tf.fill(tf.shape(images)[:1], -math.inf)
    _, _, found = tf.while_loop(
        lambda number, *_: number < restarts,
        restart,
        (tf.constant(0), worst, images),
        parallel_iterations=1,
        maximum_iterations=restarts,
    )
    return tf.stop_gradient(found)


def better(
    value: PerExample, candidate: Images, best: PerExample, found: Images
) -> tuple[PerExample, Images]:
    """The larger value of each example, and where it is.

    A value that is not a number stays, so that a broken loss does not pass for a robust one. (It
    is asked for by name: in a graph TensorFlow turns not (a <= b) into a > b.)
    """
    improved = ((value > best) | tf.math.is_nan(value)) & ~tf.math.is_nan(best)
    return tf.where(improved, value, best), tf.where(over_images(improved), candidate, found)


def evaluate(loss: ImageLoss, candidate: Images) -> tuple[PerExample, PerExample]:
    """The loss, and the score by which points are kept: the loss itself where it has no second.

    Both are checked to be one float32 number per example: one for all would be broadcast.
    """
    value = loss(candidate)
    pair = value if isinstance(value, tuple) else (value, value)
    value, score = map(tf.convert_to_tensor, pair)
    for part in (value, score):
        if part.dtype != tf.float32 or not part.shape.is_compatible_with(candidate.shape[:1]):
            raise ValueError(
                f"an attack's loss must be one float32 number per example, shape "
                f"{candidate.shape[:1]}; it is {part.dtype.name} of shape {part.shape}"
            )
    return value, score


def is_number(value: object, kind: type = numbers.Real) -> bool:
    """Whether a value is a number of a kind; True and False are not."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check(*, epsilon: float, steps: int, bounds: tuple[float, float]) -> None:
    """Raises `InputError` for a value that is no number or out of range."""
    if not is_number(steps, numbers.Integral) or steps < 1:
        raise InputError(f"steps is {steps!r}; an attack takes a whole number of them, at least 1")
    if not (is_number(epsilon) and math.isfinite(epsilon) and epsilon >= 0):
        raise InputError(f"epsilon is {epsilon!r}; it must be a finite number, at least 0")
    try:
        low, high = (0.0 + bound for bound in bounds)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise InputError(f"bounds are {bounds!r}; they must be two numbers, the smaller first")
