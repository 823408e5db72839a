"""What a linear head decides on every embedding in a box. Needs NumPy alone."""

from typing import Any

import numpy as np

from tf_avae.errors import InputError

UNPROVEN = -1
"""In the place of a class where nothing is proven."""


def certify_linear(lower: Any, upper: Any, weights: Any, bias: Any) -> np.ndarray:
    """The class that a linear head gives to every embedding in a box, where that is proven.

        found = client.certify(images, 0.1)
        classes = certify_linear(found.lower, found.upper, head.coef_.T, head.intercept_)

    Class k is proven if its logit is strictly above each other logit j in the whole box: the least
    value of (w_k - w_j) . z + b_k - b_j, which is taken in a corner, is above 0 by more than its
    own rounding. The proof is about the head in real numbers: rounding of the sums here, in
    float64, is allowed for (Higham, Accuracy and Stability, section 3.1); that of a head computed
    in float32 is not.

    Args:
        lower, upper: ends of the boxes, [N, D]; where one is infinite, nothing is proven.
        weights: of the head, [D, K].
        bias: of the head, [K]. With K = 1 logit, class 1 is a logit above 0, and class 0 below.

    Returns:
        the proven classes, [N] integers from 0 to K - 1 (0 or 1 where K is 1), and `UNPROVEN`, -1,
        where nothing is proven.

    Raises:
        InputError: shapes that do not fit, values that are not numbers, lower above upper.
    """
    low, high = _array("lower", lower, 2), _array("upper", upper, 2)
    head, offset = _array("weights", weights, 2), _array("bias", bias, 1)
    if low.shape != high.shape:
        raise InputError(
            f"lower is {list(low.shape)} and upper {list(high.shape)}; both must be [N, D]"
        )
    if head.shape != (low.shape[1], len(offset)) or not head.size:
        raise InputError(
            f"weights are {list(head.shape)} and bias {list(offset.shape)}; a head of embeddings "
            f"[N, {low.shape[1]}] has weights [{low.shape[1]}, K] and bias [K]: transpose the "
            "coef_ of scikit-learn"
        )
    if not (np.isfinite(head).all() and np.isfinite(offset).all()):
        raise InputError("weights and bias must be finite numbers, and some are not; fit them anew")
    above = np.argwhere(low > high)
    if len(above):
        row, column = above[0]
        raise InputError(
            f"lower is {low[row, column]:g} and upper {high[row, column]:g} in dimension {column} "
            f"of number {row}; lower must not be above upper: are they swapped?"
        )
    if len(offset) == 1:  # the sign decides: beside a logit that is always 0
        head, offset = np.pad(head, ((0, 0), (1, 0))), np.pad(offset, (1, 0))
    proven = np.full(len(low), UNPROVEN)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not a number proves nothing
        middle = (0.5 * low + 0.5 * high) @ head + offset
        candidates = middle.argmax(1)
        for k in np.unique(candidates):
            rows = np.flatnonzero(candidates == k)
            margin = _least(low[rows], high[rows], head[:, [k]] - head, offset[k] - offset)
            margin[:, k] = np.inf
            proven[rows[(margin > 0).all(1)]] = k
    return proven


def float32_radii(epsilon: np.ndarray | float) -> np.ndarray:
    """Radii in float32, none below what it was: what is proven within them is proven within those.

    Raises:
        InputError: one is below 0, not finite in float32, or not a number; it is named.
    """
    exact = np.asarray(epsilon, np.float64)
    bad = exact[~((exact >= 0) & (exact < np.finfo(np.float32).max))]
    if bad.size:
        raise InputError(
            f"epsilon is {bad.flat[0]:g}; it must be a finite number of at least 0: a distance in "
            "pixel values, which go from 0 to 1"
        )
    found = exact.astype(np.float32)
    return np.where(found < exact, np.nextafter(found, np.float32(np.inf)), found)


def _least(low: np.ndarray, high: np.ndarray, head: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Lower bounds of z @ head + offset for all z in the boxes, [N, K], rounding allowed for.

    The entries of head and offset may each be off by one rounding.
    """
    up, down = np.maximum(head, 0), np.minimum(head, 0)
    exact = low @ up + high @ down + offset
    sizes = np.abs(low) @ up - np.abs(high) @ down + np.abs(offset)
    # Twice gamma of the products, the offset and their own roundings; and what is too small for
    # float64.
    terms = 2 * len(head) + 8
    return exact - 2 * terms * np.finfo(float).eps * sizes - terms * np.finfo(float).tiny


def _array(name: str, value: Any, dimensions: int) -> np.ndarray:
    """Real numbers as float64."""
    try:
        found = np.asarray(value)
    except (ValueError, TypeError):
        found = np.asarray(None)
    if found.dtype.kind not in "fiu" or found.ndim != dimensions:
        raise InputError(
            f"{name} are {found.dtype} of shape {list(found.shape)}; they must be an array of "
            f"numbers of {dimensions} dimensions"
        )
    if np.ma.is_masked(value):
        raise InputError(f"{name} have masked values; fill them, or leave their rows out")
    given, found = found, found.astype(np.float64)
    # Python's integers and NumPy's longer numbers: a proof of others than those given is none.
    same = found == given if given.dtype.kind == "f" else np.abs(found) <= 2.0**53
    if not (same | np.isnan(found)).all():
        raise InputError(
            f"{name} hold {given[~same].flat[0]}, which float64 has not; round them to float64"
        )
    if np.isnan(found).any():
        raise InputError(
            f"{name} hold {np.isnan(found).sum():,} values that are not numbers; they must all be: "
            "mend what made them"
        )
    return found
