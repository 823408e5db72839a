"""Telling attacked images by a score, on scores and classifiers whose answers are known."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from tf_avae.attacks import BALLS
from tf_avae.distributions import Posterior
from tf_avae.errors import InputError
from tf_avae.evaluation import Encoder, Settings, detection, evaluate
from tf_avae.evaluation.report import page
from tf_avae.evaluation.table import rows, text
from tf_avae.evaluation.trials import Examples, Setting, still_trial

RNG = np.random.default_rng(0)
COUNT, EPSILON, STEPS = 120, 0.1, 20
# The first pixel says which class; the second is its copy, nearly.
LABELS = RNG.integers(0, 2, COUNT)
FIRST = 0.5 + 0.05 * (2 * LABELS - 1)
IMAGES = np.stack([FIRST, FIRST + RNG.normal(size=COUNT) * 0.01], 1).astype(np.float32)
IMAGES = IMAGES.reshape(COUNT, 1, 2, 1)
ATTACKED = 60


def classify(x):
    way = 20.0 * (x[:, 0, 0, 0] - 0.5)
    return tf.stack([-way, way], axis=1)


def copy_differs(x):
    return tf.math.squared_difference(x[:, 0, 0, 0], x[:, 0, 1, 0])


def found_by(score, images=IMAGES, epsilon=EPSILON, **how):
    """What `detect` finds of the first images, by attack; the others give the threshold."""
    others = np.asarray(score(tf.constant(images[ATTACKED:])))
    found = detection.detect(
        classify, score, images[:ATTACKED], LABELS[:ATTACKED], others, epsilon=epsilon,
        **({"steps": STEPS} | how),
    )  # fmt: skip
    for row in found:
        assert row["undetected"]["value"] <= row["success"]["value"]
        assert row["undetected"]["value"] <= 1 - row["flagged"]["value"] + 1e-9
    return {row["attack"]: row for row in found}


def test_a_score_that_every_attack_raises_tells_them_all():
    """Attacked images leave the grid of pixel values that all others lie on."""
    grid = (np.round(IMAGES * 8) / 8 + (LABELS - 0.5).reshape(-1, 1, 1, 1) / 8).astype(np.float32)

    def off_grid(x):
        return tf.reduce_sum(tf.sin(16 * np.pi * x) ** 2, axis=[1, 2, 3])

    found = found_by(off_grid, grid)
    assert found["pgd"]["success"]["value"] > 0.9
    assert found["pgd"]["auc"]["value"] == 1 and found["pgd"]["auc"]["low"] is None
    assert found["pgd"]["flagged"]["value"] == 1 and found["pgd"]["undetected"]["value"] == 0


def test_a_score_that_says_nothing_tells_none():
    found = found_by(lambda x: 1.0 + 0.0 * tf.reduce_sum(x, axis=[1, 2, 3]))
    for row in found.values():
        assert row["auc"]["value"] == 0.5 and row["flagged"]["value"] == 0
        assert row["undetected"] == row["success"]
    assert found["knowing"]["success"] == found["pgd"]["success"]


def test_who_knows_of_the_score_evades_it():
    """The plain attack leaves the copy where its random start was. With both pixels moved alike
    every image is misclassified, and the score as it was: 0.1 suffices, the first is 0.05 away."""
    found = found_by(copy_differs)
    plain, knowing = found["pgd"], found["knowing"]
    assert plain["success"]["value"] == knowing["success"]["value"] == 1
    # Unseen is a start within the threshold of 0.02 of the first pixel's end: one of ten or so.
    assert 0.02 < plain["undetected"]["value"] < 0.3 and plain["auc"]["value"] > 0.9
    assert knowing["undetected"]["value"] == 1 and knowing["auc"]["value"] < 0.5
    assert found["least score"]["undetected"]["value"] == 1
    assert all(knowing["median"] <= row["median"] for n, row in found.items() if n != "noise")
    assert found["noise"]["success"]["value"] < plain["success"]["value"]


def test_a_radius_that_breaks_nothing_breaks_nothing():
    found = found_by(copy_differs, epsilon=0.04)
    assert {row["success"]["value"] for row in found.values()} == {0}
    assert found["pgd"]["auc_success"] is None
    assert found["knowing"]["auc"] == found["pgd"]["auc"]


def test_weight_zero_is_the_plain_attack(monkeypatch):
    """The same way through the ball; of its misclassified points the one of least score."""
    monkeypatch.setattr(detection, "WEIGHTS", (0.0,))
    on, images = Setting(classify, EPSILON, BALLS["linf"]), tf.constant(IMAGES)
    examples = Examples(
        images, tf.constant(LABELS), images, tf.constant(0), tf.constant([0, 1])
    )  # fmt: skip
    made = [
        trial.search(on, trial.target(on, examples), examples)
        for trial in (still_trial(STEPS), detection.knowing_trial(STEPS, copy_differs, 1e-4))
    ]
    wrong = [np.asarray(classify(x)).argmax(1) != LABELS for x in made]
    np.testing.assert_array_equal(*wrong)
    assert wrong[0].all()
    scores = [np.asarray(copy_differs(x)) for x in made]
    assert (scores[1] <= scores[0]).all() and (scores[1] < scores[0]).any()
    # The classifier does not see the copy: both leave it as it is.
    for x in made:
        np.testing.assert_array_equal(x[:, 0, 1], IMAGES[:, 0, 1])


def test_areas_and_shares_are_those_of_the_scores(monkeypatch):
    """Of noise, made anew from the same seed."""
    found = found_by(copy_differs, seed=5)["noise"]
    start = BALLS["linf"].start(
        [ATTACKED, 1, 2, 1],
        tf.random.experimental.stateless_fold_in(tf.constant([5, 0]), 0),
    )
    noisy = np.clip(IMAGES[:ATTACKED] + EPSILON * start.numpy(), 0, 1)
    score = (noisy[:, 0, 0, 0] - noisy[:, 0, 1, 0]) ** 2
    others = (IMAGES[ATTACKED:, 0, 0, 0] - IMAGES[ATTACKED:, 0, 1, 0]) ** 2
    threshold = np.sort(others)[-3:]  # 3 of 60 are above it
    assert found["flagged"]["value"] == np.mean(score > threshold.min() - 1e-12)
    area = roc_auc_score([1] * ATTACKED + [0] * 60, np.concatenate([score, others]))
    assert found["auc"]["value"] == pytest.approx(area, abs=1e-9)
    wrong = (noisy[:, 0, 0, 0] > 0.5) != (LABELS[:ATTACKED] == 1)
    assert found["success"]["value"] == wrong.mean()
    flagged = score > np.quantile(others, 0.95)
    assert found["undetected"]["value"] == np.mean(wrong & ~flagged)


def test_one_of_twenty_others_is_above_the_threshold():
    assert detection.threshold_of(np.arange(100.0)) == pytest.approx(94.05)
    assert detection.threshold_of(np.arange(41.0)) == 38


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="inconsistency is not finite"):
        found_by(lambda x: copy_differs(x) * np.nan)


# ---------------------------------------------------------------------- the section

WEIGHTS = np.linalg.qr(RNG.normal(size=(48, 4)))[0].astype(np.float32)
PATTERNS = RNG.uniform(0.3, 0.7, (3, 4, 4, 3))
TEST_LABELS = np.arange(90) % 3
SETTINGS = Settings(
    "smoke", epsilons=(0.2, 0.1), free_images=30, heads=("linear",), sections=("detection",)
)


def batches(count, seed):
    noise = np.random.default_rng(seed).normal(size=(count, 4, 4, 3))
    labels = np.arange(count) % 3
    images = np.clip(PATTERNS[labels] + 0.1 * noise, 0, 1)
    return [(tf.constant(images, tf.float32), {"kind": labels})]


def posterior(x):
    mean = 3.0 * tf.reshape(x - 0.5, [-1, 48]) @ WEIGHTS
    return Posterior(mean, 0.1 + 0.01 * mean**2)


def decode(z):
    return tf.reshape(0.5 + 0.2 * z @ WEIGHTS.T, [-1, 4, 4, 3])


WHOLE = Encoder("whole", lambda x: posterior(x).mean, posterior, decode)
BARE = Encoder("bare", lambda x: posterior(x).mean)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder, told = tmp_path_factory.mktemp("parts"), []
    how = {"train": batches(150, 1), "test": batches(90, 2), "settings": SETTINGS}
    found = evaluate([WHOLE, BARE], folder=folder, progress=told.append, **how)
    return found, told, lambda: evaluate([WHOLE, BARE], folder=folder, **how)


def test_the_section_flags_by_the_images_that_are_not_attacked(evaluated):
    whole, bare = evaluated[0].results["encoders"]
    found = whole["detection"]
    assert bare["left_out"] == {"detection": "no posterior and no decoder"}
    assert "detection" not in bare
    images = batches(90, 2)[0][0].numpy().reshape(90, 48).astype(np.float64)
    mean = 3.0 * (images - 0.5) @ WEIGHTS
    again = 0.6 * mean  # through the decoder and back
    spreads = [np.sqrt(0.1 + 0.01 * m**2) for m in (mean, again)]
    scores = ((mean - again) ** 2).sum(1) + ((spreads[0] - spreads[1]) ** 2).sum(1)
    assert (found["images"], found["others"], found["head"]) == (30, 60, "linear")
    assert found["threshold"] == pytest.approx(np.quantile(scores[30:], 0.95), rel=1e-4)
    assert found["false_alarms"]["value"] == np.mean(scores[:30] > np.quantile(scores[30:], 0.95))
    assert [(r["task"], r["epsilon"]) for r in found["rows"]] == [("kind", 0.1), ("kind", 0.2)]
    names = ["noise", "pgd", "λ 0.01", "λ 0.1", "λ 1", "λ 10", "least score", "knowing"]
    assert [attack["attack"] for attack in found["rows"][0]["attacks"]] == names


def test_the_section_tells_the_time_that_is_left(evaluated):
    _, told, _ = evaluated
    # 2 radii, 30 images in colour, 10 steps: PGD, also from 8 flat starts, and six searches three
    # times as dear.
    assert told[0].left == 2 * 30 * (9 * 10 + 6 * 30) and told[-1].left == 0
    assert told[-1].done == told[0].left


def test_the_section_goes_on_where_it_was(evaluated, monkeypatch):
    found, _, again = evaluated
    monkeypatch.setattr(detection, "detect", lambda *arguments, **how: pytest.fail("made again"))
    assert again().results == found.results


def test_the_section_is_in_table_and_report(evaluated):
    found = evaluated[0]
    shown = text(found.results)
    for words in ("kind, attacks told by inconsistency", "ε 0.1, pgd", "ε 0.2, knowing, ROC AUC"):
        assert words in shown
    knowing = found.results["encoders"][0]["detection"]["rows"][1]["attacks"][-1]
    (cell, none) = next(r for r in rows(found.results) if r.label == "ε 0.2, knowing").cells
    assert cell.text == f"{100 * knowing['success']['value']:.1f}"
    assert cell.beside == f"{100 * knowing['undetected']['value']:.1f}" and none.text == "–"
    html = page(found)
    assert "<h2>Do attacks show?</h2>" in html and "least score" in html
    assert "not asked for" in html[: html.index("<h2>")]


def test_a_few_images_give_no_threshold():
    found = evaluate([WHOLE], train=batches(60, 1), test=batches(39, 2), settings=SETTINGS).results[
        "encoders"
    ][0]
    assert found["left_out"] == {"detection": "fewer than 40 test images"}
