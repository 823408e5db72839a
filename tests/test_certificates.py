"""Certificates of linear heads against brute force over corners, in exact arithmetic."""

import itertools
import subprocess
import sys
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.extra.numpy import arrays

from tf_avae.certificates import certify_linear
from tf_avae.errors import InputError


def winners(lower, upper, weights, bias):
    """The class that wins strictly in all corners of a box, in fractions; -1 if none does."""
    exact = np.vectorize(Fraction, otypes=[object])
    weights, bias = exact(weights), exact(bias)
    if len(bias) == 1:
        weights, bias = np.hstack([0 * weights, weights]), np.hstack([0 * bias, bias])
    found = set()
    for corner in itertools.product(*zip(exact(lower), exact(upper), strict=True)):
        logits = np.array(corner, object) @ weights + bias
        best = int(np.argmax(logits))
        found.add(best if sum(logits == logits[best]) == 1 else -1)
    return found.pop() if len(found) == 1 else -1


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_proven_is_what_wins_in_every_corner(classes, dtype):
    draw = np.random.default_rng(0).normal
    middle, radius = draw(size=(100, 3)), 0.3 * np.abs(draw(size=(100, 3)))
    lower, upper = (middle - radius).astype(dtype), (middle + radius).astype(dtype)
    weights, bias = draw(size=(3, classes)).astype(dtype), 0.1 * draw(size=classes)
    found = certify_linear(lower, upper, weights, bias)
    expected = [winners(*box, weights, bias) for box in zip(lower, upper, strict=True)]
    np.testing.assert_array_equal(found, expected)
    assert {-1, 0, 1} <= set(expected)


numbers = st.floats(-1e6, 1e6)


@hypothesis.given(
    arrays(np.float64, (4, 2), elements=numbers),
    arrays(np.float64, (2, 3), elements=numbers),
    arrays(np.float64, 3, elements=numbers),
)
@hypothesis.settings(max_examples=40)
def test_nothing_is_proven_that_does_not_hold(ends, weights, bias):
    """Whatever rounding does, ties and cancellation included."""
    ends = ends.reshape(2, 2, 2)
    lower, upper = ends.min(0), ends.max(0)
    found = certify_linear(lower, upper, weights, bias)
    for proven, *box in zip(found, lower, upper, strict=True):
        assert proven in (-1, winners(*box, weights, bias))


def test_a_win_that_may_be_rounding_proves_nothing():
    weights, point = np.array([[0.1, 0.3], [0.2, 0.0]]), np.array([[1.0, 1.0]])
    logits = (point @ weights)[0]
    assert 0 < logits[0] - logits[1] < 1e-16
    for bias, proven in (([0, 0], -1), ([1e-14, 0], 0), ([0, 1e-14], 1)):
        assert certify_linear(point, point, weights, bias) == [proven]
    # An exact tie, and boxes without an end.
    assert certify_linear([[1.0]], [[2.0]], [[3, 3]], [0, 0]) == [-1]
    assert certify_linear([[1.0]], [[np.inf]], [[1, -1]], [0, 0]) == [-1]


GOOD = {"lower": [[0.0, 1.0]], "upper": [[1.0, 2.0]], "weights": np.eye(2), "bias": [0.0, 0.0]}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lower": [0.0, 1.0]}, r"lower are float64 of shape \[2\]; .* 2 dimensions"),
        ({"lower": [[0.0]]}, r"lower is \[1, 1\] and upper \[1, 2\]"),
        ({"upper": [[np.nan, 2.0]]}, "upper hold 1 values that are not numbers"),
        ({"lower": [[0.0, 2.5]]}, "lower is 2.5 and upper 2 in dimension 1 of number 0"),
        ({"weights": np.ones((3, 2))}, r"weights are \[3, 2\] .*weights \[2, K\].*transpose"),
        ({"weights": np.ones((2, 0)), "bias": []}, r"weights are \[2, 0\]"),
        ({"weights": [["a", "b"]] * 2}, "weights are <U1"),
        ({"bias": [0.0, np.inf]}, "must be finite"),
        ({"bias": [[0.0], [0.0, 1.0]]}, "bias are object"),
        # As float64 these are 2^62 + 0 and 2^62 - 0, and class 1 wins what class 0 does.
        ({"weights": np.array([[2**62 + 255, 2**62], [0, 0]])}, "weights hold 4611686018427388159"),
        ({"bias": np.array([0, np.nextafter(np.longdouble(1), 2)])}, "bias hold 1.0.*not; round"),
        ({"lower": np.ma.masked_greater([[0.0, 1.0]], 0.5)}, "lower have masked values"),
    ],
)
def test_other_values_are_refused(changed, words):
    with pytest.raises(InputError, match=words):
        certify_linear(**{**GOOD, **changed})


def test_it_needs_no_tensorflow():
    code = (
        "import sys, tf_avae; tf_avae.certify_linear([[0.0]], [[1.0]], [[1.0]], [1.0]);"
        "sys.exit(bool({'tensorflow', 'keras', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
