"""What an evaluation measures, and how hard it tries."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tf_avae.attacks import BALLS
from tf_avae.config import check, typed
from tf_avae.errors import InputError
from tf_avae.evaluation.budgets import BUDGETS
from tf_avae.evaluation.proofs import PROOFS
from tf_avae.evaluation.representation import DISTANCES
from tf_avae.evaluation.robustness import check_epsilon
from tf_avae.evaluation.section import SECTIONS
from tf_avae.probes import HEADS, PROTOCOL_HEADS
from tf_avae.registry import Registry


@dataclass(frozen=True)
class Settings:
    """What is measured, and how hard. Everything here goes into the result.

    Where it says names of rows, the rows themselves will do, and one alone where several may be.

    Attributes:
        budget: name of a row of `BUDGETS`.
        epsilons: radii, in units of pixel values; 0 is always there.
        norm: name of a row of `BALLS`.
        tasks: labels to predict; all unless given.
        heads: names of rows of `HEADS`; where one alone is looked at (under attacks on the
            representation, in charts and pictures, for detection) it is the first.
        sections: names of rows of `SECTIONS`: what is measured; the others are left out.
        images: test images attacked, from the first on; the budget's number unless given.
        distances: names of rows of `DISTANCES`; all that the encoder allows.
        other_images: of them, how many are attacked through heads other than the first.
        free_images: test images for attacks on the representation and for the checks.
        chain_steps: turns of the chain.
        neighbours: k of the retrieval.
        samples: K of the importance-weighted bound.
        samples_images: test images it is measured on.
        fid_images: test images, and samples, that the FID compares.
        certify: name of a row of `PROOFS`: by which bounds images are verified.
        outward: bounds allow for the rounding of float32; without, they are proofs for real
            numbers.
        seed: of all random numbers.
        batch_size: images at once.

    Raises:
        InputError: a value out of range or an unknown name.
    """

    budget: str = "paper"
    epsilons: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    norm: str = "linf"
    tasks: tuple[str, ...] | None = None
    heads: tuple[str, ...] = PROTOCOL_HEADS
    sections: tuple[str, ...] = field(default_factory=lambda: tuple(SECTIONS))
    images: int | None = None
    distances: tuple[str, ...] = field(default_factory=lambda: tuple(DISTANCES))
    other_images: int = 1000
    free_images: int = 256
    chain_steps: int = 10
    neighbours: int = 10
    samples: int = 64
    samples_images: int = 500
    fid_images: int = 10_000
    certify: str = "interval"
    outward: bool = False
    seed: int = 0
    batch_size: int = 500

    def __post_init__(self) -> None:
        self._set("budget", _name(BUDGETS, self.budget))
        self._set("norm", _name(BALLS, self.norm))
        self._set("certify", _name(PROOFS, self.certify))
        if not isinstance(self.outward, bool):
            raise InputError(f"outward is {self.outward!r}; it must be True or False")
        self._set("heads", tuple(_name(HEADS, head) for head in _several(self.heads)))
        self._set("sections", tuple(_name(SECTIONS, one) for one in _several(self.sections)))
        self._set("distances", tuple(_name(DISTANCES, one) for one in _several(self.distances)))
        if self.tasks is not None:
            self._set("tasks", _several(self.tasks))
        self._set("epsilons", tuple(typed("epsilon", e, (float,)) for e in _several(self.epsilons)))
        if not self.epsilons:
            raise InputError("no epsilon is given; name at least one radius, such as 0.1")
        for epsilon in self.epsilons:
            check_epsilon(epsilon, BALLS[self.norm])
        if len({0.0, *self.epsilons}) != len(self.epsilons) + 1:
            raise InputError(f"epsilons are {self.epsilons}; they must be above 0 and differ")
        for what, names, known in (
            ("head", self.heads, HEADS), ("section", self.sections, SECTIONS)
        ):  # fmt: skip
            if not names:
                raise InputError(f"no {what} is given; name at least one of: {', '.join(known)}")
        for what in ("distances", "heads", "sections", "tasks"):
            names = getattr(self, what) or ()
            if len(set(names)) != len(names):
                raise InputError(f"{what} are {', '.join(names)}; name each once")
        self._set("seed", check(seed=self.seed)["seed"])
        least = {"chain_steps": 2, "free_images": 10}
        for name in ("images", "other_images", "free_images", "chain_steps", "neighbours",
                     "samples", "samples_images", "fid_images", "batch_size"):  # fmt: skip
            if name == "images" and self.images is None:
                continue
            value, low = typed(name, getattr(self, name), (int,)), least.get(name, 1)
            if value < low:
                raise InputError(f"{name} is {value}; it must be at least {low}")
            self._set(name, value)

    def _set(self, name: str, value: Any) -> None:
        """Puts a field in its type, once."""
        object.__setattr__(self, name, value)


def _several(given: Any) -> tuple:
    """What is given, one or several, as a tuple."""
    return (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)


def _name(rows: Registry[Any], given: Any) -> str:
    """The name of a row that is given, or named."""
    return rows[rows.row(given).name].name
