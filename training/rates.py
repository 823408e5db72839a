"""Rates of training steps, timed in turn, so that drifts of a machine's speed cancel out."""

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tf_avae.backend import tf

if TYPE_CHECKING:
    from tf_avae.model import AVAE

Steps = Callable[[int], int]
"""Makes at least so many steps, and says how many it made."""


def fit_steps(model: "AVAE", batches: "tf.data.Dataset") -> Steps:
    """Training steps of a compiled model, in whole executions, without what a call of `fit` begins
    with.

    Args:
        model: compiled.
        batches: an endless stream.
    """
    model.fit(batches.take(1), shuffle=False, verbose=0)  # builds and traces
    iterator, each = iter(batches), model.steps_per_execution

    def fit(steps: int) -> int:
        executions = -(-steps // each)
        for _ in range(executions):
            logs = model.train_function(iterator)
        logs["loss"].numpy()  # a graphics processor may still be at it
        return executions * each

    return fit


def paired_rates(
    timed: dict[str, Steps],
    *,
    rounds: int,
    seconds: float,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, list[float]]:
    """Steps per second of each, round by round: all are timed in every round.

    Args:
        timed: by name.
        rounds: how often each is timed.
        seconds: about how long each timing takes; a step is made however long it takes.
        progress: called with the number of finished rounds.
    """
    steps = {name: _enough(run, seconds) for name, run in timed.items()}
    rates: dict[str, list[float]] = {name: [] for name in timed}
    for done in range(rounds):
        progress(done)
        for name, run in timed.items():
            start = time.perf_counter()
            made = run(steps[name])
            rates[name].append(made / (time.perf_counter() - start))
    return rates


def _enough(run: Steps, seconds: float) -> int:
    """The number of steps that take about this long; traces all functions on the way."""
    steps = 1
    run(steps)
    while True:
        start = time.perf_counter()
        made = run(steps)
        spent = time.perf_counter() - start
        if spent >= seconds / 4:
            return max(1, round(made * seconds / spent))
        steps *= 2


def time_factor(rates: dict[str, list[float]], name: str, baseline: str) -> dict[str, float]:
    """The time of a step over that of the baseline: median, least and most of the rounds'
    ratios."""
    return spread([b / r for b, r in zip(rates[baseline], rates[name], strict=True)])


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"value": statistics.median(values), "low": min(values), "high": max(values)}
