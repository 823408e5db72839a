"""Where gradient attacks start.

A network whose first layer is off on black pixels has no gradient there: what starts at the image,
or at uniform noise of which half is clipped away, never moves these pixels. Other starts do.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tf_avae.attacks.balls import Ball, knows
from tf_avae.attacks.domain import Domain
from tf_avae.backend import tf
from tf_avae.backend.replicas import own_rows
from tf_avae.errors import InputError
from tf_avae.registry import Registry
from tf_avae.types import Images, Tensor

_BLOCKS = 7
"""A side of an image in blocks: of 4 pixels for MNIST's 28."""


@dataclass(frozen=True)
class Start:
    """A way to choose the first point of an attack.

    Attributes:
        name: the row's name.
        summary: for `--help` and the docs.
        point: (domain, stateless seed [2]) to a point of the domain for each image, [B, H, W, C].
        random: whether another seed gives another point.
        moved: whether it is another point than the image.
        balls: names of the balls it knows; every ball where empty.
    """

    name: str
    summary: str
    point: Callable[[Domain, Tensor], Images]
    random: bool = True
    moved: bool = True
    balls: tuple[str, ...] = ()

    def check(self, ball: Ball, *, of_distance: bool = False) -> None:
        """Raises `InputError` for a ball that it does not know; where `of_distance`, for an attack
        on a distance from the image, also if it is the image: there that has no gradient."""
        if of_distance and not self.moved:
            raise InputError(
                f"start {self.name!r} is where a distance from the image has no gradient, so the "
                "attack would not begin; choose another start"
            )
        if not knows(self.balls, ball.name):
            raise InputError(
                f"start {self.name!r} is for the norm {' or '.join(self.balls)}, and this is "
                f"{ball.name}; choose another start"
            )


def _ball(domain: Domain, seed: Tensor) -> Images:
    delta = own_rows(lambda shape: domain.ball.start(shape, seed), tf.shape(domain.images))
    return domain.confine(domain.images + domain.epsilon * delta)


def _box(domain: Domain, seed: Tensor) -> Images:
    share = own_rows(
        lambda shape: tf.random.stateless_uniform(shape, seed), tf.shape(domain.images)
    )
    return domain.confine(domain.lowest + share * (domain.highest - domain.lowest))


def random_signs(shape: Tensor, seed: Tensor) -> Tensor:
    """1 or -1 with equal chance."""
    up = tf.random.stateless_uniform(shape, seed) < 0.5
    return tf.where(up, 1.0, -1.0)


def _signs(rows: int, columns: int) -> Callable[[Domain, Tensor], Images]:
    """The ball's corner whose signs are drawn for each of so many rows and columns of an image and
    each channel; 0 for as many as there are pixels."""

    def point(domain: Domain, seed: Tensor) -> Images:
        batch, height, width, channels = tf.unstack(tf.shape(domain.images))
        over, across = rows or height, columns or width
        signs = own_rows(
            lambda shape: random_signs(shape, seed), tf.stack([batch, over, across, channels])
        )
        # Pixel i of n lies in part i m // n of m.
        signs = tf.gather(signs, tf.range(height) * over // height, axis=1)
        return domain.towards(tf.gather(signs, tf.range(width) * across // width, axis=2))

    return point


def flat(number: Tensor | int) -> Start:
    """The same sign for all pixels of a channel: the one of the 2^C ways that has this number.

    Bit c of the number makes channel c darker: number 0 is brighter in all channels.
    """

    def point(domain: Domain, seed: Tensor) -> Images:
        bits = tf.bitwise.right_shift(number, tf.range(domain.images.shape[3]))
        return domain.towards(tf.where(tf.bitwise.bitwise_and(bits, 1) == 1, -1.0, 1.0))

    return Start("flat", "one of the ways to shift whole channels", point, random=False)


def given(point: Images) -> Start:
    """A point of one's own, [B, H, W, C], or the domain's next to it."""
    return Start("given", "a given point", lambda domain, seed: domain.confine(point), random=False)


_MIXED = (
    Start("box", "uniform in what is left of the ball within the bounds", _box, balls=("linf",)),
    Start("flat", "each channel of an image brighter or darker by chance", _signs(1, 1)),
    Start("brighter", "x + ε", lambda domain, seed: flat(0).point(domain, seed), random=False),
    Start("blocks", f"{_BLOCKS} x {_BLOCKS} blocks, brighter or darker by chance",
          _signs(_BLOCKS, _BLOCKS)),
)  # fmt: skip


def _mixed(domain: Domain, seed: Tensor) -> Images:
    # One start alone invites a network to hide its gradient from that one.
    chosen = own_rows(
        lambda shape: tf.random.stateless_uniform(shape, seed, 0, len(_MIXED), tf.int32),
        tf.shape(domain.images)[:1],
    )
    # The place of an image says which point it gets, and of which random numbers: another stream.
    seed = tf.random.experimental.stateless_fold_in(seed, 1)
    points = tf.stack([start.point(domain, seed) for start in _MIXED], axis=1)
    return tf.gather(points, chosen, axis=1, batch_dims=1)


STARTS: Registry[Start] = Registry(
    "start",
    Start("ball", "uniform in the ball, then clipped to the bounds", _ball),
    *_MIXED,
    Start("darker", "x - ε", lambda domain, seed: domain.towards(tf.constant(-1.0)), random=False),
    Start("mixed", f"for each image one of {', '.join(s.name for s in _MIXED)}, by chance", _mixed,
          balls=("linf",)),
    Start("stripes", "columns, brighter or darker by chance", _signs(1, 0)),
    Start("corner", "each pixel value up or down by chance", _signs(0, 0)),
    Start("image", "the image itself", lambda domain, seed: domain.images, random=False,
          moved=False),
)  # fmt: skip
