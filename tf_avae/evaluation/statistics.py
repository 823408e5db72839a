"""Estimates with their uncertainty."""

import math
from typing import Any

import numpy as np

_Z = 1.959963984540054  # the normal's 97.5 % point


def proportion(hits: np.ndarray) -> dict[str, Any]:
    """A share and its 95 % interval (Wilson, 1927), from one bool per example, [N]."""
    count, share = len(hits), float(np.mean(hits))
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    spread = share * (1 - share) / count + _Z**2 / (4 * count**2)
    half = _Z * math.sqrt(spread) / (1 + _Z**2 / count)
    # At 0 and 1 the interval ends there; rounding must not put the estimate outside.
    low, high = min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)
    return {"value": share, "low": low, "high": high, "count": count}


def mean(values: np.ndarray) -> dict[str, Any]:
    """A mean and its 95 % interval by the normal approximation, from one number per example; all
    None where the numbers are not finite (a divergence that overflowed)."""
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        return {"value": None, "low": None, "high": None, "count": len(values)}
    centre = float(values.mean())
    half = _Z * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"value": centre, "low": centre - half, "high": centre + half, "count": len(values)}
