"""Projected gradient descent (Madry et al., ICLR 2018), over a loss callable."""

import math
from dataclasses import dataclass
from typing import Any

from tf_avae.attacks.ascent import Domain, ascend, check, is_number
from tf_avae.attacks.balls import BALLS, Ball
from tf_avae.errors import InputError
from tf_avae.types import ImageLoss, Images, PerExample, Tensor


@dataclass(frozen=True)
class _FixedStep:
    """Steps of one length along the ball's steepest ascent direction."""

    size: float

    def begin(self, start: Images) -> tuple[Tensor, ...]:
        return ()

    def step(
        self, number: Tensor, at: Images, value: PerExample, gradient: Images, state: Any,
        ball: Domain,
    ) -> tuple[Images, tuple[Tensor, ...]]:  # fmt: skip
        return ball.confine(at + self.size * ball.ball.direction(gradient)), ()


def pgd(
    loss: ImageLoss,
    images: Images,
    *,
    epsilon: float,
    steps: int,
    seed: Tensor,
    ball: Ball | str = BALLS["linf"],
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
    it should compute in float32 whatever the training precision, because float16 gradients of an
    image underflow to zero, and sign(0) fakes robustness.

    Args:
        loss: images [B, H, W, C] to [B] float32, what is maximised. An example's value must
            depend on that example alone. A loss may return two of them: the first is climbed, the
            second decides which iterate is kept. The largest cross-entropy need not be a
            misclassification, so attacks on classifiers climb it and keep by the margin.
        images: [B, H, W, C], float32, inside `bounds`, at least one.
        epsilon: radius of the ball, at least 0, in units of pixel values. At 0 the result is
            equal to `images`.
        steps: gradient steps of each restart, at least 1.
        seed: of the starting points: an integer, at least 0, or a stateless seed, an int32 tensor
            of shape [2].
        ball: a row of `BALLS`, or its name.
        step_size: length of a step in the ball's norm; 2.5 * epsilon / steps unless given.
        restarts: independent starts, at least 1.
        random_start: start at a random point of the ball. A distance between q(z|x) and q(z|x')
            has no gradient at x' = x.
        bounds: smallest and largest pixel value.

    Returns:
        [B, H, W, C] float32 with a stopped gradient, in the ball and in the bounds.

    Raises:
        InputError: images that are none, a number out of range, or `restarts` without a random
            start.
        ValueError: the loss is not one float32 number per example.
    """
    check(epsilon=epsilon, steps=steps, bounds=bounds)
    if step_size is None:
        step_size = 2.5 * epsilon / steps
    elif not (is_number(step_size) and math.isfinite(step_size) and step_size >= 0):
        raise InputError(f"step_size is {step_size!r}; it must be a finite number, at least 0")
    return ascend(
        loss,
        images,
        _FixedStep(step_size),
        epsilon=epsilon,
        steps=steps,
        seed=seed,
        ball=ball,
        restarts=restarts,
        random_start=random_start,
        bounds=bounds,
    )
