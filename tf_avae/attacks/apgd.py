"""Auto-PGD (Croce & Hein, ICML 2020, Algorithm 1): PGD that chooses its step length itself."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tf_avae.attacks.ascent import ascend, check
from tf_avae.attacks.balls import BALLS, Ball, over_images
from tf_avae.attacks.domain import Domain
from tf_avae.attacks.starts import STARTS, Start
from tf_avae.backend import tf
from tf_avae.types import ImageLoss, Images, PerExample, Tensor

_MOMENTUM = 0.75  # alpha
_SUCCESS = 0.75  # rho: the part of steps that must improve the loss


def checkpoints(steps: int) -> list[int]:
    """W = {w_0 = 0 < w_1 < ...}: the steps at which the length is looked at.

    w_j = ceil(p_j steps), p_0 = 0, p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06).
    """
    # In hundredths, so that the ceilings are those of exact arithmetic.
    parts = [0, 22]
    while parts[-1] < 100:
        parts.append(parts[-1] + max(parts[-1] - parts[-2] - 3, 6))
    return sorted({-(-part * steps // 100) for part in parts if part <= 100})


class _State(NamedTuple):
    """What is remembered of each example.

    Attributes:
        previous: the point before, x^(k-1), and its value.
        best: x_max, its value f_max and the gradient there.
        size: eta.
        improved: steps since the last checkpoint that improved the loss.
        halved: whether eta was halved at the last checkpoint.
        best_then: f_max at the last checkpoint.
    """

    previous: Images
    previous_value: PerExample
    best: Images
    best_value: PerExample
    best_gradient: Images
    size: PerExample
    improved: PerExample
    halved: Tensor
    best_then: PerExample


@dataclass(frozen=True)
class _AutoStep:
    """Momentum, and eta halved and the best point taken up again where progress stalls."""

    steps: int

    def begin(self, start: Images, domain: Domain) -> _State:
        lowest = tf.fill(tf.shape(start)[:1], -np.inf)
        zero = tf.zeros_like(lowest)
        return _State(
            previous=start,
            previous_value=lowest,
            best=start,
            best_value=lowest,
            best_gradient=tf.zeros_like(start),
            size=zero + 2.0 * domain.epsilon,
            improved=zero,
            halved=zero > 0.0,
            best_then=lowest,
        )

    def step(
        self, number: Tensor, at: Images, value: PerExample, gradient: Images, state: _State,
        domain: Domain,
    ) -> tuple[Images, _State]:  # fmt: skip
        first = tf.equal(number, 0)
        improved = state.improved + tf.cast((value > state.previous_value) & ~first, tf.float32)
        better = value > state.best_value
        best = tf.where(over_images(better), at, state.best)
        best_gradient = tf.where(over_images(better), gradient, state.best_gradient)
        best_value = tf.where(better, value, state.best_value)

        marks = checkpoints(self.steps)
        spans = np.zeros(self.steps + 1, np.float32)  # since the checkpoint before, at checkpoints
        spans[marks[1:]] = np.diff(marks)
        span = tf.gather(tf.constant(spans), number)
        due = span > 0.0
        stalled = (improved < _SUCCESS * span) | (~state.halved & (best_value == state.best_then))
        halve = due & stalled
        size = tf.where(halve, 0.5 * state.size, state.size)
        at = tf.where(over_images(halve), best, at)
        gradient = tf.where(over_images(halve), best_gradient, gradient)

        ahead = domain.confine(at + over_images(size) * domain.ball.direction(gradient))
        mixed = at + _MOMENTUM * (ahead - at) + (1.0 - _MOMENTUM) * (at - state.previous)
        following = tf.where(first, ahead, domain.confine(mixed))
        return following, _State(
            previous=at,
            # After a return to the best point, it is the best value that must be beaten.
            previous_value=tf.where(halve, best_value, value),
            best=best,
            best_value=best_value,
            best_gradient=best_gradient,
            size=size,
            improved=tf.where(due, tf.zeros_like(improved), improved),
            halved=tf.where(due, halve, state.halved),
            best_then=tf.where(due | first, best_value, state.best_then),
        )


def apgd(
    loss: ImageLoss,
    images: Images,
    *,
    epsilon: Tensor,
    steps: int,
    seed: Tensor,
    ball: Ball | str = BALLS["linf"],
    restarts: int = 1,
    start: Start | str | Images = STARTS["ball"],
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Images:
    """The images in the ball around `images` at which the loss was largest.

    Steps start at length 2 epsilon and have momentum 0.75. At checkpoints, an example whose loss
    improved in fewer than 75 % of the steps, or whose best value has stood still since the last
    checkpoint although the length was kept there, goes back to its best point with half the
    length. Arguments, result and errors are those of `pgd`, without a step size.
    """
    check(epsilon=epsilon, steps=steps, bounds=bounds)
    found = ascend(
        loss,
        images,
        _AutoStep(int(steps)),
        epsilon=epsilon,
        steps=steps,
        seed=seed,
        ball=ball,
        restarts=restarts,
        start=start,
        bounds=bounds,
    )
    return found.images
