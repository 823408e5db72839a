"""The honesty checks: an honest encoder passes them, planted ones are caught."""

import numpy as np
import pytest
import tensorflow as tf

from tf_avae.evaluation import BUDGETS, CHECKS, worst_case
from tf_avae.evaluation.checks import Case, run_checks
from tf_avae.probes import fit_linear

RNG = np.random.default_rng(0)
CLASSES = 4
PATTERNS = RNG.uniform(0.25, 0.75, (CLASSES, 6, 6, 1))
WEIGHTS = RNG.normal(size=(36, 8)).astype(np.float32)


def examples(count):
    labels = np.arange(count) % CLASSES
    images = PATTERNS[labels] + RNG.normal(size=(count, 6, 6, 1)) * 0.08
    return np.clip(images, 0, 1).astype(np.float32), labels


TRAIN, TEST = examples(400), examples(300)


def honest(x):
    return tf.reshape(x, [-1, 36]) @ WEIGHTS


def masked(x):
    """In steps: the same answers, no gradient."""
    return tf.floor(honest(x) * 8.0) / 8.0


def collapsed(x):
    return 0.0 * honest(x) + 1.0


def random_function(x):
    """An answer that has nothing to do with what is seen, though it is always the same."""
    code = tf.reduce_sum(tf.reshape(x, [-1, 36]) * 1e4, axis=1, keepdims=True)
    return tf.sin(code * tf.range(1.0, 9.0))


def random_answer(x):
    return honest(x) + tf.random.normal([tf.shape(x)[0], 8], stddev=3.0)


def batch_dependent(x):
    """Batch normalisation left in training mode."""
    h = honest(x)
    return (h - tf.reduce_mean(h, axis=0)) / (0.1 + tf.math.reduce_std(h, axis=0))


def leading_astray(x):
    """The gradient of another encoder: attacks run, and run in the wrong direction."""

    @tf.custom_gradient
    def answer(x):
        return honest(x), lambda up: tf.reshape(up @ WEIGHTS.T[:, ::-1], tf.shape(x))

    return answer(x)


def case_of(embed=None, classify=None, **known):
    """A case, of which a check reads what is given."""
    usual = {
        "images": TEST[0], "labels": TEST[1], "reported": None, "epsilon": 0.1,
        "budget": BUDGETS["smoke"], "curve": {}, "majority": 1 / CLASSES,
        "nominal": np.ones(9, bool), "converged": True,
    }  # fmt: skip
    return Case(embed, classify, **usual | known)


def found_for(embed, budget="paper", epsilons=(0.02, 0.1, 0.3)):
    """The names of the checks that fail, where `smoke` was reported."""
    fitted = fit_linear(np.asarray(embed(tf.constant(TRAIN[0]))), TRAIN[1])
    images, labels = TEST

    def classify(x):
        return fitted.probe(embed(x))

    nominal = np.asarray(classify(tf.constant(images))).argmax(1) == labels
    found = {
        epsilon: worst_case(classify, images, labels, epsilon=epsilon, budget=BUDGETS["smoke"])
        for epsilon in epsilons
    }
    curve = {0.0: nominal.mean()} | {e: of.survived.mean() for e, of in found.items()}
    case = case_of(
        embed, classify, reported=found[epsilons[1]], epsilon=epsilons[1], budget=BUDGETS[budget],
        curve=curve, nominal=nominal, converged=fitted.notes["converged"],
    )  # fmt: skip
    findings = run_checks(case)
    assert [finding["name"] for finding in findings] == list(CHECKS)
    return {finding["name"] for finding in findings if not finding["passed"]}


def test_an_honest_encoder_passes_all():
    assert found_for(honest) == set()


def test_masked_gradients_are_caught():
    failed = found_for(masked)
    assert {"gradients", "reaches-chance", "gradient-free"} <= failed
    assert "above-chance" not in failed and "deterministic" not in failed


def test_a_collapsed_encoder_is_caught():
    assert {"above-chance", "gradients"} <= found_for(collapsed)


@pytest.mark.parametrize(
    ("embed", "check"),
    [
        (random_function, "above-chance"),
        (random_answer, "deterministic"),
        (batch_dependent, "deterministic"),
    ],
)
def test_random_outputs_are_caught(embed, check):
    assert check in found_for(embed)


def test_a_gradient_that_leads_astray_is_caught():
    assert {"noise", "gradient-free"} <= found_for(leading_astray)
    assert "gradient-free" in found_for(leading_astray, budget="smoke")


@pytest.mark.parametrize(("count", "batch_size"), [(30, 500), (300, 1000), (300, 7)])
def test_an_answer_that_depends_on_the_batch_is_caught_whatever_its_size(count, batch_size):
    def hidden(x):
        """Random, in a dimension that is small beside a constant one."""
        return tf.concat([honest(x) + tf.random.normal([len(x), 8]), tf.fill([len(x), 1], 1e6)], 1)

    def frozen(x):
        """Random each time it is traced."""
        return honest(x) + np.random.normal(size=8).astype(np.float32)

    for embed, passes in (
        (honest, True),
        (batch_dependent, False),
        (hidden, False),
        (frozen, False),
    ):
        case = case_of(embed, images=TEST[0][:count], labels=TEST[1][:count], batch_size=batch_size)
        assert CHECKS["deterministic"].look(case).passed is passes, embed.__name__


@pytest.mark.parametrize(
    ("right", "majority", "passes", "words"),
    [
        (21, 17, False, "21 of 54 right, 38.9 %; chance 31.5 % + 3 standard errors = 50.4 %: too "
         "few images to tell"),
        (28, 17, True, "28 of 54 right, 51.9 %; chance 31.5 % + 3 standard errors = 50.4 %: above "
         "it"),
        (17, 17, False, "17 of 54 right, 31.5 %; chance 31.5 % + 3 standard errors = 50.4 %: no "
         "better than chance"),
        (54, 54, False, "54 of 54 right, 100.0 %; chance 100.0 % + 3 standard errors = 100.0 %: "
         "no better than chance"),
    ],
)  # fmt: skip
def test_above_chance_says_its_rule(right, majority, passes, words):
    """Three standard errors of 17 in 54: 3 sqrt(17 * 37 / 54^3) = 0.1897."""
    nominal = np.arange(54) < right
    case = case_of(majority=majority / 54, nominal=nominal)
    finding = CHECKS["above-chance"].look(case)
    assert bool(finding.passed) is passes and finding.found == words
    assert "three standard errors" in CHECKS["above-chance"].must
    assert "too few test images to tell, or" in CHECKS["above-chance"].why


@pytest.mark.parametrize(
    ("curve", "passes"),
    [
        ({0.0: 0.9, 0.1: 0.5, 0.2: 0.1}, True),
        ({0.0: 0.9, 0.1: 0.3, 0.2: 0.5}, False),
        ({0.2: 0.1, 0.0: 0.9, 0.1: 0.5}, True),
    ],
)
def test_accuracy_that_rises_with_the_radius_is_caught(curve, passes):
    case = case_of(curve=curve)
    assert CHECKS["falls"].look(case).passed is passes
    assert "ε 0.1" in CHECKS["falls"].look(case).found


def test_a_probe_that_did_not_converge_is_caught():
    case = case_of(converged=False)
    assert not CHECKS["converged"].look(case).passed


def test_an_attack_cut_short_is_caught():
    """A step that is far too small has not arrived; four times as many get further."""

    class Slow:
        steps, queries = 1, 50

    fitted = fit_linear(np.asarray(honest(tf.constant(TRAIN[0]))), TRAIN[1])

    def classify(x):
        # The gradient turns within a hundredth of a pixel value: one long step misses.
        return fitted.probe(honest(x + 0.05 * tf.sin(60.0 * x)))

    case = case_of(honest, classify, epsilon=0.06, budget=Slow, nominal=np.ones(300, bool))
    finding = CHECKS["more-steps"].look(case)
    assert not finding.passed, finding.found
