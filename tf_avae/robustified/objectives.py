"""What holds an encoder where it was, under attack: rows like those of `tf_avae.objectives`.

The reference is the encoder as it was given, q_0(z|x) of the clean image, which stays. Every bound
is maximised.
"""

from dataclasses import dataclass
from typing import Any

from tf_avae import distributions as d
from tf_avae.backend import tf
from tf_avae.errors import InputError
from tf_avae.networks import Architecture
from tf_avae.objectives import ADVERSARIAL, ENCODER, Hyperparameters, Objective, Passes
from tf_avae.registry import Registry
from tf_avae.types import PerExample, Tensor, Terms

COSINE = "cosine"
"""The term that says how near clean embeddings are to what they were: their cosine similarity."""

_USES = (
    "encoder", "encoder_weights", "pixels", "keep", "adversary", "epsilon", "epsilon_warmup",
    "pgd_norm", "pgd_start", "pgd_steps", "pgd_step_size",
)  # fmt: skip


def cosine(one: Tensor, other: Tensor) -> PerExample:
    """The cosine similarity of embeddings [B, D], [B]; 0 where one of them is 0."""
    return tf.reduce_sum(tf.math.l2_normalize(one, 1) * tf.math.l2_normalize(other, 1), 1)


def _distance(q: d.Posterior, other: d.Posterior) -> PerExample:
    return tf.reduce_sum(tf.math.squared_difference(q.mean, other.mean), 1)


def _fare(p: Passes, h: Hyperparameters) -> Terms:
    distance, penalty = _distance(p.q_original, p.q), _distance(p.q_original, p.q_adversarial)
    return {
        "bound": -distance - h.penalty_weight * penalty,
        "distance": distance,
        "penalty": penalty,
        COSINE: cosine(p.q_original.mean, p.q.mean),
    }


def _fare_attack(q: d.Posterior, other: d.Posterior, h: Hyperparameters) -> PerExample:
    return _distance(q, other)


def _pair(q: d.Posterior, other: d.Posterior, h: Hyperparameters) -> PerExample:
    """E log p_rho(z'|z) + H(z'), z ~ q_0 of the clean image and z' ~ `other`: minus a KL
    divergence, up to a constant, and so largest where `other` is N(rho mu_0, 1 - rho^2)."""
    return d.couple(q, other, h.rho_se) + d.entropy(other)


def _coupled(p: Passes, h: Hyperparameters) -> Terms:
    clean, attacked = _pair(p.q_original, p.q, h), _pair(p.q_original, p.q_adversarial, h)
    return {
        "bound": clean + h.penalty_weight * attacked,
        "coupling": clean,
        "coupling_se": attacked,
        COSINE: cosine(p.q_original.mean, p.q.mean),
    }


def _coupled_attack(q: d.Posterior, other: d.Posterior, h: Hyperparameters) -> PerExample:
    return -_pair(q, other, h)


@dataclass(frozen=True)
class RobustObjective(Objective):
    """As `Objective`.

    Attributes:
        outputs: what of the encoder's outputs it trains, and so the copy has.
    """

    auxiliaries: tuple[str, ...] = (ADVERSARIAL,)
    trains: tuple[str, ...] = (ENCODER,)
    outputs: tuple[str, ...] = ("embedding",)


ROBUST: Registry[RobustObjective] = Registry(
    "objective",
    RobustObjective(
        name="fare",
        equation="Schlarmann et al. 2024, arXiv 2402.12336, eq. 3, and the clean distance",
        summary="-|mu_x - mu_0|^2 - w |mu_x^a - mu_0|^2, mu_0 the given encoder's",
        bound=_fare,
        terms=("bound", "distance", "penalty", COSINE),
        attack=_fare_attack,
        uses=("penalty_weight", *_USES),
    ),
    RobustObjective(
        name="coupled",
        equation="the pair of Alg. 3, eq. 35, with q_0 in the place of q_x",
        summary="couple(q_0, q_x; rho_se) + H(q_x) + w (couple(q_0, q_x^a; rho_se) + H(q_x^a)), "
        "for encoders with a variance",
        bound=_coupled,
        terms=("bound", "coupling", "coupling_se", COSINE),
        attack=_coupled_attack,
        outputs=("embedding", "variance"),
        uses=("penalty_weight", "rho_se", *_USES),
    ),
)
"""What `AVAE`'s rows are to a VAE, to an encoder that somebody has."""


def _no_body(*_: Any) -> Any:
    raise InputError("the architecture 'given' is that of an encoder from a file; name the file")


GIVEN = Registry(
    "architecture",
    Architecture(
        name="given",
        summary="that of an encoder from a file",
        encoder_body=_no_body,
        decoder_body=_no_body,
        pgd_steps=10,
    ),
)
"""What stands for an architecture where the encoder is somebody's own."""
