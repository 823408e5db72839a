"""Images that bounds verify: against closed forms, and beside attacks."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_probes import proven as through_head

from tf_avae.bounds import Bounds
from tf_avae.console.commands import exit_code
from tf_avae.evaluation import Encoder, Settings, evaluate
from tf_avae.evaluation.table import text

RNG = np.random.default_rng(0)
SHAPE, PIXELS, CLASSES = (3, 4, 1), 12, 3
CENTRES = RNG.uniform(0.1, 0.9, (CLASSES, *SHAPE))
SETTINGS = Settings(
    "smoke", epsilons=(0.02, 0.1), images=60, other_images=40, heads=("linear", "margin"),
    sections=("robustness", "certified"), batch_size=25,
)  # fmt: skip


def batches(count, seed):
    labels = np.arange(count) % CLASSES
    noise = np.random.default_rng(seed).normal(size=(count, *SHAPE))
    images = np.clip(CENTRES[labels] + 0.15 * noise, 0, 1).astype(np.float32)
    return [(images, {"kind": labels, "first": labels // 2})]


TRAIN, TEST = batches(120, 1), batches(70, 2)
X, Y = TEST[0][0], TEST[0][1]


def encoder_of(*layers, name="planted"):
    """An encoder of layers."""
    network = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), *layers])
    return Encoder(name, lambda x: network(x, training=False), network=lambda: network)


def dense(units, activation=None):
    """With random weights, always the same."""
    return keras.layers.Dense(
        units, activation, kernel_initializer=keras.initializers.HeNormal(seed=1),
        bias_initializer=keras.initializers.RandomNormal(stddev=0.1, seed=2),
    )  # fmt: skip


def evaluated(*encoders, told=lambda report: None, **changes):
    settings = replace(SETTINGS, **changes)
    return evaluate(list(encoders), train=TRAIN, test=TEST, settings=settings, progress=told)


def outcomes(evaluation, section="certified", number=0):
    """A string of letters for each (task, head, ε)."""
    rows = evaluation.results["encoders"][number][section]["rows"]
    return {(r["task"], r["head"], r["epsilon"]): np.array(list(r["outcomes"])) for r in rows}


AFFINE = encoder_of(dense(5))
DEEP = encoder_of(dense(20, "relu"), dense(9, "relu"), dense(4), name="deep")


@pytest.fixture(scope="module")
def both():
    told = []
    return evaluated(AFFINE, DEEP, told=told.append, tasks="kind"), told


def test_an_affine_encoder_is_verified_where_its_margin_says_so(both):
    """The least of a linear function in a box, by numpy in float64, image by image."""
    (kernel, bias), (deep, _) = (w.astype(np.float64) for w in AFFINE.network().get_weights()), both
    found = outcomes(deep)
    assert len(found) == 2 * 2  # heads, radii
    told_apart = 0
    for (task, head, epsilon), letters in found.items():
        assert len(letters) == (60 if head == "linear" else 40)
        x, y = X[: len(letters)].reshape(-1, PIXELS).astype(np.float64), Y[task][: len(letters)]
        low, high = np.maximum(x - epsilon, 0), np.minimum(x + epsilon, 1)
        probe = deep.evaluated_encoders["planted"].fitted(task, head).probe
        ((weights, offsets),) = probe.layers
        weights = kernel @ (weights.astype(np.float64) / probe.scale[:, np.newaxis])
        offsets = offsets + (bias - probe.mean) @ (probe.layers[0][0] / probe.scale[:, np.newaxis])
        expected = []
        for n, label in enumerate(y):
            lead = (weights[:, [label]] - weights) * np.ones(len(offsets))
            least = np.where(lead > 0, low[n][:, np.newaxis], high[n][:, np.newaxis])
            lead = np.delete((lead * least).sum(0) + offsets[label] - offsets, label)
            right = (x[n] @ weights + offsets).argmax() == label
            expected.append("v" if lead.min() > 0 else "?" if right else "x")
        assert "".join(letters) == "".join(expected)
        told_apart += len(set(expected)) == 3
    assert told_apart  # rows that hold all three


def test_bounds_are_carried_through_a_hidden_layer():
    """As numpy carries intervals, in float64."""
    kernel, bias = (w.astype(np.float64) for w in AFFINE.network().get_weights())
    found = evaluated(AFFINE, tasks="kind", heads=("mlp", "interval"), sections=("certified",))
    proven = {}
    for (task, head, epsilon), letters in outcomes(found).items():
        x, y = X[: len(letters)].reshape(-1, PIXELS).astype(np.float64), Y[task][: len(letters)]
        probe = found.evaluated_encoders["planted"].fitted(task, head).probe
        low, high = np.maximum(x - epsilon, 0), np.minimum(x + epsilon, 1)
        middle, reach = (low + high) / 2 @ kernel + bias, (high - low) / 2 @ np.abs(kernel)
        expected = through_head(probe, middle, y, reach)
        np.testing.assert_array_equal(letters == "v", expected)
        proven[head, epsilon] = expected.mean()
    assert proven["interval", 0.02] > proven["mlp", 0.02] + 0.2


def test_what_is_verified_is_not_broken(both):
    evaluation, _ = both
    for number in range(2):
        attacked = outcomes(evaluation, "robustness", number)
        rows = evaluation.results["encoders"][number]["certified"]["rows"]
        for of, letters in outcomes(evaluation, number=number).items():
            assert (attacked[of][letters == "v"] == ".").all()
            assert ((letters == "x") == (attacked[of] == "x")).all()
            row = next(r for r in rows if (r["task"], r["head"], r["epsilon"]) == of)
            assert row["verified"]["value"] == np.mean(letters == "v")
            assert row["unbroken"]["value"] == np.mean(attacked[of] == ".")


def test_the_table_shows_it_and_no_work_is_left(both):
    evaluation, told = both
    shown = text(evaluation.results)
    assert "linear, verified, ε 0.02" in shown
    # Per encoder and radius: 10 steps of 60 and of 40 images, and 1 of them for the bounds.
    planned = 2 * 2 * 11 * 100
    assert 0.95 * planned < max(report.left for report in told) <= planned  # some are wrong
    assert told[-1].left == 0


def test_an_attack_that_breaks_what_is_verified_stops_the_evaluation(monkeypatch, capsys):
    monkeypatch.setattr(
        Bounds, "least",
        lambda self, box, rows, **options: tf.ones(tf.shape(rows)[:2]),
    )  # fmt: skip
    code = exit_code(lambda: evaluated(AFFINE, tasks="kind", heads="linear"))
    complaint = capsys.readouterr().err
    assert code == 1 and complaint.startswith("\nstopped: ") and complaint.count("\n") == 2
    assert "planted, linear probe of kind: test images " in complaint
    assert "verified at ε 0.02 and were broken at ε 0.02 by pgd-10/0" in complaint
    assert "--outward" in complaint


@pytest.mark.parametrize(
    ("encoder", "changes", "words"),
    [
        (encoder_of(keras.layers.Dense(5, "silu", name="bent")), {}, "layer 'bent' (Dense)"),
        (replace(AFFINE, network=None), {}, "its layers are not known"),
        (replace(AFFINE, network=DEEP.network), {}, "its layers do not give its embeddings"),
        (replace(AFFINE, embed=lambda x: AFFINE.embed(1 - x)), {},
         "its layers do not give its embeddings"),
        (AFFINE, {"norm": "l2"}, "they are of the ball linf, and the norm is l2"),
    ],
)  # fmt: skip
def test_an_encoder_without_bounds_is_left_out_by_the_reason(encoder, changes, words):
    found = evaluated(encoder, tasks="kind", epsilons=0.1, **changes)
    (record,) = found.results["encoders"]
    assert record["left_out"]["certified"].startswith("no bounds: ")
    assert words in record["left_out"]["certified"]
    assert "certified" not in record and record["robustness"]["rows"]
    assert f"left out: {record['name']}, certified: no bounds: " in text(found.results)


def test_crown_verifies_more_outward_no_more_and_parts_are_kept(tmp_path, monkeypatch):
    settings = replace(SETTINGS, sections=("certified",), heads="linear", tasks="first")

    def run(**changes):
        found = evaluate(
            [DEEP], train=TRAIN, test=TEST, settings=replace(settings, **changes), folder=tmp_path
        )
        return outcomes(found), len(list(tmp_path.glob("certified-*")))

    (interval, parts), (crown, parts_of_crown), (outward, _) = (
        run(**changes) for changes in ({}, {"certify": "crown"}, {"outward": True})
    )
    for of, letters in interval.items():
        assert (crown[of][letters == "v"] == "v").all()
        assert (letters[outward[of] == "v"] == "v").all()
    counts = [np.sum(found["first", "linear", 0.02] == "v") for found in (outward, interval, crown)]
    assert 10 < counts[0] <= counts[1] < counts[2] - 10
    # Two radii and three batches; it goes on from the intervals.
    assert (parts, parts_of_crown) == (6, 12)
    monkeypatch.setattr(Bounds, "least", None)  # it is not called again
    again, count = run()
    assert count == 18 and all((again[of] == interval[of]).all() for of in interval)
