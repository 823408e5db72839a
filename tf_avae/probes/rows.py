"""The heads by their names."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tf_avae.probes.hidden import fit_interval, fit_mlp
from tf_avae.probes.logistic import fit_linear, fit_margin
from tf_avae.probes.probe import Fitted
from tf_avae.registry import Registry


@dataclass(frozen=True)
class Head:
    """A kind of probe.

    Attributes:
        name: the row's name.
        summary: for `--help` and the docs.
        fit: (embeddings [N, D], labels [N], seed) to a fitted probe.
    """

    name: str
    summary: str
    fit: Callable[[np.ndarray, np.ndarray, int], Fitted]


HEADS: Registry[Head] = Registry(
    "head",
    Head("linear", "logistic regression on standardised embeddings", fit_linear),
    Head("mlp", "one hidden layer of 256 units", fit_mlp),
    Head("margin", "logistic regression for embeddings that will be moved: one scale, regularised "
         "for the distance to the nearest other class", fit_margin),
    Head("interval", "one hidden layer of 256 units, trained against interval bounds for "
         "embeddings that will be moved", fit_interval),
)  # fmt: skip

PROTOCOL_HEADS = ("linear", "mlp")
"""The heads that an evaluation fits by default."""
