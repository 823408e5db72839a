"""Attacks on the representation itself, without labels: how far q(z|x') can be moved.

Untargeted, an attack maximises a distance between q(z|x) and q(z|x'); targeted, it minimises the
distance of q(z|x') to the posterior of another image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tf_avae.attacks import BALLS, STARTS, Ball, Start, pgd
from tf_avae.attacks.ascent import better
from tf_avae.backend import tf, tfp
from tf_avae.distributions import Posterior, w2_squared
from tf_avae.errors import InputError
from tf_avae.evaluation.batches import compiled, image_spec, in_batches, seed_spec
from tf_avae.evaluation.robustness import check_batch_size, check_epsilon
from tf_avae.inputs import image_array
from tf_avae.registry import Registry
from tf_avae.types import Images, PerExample, Tensor

Encode = Callable[[Images], Posterior]
"""Images [B, H, W, C] float32 in [0, 1] to q(z|x), differentiable, in inference mode, float32."""


@dataclass(frozen=True)
class Distance:
    """A distance between posteriors.

    Attributes:
        name: the row's name.
        summary: for `--help` and the docs.
        value: (q(z|x), q(z|x')) to [B], at least 0.
        of_variance: whether it depends on variances, so that it needs an encoder that gives them.
    """

    name: str
    summary: str
    value: Callable[[Posterior, Posterior], PerExample]
    of_variance: bool = True


def _kl(q: Posterior, other: Posterior) -> PerExample:
    return tfp.distributions.kl_divergence(q.distribution, other.distribution)


def _cosine(q: Posterior, other: Posterior) -> PerExample:
    # Not 1 - cos: that cancels where the means are alike. |u - v|^2 = 2 (1 - cos).
    u, v = (tf.math.l2_normalize(p.mean, axis=-1, epsilon=1e-24) for p in (q, other))
    return 0.5 * tf.reduce_sum(tf.math.squared_difference(u, v), axis=-1)


def _mean_l2(q: Posterior, other: Posterior) -> PerExample:
    return tf.reduce_sum(tf.math.squared_difference(q.mean, other.mean), axis=-1)


DISTANCES: Registry[Distance] = Registry(
    "distance",
    Distance("w2", "squared 2-Wasserstein distance of q(z|x) and q(z|x')", w2_squared),
    Distance("kl", "KL(q(z|x) || q(z|x')), nats", _kl),
    Distance("reverse_kl", "KL(q(z|x') || q(z|x)), nats", lambda q, other: _kl(other, q)),
    Distance("symmetric_kl", "the sum of both, nats", lambda q, r: _kl(q, r) + _kl(r, q)),
    Distance("mean_l2", "squared Euclidean distance of the means", _mean_l2, of_variance=False),
    Distance("cosine", "1 - cosine of the angle between the means", _cosine, of_variance=False),
)


REPRESENTATION_STARTS = ("ball", "brighter", "darker", "flat")
"""Where the attacks on the representation start: one search each, of which the best counts."""


def attack_representation(
    encode: Encode,
    images: np.ndarray,
    distance: Distance | str,
    *,
    epsilon: float,
    steps: int,
    seed: int = 0,
    towards: np.ndarray | None = None,
    ball: Ball | str = BALLS["linf"],
    starts: Sequence[Start | str] = REPRESENTATION_STARTS,
    batch_size: int = 500,
    graphs: dict[tuple, Callable] | None = None,
) -> np.ndarray:
    """The images that PGD finds: for each the best of a search from each start.

    Args:
        encode: the encoder.
        images: [N, H, W, C] float32 in [0, 1].
        distance: a row of `DISTANCES`, or its name: made large, or small to the target.
        epsilon: radius in units of pixel values, at least 0; in the L-infinity ball at most 1.
        steps: of PGD from each start, at least 1.
        seed: of the starts; an integer of at least 0, or a stateless seed.
        towards: images whose posterior is the target, as `images`; untargeted without.
        ball: a row of `BALLS`, or its name.
        starts: rows of `STARTS`, or their names, at least one. From the image itself a distance has
            no gradient.
        batch_size: images attacked at once.
        graphs: those that earlier calls made, to which this one adds its own: a graph serves all
            radii.

    Returns:
        [N, H, W, C] float32, in the ball and in [0, 1].

    Raises:
        InputError: a number out of range, no start, or images that do not fit.
    """
    distance, ball = DISTANCES.row(distance), BALLS.row(ball)
    begins = tuple(STARTS.row(start) for start in starts)
    if not begins:
        raise InputError(f"no start is given; name at least one of: {', '.join(STARTS)}")
    check_epsilon(epsilon, ball)
    check_batch_size(batch_size)
    images = image_array(images)
    others = images
    if towards is not None:
        others = image_array(towards, image_shape=images.shape[1:], what="towards")
        if len(others) != len(images):
            raise InputError(
                f"there are {len(images)} images, and {len(others)} towards which they are moved; "
                "give each its own"
            )
    sign = 1.0 if towards is None else -1.0
    graphs, key = {} if graphs is None else graphs, (distance, sign, steps, ball.name, begins)
    if key not in graphs:
        spec = image_spec(images.shape[1:])

        @compiled(spec, spec, seed_spec(), tf.TensorSpec([], tf.float64))
        def move(images: Images, others: Images, seed: Tensor, epsilon: Tensor) -> Images:
            fixed = encode(others).stop_gradient()

            def loss(x: Images) -> PerExample:
                return sign * distance.value(fixed, encode(x))

            lowest = tf.fill(tf.shape(images)[:1], -np.inf)
            best, found = lowest, images
            for number, begin in enumerate(begins):
                at = pgd(
                    loss, images, epsilon=epsilon, steps=steps, seed=seed + [number, 0], ball=ball,
                    start=begin,
                )  # fmt: skip
                best, found = better(loss(at), at, best, found)
            return found

        graphs[key] = move
    radius = tf.constant(epsilon, tf.float64)
    return in_batches(
        lambda *given: graphs[key](*given, radius), images, others, batch_size=batch_size, seed=seed
    )
