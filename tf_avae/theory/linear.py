"""Where each objective comes to rest when encoder and decoder are linear.

Data of a known probabilistic PCA: along a unit direction u, y = u^T x has variance c = l + v, with
signal variance l and observation variance v. A linear autoencoder treats such principal components
separately; for one of them the encoder is q(z|x) = N(a y, s) and the decoder g(z) = w z u. Setting
the expected gradient of a bound to zero gives, for every objective,

    decoder    w = c a/(a^2 c + s)                        what the reconstruction alone wants
    encoder    omega w (c - w a c)/v = F                  omega: weight of the reconstruction
    variance   s = E/(omega w^2/v + T)

with three numbers for each term that acts on a code: -F, its gradient to a; T/2, what it takes
off the bound per unit of s; and E/2, its coefficient of log s. x~ and x^a carry no gradient, so a
resting point of `avae`, `se_avae` or `avae_ss` is where training stops, not the maximum of one
function. The exact posterior of the decoder w is a* = w/(w^2 + v), s* = v/(w^2 + v); the pPCA that
made the data has w^2 = l. Lengths scale out: beside the couplings, omega and the penalty's weight,
only l/v and epsilon/sqrt(v) matter.

The decoder of `adversarial_elbo` also reads codes of y + reach tau, which adds to c in its
denominator alone: the side tau that its attack takes does not depend on y.

Images of `avae_ss` are decoded from the prior without noise, so c = w^2 there.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy

from tf_avae.errors import InputError
from tf_avae.registry import unknown

_SETTLED = 1e-13
_MOST_ROUNDS = 300_000


@dataclass(frozen=True)
class Attack:
    """An L-infinity attack on a component that lies evenly on a block of pixels of its own.

    u is 1/sqrt(pixels) on them, so a perturbation moves y by up to reach = epsilon sqrt(pixels).
    What is maximised, (mu' - rho mu)^2 or, for KL(q_xa||q_x), (mu' - mu)^2, is convex: the sign tau
    of the move is all that matters, and for the second not even that.

    Attributes:
        epsilon: radius, in pixel values.
        pixels: of the block.
        random_start: PGD from one random point of the ball, which climbs to the corner on its side,
            as in training; otherwise the worst case.
    """

    epsilon: float = 0.0
    pixels: int = 1
    random_start: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise InputError(f"epsilon is {self.epsilon}; it must be finite and at least 0")
        if not (isinstance(self.pixels, int) and self.pixels >= 1):
            raise InputError(f"pixels is {self.pixels}; it must be a whole number from 1")

    @property
    def reach(self) -> float:
        """How far y = u^T x can be moved."""
        return self.epsilon * np.sqrt(self.pixels)

    def alignment(self, variance: np.ndarray, rho: float) -> np.ndarray:
        """E[tau y] for y ~ N(0, variance).

        The worst case takes tau = sign y, which gives E|y|. From a random start nu = u^T delta0,
        tau = sign((1 - rho) y + nu), and by Stein's lemma E[tau y] = 2 (1 - rho) variance p(0)
        with p the density of (1 - rho) y + nu, at 0 the mean of nu's under the normal's.
        """
        variance = np.asarray(variance, float)
        if not self.random_start or self.epsilon == 0.0:
            return np.sqrt(2.0 * variance / np.pi)
        spread = (1.0 - rho) * np.sqrt(variance)
        width = 2.0 * self.epsilon / np.sqrt(self.pixels)
        # Half of the range where both densities are: nu is a sum of `pixels` uniforms of `width`.
        half = np.minimum(9.0 * spread, 0.5 * self.pixels * width)
        nu = half[..., np.newaxis] * np.linspace(-1.0, 1.0, 4001)
        normal = np.exp(-0.5 * (nu / spread[..., np.newaxis]) ** 2)
        normal /= np.sqrt(2.0 * np.pi) * spread[..., np.newaxis]
        # The density of such a sum is the B-spline on equidistant knots.
        knots = width * (np.arange(self.pixels + 1) - 0.5 * self.pixels)
        uniforms = scipy.interpolate.BSpline.basis_element(knots, extrapolate=False)(nu) / width
        density = np.trapezoid(normal * np.nan_to_num(uniforms), nu, axis=-1)
        return 2.0 * (1.0 - rho) * variance * density


class Component(NamedTuple):
    """A linear autoencoder on one principal component; arrays of one shape.

    Attributes:
        encoder: a.
        variance: s.
        decoder: w.
        data_variance: c, of the component in the images that were encoded.
        observation_variance: v.
    """

    encoder: np.ndarray
    variance: np.ndarray
    decoder: np.ndarray
    data_variance: np.ndarray
    observation_variance: float

    @property
    def exact_encoder(self) -> np.ndarray:
        """a* of the decoder's own exact posterior."""
        return self.decoder / (self.decoder**2 + self.observation_variance)

    @property
    def exact_variance(self) -> np.ndarray:
        """s* of the decoder's own exact posterior."""
        return self.observation_variance / (self.decoder**2 + self.observation_variance)

    @property
    def contraction(self) -> np.ndarray:
        """a w: what one turn x -> z -> x' multiplies the component by."""
        return self.encoder * self.decoder

    @property
    def code_variance(self) -> np.ndarray:
        """a^2 c + s, the variance of the codes of data; 1 where they fill the prior."""
        return self.encoder**2 * self.data_variance + self.variance

    @property
    def bias(self) -> np.ndarray:
        """E KL(q(z|x) || the decoder's exact posterior), nats; the mean over the images."""
        ratio = self.variance / self.exact_variance
        shift = (self.encoder - self.exact_encoder) ** 2 * self.data_variance / self.exact_variance
        return 0.5 * (ratio - 1.0 - np.log(ratio) + shift)


class _Point(NamedTuple):
    """Where an iteration is, and what does not move."""

    a: np.ndarray
    s: np.ndarray
    w: np.ndarray
    c: np.ndarray
    rho: float
    rho_se: float
    weight: float
    v: float
    reach: float
    alignment: Any  # E[tau y] under the coupling of the attacked pair

    @property
    def code(self) -> np.ndarray:
        return self.a**2 * self.c + self.s

    def attacked(self, rho: float, square: np.ndarray) -> np.ndarray:
        """E over x of the square that a coupling makes of (y, y'), y' = y + reach tau:
        `square` where nothing is moved, and what the move adds."""
        cross = 2.0 * (1.0 - rho) * self.reach * self.alignment
        return square + cross + self.reach**2


class _Push(NamedTuple):
    """What a term does to a code: F, T and E of the module's docstring; a number like dF/da, which
    sets the length of the iteration's steps and nothing else; what the decoder sees beside c."""

    force: Any
    curvature: Any
    precision: Any
    entropies: Any
    spread: Any = 0.0


_Piece = Callable[[_Point], _Push]


def _linear(p: _Point, square: np.ndarray, precision: float, entropies: Any = 1.0) -> _Push:
    """A term that takes off square/2 a^2."""
    return _Push(square * p.a, square, precision, entropies)


def _prior(p: _Point) -> _Push:
    """-KL(q_x || p)."""
    return _linear(p, p.c, 1.0)


def _decoded(p: _Point) -> _Push:
    """couple(q_x, q_x~; rho) + H(q_x~), the expectation over an independent z of q_x."""
    square = p.w**2 * p.code - 2.0 * p.rho * p.w * p.a * p.c + p.rho**2 * p.c
    noise = 1.0 - p.rho**2
    return _linear(p, square / noise, (1.0 + p.rho**2) / noise)


def _decoded_sampled(p: _Point) -> _Push:
    """The same for the z that was decoded, through which the gradient passes."""
    noise = 1.0 - p.rho**2
    miss = p.a * p.w - p.rho
    force = miss * (p.w * p.code - p.rho * p.a * p.c)
    curvature = p.w**2 * p.code + p.rho**2 * p.c
    return _Push(force / noise, curvature / noise, (1.0 - p.rho * miss) / noise, 1.0)


def _adversarial(p: _Point) -> _Push:
    """couple(q_x, q_xa; rho_SE) + H(q_xa)."""
    noise = 1.0 - p.rho_se**2
    square = p.attacked(p.rho_se, (1.0 - p.rho_se) ** 2 * p.c)
    return _linear(p, square / noise, (1.0 + p.rho_se**2) / noise)


def _joint(p: _Point) -> _Push:
    """The tighter joint of C.3.1; its optimal covariance makes E depend on s."""
    noise = 1.0 - p.rho**2
    r = np.sqrt(1.0 + (2.0 * p.rho / noise * p.s) ** 2)
    square = p.attacked(p.rho, 2.0 * (1.0 - p.rho) * p.c)
    return _linear(p, square / noise, 2.0 / noise, 1.0 + r)


def _adversarial_elbo(p: _Point) -> _Push:
    """The prior and, weighted, what decoding y from the code of y + reach tau takes off."""
    spread = p.weight * p.reach**2
    push = _linear(p, p.c + spread + spread * p.w**2 / p.v, 1.0)
    return push._replace(spread=spread)


def _certified_elbo(p: _Point) -> _Push:
    """-weight (a reach)^2/(2 s): bounds of an affine map are exact."""
    square = p.weight * p.reach**2 / p.s
    return _Push(square * p.a, square, 0.0, square * p.a**2)


class _Row(NamedTuple):
    """The terms of an objective that act on the code, by the name of the coupling.

    Attributes:
        pieces: coupling to terms.
        trains_decoder: otherwise images are decoded from the prior.
        attacked_by: the coupling constant of its attacked pair.
    """

    pieces: Mapping[str, tuple[_Piece, ...]]
    trains_decoder: bool = True
    attacked_by: str = "rho"


_COUPLED: Mapping[str, tuple[_Piece, ...]] = {
    "analytic": (_prior, _decoded), "sampled": (_prior, _decoded_sampled),
}  # fmt: skip

# One row for each row of `tf_avae.objectives.OBJECTIVES`, by the names of its couplings.
_ROWS = {
    "vae": _Row(dict.fromkeys(_COUPLED, (_prior,))),
    "avae": _Row(_COUPLED),
    "se": _Row(dict.fromkeys(_COUPLED, (_joint,))),
    "se_avae": _Row(
        {name: (*pieces, _adversarial) for name, pieces in _COUPLED.items()}, attacked_by="rho_se"
    ),
    "avae_ss": _Row(_COUPLED, trains_decoder=False),
    "adversarial_elbo": _Row(dict.fromkeys(_COUPLED, (_adversarial_elbo,))),
    "certified_elbo": _Row(dict.fromkeys(_COUPLED, (_prior, _certified_elbo))),
}


class _Problem(NamedTuple):
    """Checked arguments of `resting_point`."""

    row: _Row
    pieces: tuple[_Piece, ...]
    signal: np.ndarray
    c: np.ndarray
    v: float
    omega: float
    fixed: dict[str, Any]

    def push(self, a: np.ndarray, s: np.ndarray, w: np.ndarray) -> _Push:
        """What all terms do to a code."""
        point = _Point(a, s, w, self.c, **self.fixed)
        pushes = [piece(point) for piece in self.pieces]
        return _Push(*(sum(parts) for parts in zip(*pushes, strict=True)))


def _problem(
    objective: str,
    signal: np.ndarray | float,
    *,
    observation_variance: float = 1.0,
    rho: float = 0.975,
    rho_se: float = 0.975,
    coupling: str = "analytic",
    reconstruction_weight: float = 1.0,
    penalty_weight: float = 0.5,
    attack: Attack = Attack(),
) -> _Problem:
    if objective not in _ROWS:
        raise unknown("objective", objective, list(_ROWS))
    row, v = _ROWS[objective], observation_variance
    if coupling not in row.pieces:
        raise unknown("coupling", coupling, list(row.pieces))
    signal = np.asarray(signal, float)
    for name, value, good, limit in (
        ("signal", signal, (signal > 0) & np.isfinite(signal), "finite and above 0"),
        ("observation_variance", v, math.isfinite(v) and v > 0, "finite and above 0"),
        ("rho", rho, 0 <= rho < 1, "in [0, 1)"),
        ("rho_se", rho_se, 0 <= rho_se < 1, "in [0, 1)"),
        ("reconstruction_weight", reconstruction_weight, reconstruction_weight >= 0, "at least 0"),
        ("penalty_weight", penalty_weight, penalty_weight >= 0, "at least 0"),
    ):
        if not np.all(good):
            raise InputError(f"{name} is {value}; it must be {limit}")
    c = signal + v if row.trains_decoder else signal
    constants = {"rho": rho, "rho_se": rho_se}
    alignment = attack.alignment(c, constants[row.attacked_by])
    fixed: dict[str, Any] = {**constants, "weight": penalty_weight, "v": v}
    fixed |= {"reach": attack.reach, "alignment": alignment}
    omega = 1.0 if row.trains_decoder else reconstruction_weight
    return _Problem(row, row.pieces[coupling], signal, c, v, omega, fixed)


def resting_point(
    objective: str, signal: np.ndarray | float, *, start: float = 1.0, **options: Any
) -> Component:
    """Where training comes to rest.

    Found by repeating the three equations, half a step each time, until nothing moves: an
    optimiser that shares no line with the model. There can be more than one resting point: a = 0,
    w = 0 (posterior collapse) always is one, and attracts where `grows` is false; and `avae_ss`
    has several for couplings close to 1. `start` decides which is found.

    Args:
        objective: name of a row of `OBJECTIVES`.
        signal: l, the variance of W z along the component, above 0; a number or an array. For
            `avae_ss` that of the frozen decoder.
        start: encoder and decoder to start from, as a multiple of the exact posterior's and the
            data's. With a small one codes start from the prior, as those of random weights do.
        observation_variance: v, above 0 [1].
        rho: coupling, in [0, 1) [0.975].
        rho_se: coupling of the adversarial pair of `se_avae`, in [0, 1) [0.975].
        coupling: name of a row of `COUPLINGS` ["analytic"].
        reconstruction_weight: omega in `avae_ss`, at least 0 [1].
        penalty_weight: of `adversarial_elbo` and `certified_elbo`, at least 0 [0.5].
        attack: an `Attack`, of the objectives that attack [none].

    Raises:
        InputError: an unknown name, a number out of range, or equations that do not settle: close
            to where a resting point appears or ends they do so ever more slowly.
    """
    if not (math.isfinite(start) and start > 0):
        raise InputError(f"start is {start}; it must be finite and above 0")
    p = _problem(objective, signal, **options)
    w = np.sqrt(p.signal)
    a = start * w / (w**2 + p.v)
    w = start * w if p.row.trains_decoder else w
    s = p.v / (w**2 + p.v)
    for _ in range(_MOST_ROUNDS):
        push = p.push(a, s, w)
        move_a = p.omega * w * (p.c - w * a * p.c) - p.v * push.force
        move_a = move_a / (p.omega * w**2 * p.c + p.v * push.curvature)
        move_s = push.entropies / (p.omega * w**2 / p.v + push.precision) - s
        move_w = p.c * a / (a**2 * (p.c + push.spread) + s) - w if p.row.trains_decoder else 0.0 * w
        # Relative to the scale that each number has: v^-1/2, 1 and v^1/2.
        moves = move_a * np.sqrt(p.v), move_s, move_w / np.sqrt(p.signal)
        a, s, w = a + 0.5 * move_a, s + 0.5 * move_s, w + 0.5 * move_w
        if max(np.max(np.abs(move)) for move in moves) < _SETTLED:
            return Component(a, s, w, p.c, p.v)
    raise InputError(
        f"{objective} with signal {signal} and {options} did not settle in {_MOST_ROUNDS:,} rounds:"
        " it is too close to where a resting point appears or ends; change one of them a little"
    )


def grows(objective: str, signal: np.ndarray | float, **options: Any) -> np.ndarray:
    """Whether a component whose weights are nearly nothing grows, rather than collapses.

    With the variance s0 = E/T that a code has at w = 0, and F = Qa a + Qw w to first order, the
    encoder and decoder equations multiply tiny weights by c (c/v - Qw)/(s0 Qa) in a round. For
    `vae` and `avae` that is c/v, above 1 for every signal; `se` needs
    c^2 (1 - rho^2) > v (2 (1 - rho)(c + reach E[tau y]) + reach^2).

    Args: those of `resting_point`, without a start.

    Raises:
        InputError: as `resting_point`, or an objective that does not train the decoder.
    """
    p = _problem(objective, signal, **options)
    if not p.row.trains_decoder:
        raise InputError(f"{objective} does not train the decoder; ask for another objective")
    tiny = 1e-9 * np.sqrt(p.signal)
    zero, s = np.zeros_like(tiny), np.ones_like(tiny)
    for _ in range(200):
        push = p.push(zero, s, zero)
        s = 0.5 * (s + push.entropies / push.precision)
    to_a = p.push(tiny, s, zero).force / tiny
    to_w = p.push(zero, s, tiny).force / tiny
    return p.c * (p.c / p.v - to_w) > s * to_a
