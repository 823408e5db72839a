"""Rates of training steps, timed in turn, so that machines' moods cancel in ratios."""

import statistics
import time
from collections.abc import Callable

import tensorflow as tf

from tf_avae.model import AVAE

Steps = Callable[[int], None]
"""Makes so many steps."""


def fit_steps(model: AVAE, batches: tf.data.Dataset) -> Steps:
    """Training steps of a compiled model."""

    def fit(steps: int) -> None:
        model.fit(batches.take(steps), shuffle=False, verbose=0)

    return fit


def paired_rates(timed: dict[str, Steps], *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Steps per second of each, round by round: all are timed in every round.

    Args:
        timed: by name.
        rounds: how often each is timed.
        seconds: about how long each timing takes.
    """
    steps = {}
    for name, run in timed.items():
        run(20)  # traces
        start = time.perf_counter()
        run(20)
        steps[name] = max(20, int(20 * seconds / (time.perf_counter() - start)))
    rates: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, run in timed.items():
            start = time.perf_counter()
            run(steps[name])
            rates[name].append(steps[name] / (time.perf_counter() - start))
    return rates


def time_factor(rates: dict[str, list[float]], name: str, baseline: str) -> dict[str, float]:
    """How many times as long a step takes as the baseline's: median, least and most of the rounds'
    ratios."""
    ratios = [b / r for b, r in zip(rates[baseline], rates[name], strict=True)]
    return {"value": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
