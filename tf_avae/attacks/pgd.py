"""Projected gradient descent (Madry et al., ICLR 2018), over a loss callable."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tf_avae.attacks.ascent import Rule, ascend, check, is_length
from tf_avae.attacks.balls import BALLS, Ball
from tf_avae.attacks.domain import Domain
from tf_avae.attacks.starts import STARTS, Start
from tf_avae.backend import tf
from tf_avae.errors import InputError
from tf_avae.registry import Registry
from tf_avae.types import ImageLoss, Images, PerExample, Tensor


@dataclass(frozen=True)
class Schedule:
    """How long each step is.

    Attributes:
        name: the row's name.
        summary: for `--help` and the docs.
        first: (epsilon, number of steps) to the length of the first step.
        factor: (number of the step from 0, number of steps) to its length over the first's.
    """

    name: str
    summary: str
    first: Callable[[Tensor, int], Tensor]
    factor: Callable[[Tensor, int], Tensor]


SCHEDULES: Registry[Schedule] = Registry(
    "schedule",
    Schedule(
        "fixed", "all steps of 2.5 ε/steps (Madry et al.)",
        first=lambda epsilon, steps: 2.5 * epsilon / steps,
        factor=lambda number, steps: tf.ones([]),
    ),
    Schedule(
        "decaying", "from ε in a straight line to 0: leaps first, then settles",
        first=lambda epsilon, steps: epsilon,
        factor=lambda number, steps: 1.0 - tf.cast(number, tf.float32) / steps,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class _Steps:
    """Steps along the ball's steepest ascent direction, of lengths that a schedule gives."""

    first: Tensor
    schedule: Schedule
    steps: int

    def begin(self, start: Images, domain: Domain) -> tuple[Tensor, ...]:
        return ()

    def step(
        self, number: Tensor, at: Images, value: PerExample, gradient: Images, state: Any,
        domain: Domain,
    ) -> tuple[Images, tuple[Tensor, ...]]:  # fmt: skip
        size = tf.cast(self.first, tf.float32) * self.schedule.factor(number, self.steps)
        return domain.confine(at + size * domain.ball.direction(gradient)), ()


def steps_uphill(
    epsilon: Tensor,
    steps: int,
    step_size: Tensor | None = None,
    schedule: Schedule | str = SCHEDULES["fixed"],
) -> Rule:
    """The rule of PGD for `ascend`; see `pgd` for the arguments."""
    schedule = SCHEDULES.row(schedule)
    if step_size is None:
        step_size = schedule.first(epsilon, steps)
    elif not is_length(step_size):
        raise InputError(f"step_size is {step_size!r}; it must be a finite number, at least 0")
    return _Steps(step_size, schedule, steps)


def pgd(
    loss: ImageLoss,
    images: Images,
    *,
    epsilon: Tensor,
    steps: int,
    seed: Tensor,
    ball: Ball | str = BALLS["linf"],
    step_size: Tensor | None = None,
    schedule: Schedule | str = SCHEDULES["fixed"],
    restarts: int = 1,
    start: Start | str | Images = STARTS["ball"],
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Images:
    """The images in the ball around `images` at which the loss was largest.

    Each restart takes `steps` steps along the ball's steepest ascent direction, projecting to the
    ball and to the bounds.
    The best iterate of all restarts is kept for each example, the starting points included. The
    loss runs as given, so it belongs to whoever writes it to use the networks in inference mode;
    it should compute in float32 whatever the training precision, because float16 gradients of an
    image underflow to zero, and sign(0) fakes robustness.

    Args:
        loss: images [B, H, W, C] to [B] float32, what is maximised. An example's value must
            depend on that example alone. A loss may return two of them: the first is climbed, the
            second decides which iterate is kept. The largest cross-entropy need not be a
            misclassification, so attacks on classifiers climb it and keep by the margin.
        images: [B, H, W, C], float32, inside `bounds`, at least one.
        epsilon: radius of the ball, at least 0, in units of pixel values. At 0 the result is
            equal to `images`. Inside a graph it may be a scalar tensor.
        steps: gradient steps of each restart, at least 1.
        seed: of the starting points: an integer, at least 0, or a stateless seed, an int32 tensor
            of shape [2].
        ball: a row of `BALLS`, or its name.
        step_size: length of the first step in the ball's norm; the schedule's unless given.
        schedule: a row of `SCHEDULES`, or its name: how step lengths go on.
        restarts: independent starts, at least 1.
        start: a row of `STARTS`, its name, or points [B, H, W, C] in `bounds`. A distance between
            q(z|x) and q(z|x') has no gradient at x' = x.
        bounds: smallest and largest pixel value.

    Returns:
        [B, H, W, C] float32 with a stopped gradient, in the ball and in the bounds.

    Raises:
        InputError: images that are none, a number out of range, a name that is not there, or
            `restarts` from a start that is the same each time.
        ValueError: the loss is not one float32 number per example.
    """
    check(epsilon=epsilon, steps=steps, bounds=bounds)
    found = ascend(
        loss,
        images,
        steps_uphill(epsilon, steps, step_size, schedule),
        epsilon=epsilon,
        steps=steps,
        seed=seed,
        ball=ball,
        restarts=restarts,
        start=start,
        bounds=bounds,
    )
    return found.images
