"""Image representations that stay put under adversarial perturbation, learned without labels.

What is offered here is imported when it is first used: TensorFlow takes seconds.
"""

# ruff: noqa: F401
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tf_avae import backend  # before TensorFlow: it decides how that is imported
from tf_avae.backend.registered import register_when_imported

if TYPE_CHECKING:
    from tf_avae.attacks.apgd import apgd
    from tf_avae.attacks.balls import BALLS
    from tf_avae.attacks.pgd import SCHEDULES, pgd
    from tf_avae.attacks.square import square
    from tf_avae.attacks.starts import STARTS
    from tf_avae.certificates import certify_linear
    from tf_avae.config import Config
    from tf_avae.datasets import DATASETS, DatasetRow, ImageData
    from tf_avae.distributions import Posterior
    from tf_avae.errors import InputError, TrainingDiverged
    from tf_avae.evaluation import BUDGETS, SECTIONS, Budget, Section
    from tf_avae.model import AVAE
    from tf_avae.networks import ARCHITECTURES, Architecture, Build
    from tf_avae.objectives import (
        ADVERSARIES,
        COUPLINGS,
        OBJECTIVES,
        Coupling,
        Hyperparameters,
        Objective,
        Passes,
    )
    from tf_avae.probes import HEADS, Head
    from tf_avae.saved.frozen import FrozenEncoder, TrainableEncoder, load_encoder

__version__ = "0.1.0"

_HOMES = {
    "attacks": "BALLS SCHEDULES STARTS apgd pgd square",
    "certificates": "certify_linear",
    "config": "Config",
    "datasets": "DATASETS DatasetRow ImageData",
    "distributions": "Posterior",
    "errors": "InputError TrainingDiverged",
    "evaluation": "BUDGETS SECTIONS Budget Section",
    "model": "AVAE",
    "networks": "ARCHITECTURES Architecture Build",
    "objectives": "ADVERSARIES COUPLINGS OBJECTIVES Coupling Hyperparameters Objective Passes",
    "probes": "HEADS Head",
    "saved.frozen": "FrozenEncoder TrainableEncoder load_encoder",
}
"""The names that each module offers."""

__all__ = sorted(" ".join(_HOMES.values()).split())


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names.split():
            if home in ("model", "saved.frozen"):
                # First, or a thread that imports Keras, and then these, would wait for this one.
                backend.import_tensorflow()
            return getattr(import_module(f"tf_avae.{home}"), name)
    if not name.startswith("_") and find_spec(f"tf_avae.{name}"):
        return import_module(f"tf_avae.{name}")
    raise AttributeError(f"module 'tf_avae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]


register_when_imported()
