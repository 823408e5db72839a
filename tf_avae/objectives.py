"""The objectives, side by side. Each is a row: data, and one pure function.

Equation and algorithm numbers are those of the supplement of "The Autoencoding Variational
Autoencoder" (NeurIPS 2020); `adversarial_elbo` and `certified_elbo` are ours (docs/objectives.md).
Every bound is maximised. To add an objective, add a row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tf_avae import distributions as d
from tf_avae.registry import Registry
from tf_avae.types import Images, Latents, PerExample, Tensor, Terms

DATA, GENERATED = "data", "generated"
"""Where x comes from: the data set, or the decoder: x = sg g(z''), z'' ~ N(0, I)."""

DECODED, ADVERSARIAL = "decoded", "adversarial"
"""Auxiliary images: x~ = sg g(z) with z ~ q(z|x), and x^a = sg PGD(x)."""

ENCODER, DECODER = "encoder", "decoder"


@dataclass(frozen=True)
class Coupling:
    """A form of E log p_rho(z'|z) between x and x~.

    Attributes:
        name: the row's name.
        summary: for the docs.
        value: (q, z, other posterior, rho) to [B].
    """

    name: str
    summary: str
    value: Callable[[d.Posterior, Latents, d.Posterior, float], PerExample]


COUPLINGS: Registry[Coupling] = Registry(
    "coupling",
    Coupling(
        name="analytic",
        summary="the expectation over q(z|x), as eq. 13 is printed",
        value=lambda q, z, other, rho: d.couple(q, other, rho),
    ),
    Coupling(
        name="sampled",
        summary="log p_rho for the z that was decoded: the bound's own expectation",
        value=lambda q, z, other, rho: d.couple_sampled(z, other, rho),
    ),
)


class Found(NamedTuple):
    """What an adversary found.

    Attributes:
        posterior: q(z|x^a), or what the attack's aim is larger for than for any q(z|x') of the
            ball.
        zero_gradients: the share of values of its gradients that were exactly 0, [B]; None where it
            takes none.
    """

    posterior: d.Posterior
    zero_gradients: PerExample | None = None


@dataclass(frozen=True)
class Adversary:
    """Who finds the worst q(z|x') of the ball.

    Attributes:
        name: the row's name.
        summary: for `--help` and the docs.
        find: (the model, x, q(z|x) as a constant, epsilon, a seed, what encodes auxiliary images)
            to what it found.
        bounds: it needs bounds of the encoder, which are of the L-infinity ball.
        gradients: it takes gradients of images, and says which share of them was 0.
        warmup: the share of the steps over which epsilon grows from 0 unless another is asked for.
    """

    name: str
    summary: str
    find: Callable[..., Found]
    bounds: bool = False
    gradients: bool = False
    warmup: float = 0.0


def _by_descent(model: Any, x: Images, q: d.Posterior, epsilon: Tensor, seed: Tensor,
                encode: Callable[[Images], d.Posterior]) -> Found:  # fmt: skip
    attacked = model.ascent(x, seed=seed, q=q, epsilon=epsilon)
    return Found(encode(attacked.images), attacked.zero_gradients)


def _by_bounds(model: Any, x: Images, q: d.Posterior, epsilon: Tensor, seed: Tensor,
               encode: Callable[[Images], d.Posterior]) -> Found:  # fmt: skip
    def aim(clean: d.Posterior, other: d.Posterior) -> PerExample:
        return model.objective.attack(clean, other, model.hyperparameters)

    return Found(d.worst(aim, q, model.posterior_box(x, epsilon)))


ADVERSARIES: Registry[Adversary] = Registry(
    "adversary",
    Adversary(
        name="pgd",
        summary="projected gradient descent: an image of the ball, the worst that it finds",
        find=_by_descent,
        gradients=True,
    ),
    Adversary(
        name="interval",
        summary="interval bounds of the encoder: at least as bad as every image of the ball",
        find=_by_bounds,
        bounds=True,
        warmup=0.75,
    ),
)  # fmt: skip


class Hyperparameters(NamedTuple):
    """What the bounds depend on beside the networks."""

    observation_variance: float
    rho: float
    rho_se: float
    coupling: Coupling
    reconstruction_weight: float
    penalty_weight: float = 1.0


class Passes(NamedTuple):
    """What the networks made of one batch; an auxiliary is None where the row asks for none.

    Attributes:
        x: the images encoded, [B, H, W, C].
        z: one sample of `q`, [B, D]. The same z feeds the reconstruction and x~.
        g: g(z), [B, H, W, C].
        q: q(z|x).
        q_decoded: q(z|x~).
        q_adversarial: q(z|x^a), or the posterior that stands for it (`ADVERSARIES`).
        g_adversarial: g(z^a), z^a ~ q_adversarial with the noise of z, [B, H, W, C].
        q_original: q_0(z|x), of the encoder that a robust copy is made of (`tf_avae.robustified`).
    """

    x: Images
    z: Latents
    g: Images
    q: d.Posterior
    q_decoded: Any
    q_adversarial: Any
    g_adversarial: Images | None = None
    q_original: Any = None


@dataclass(frozen=True)
class Objective:
    """One training objective.

    Attributes:
        name: the row's name.
        equation: where the paper has it.
        summary: one line, for `--help` and the docs.
        bound: (passes, hyperparameters) to the named terms, [B] each, "bound" among them.
        terms: the names that `bound` returns.
        encodes: DATA or GENERATED.
        auxiliaries: which of DECODED and ADVERSARIAL images it encodes beside x.
        trains: which of ENCODER and DECODER it changes.
        attack: (q(z|x), q(z|x^a), hyperparameters) to what the adversary maximises, [B]: minus the
            terms of the bound that depend on x^a (eqs. 25-27), or what takes their place. A sum of
            convex functions of mean and variance of each latent of q(z|x^a), as
            `distributions.worst` needs. Given exactly where ADVERSARIAL is.
        decodes_adversarial: whether it also decodes a sample of q(z|x^a).
        adversary: the row of `ADVERSARIES` that finds q(z|x^a) unless another is asked for.
        penalty_weight: the weight of its penalty unless another is asked for.
        largest_weight: the largest for which it is a bound.
        starts_from: the objective that must have been trained before, if any.
        uses: the options of `Config` that this objective reads beside those that all read.
    """

    name: str
    equation: str
    summary: str
    bound: Callable[[Passes, Hyperparameters], Terms]
    terms: tuple[str, ...]
    encodes: str = DATA
    auxiliaries: tuple[str, ...] = ()
    trains: tuple[str, ...] = (ENCODER, DECODER)
    attack: Callable[[d.Posterior, d.Posterior, Hyperparameters], PerExample] | None = None
    decodes_adversarial: bool = False
    adversary: str = "pgd"
    penalty_weight: float = 1.0
    largest_weight: float = math.inf
    starts_from: str | None = None
    uses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        def need(condition: bool, what: str) -> None:
            if not condition:
                raise ValueError(f"objective {self.name!r}: {what}")

        need(self.encodes in (DATA, GENERATED), f"cannot encode {self.encodes!r} images")
        need(set(self.auxiliaries) <= {DECODED, ADVERSARIAL}, "unknown auxiliary image")
        need(set(self.trains) <= {ENCODER, DECODER}, "unknown network")
        need(bool(self.trains), "trains nothing")
        need("bound" in self.terms, "has no term named 'bound'")
        need(
            (self.attack is not None) == (ADVERSARIAL in self.auxiliaries),
            "an attack and adversarial images go together",
        )
        need(
            not self.decodes_adversarial or self.attack is not None,
            "it decodes a code of attacked images, and attacks none",
        )
        need(
            self.encodes == DATA or DECODER not in self.trains,
            "a decoder that is trained on its own images learns nothing",
        )


def _reconstruction(p: Passes, h: Hyperparameters) -> PerExample:
    return d.reconstruction(p.x, p.g, h.observation_variance)


def _vae(p: Passes, h: Hyperparameters) -> Terms:
    rec = _reconstruction(p, h)
    kl = d.kl_to_prior(p.q)
    return {"bound": rec - kl, "reconstruction": rec, "kl": kl}


def _avae_terms(p: Passes, h: Hyperparameters) -> Terms:
    """What `avae`, `se_avae` and `avae_ss` share, without a bound."""
    return {
        "reconstruction": _reconstruction(p, h),
        "kl": d.kl_to_prior(p.q),
        "coupling": h.coupling.value(p.q, p.z, p.q_decoded, h.rho),
        "entropy": d.entropy(p.q_decoded),
    }


def _avae(p: Passes, h: Hyperparameters) -> Terms:
    t = _avae_terms(p, h)
    bound = t["reconstruction"] - t["kl"] + t["coupling"] + t["entropy"]
    return {"bound": bound, **t}


def _se(p: Passes, h: Hyperparameters) -> Terms:
    rec = _reconstruction(p, h)
    joint = d.joint(p.q, p.q_adversarial, h.rho)
    return {
        "bound": rec + joint.log_prior + joint.entropy,
        "reconstruction": rec,
        "joint_prior": joint.log_prior,
        "joint_entropy": joint.entropy,
    }


def _se_attack(q: d.Posterior, other: d.Posterior, h: Hyperparameters) -> PerExample:
    joint = d.joint(q, other, h.rho)
    return -(joint.log_prior + joint.entropy)


def _se_avae(p: Passes, h: Hyperparameters) -> Terms:
    t = _avae(p, h)
    # x^a is not decoded from z, so the analytic expectation is the bound's own here.
    couple = d.couple(p.q, p.q_adversarial, h.rho_se)
    entropy = d.entropy(p.q_adversarial)
    bound = t.pop("bound") + couple + entropy
    return {"bound": bound, **t, "coupling_se": couple, "entropy_se": entropy}


def _se_avae_attack(q: d.Posterior, other: d.Posterior, h: Hyperparameters) -> PerExample:
    return -(d.couple(q, other, h.rho_se) + d.entropy(other))


def _avae_ss(p: Passes, h: Hyperparameters) -> Terms:
    t = _avae_terms(p, h)
    # Eq. 34 has no reconstruction; without it the encoder collapses, see docs/objectives.md.
    bound = -t["kl"] + t["coupling"] + t["entropy"] + h.reconstruction_weight * t["reconstruction"]
    return {"bound": bound, **t}


def _adversarial_elbo(p: Passes, h: Hyperparameters) -> Terms:
    t = _vae(p, h)
    rec = d.reconstruction(p.x, p.g_adversarial, h.observation_variance)
    kl = d.kl_to_prior(p.q_adversarial)
    weight = h.penalty_weight
    bound = (1.0 - weight) * t.pop("bound") + weight * (rec - kl)
    return {"bound": bound, **t, "reconstruction_adversarial": rec, "kl_adversarial": kl}


def _certified_elbo(p: Passes, h: Hyperparameters) -> Terms:
    t = _vae(p, h)
    penalty = d.kl(p.q_adversarial, p.q)
    return {"bound": t.pop("bound") - h.penalty_weight * penalty, **t, "penalty": penalty}


def _kl_attack(q: d.Posterior, other: d.Posterior, h: Hyperparameters) -> PerExample:
    return d.kl(other, q)


_ATTACK = (
    "adversary", "epsilon", "epsilon_warmup", "pgd_norm", "pgd_start", "pgd_steps",
    "pgd_step_size",
)  # fmt: skip
_AVAE_TERMS = ("bound", "reconstruction", "kl", "coupling", "entropy")

OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    Objective(
        name="vae",
        equation="the evidence lower bound",
        summary="rec - KL(q_x||p)",
        bound=_vae,
        terms=("bound", "reconstruction", "kl"),
    ),
    Objective(
        name="avae",
        equation="Alg. 1, eq. 13",
        summary="rec - KL(q_x||p) + couple(q_x, q_x~; rho) + H(q_x~)",
        bound=_avae,
        terms=_AVAE_TERMS,
        auxiliaries=(DECODED,),
        uses=("rho", "coupling"),
    ),
    Objective(
        name="se",
        equation="Alg. 2, eq. 32",
        summary="rec + E log p_rho(z', z) + H of the joint of q_x and q_x^a",
        bound=_se,
        terms=("bound", "reconstruction", "joint_prior", "joint_entropy"),
        auxiliaries=(ADVERSARIAL,),
        attack=_se_attack,
        uses=("rho", *_ATTACK),
    ),
    Objective(
        name="se_avae",
        equation="Alg. 3, eq. 35 with log p(x|z)",
        summary="the avae bound + couple(q_x, q_x^a; rho_se) + H(q_x^a)",
        bound=_se_avae,
        terms=(*_AVAE_TERMS, "coupling_se", "entropy_se"),
        auxiliaries=(DECODED, ADVERSARIAL),
        attack=_se_avae_attack,
        uses=("rho", "rho_se", "coupling", *_ATTACK),
    ),
    Objective(
        name="avae_ss",
        equation="Alg. 4, eq. 34 with a weighted reconstruction",
        summary="-KL(q_x||p) + couple(q_x, q_x~; rho) + H(q_x~) + w rec, on the decoder's images",
        bound=_avae_ss,
        terms=_AVAE_TERMS,
        encodes=GENERATED,
        auxiliaries=(DECODED,),
        trains=(ENCODER,),
        starts_from="vae",
        uses=("rho", "coupling", "reconstruction_weight"),
    ),
    Objective(
        name="adversarial_elbo",
        equation="docs/objectives.md",
        summary="(1 - w) (rec - KL(q_x||p)) + w (rec - KL) of x under q_x^a",
        bound=_adversarial_elbo,
        terms=("bound", "reconstruction", "kl", "reconstruction_adversarial", "kl_adversarial"),
        auxiliaries=(ADVERSARIAL,),
        attack=_kl_attack,
        decodes_adversarial=True,
        penalty_weight=0.5,
        largest_weight=1.0,
        uses=("penalty_weight", *_ATTACK),
    ),
    Objective(
        name="certified_elbo",
        equation="docs/objectives.md",
        summary="rec - KL(q_x||p) - w KL(q'||q_x), q' the farthest that the ball's bounds allow",
        bound=_certified_elbo,
        terms=("bound", "reconstruction", "kl", "penalty"),
        auxiliaries=(ADVERSARIAL,),
        attack=_kl_attack,
        adversary="interval",
        penalty_weight=2.0,
        uses=("penalty_weight", *_ATTACK),
    ),
)
