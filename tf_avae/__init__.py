"""Image representations that stay put under adversarial perturbation, learned without labels."""

# ruff: noqa: E402
from tf_avae.backend import import_tensorflow

import_tensorflow()

from tf_avae.attacks import BALLS, apgd, pgd, square
from tf_avae.config import Config
from tf_avae.datasets import DATASETS
from tf_avae.distributions import Posterior
from tf_avae.errors import InputError, TrainingDiverged
from tf_avae.model import AVAE
from tf_avae.networks import ARCHITECTURES
from tf_avae.objectives import COUPLINGS, OBJECTIVES
from tf_avae.saved.frozen import FrozenEncoder, load_encoder

__all__ = [
    "ARCHITECTURES",
    "AVAE",
    "BALLS",
    "COUPLINGS",
    "DATASETS",
    "OBJECTIVES",
    "Config",
    "FrozenEncoder",
    "InputError",
    "Posterior",
    "TrainingDiverged",
    "apgd",
    "load_encoder",
    "pgd",
    "square",
]
