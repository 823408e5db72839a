"""Image representations that stay put under adversarial perturbation, learned without labels.

What is offered here is imported when it is first used: TensorFlow takes seconds.
"""

# ruff: noqa: F401
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tf_avae import backend  # before TensorFlow: it says how that is imported
from tf_avae.registered import register_when_imported

if TYPE_CHECKING:
    from tf_avae.attacks import BALLS, apgd, pgd, square
    from tf_avae.config import Config
    from tf_avae.datasets import DATASETS
    from tf_avae.distributions import Posterior
    from tf_avae.errors import InputError, TrainingDiverged
    from tf_avae.model import AVAE
    from tf_avae.networks import ARCHITECTURES
    from tf_avae.objectives import COUPLINGS, OBJECTIVES
    from tf_avae.saved.frozen import FrozenEncoder, TrainableEncoder, load_encoder

_HOMES = {
    "attacks": ("BALLS", "apgd", "pgd", "square"),
    "config": ("Config",),
    "datasets": ("DATASETS",),
    "distributions": ("Posterior",),
    "errors": ("InputError", "TrainingDiverged"),
    "model": ("AVAE",),
    "networks": ("ARCHITECTURES",),
    "objectives": ("COUPLINGS", "OBJECTIVES"),
    "saved.frozen": ("FrozenEncoder", "TrainableEncoder", "load_encoder"),
}
"""Where each name lives."""

__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"tf_avae.{home}"), name)
    raise AttributeError(f"module 'tf_avae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]


register_when_imported()
