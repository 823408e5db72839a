"""The worst case over trials, on classifiers whose robustness is known exactly."""

import numpy as np
import pytest
import tensorflow as tf

from tf_avae import BALLS, InputError
from tf_avae.evaluation import BUDGETS, Budget, worst_case
from tf_avae.evaluation.trials import warm_trial

RNG = np.random.default_rng(0)
COUNT, CLASSES = 60, 5
WEIGHTS = RNG.normal(size=(2 * 3 * 1, CLASSES)).astype(np.float32)
# Away from 0 and 1, so that the ball alone limits an attack.
IMAGES = RNG.uniform(0.4, 0.6, (COUNT, 2, 3, 1)).astype(np.float32)
EPSILON = 0.015


def linear(x):
    return tf.reshape(x - 0.5, [-1, 6]) @ WEIGHTS


LABELS = np.asarray(linear(IMAGES)).argmax(1)


def exact(epsilon, dual):
    """Whether each example of the linear classifier stands: the smallest perturbation that lifts
    class k over the label has norm (z_label - z_k)/|w_label - w_k| in the dual norm."""
    logits = np.asarray(linear(IMAGES))
    stands = np.ones(COUNT, bool)
    for i, label in enumerate(LABELS):
        for k in range(CLASSES):
            if k != label:
                gap = np.linalg.norm(WEIGHTS[:, label] - WEIGHTS[:, k], dual)
                stands[i] &= logits[i, label] - logits[i, k] > epsilon * gap
    return stands


@pytest.mark.parametrize(("name", "dual", "epsilon"), [("linf", 1, EPSILON), ("l2", 2, 0.03)])
def test_strong_budget_finds_exactly_what_can_be_broken(name, dual, epsilon):
    stands = exact(epsilon, dual)
    assert 0.2 < stands.mean() < 0.8
    found = worst_case(
        linear, IMAGES, LABELS, epsilon=epsilon, budget=BUDGETS["strong"], ball=BALLS[name]
    )
    assert found.clean.all()
    np.testing.assert_array_equal(found.survived, stands)
    assert ("warm/0" in found.trials) == (name == "linf")
    assert found.accuracy_after()[0] == 1
    assert found.accuracy_after()[-1] == pytest.approx(stands.mean())


def test_what_broke_an_example_breaks_it_and_lies_in_the_ball():
    found = worst_case(linear, IMAGES, LABELS, epsilon=EPSILON, budget=BUDGETS["paper"])
    assert len(found.trials) == 10
    answers = np.asarray(linear(found.attacked)).argmax(1)
    np.testing.assert_array_equal(answers == LABELS, found.survived)
    assert np.abs(found.attacked - IMAGES).max() <= EPSILON * (1 + 1e-5)
    # Also of what stands, the point nearest to being broken is kept, with its margin.
    logits = np.sort(np.asarray(linear(found.attacked)))
    gap = (logits[:, -1] - logits[:, -2])[found.survived]
    np.testing.assert_allclose(found.margin[found.survived], -gap, atol=1e-6)
    clean = np.sort(np.asarray(linear(IMAGES)))
    assert (found.margin >= (clean[:, -2] - clean[:, -1]) - 1e-6).all()
    assert set(found.broken_by[~found.survived]) <= set(range(10))


def test_more_trials_are_never_weaker_and_batches_do_not_matter():
    how = {"epsilon": EPSILON, "seed": 3}
    smoke = worst_case(linear, IMAGES, LABELS, budget=BUDGETS["smoke"], **how)
    trials = BUDGETS["smoke"].trials + BUDGETS["paper"].trials
    both = worst_case(linear, IMAGES, LABELS, budget=Budget("both", "", trials), **how)
    assert (both.survived <= smoke.survived).all()
    np.testing.assert_array_equal(both.broken_by[~smoke.survived], 0)
    strong = [
        worst_case(linear, IMAGES, LABELS, budget=BUDGETS["paper"], batch_size=size, **how)
        for size in (25, 500)
    ]
    np.testing.assert_array_equal(strong[0].survived, strong[1].survived)


def test_examples_that_are_wrong_or_broken_are_not_attacked_again():
    labels = LABELS.copy()
    labels[:20] = (labels[:20] + 1) % CLASSES
    told = []
    found = worst_case(
        linear, IMAGES, labels, epsilon=EPSILON, budget=BUDGETS["paper"],
        progress=lambda stand: told.append((stand.trial, stand.unbroken)),
    )  # fmt: skip
    assert not found.clean[:20].any() and found.clean[20:].all()
    assert (found.broken_by[:20] == -1).all() and not found.survived[:20].any()
    assert told[0] == ("pgd-40/0", 40) and told.pop()[1] == found.survived.sum()
    counts = [left for _, left in told]
    assert counts == sorted(counts, reverse=True)
    broken = [np.sum(found.broken_by == number) for number in range(9)]
    assert counts[1:] == list(40 - np.cumsum(broken))


@pytest.mark.parametrize("budget", ["paper", "warm"])
def test_a_stopped_search_goes_on_from_its_last_trial(budget):
    """Warm rounds too, which go on from the points that were found."""
    name = "pgd-40/4" if budget == "paper" else "warm/4"
    if budget == "warm":
        budget = Budget("warm", "", (warm_trial(6, nearest=0.5, queries=3, steps=2),))
    how = {"epsilon": EPSILON, "budget": budget, "seed": 3, "batch_size": 25}
    whole = worst_case(linear, IMAGES, LABELS, **how)
    kept = []

    class Stop(Exception):
        pass

    def stop(stand):
        if stand.trial == name:
            raise Stop

    with pytest.raises(Stop):
        worst_case(linear, IMAGES, LABELS, progress=stop, after_trial=kept.append, **how)
    assert [len(found.trials) for found in kept] == [1, 2, 3, 4]
    again = worst_case(linear, IMAGES, LABELS, earlier=kept[-1], **how)
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="earlier outcomes are those of another"):
        worst_case(linear, IMAGES, LABELS, earlier=whole, **how | {"budget": BUDGETS["smoke"]})


def test_hidden_gradients_stop_pgd_and_not_the_ensemble():
    """Logits in steps have no gradient: PGD finds next to nothing, Square finds it."""

    def masked(x):
        return tf.floor(linear(x) * 2000.0) / 2000.0

    how = {"epsilon": EPSILON, "seed": 1}
    labels = np.asarray(masked(IMAGES)).argmax(1)
    paper = worst_case(masked, IMAGES, labels, budget=BUDGETS["paper"], **how)
    strong = worst_case(masked, IMAGES, labels, budget=BUDGETS["strong"], **how)
    assert paper.survived.mean() > strong.survived.mean() + 0.2
    assert strong.survived.mean() == pytest.approx(exact(EPSILON, 1).mean(), abs=0.05)


def test_a_warm_round_attacks_those_nearest_to_being_broken_and_loses_none():
    """Of 60 examples that stand, a quarter: the 15 whose margins are largest."""
    trial = warm_trial(3, nearest=0.25, queries=3, steps=2)
    how = {"epsilon": 1e-4, "budget": Budget("warm", "", (trial,)), "seed": 1}
    kept = []
    found = worst_case(linear, IMAGES, LABELS, after_trial=kept.append, **how)
    assert found.survived.all()
    logits = np.sort(np.asarray(linear(IMAGES)))
    nearest = np.argsort(logits[:, -1] - logits[:, -2])[:15]
    moved = (kept[0].attacked != IMAGES).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(np.flatnonzero(moved), np.sort(nearest))
    margins = np.stack([so_far.margin for so_far in kept])
    assert (np.diff(margins, axis=0) >= 0).all() and (np.diff(margins, axis=0) > 0).any()
    # What other trials broke stays broken, whatever comes after.
    far = {"epsilon": EPSILON, "budget": Budget("warm", "", (trial,))}
    broken = worst_case(linear, IMAGES, LABELS, epsilon=EPSILON, budget=BUDGETS["smoke"])
    after = worst_case(linear, IMAGES, LABELS, earlier=broken._replace(trials=()), **far)
    assert not (after.survived & ~broken.survived).any()
    points = broken.attacked[~broken.survived]
    np.testing.assert_array_equal(after.attacked[~broken.survived], points)


def test_large_logits_stop_cross_entropy_and_not_the_logit_ratio():
    """Scaled by 1e4, the cross-entropy of a correct example is 0 and so is its gradient."""

    def loud(x):
        return 1e4 * linear(x)

    how = {"epsilon": EPSILON, "seed": 1}
    paper = worst_case(loud, IMAGES, LABELS, budget=BUDGETS["paper"], **how)
    strong = worst_case(loud, IMAGES, LABELS, budget=BUDGETS["strong"], **how)
    stands = exact(EPSILON, 1)
    np.testing.assert_array_equal(strong.survived, stands)
    assert paper.survived.sum() > stands.sum() + 5
    by = {strong.trials[n].split("/")[0] for n in strong.broken_by[paper.survived & ~stands]}
    assert "apgd-t" in by


@pytest.mark.parametrize(("name", "dual", "epsilon"), [("linf", 1, EPSILON), ("l2", 2, 0.03)])
def test_two_loud_classes_are_broken_exactly_too(name, dual, epsilon):
    """Neither cross-entropy nor the ratios of three or four logits help here."""

    def two(x):
        return 1e4 * linear(x)[:, :2]

    logits = np.asarray(linear(IMAGES))[:, :2]
    labels = logits.argmax(1)
    gap = np.linalg.norm(WEIGHTS[:, 0] - WEIGHTS[:, 1], dual)
    stands = np.abs(logits[:, 0] - logits[:, 1]) > epsilon * gap
    assert 0.1 < stands.mean() < 0.9
    found = worst_case(
        two, IMAGES, labels, epsilon=epsilon, budget=BUDGETS["strong"], ball=BALLS[name]
    )
    np.testing.assert_array_equal(found.survived, stands)
    assert {"pgd-20-flat/0", "apgd-margin/0"} <= set(found.trials)


def test_a_misclassification_on_the_way_is_kept():
    """The cross-entropy is largest beyond the region where the answer is wrong."""

    def island(x):
        way = tf.reshape(x, [-1, 6])[:, 0] - 0.5
        wrong = tf.where(tf.abs(way - 0.05) < 0.03, 0.1, -0.1)
        others = 40.0 * way[:, tf.newaxis] - 4.2
        rest = tf.minimum(tf.repeat(others, 8, axis=1), -0.05)
        return tf.concat([0.0 * wrong[:, tf.newaxis], wrong[:, tf.newaxis], rest], axis=1)

    images = np.full((1, 2, 3, 1), 0.5, np.float32)
    labels = np.zeros(1, int)
    found = worst_case(island, images, labels, epsilon=0.1, budget=BUDGETS["paper"])
    assert found.clean.all() and not found.survived.any()
    assert 0.02 < found.attacked[0, 0, 0, 0] - 0.5 < 0.08


@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize("name", ["smoke", "strong"])
def test_a_classifier_that_breaks_under_attack_is_refused(label, name):
    """Not a number off the images: neither robust nor fooled."""

    def broken(x):
        off = tf.reduce_max(tf.abs(x - 0.5), axis=[1, 2, 3]) > 0.001
        scores = tf.one_hot(tf.fill([tf.shape(x)[0]], label), 4) + 0.0 * tf.reduce_sum(x)
        return tf.where(off[:, tf.newaxis], np.nan, scores)

    images = np.full((3, 2, 3, 1), 0.5, np.float32)
    with pytest.raises(InputError, match="not all finite"):
        worst_case(broken, images, np.full(3, label), epsilon=0.1, budget=BUDGETS[name])


def test_l2_radii_may_exceed_one():
    found = worst_case(
        linear, IMAGES, LABELS, epsilon=1.5, budget=BUDGETS["smoke"], ball=BALLS["l2"]
    )
    assert not found.survived.any()


def test_seed_decides_everything():
    def wavy(x):
        return linear(0.5 + 0.1 * tf.sin(60.0 * x))

    labels = np.asarray(wavy(IMAGES)).argmax(1)
    one, again, other = (
        worst_case(wavy, IMAGES, labels, epsilon=EPSILON, budget=BUDGETS["smoke"], seed=seed)
        for seed in (2, 2, 3)
    )
    np.testing.assert_array_equal(one.attacked, again.attacked)
    assert (one.attacked != other.attacked).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES * 255}, r"images go from .*; they must be finite and in \[0, 1\]"),
        ({"images": IMAGES.astype(np.float64)}, "images are float64; they must be float32"),
        ({"images": IMAGES[0]}, r"images have shape \[2, 3, 1\]"),
        ({"labels": LABELS[:-1]}, r"labels have shape \[59\]"),
        ({"labels": LABELS + 0.5}, "labels are float64; they must be integers"),
        ({"labels": LABELS + CLASSES}, "labels go up to 9, and there are 5 classes"),
        ({"epsilon": 8.0}, "epsilon is 8.0"),
        (
            {"budget": Budget("mine", "", (warm_trial(2, nearest=0.5),)), "ball": "l2"},
            "budget 'mine' has no attack on 5 classes in the ball l2",
        ),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"classify": lambda x: linear(x) * np.nan}, "not all finite"),
        ({"classify": lambda x: linear(x)[:, 0]}, "logits have shape"),
        ({"classify": lambda x: tf.cast(linear(x), tf.float16)}, "dtype float16"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {
        "classify": linear, "images": IMAGES, "labels": LABELS, "epsilon": 0.1,
        "budget": BUDGETS["smoke"],
    } | change  # fmt: skip
    with pytest.raises(InputError, match=message):
        worst_case(given.pop("classify"), given.pop("images"), given.pop("labels"), **given)
