"""What an evaluation measures, and how hard it tries."""

import numbers
from dataclasses import dataclass, fields

from tf_avae.attacks import BALLS
from tf_avae.config import check
from tf_avae.errors import InputError
from tf_avae.evaluation.budgets import BUDGETS
from tf_avae.evaluation.representation import DISTANCES
from tf_avae.evaluation.robustness import check_epsilon
from tf_avae.evaluation.sections import SECTIONS
from tf_avae.probes import HEADS, PROTOCOL_HEADS


@dataclass(frozen=True)
class Settings:
    """What is measured, and how hard. Everything here goes into the result.

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
    sections: tuple[str, ...] = tuple(SECTIONS)
    images: int | None = None
    distances: tuple[str, ...] = tuple(DISTANCES)
    other_images: int = 1000
    free_images: int = 256
    chain_steps: int = 10
    neighbours: int = 10
    samples: int = 64
    samples_images: int = 500
    fid_images: int = 10_000
    seed: int = 0
    batch_size: int = 500

    def __post_init__(self) -> None:
        BUDGETS[self.budget]
        ball = BALLS[self.norm]
        if not len(self.epsilons):
            raise InputError("no epsilon is given; name at least one radius, such as 0.1")
        for epsilon in self.epsilons:
            check_epsilon(epsilon, ball)
        if len({0.0, *self.epsilons}) != len(self.epsilons) + 1:
            raise InputError(f"epsilons are {self.epsilons}; they must be above 0 and differ")
        for name in self.distances:
            DISTANCES[name]
        for what, names, rows in (
            ("head", self.heads, HEADS), ("section", self.sections, SECTIONS)
        ):  # fmt: skip
            if not names:
                raise InputError(f"no {what} is given; name at least one of: {', '.join(rows)}")
            for name in names:
                rows[name]
        for what in ("distances", "heads", "sections", "tasks"):
            names = getattr(self, what) or ()
            if len(set(names)) != len(names):
                raise InputError(f"{what} are {', '.join(names)}; name each once")
        check(seed=self.seed)
        least = {"chain_steps": 2, "free_images": 10}
        for name in ("images", "other_images", "free_images", "chain_steps", "neighbours",
                     "samples", "samples_images", "fid_images", "batch_size"):  # fmt: skip
            value, low = getattr(self, name), least.get(name, 1)
            if value is None and name == "images":
                continue
            if not isinstance(value, numbers.Integral) or value < low:
                raise InputError(f"{name} is {value}; it must be an integer, at least {low}")
        # As results.json holds them; NumPy's numbers are taken too.
        object.__setattr__(self, "epsilons", tuple(map(float, self.epsilons)))
        for field in fields(self):
            if isinstance(getattr(self, field.name), numbers.Integral):
                object.__setattr__(self, field.name, int(getattr(self, field.name)))
