"""Encoders that come with the package, as SavedModels with their provenance."""

from dataclasses import dataclass
from pathlib import Path

from tf_avae.files import absolute
from tf_avae.registry import Registry


@dataclass(frozen=True)
class Shipped:
    """An encoder that comes with the package.

    Attributes:
        name: the row's name, and that of the folder here with its one version.
    """

    name: str

    @property
    def path(self) -> Path:
        """The folder of its versions, as a server takes it."""
        return Path(__file__).parent / self.name


SHIPPED: Registry[Shipped] = Registry(
    "encoder that comes with the package",
    Shipped("colormnist-robust"),
    Shipped("colormnist-robust-1"),  # the first; until December 2026 it had the name above
)


def located(path: str | Path) -> Path:
    """Where an encoder is: a path, or the name of one that comes with the package.

    What is at the path comes first: a name is only looked up where there is nothing.
    """
    found = absolute(path)
    if not found.exists() and str(path) in SHIPPED:
        return SHIPPED[str(path)].path
    return found
