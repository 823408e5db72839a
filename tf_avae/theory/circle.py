"""The discrete example (App. D, Fig. 8): a VAE on the circle in which every expectation is a sum.

x lies on one of N_x points of the circle, z on one of N_z. VM(x; m, s) is proportional to
exp(cos(x - m)/s) on its grid, s in the place of a variance. The model:

    decoder    p(x|z) = VM(x; g_z, v)         one location g_z for each z
    encoder    q(z|x) = VM(z; mu_x, s_x)      one location and one width for each x
    prior      uniform
    coupling   p(z'|z) = VM(z'; z, nu)

The parameters are tables, so nothing generalises: an encoder knows of a point only what its
objective told it there. All sums are of float64 log-probabilities, so nu may be 1e-3 (a factor of
e^2000 between the ends of one row) and less.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tf_avae.backend import keras, tf
from tf_avae.errors import InputError
from tf_avae.registry import Registry
from tf_avae.types import Tensor

_LEAST_WIDTH = 1e-100


def grid(count: int) -> np.ndarray:
    """`count` equally spaced angles from 0, in radians."""
    return 2.0 * np.pi * np.arange(count) / count


def log_von_mises(angles: Tensor, locations: Tensor, widths: Tensor) -> Tensor:
    """log VM(angle; location, width), normalised over the angles.

    Args:
        angles: the grid, [N], radians.
        locations: m, [K], radians.
        widths: s above 0, [K] or a scalar; radians squared.

    Returns:
        [K, N], rows of log-probabilities.
    """
    cosines = tf.cos(angles[tf.newaxis, :] - locations[:, tf.newaxis])
    return tf.nn.log_softmax(cosines / tf.reshape(widths, [-1, 1]), axis=1)


def three_bumps(count: int = 64) -> np.ndarray:
    """The data of the figures: three bumps on two fifths of the circle, 0 elsewhere; [count]."""
    turns = np.arange(count) / count
    density = np.zeros(count)
    for center, half_width, height in ((0.20, 0.07, 1.0), (0.55, 0.10, 1.5), (0.72, 0.03, 0.6)):
        distance = np.abs((turns - center + 0.5) % 1.0 - 0.5)
        bump = np.cos(0.5 * np.pi * distance / half_width) ** 2 + 0.1
        density += height * np.where(distance < half_width, bump, 0.0)
    return density / density.sum()


class Tables(NamedTuple):
    """The parameters.

    Attributes:
        decoder_location: g, [N_z], radians.
        encoder_location: mu, [N_x], radians.
        encoder_log_width: log s, [N_x].
    """

    decoder_location: Tensor
    encoder_location: Tensor
    encoder_log_width: Tensor


@dataclass(frozen=True, eq=False)
class Circle:
    """The example without its parameters.

    Attributes:
        data: the data distribution, [N_x], at least 0, summing to 1; N_x at least 4.
        latents: N_z, at least 4.
        observation_width: v, at least 1e-100.
        coupling_width: nu, at least 1e-100.
        neighbourhood: how many grid steps the attack of `se` may move a point by, at least 0.

    Raises:
        InputError: a value out of range.
    """

    data: np.ndarray = field(default_factory=three_bumps)
    latents: int = 64
    observation_width: float = 0.02
    coupling_width: float = 1e-3
    neighbourhood: int = 2

    def __post_init__(self) -> None:
        data = np.array(self.data, float)
        object.__setattr__(self, "data", data)
        if data.ndim != 1 or len(data) < 4 or not (data >= 0).all() or abs(data.sum() - 1) > 1e-9:
            raise InputError(
                f"data has shape {data.shape} and sum {data.sum()}; it must be at least 4 "
                "probabilities that sum to 1"
            )
        for name, least in (("latents", 4), ("neighbourhood", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} is {value}; it must be a whole number, at least {least}")
        if 2 * self.neighbourhood >= len(data):
            raise InputError(
                f"neighbourhood is {self.neighbourhood}; on {len(data)} points it must be below "
                f"{len(data) / 2:g}"
            )
        for name in ("observation_width", "coupling_width"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= _LEAST_WIDTH):
                raise InputError(f"{name} is {value}; it must be finite, at least {_LEAST_WIDTH:g}")

    @cached_property
    def x(self) -> np.ndarray:
        """The data grid, [N_x], radians."""
        return grid(len(self.data))

    @cached_property
    def z(self) -> np.ndarray:
        """The latent grid, [N_z], radians."""
        return grid(self.latents)

    @cached_property
    def log_coupling(self) -> np.ndarray:
        """log p(z'|z), [N_z, N_z], a row for each z."""
        with tf.init_scope():  # a constant, wherever it is asked for first
            return log_von_mises(self.z, self.z, np.float64(self.coupling_width)).numpy()

    @cached_property
    def neighbours(self) -> np.ndarray:
        """For each point those that the attack of `se` may choose, itself too, [N_x, 2 k + 1]."""
        k, count = self.neighbourhood, len(self.data)
        return (np.arange(count)[:, np.newaxis] + np.arange(-k, k + 1)) % count

    def log_decoder(self, tables: Tables) -> Tensor:
        """log p(x|z), [N_z, N_x]."""
        return log_von_mises(self.x, tables.decoder_location, np.float64(self.observation_width))

    def log_encoder(self, tables: Tables) -> Tensor:
        """log q(z|x), [N_x, N_z]."""
        widths = tf.exp(tables.encoder_log_width)
        return log_von_mises(self.z, tables.encoder_location, widths)

    def start(self, seed: int) -> Tables:
        """Where training starts: g the identity, mu random, s = 0.5.

        The decoder starts smooth, so that how the two grids are laid on one another is not left to
        chance; the encoder starts jagged, so that what an objective leaves untouched shows.
        """
        points = len(self.data)
        locations = np.random.default_rng(seed).uniform(0.0, 2.0 * np.pi, points)
        return Tables(self.z.copy(), locations, np.full(points, np.log(0.5)))


def _vae(circle: Circle, log_p: Tensor, log_q: Tensor) -> dict[str, Tensor]:
    q = tf.exp(log_q)
    reconstruction = tf.einsum("x,xz,zx->", circle.data, q, log_p)
    kl = np.log(circle.latents) - tf.tensordot(circle.data, _entropies(log_q), 1)
    return {"bound": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}


def _entropies(log_q: Tensor) -> Tensor:
    """H(q(z|x)) for each x, [N_x]."""
    return -tf.reduce_sum(tf.exp(log_q) * log_q, axis=1)


def _with_coupling(
    terms: dict[str, Tensor], coupling: Tensor, entropy: Tensor
) -> dict[str, Tensor]:
    bound = terms.pop("bound") + coupling + entropy
    return {"bound": bound, **terms, "coupling": coupling, "entropy": entropy}


def _avae(circle: Circle, log_p: Tensor, log_q: Tensor) -> dict[str, Tensor]:
    q = tf.exp(log_q)
    # The law of (z, x~), z ~ q(z|x), x~ ~ p(x~|z): given, as x~ is in the objective.
    pair = tf.stop_gradient(tf.einsum("x,xz,zy->zy", circle.data, q, tf.exp(log_p)))
    coupling = tf.einsum("zy,yw,zw->", pair, q, circle.log_coupling)
    entropy = tf.tensordot(tf.reduce_sum(pair, 0), _entropies(log_q), 1)
    return _with_coupling(_vae(circle, log_p, log_q), coupling, entropy)


def _avae_analytic(circle: Circle, log_p: Tensor, log_q: Tensor) -> dict[str, Tensor]:
    q = tf.exp(log_q)
    # The law of (x, x~), in which z is summed out; the coupling takes another z ~ q(z|x).
    pair = tf.stop_gradient(tf.einsum("x,xz,zy->xy", circle.data, q, tf.exp(log_p)))
    coupling = tf.einsum("xy,xz,yw,zw->", pair, q, q, circle.log_coupling)
    entropy = tf.tensordot(tf.reduce_sum(pair, 0), _entropies(log_q), 1)
    return _with_coupling(_vae(circle, log_p, log_q), coupling, entropy)


def _se(circle: Circle, log_p: Tensor, log_q: Tensor) -> dict[str, Tensor]:
    q = tf.exp(log_q)
    coupling = tf.einsum("xz,yw,zw->xy", q, q, circle.log_coupling)
    entropy = _entropies(log_q)
    values = tf.gather(coupling + entropy, circle.neighbours, batch_dims=1)
    choice = tf.argmin(values, axis=1)
    worst = tf.gather(tf.constant(circle.neighbours), choice, batch_dims=1)
    coupling = tf.tensordot(circle.data, tf.gather(coupling, worst, batch_dims=1), 1)
    entropy = tf.tensordot(circle.data, tf.gather(entropy, worst), 1)
    return _with_coupling(_vae(circle, log_p, log_q), coupling, entropy)


@dataclass(frozen=True)
class CircleObjective:
    """An objective on the circle.

    Attributes:
        name: the row's name.
        summary: what it is.
        terms: (circle, log p(x|z) [N_z, N_x], log q(z|x) [N_x, N_z]) to the named terms of the
            bound, expectations over the data, in nats; "bound" is maximised.
    """

    name: str
    summary: str
    terms: Callable[[Circle, Tensor, Tensor], dict[str, Tensor]]


CIRCLE_OBJECTIVES: Registry[CircleObjective] = Registry(
    "circle objective",
    CircleObjective("vae", "rec − KL", _vae),
    CircleObjective("avae", "couples z′ ~ q(z′|x̃) to the z that x̃ was decoded from", _avae),
    CircleObjective(
        "avae_analytic", "couples z′ to another z ~ q(z|x), as eq. 13 is printed", _avae_analytic
    ),
    CircleObjective(
        "se",
        "couples independent z ~ q(z|x), z′ ~ q(z′|xᵃ) (eqs. 25–27), xᵃ the worst neighbour",
        _se,
    ),
)


def train(
    circle: Circle,
    objective: CircleObjective | str,
    *,
    seed: int = 0,
    steps: int = 4000,
    learning_rate: float = 0.05,
) -> Tables:
    """The tables after `steps` of Adam on the exact gradient, its rate falling to 0 (cosine).

    A point that the model hardly ever makes has a tiny gradient, and as good a right to its
    optimum: Adam's epsilon is below all of them, and its second moments forget fast.

    Args:
        circle: the example.
        objective: a row of `CIRCLE_OBJECTIVES`, or its name.
        seed: of the encoder's start.
        steps: at least 1.
        learning_rate: at the first step, radians; above 0.

    Raises:
        InputError: a number out of range.
    """
    row = CIRCLE_OBJECTIVES.row(objective)
    if steps < 1:
        raise InputError(f"steps is {steps}; it must be at least 1")
    if not (np.isfinite(learning_rate) and learning_rate > 0):
        raise InputError(f"learning_rate is {learning_rate}; it must be finite and above 0")
    variables = [keras.Variable(start, dtype="float64") for start in circle.start(seed)]
    # Of a plain number, the schedule would compute in Keras' floatx.
    rate = keras.optimizers.schedules.CosineDecay(np.float32(learning_rate), steps)
    optimizer = keras.optimizers.Adam(rate, beta_2=0.99, epsilon=1e-20)
    optimizer.build(variables)

    @tf.function
    def run() -> None:
        for _ in tf.range(steps):
            with tf.GradientTape() as tape:
                tables = Tables(*(variable.value for variable in variables))
                loss = -terms(circle, row, tables)["bound"]
            gradients = tape.gradient(loss, [variable.value for variable in variables])
            optimizer.apply(gradients, variables)

    run()
    return Tables(*(variable.numpy() for variable in variables))


def terms(circle: Circle, objective: CircleObjective, tables: Tables) -> dict[str, Tensor]:
    """The objective's terms, scalars in nats; see `CircleObjective.terms`."""
    return objective.terms(circle, circle.log_decoder(tables), circle.log_encoder(tables))


class Joints(NamedTuple):
    """What the five panels of Fig. 8 show; every array is a distribution that sums to 1.

    Attributes:
        data: pi(x), [N_x].
        data_encoder: pi(x) q(z|x), [N_x, N_z].
        marginal_encoder: p(x) q(z|x), [N_x, N_z].
        decoder_prior: p(x|z) p(z), [N_x, N_z]; what p(x) q(z|x) is for the exact posterior.
        marginal: p(x), [N_x], of the model.
    """

    data: np.ndarray
    data_encoder: np.ndarray
    marginal_encoder: np.ndarray
    decoder_prior: np.ndarray
    marginal: np.ndarray


def joints(circle: Circle, tables: Tables) -> Joints:
    """The five distributions of Fig. 8."""
    q = np.exp(circle.log_encoder(tables))
    decoder_prior = np.exp(circle.log_decoder(tables)).T / circle.latents
    marginal = decoder_prior.sum(1)
    data, model = circle.data[:, np.newaxis] * q, marginal[:, np.newaxis] * q
    return Joints(circle.data, data, model, decoder_prior, marginal)


def neighbour_variation(circle: Circle, tables: Tables) -> np.ndarray:
    """Total variation between q(z|x) and that of the next point, [N_x] in [0, 1]."""
    q = np.exp(circle.log_encoder(tables))
    return 0.5 * np.abs(q - np.roll(q, -1, axis=0)).sum(1)


def figures_of_merit(circle: Circle, tables: Tables) -> dict[str, float]:
    """What Fig. 8 claims, in numbers.

    Returns:
        variation_on_data, variation_at_edges, variation_off_data: mean total variation between
            the encodings of two neighbouring points, both, one or none of them on the support of
            the data, weighted by how often the model makes them (p(x), of its own decoder); not
            a number where there is no such pair.
        largest_jump: the largest such variation at edges and off the data, over pairs of which
            the model makes at least one point in a thousand.
        mass_off_data: how much of p(x) lies outside the support of the data.
        self_consistency: probability that z' is within one step of z, for z among the codes of
            data (the aggregate posterior), x~ ~ p(x~|z), z' ~ q(z'|x~); `_prior`: for z ~ p(z).
        mismatch: total variation between p(x) q(z|x) and p(x|z) p(z): 0 if the encoder is the
            exact posterior wherever the model goes.
        codes: exp of the entropy of the aggregate posterior: how many latents data use, of N_z.
    """
    panels = joints(circle, tables)
    variation = neighbour_variation(circle, tables)
    weight = panels.marginal + np.roll(panels.marginal, -1)
    on_data = circle.data > 0
    points = on_data.astype(int) + np.roll(on_data, -1)  # of each pair, how many are on the data
    made = variation[(points < 2) & (weight > 1e-3)]

    def mean(of: int) -> float:
        among = points == of
        if not among.any():
            return float("nan")
        return float(np.average(variation[among], weights=weight[among]))

    aggregate = panels.data_encoder.sum(0)
    q, p = np.exp(circle.log_encoder(tables)), np.exp(circle.log_decoder(tables))
    around = p @ q
    index = np.arange(circle.latents)
    stays = sum(around[index, (index + step) % circle.latents] for step in (-1, 0, 1))
    used = aggregate[aggregate > 0]
    return {
        "variation_on_data": mean(2),
        "variation_at_edges": mean(1),
        "variation_off_data": mean(0),
        "largest_jump": float(made.max()) if len(made) else float("nan"),
        "mass_off_data": float(panels.marginal[~on_data].sum()),
        "self_consistency": float(aggregate @ stays),
        "self_consistency_prior": float(stays.mean()),
        "mismatch": float(0.5 * np.abs(panels.marginal_encoder - panels.decoder_prior).sum()),
        "codes": float(np.exp(-np.sum(used * np.log(used)))),
    }
