"""Heads on frozen embeddings: linear and one-hidden-layer classifiers."""

from tf_avae.probes.hidden import RADII, fit_interval, fit_mlp
from tf_avae.probes.logistic import (
    MARGIN_WEIGHTS,
    STRENGTHS,
    distance_between_classes,
    fit_linear,
    fit_margin,
    latent_radius,
)
from tf_avae.probes.probe import LEAST_EXAMPLES, Fitted, Probe
from tf_avae.probes.rows import HEADS, PROTOCOL_HEADS, Head

__all__ = [
    "HEADS",
    "LEAST_EXAMPLES",
    "MARGIN_WEIGHTS",
    "PROTOCOL_HEADS",
    "RADII",
    "STRENGTHS",
    "Fitted",
    "Head",
    "Probe",
    "distance_between_classes",
    "fit_interval",
    "fit_linear",
    "fit_margin",
    "fit_mlp",
    "latent_radius",
]
