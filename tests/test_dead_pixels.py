"""Encoders whose gradients die on black: `strong` breaks what can be broken, and checks say so.

Features rise with each pixel, so that the worst case of a linear readout is known exactly: for two
classes each feature is at one end of its range.
"""

import numpy as np
import pytest
import tensorflow as tf

from tf_avae.evaluation import BUDGETS, CHECKS, worst_case
from tf_avae.evaluation.checks import Case, run_checks

RNG = np.random.default_rng(4)
COUNT, CLASSES, SIDE, _DEAD = 60, 4, 8, 0.02


def clipped(x):
    """What is nearly black is black, pixel by pixel."""
    return tf.nn.relu(x - _DEAD)


def saturated(x):
    """Units that see 2 x 2 pixels and are off on black."""
    return tf.nn.relu(tf.nn.avg_pool2d(x, 2, 2, "VALID") - _DEAD)


def quantised(x):
    """Levels: nothing has a gradient."""
    return tf.floor(x * 40.0 + 0.5) / 40.0


IMAGES = np.where(
    RNG.uniform(size=(COUNT, SIDE, SIDE, 1)) < 0.15, RNG.uniform(0.4, 0.9, (COUNT, 1, 1, 1)), 0.0
).astype(np.float32)
PLANTED = (clipped, saturated, quantised)


def readout(feature):
    """A classifier by a readout of the features, its labels, a radius, and which images stand."""
    size = int(np.prod(feature(IMAGES).shape[1:]))
    weights = np.random.default_rng(1).normal(size=(size, CLASSES)).astype(np.float32)

    def classify(x):
        return tf.reshape(feature(x), [-1, size]) @ weights

    labels = np.asarray(classify(IMAGES)).argmax(1)

    def standing(epsilon):
        low, high = (
            np.reshape(feature(np.clip(IMAGES + e, 0, 1)), [COUNT, size])
            for e in (-epsilon, epsilon)
        )
        stands = np.ones(COUNT, bool)
        for k in range(CLASSES):
            towards = (weights[:, k : k + 1] - weights[:, labels]).T
            most = np.where(towards > 0, towards * high, towards * low).sum(1)
            stands &= (most < 0) | (labels == k)
        return stands

    epsilon = next(e for e in np.arange(0.02, 0.3, 0.0025) if standing(e).mean() < 0.6)
    return classify, labels, float(epsilon), standing(epsilon)


@pytest.mark.parametrize(
    "feature",
    [name if name == "clipped" else pytest.param(name, marks=pytest.mark.long) for name in PLANTED],
)
def test_strong_breaks_what_can_be_broken_and_checks_tell_of_paper(feature):
    classify, labels, epsilon, stands = readout(feature)
    assert stands.mean() > 0.3
    paper, strong = (
        worst_case(classify, IMAGES, labels, epsilon=epsilon, budget=BUDGETS[name])
        for name in ("paper", "strong")
    )
    assert paper.survived.mean() > stands.mean() + 0.03
    # Where a gradient is to be had near by, all of it; without any, nearly.
    spare = 0.05 if feature is quantised else 0.0
    assert (strong.survived >= stands).all()
    assert strong.survived.mean() <= stands.mean() + spare

    def failed(reported):
        case = Case(
            lambda x: tf.keras.layers.Flatten()(feature(x)), classify, IMAGES, labels, reported,
            epsilon, BUDGETS["paper"], {0.0: 1.0, epsilon: reported.survived.mean()}, 0.25,
            np.ones(COUNT, bool), True,
        )  # fmt: skip
        told = {f["name"]: f for f in run_checks(case)}
        assert list(told) == list(CHECKS)
        return {name for name, finding in told.items() if not finding["passed"]}

    hidden = {"gradients"} if feature is quantised else {"dead-pixels"}
    found = {"gradient-free"} if feature is quantised else {"flat-start"}
    assert hidden | found <= failed(paper)
    # Gradients are as hidden as before; what they hid is in the figure now.
    after = failed(strong)
    assert hidden <= after and not found & after
