"""The loop that every gradient attack is: start, step, come back, keep the best."""

import math
import numbers
from typing import Any, NamedTuple, Protocol

from tf_avae.attacks.balls import BALLS, Ball, over_images
from tf_avae.attacks.domain import Domain
from tf_avae.attacks.starts import STARTS, Start, given
from tf_avae.backend import tf
from tf_avae.errors import InputError
from tf_avae.inputs import images_of, seed_of
from tf_avae.types import ImageLoss, Images, PerExample, Tensor


class Rule(Protocol):
    """How an attack goes from one point to the next.

    The state is a tuple of tensors whose shapes stay; a rule that needs none uses ().
    """

    def begin(self, start: Images, domain: Domain) -> tuple[Tensor, ...]:
        """The state before the first step of a restart."""

    def step(
        self, number: Tensor, at: Images, value: PerExample, gradient: Images, state: Any,
        domain: Domain,
    ) -> tuple[Images, tuple[Tensor, ...]]:  # fmt: skip
        """The next point, inside the ball, and the next state.

        Args:
            number: of the step, from 0.
            at: the point, [B, H, W, C].
            value: the loss there, [B].
            gradient: of the loss there, as `at`.
            state: from `begin` or the step before.
            domain: where the attack may go.
        """


class Ascent(NamedTuple):
    """What an attack found.

    Attributes:
        images: [B, H, W, C], the best point of each example.
        zero_gradients: [B], the share of values of the loss' gradients, at all points where one was
            taken, that were exactly 0: there an attack by signs stands still. None where they were
            not to be counted.
    """

    images: Images
    zero_gradients: PerExample | None


def ascend(
    loss: ImageLoss,
    images: Images,
    rule: Rule,
    *,
    epsilon: Tensor,
    steps: int,
    seed: Tensor,
    ball: Ball | str,
    restarts: int,
    start: Start | str | Images,
    bounds: tuple[float, float],
    count_zeros: bool = False,
) -> Ascent:
    """The best point that a rule finds for each example; see `pgd` for the arguments, of which
    `check` has seen its own. Zeros are counted where that is asked for: it takes time."""
    seed, ball = seed_of(seed), BALLS.row(ball)
    if not is_number(restarts, numbers.Integral) or restarts < 1:
        raise InputError(
            f"restarts is {restarts!r}; an attack starts a whole number of times, at least once"
        )
    images = images_of(images, bounds=bounds)
    domain = Domain(images, ball, epsilon, bounds)
    begin = start_of(start, domain)
    if restarts > 1 and not begin.random:
        raise InputError(
            f"restarts is {restarts} from the start {begin.name!r}, which is the same each time; "
            "use restarts=1 or a random start"
        )

    def step(
        number: Tensor, at: Images, best: PerExample, found: Images, zeros: PerExample, state: Any
    ) -> tuple:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(at)
            value, score = evaluate(loss, at)
        gradient = tape.gradient(value, at, unconnected_gradients="zero")
        best, found = better(score, at, best, found)
        if count_zeros:
            still = tf.cast(tf.reshape(gradient == 0, [tf.shape(at)[0], -1]), tf.float32)
            zeros += tf.reduce_mean(still, axis=1) / (steps * restarts)
        at, state = rule.step(number, at, value, gradient, state, domain)
        return number + 1, at, best, found, zeros, state

    def restart(number: Tensor, best: PerExample, found: Images, zeros: PerExample) -> tuple:
        at = begin.point(domain, tf.random.experimental.stateless_fold_in(seed, number))
        _, at, best, found, zeros, _ = tf.while_loop(
            lambda step, *_: step < steps,
            step,
            (tf.constant(0), at, best, found, zeros, rule.begin(at, domain)),
            parallel_iterations=1,
            maximum_iterations=steps,
        )
        _, score = evaluate(loss, at)
        best, found = better(score, at, best, found)
        return number + 1, best, found, zeros

    worst = tf.fill(tf.shape(images)[:1], -math.inf)
    _, _, found, zeros = tf.while_loop(
        lambda number, *_: number < restarts,
        restart,
        (tf.constant(0), worst, images, tf.zeros_like(worst)),
        parallel_iterations=1,
        maximum_iterations=restarts,
    )
    return Ascent(tf.stop_gradient(found), zeros if count_zeros else None)


def start_of(start: Start | str | Images, domain: Domain) -> Start:
    """A row of `STARTS` from the row, its name or a point for each image, [B, H, W, C].

    Raises:
        InputError: an unknown name, a start that the ball does not know, or points that do not fit.
    """
    if isinstance(start, str | Start):
        row = STARTS.row(start)
        row.check(domain.ball)
        return row
    shape = domain.images.shape
    point = images_of(start, image_shape=shape[1:], bounds=domain.bounds, what="start")
    if not point.shape.is_compatible_with(shape):
        raise InputError(f"start has shape {point.shape}; it must be that of images, {shape}")
    return given(point)


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


def is_length(value: Any) -> bool:
    """Whether a value is a finite number of at least 0, a scalar tensor too. One inside a graph is
    whoever's who gives it to the graph."""
    if tf.is_symbolic_tensor(value):
        return True
    if tf.is_tensor(value) and not value.shape.rank:
        value = value.numpy()
        value = value.item() if hasattr(value, "item") else value  # the text of a string
    return is_number(value) and math.isfinite(value) and value >= 0


def check(*, epsilon: Tensor, steps: int, bounds: tuple[float, float]) -> None:
    """Raises `InputError` for a value that is no number or out of range."""
    if not is_number(steps, numbers.Integral) or steps < 1:
        raise InputError(f"steps is {steps!r}; an attack takes a whole number of them, at least 1")
    if not is_length(epsilon):
        raise InputError(f"epsilon is {epsilon!r}; it must be a finite number, at least 0")
    try:
        low, high = (0.0 + bound for bound in bounds)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise InputError(f"bounds are {bounds!r}; they must be two numbers, the smaller first")
