"""Figures over trainings that differ in their seed alone."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import scipy

CONFIDENCE = 0.95


def over_seeds(figures: Mapping[int, float]) -> dict[str, Any] | None:
    """The mean over seeds and its 95 % interval by Student's t; for one seed the interval's ends
    are None, for none there is nothing.

    It is what other seeds would give, on the same test images.

    Args:
        figures: of each seed.
    """
    values = np.array(list(figures.values()), np.float64)
    if not len(values):
        return None
    centre = float(values.mean())
    found = {"value": centre, "low": None, "high": None, "count": len(values)}
    if len(values) > 1:
        far = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
        half = float(far * values.std(ddof=1) / math.sqrt(len(values)))
        found |= {"low": centre - half, "high": centre + half}
    return found


def by_seed(trainings: Iterable[Mapping[str, Any]], name: str) -> dict[int, float]:
    """A figure of trainings with the seeds 0, 1 and so on, of those that have it among their
    "figures"."""
    found = enumerate(training.get("figures", {}).get(name) for training in trainings)
    return {seed: figure for seed, figure in found if figure is not None}


def paired(figures: Mapping[int, float], baseline: Mapping[int, float]) -> dict[str, Any] | None:
    """The mean difference from a baseline, seed by seed, as `over_seeds`: what seeds have in
    common, such as the first weights, cancels.

    Args:
        figures: of each seed.
        baseline: the same; seeds that only one of them has are left out.
    """
    return over_seeds({s: figures[s] - baseline[s] for s in figures if s in baseline})


def half_width(estimate: Mapping[str, Any]) -> float | None:
    """Half of an estimate's interval; None where there is none."""
    return None if estimate["high"] is None else estimate["high"] - estimate["value"]


def differs(difference: Mapping[str, Any]) -> bool:
    """Whether a mean difference is larger than its interval reaches: zero lies outside of it."""
    half = half_width(difference)
    return half is not None and abs(difference["value"]) > half
