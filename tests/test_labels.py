"""Classes are what labels say: a table of kinds of labels × the doors that take them.

Blobs are the same whatever their classes are called, so figures must be the same to the bit.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tf_avae import InputError
from tf_avae.attacks import cross_entropy, logit_ratio, margin, targeted_logit_ratio
from tf_avae.evaluation import BUDGETS, Encoder, Settings, evaluate, worst_case
from tf_avae.evaluation.detection import detect
from tf_avae.evaluation.neighbours import agreement, nearest
from tf_avae.evaluation.report import page
from tf_avae.evaluation.table import text
from tf_avae.probes import HEADS, latent_radius

CLASSES, PIXELS = 5, 12
RNG = np.random.default_rng(0)
CENTRES = RNG.uniform(0.2, 0.8, (CLASSES, 2, 6, 1))
WEIGHTS = RNG.normal(size=(PIXELS, 6)).astype(np.float32)
KINDS = {
    "letters": np.arange(1, CLASSES + 1),
    "a gap": np.array([0, 1, 3, 4, 7]),
    "large": np.array([3, 10**6, 10**9, 10**12, 2**62]),
    "bytes": np.array([0, 40, 100, 200, 255], np.uint8),
}
"""Class numbers, ascending, of classes 0 to 4."""

NO_LABELS = {
    "-1": (lambda y: np.where(y == 0, -1, y), "go down to -1"),
    "floats": (lambda y: y.astype(np.float32), "are float32; they must be integers"),
    "strings": (lambda y: y.astype(str), "must be integers"),
    "bools": (lambda y: y > 1, "are bool; they must be integers"),
    "a column": (lambda y: y[:, np.newaxis], r"have shape \[\d+, 1\]; they must be \[N\]"),
    "one-hot": (lambda y: np.eye(CLASSES, dtype=int)[y], r"have shape \[\d+, 5\]"),
    "too few": (lambda y: y[:-1], r"have shape \[\d+\]; they must be \[N\], \d+ of them"),
    "objects": (lambda y: [None] * len(y), "no array of numbers"),
}


def images_of(labels, seed):
    noise = np.random.default_rng(seed).normal(size=(len(labels), 2, 6, 1))
    return np.clip(CENTRES[labels] + 0.08 * noise, 0, 1).astype(np.float32)


def embed(x):
    return tf.reshape(x - 0.5, [-1, PIXELS]) @ WEIGHTS


Y, Y_TEST = np.arange(150) % CLASSES, np.arange(60) % CLASSES
X, X_TEST = images_of(Y, 1), images_of(Y_TEST, 2)
Z, Z_TEST = np.asarray(embed(X)), np.asarray(embed(X_TEST))
BLOBS = Encoder("blobs", embed)
SETTINGS = Settings(
    "smoke", epsilons=(0.05,), images=30, free_images=20, neighbours=3, heads=("linear", "mlp"),
    sections=("probes", "robustness", "representation"), distances=("mean_l2",),
)  # fmt: skip


def evaluated(labels, test_labels, images=X, test_images=X_TEST, settings=SETTINGS, **more):
    """Batches of 50, so that classes come in parts."""
    train = [
        (images[at : at + 50], {name: y[at : at + 50] for name, y in labels.items()})
        for at in range(0, len(images), 50)
    ]
    return evaluate(
        [BLOBS], train=train, test=[(test_images, test_labels)], settings=settings, **more
    )


# ---------------------------------------------------------------------- heads


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", HEADS)
def test_a_head_does_not_mind_what_classes_are_called(head, kind):
    fit = HEADS[head].fit
    plain, named = fit(Z, Y, 0), fit(Z, KINDS[kind][Y], 0)
    np.testing.assert_array_equal(plain.probe.classes, range(CLASSES))
    np.testing.assert_array_equal(named.probe.classes, KINDS[kind])
    assert named.notes == plain.notes
    logits = named.probe(Z_TEST).numpy()
    np.testing.assert_array_equal(logits, plain.probe(Z_TEST))
    assert (logits.argmax(1) == Y_TEST).mean() > (0.5 if head == "mlp" else 0.95)
    columns = named.probe.columns(KINDS[kind][Y_TEST])
    np.testing.assert_array_equal(columns, Y_TEST)
    said = named.probe.classes[logits.argmax(1)]
    assert (said == KINDS[kind][Y_TEST]).mean() == (logits.argmax(1) == Y_TEST).mean()
    with pytest.raises(InputError, match="classes 13, which the head was not fitted to"):
        named.probe.columns([13])


@pytest.mark.parametrize("bad", NO_LABELS)
@pytest.mark.parametrize("head", HEADS)
def test_a_head_refuses_what_is_no_class_number(head, bad):
    change, words = NO_LABELS[bad]
    with pytest.raises(InputError, match=words):
        HEADS[head].fit(Z, change(Y), 0)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("counts", [(2, 2), (4, 3), (2, 2, 2, 2), (2, 6)])
def test_eight_examples_or_fewer_are_enough(head, counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    fitted = HEADS[head].fit(np.asarray(embed(images_of(labels, 3))), labels, 0)
    assert np.isfinite(fitted.probe(Z_TEST)).all() and len(fitted.probe.classes) == len(counts)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("embeddings", "labels", "seed", "words"),
    [
        (Z, np.where(np.arange(150) == 0, 9, Y), 0, "one example each of the classes 9;"),
        (Z, np.full(150, 7), 0, "all examples are of class 7"),
        (Z[:0], Y[:0], 0, "at least one"),
        (Z[:, :0], Y, 0, "at least one"),
        ([["a"]] * 150, Y, 0, "no array of numbers"),
        (Z, Y, -1, "seed is -1"),
        (Z, Y, 0.5, "seed is float32"),
    ],
)
def test_what_a_head_cannot_be_fitted_to_is_named(head, embeddings, labels, seed, words):
    with pytest.raises(InputError, match=words):
        HEADS[head].fit(embeddings, labels, seed)


def test_a_radius_and_neighbours_go_by_class_numbers():
    names = KINDS["a gap"]
    plain, named = (HEADS["margin"].fit(Z, y, 0).probe for y in (Y, names[Y]))
    np.testing.assert_array_equal(
        latent_radius(named, Z_TEST, names[Y_TEST]), latent_radius(plain, Z_TEST, Y_TEST)
    )
    found = []
    for name in (np.arange(CLASSES), KINDS["large"]):
        found.append(agreement(nearest(Z, Z_TEST, 3), name[Y], name[Y_TEST]))
    np.testing.assert_array_equal(*found)


# ---------------------------------------------------------------------- losses

LOGITS = RNG.normal(size=(9, 10)).astype(np.float32)
OF = np.arange(9)
LOSSES = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "logit_ratio": logit_ratio,
    "targeted_logit_ratio": lambda z, y: targeted_logit_ratio(z, y, np.ones(9, int)),
    "targets": lambda z, y: targeted_logit_ratio(z, np.zeros(9, int), y),
}
NO_COLUMNS = {
    "a class too many": (np.full(9, 10), "go up to 10, and there are 10 classes"),
    "-1": (np.full(9, -1), "go down to -1"),
    "a column": (OF[:, np.newaxis], r"have shape \[9, 1\]"),
    "one for all": (OF[:1], r"have shape \[1\]; they must be \[N\], 9 of them"),
    "floats": (OF / 1.0, "must be integers"),
    "bools": (OF > 1, "must be integers"),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", NO_COLUMNS)
def test_a_loss_refuses_labels_that_are_no_columns_also_in_a_graph(loss, bad):
    labels, words = NO_COLUMNS[bad]
    with pytest.raises(InputError, match=words):
        LOSSES[loss](LOGITS, labels)
    kind = tf.TensorSpec([None] * labels.ndim, labels.dtype)
    graph = tf.function(LOSSES[loss], [tf.TensorSpec([None, 10]), kind], autograph=False)
    with pytest.raises((InputError, tf.errors.InvalidArgumentError), match=r"must be integers"):
        graph(LOGITS, labels)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_takes_class_numbers_of_any_kind(loss):
    expected = LOSSES[loss](LOGITS, tf.constant(OF))
    for kind in (np.uint8, np.int16, np.int32, np.uint64):
        np.testing.assert_array_equal(LOSSES[loss](LOGITS, OF.astype(kind)), expected)
    graph = tf.function(
        LOSSES[loss], [tf.TensorSpec([None, 10]), tf.TensorSpec([None], tf.uint8)], autograph=False
    )
    np.testing.assert_allclose(graph(LOGITS, OF.astype(np.uint8)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (LOGITS[:, :1], "1 classes; this loss needs at least"),
        (LOGITS[0], r"float32 of shape \(10,\)"),
        (np.round(LOGITS).astype(int), "int64 of shape"),
    ],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_refuses_what_are_no_logits(loss, logits, words):
    with pytest.raises(InputError, match=words):
        LOSSES[loss](logits, OF)


# ---------------------------------------------------------------------- attacks


def attacked(classify, images, labels, **how):
    return worst_case(classify, images, labels, epsilon=0.05, budget=BUDGETS["smoke"], **how)


def detected(classify, images, labels, **how):
    return detect(
        classify, lambda x: tf.reduce_sum(x, [1, 2, 3]), images, labels, np.ones(3), epsilon=0.05,
        steps=2, **how,
    )  # fmt: skip


PROBE = HEADS["linear"].fit(Z, KINDS["letters"][Y], 0).probe


def classify(x):
    return PROBE(embed(x))


def test_the_worst_case_of_a_probe_of_letters():
    letters = KINDS["letters"][Y_TEST]
    plain = HEADS["linear"].fit(Z, Y, 0).probe
    expected = attacked(lambda x: plain(embed(x)), X_TEST, Y_TEST)
    found = attacked(classify, X_TEST, PROBE.columns(letters))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert 0.2 < found.survived.mean() < found.clean.mean()
    with pytest.raises(InputError, match="go up to 5, and there are 5 classes"):
        attacked(classify, X_TEST, letters)


@pytest.mark.parametrize("bad", NO_LABELS)
@pytest.mark.parametrize("door", [attacked, detected])
def test_an_attack_refuses_what_is_no_class_number(door, bad):
    change, words = NO_LABELS[bad]
    with pytest.raises(InputError, match=words):
        door(classify, X_TEST, change(Y_TEST))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda logits: logits[:1], "gives 1 rows of logits for 5 images"),
        (lambda logits: {"logits": logits}, "gives dict"),
        (lambda logits: [logits, logits], "gives list"),
    ],
)
@pytest.mark.parametrize("door", [attacked, detected])
def test_an_attack_refuses_what_are_not_logits_of_each_image(door, change, words):
    with pytest.raises(InputError, match=words):
        door(lambda x: change(classify(x)), X_TEST[:5], Y_TEST[:5])


@pytest.mark.parametrize("door", [attacked, detected])
def test_an_attack_refuses_half_an_image_at_once(door):
    with pytest.raises(InputError, match=r"batch_size is 2\.5"):
        door(classify, X_TEST[:5], Y_TEST[:5], batch_size=2.5)


@pytest.mark.parametrize("door", [attacked, detected])
def test_probabilities_in_the_place_of_logits_are_told(door, recwarn):
    door(classify, X_TEST[:5], Y_TEST[:5])
    assert not [w for w in recwarn if "probabilities" in str(w.message)]
    with pytest.warns(UserWarning, match=r"look like probabilities.*Give logits") as told:
        door(lambda x: tf.nn.softmax(classify(x)), X_TEST[:5], Y_TEST[:5])
    assert len(told) == 1 and told[0].filename == __file__


# ---------------------------------------------------------------------- the whole evaluation


@pytest.fixture(scope="module")
def plain():
    return evaluated({"kind": Y}, {"kind": Y_TEST}).results


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_does_not_mind_what_classes_are_called(plain, kind):
    names = KINDS[kind]
    found = evaluated({"kind": names[Y]}, {"kind": names[Y_TEST]}).results
    assert found["encoders"] == plain["encoders"]
    assert found["encoders"][0]["probes"]["kind"]["linear"]["nominal"]["value"] > 0.9
    assert found["data"] == {
        "test_images": 60,
        "image_shape": [2, 6, 1],
        "classes": {"kind": names.tolist()},
    }
    assert plain["data"] == {"test_images": 60, "image_shape": [2, 6, 1]}


def test_what_cannot_be_measured_is_left_out_by_name_and_the_rest_is_measured(plain):
    """Beside the blobs: a class of one training image, one of none, a label of one class, one whose
    test images are of no class that is trained on, and one that the training images lack."""
    more = images_of(np.array([0, 1, 1]), 4)
    train = {"kind": np.append(Y, [8, 0, 1]), "one": np.full(153, 2), "far": np.arange(153) % 2}
    test = {"kind": np.append([9, 8], Y_TEST), "one": np.full(62, 2), "far": np.full(62, 5)}
    test["new"] = np.arange(62) % 2
    found = evaluated(
        train, test, np.concatenate([X, more]), np.concatenate([more[:2], X_TEST]),
        class_names={"kind": [*"abcdefgh", "dog"]},
    )  # fmt: skip
    results = found.results
    data, record = results["data"], results["encoders"][0]
    assert results["settings"]["tasks"] == ["kind"] == list(record["probes"])
    assert data["measured"] == {"kind": 60} and data["test_images"] == 62
    assert data["left_out"] == {
        "kind, class 8 (dog)": "1 training image, and a head needs 2 of a class; "
        "test images left out: 1",
        "kind, class 9": "no training image, and a head needs 2 of a class; "
        "test images left out: 1",
        "one": "classes with 2 training images or more: 1; a head needs 2 such classes",
        "far": "no test image is of a class that a head is fitted to",
        "new": "the training images have no such label",
    }
    # The same as without the images that are left out.
    kept = np.delete(np.arange(153), 150)
    alone = evaluated(
        {"kind": train["kind"][kept]}, {"kind": Y_TEST}, np.concatenate([X, more])[kept], X_TEST
    ).results["encoders"][0]
    for name in ("linear", "mlp"):
        assert record["probes"]["kind"][name] == alone["probes"]["kind"][name]
    assert record["robustness"] == alone["robustness"]
    moved = record["representation"]["rows"][0]["tasks"]["kind"]
    assert moved["accuracy"]["count"] == 18  # of the first 20 two are left out
    shown, html = text(results), page(found)
    for name, why in data["left_out"].items():
        assert f"left out: {name}: {why}" in shown
        assert f"<li>{name} – {why}</li>" in html
    assert "first" not in shown.replace("first 30", "")
    json.dumps(results, allow_nan=False)


def test_without_a_label_the_rest_is_measured():
    settings = replace(SETTINGS, sections=("probes", "checks", "representation", "latents"))
    found = evaluated({}, {}, settings=settings)
    (record,) = found.results["encoders"]
    assert record["left_out"].keys() == {"probes", "checks"} and not found.checked
    assert record["latents"] and record["representation"]["rows"]
    assert "could not be made" in page(found) and "effective dimension" in text(found.results)
    settings = replace(SETTINGS, sections=("probes",))
    with pytest.raises(InputError, match=r"nothing can be measured: .*\(the data have no labels\)"):
        evaluated({}, {}, settings=settings)
    with pytest.raises(InputError, match=r"nothing can be measured: .*kind: classes with 2"):
        evaluated(
            {"kind": 0 * Y}, {"kind": Y_TEST}, settings=replace(SETTINGS, sections=("probes",))
        )


def test_eight_pictures_in_all():
    labels, settings = np.array([1, 3, 1, 3, 1, 3, 3]), replace(SETTINGS, neighbours=10)
    pictures = images_of(labels, 5)
    found = evaluated(
        {"kind": labels}, {"kind": np.array([3])}, pictures, pictures[3:4],
        settings=replace(settings, sections=(*settings.sections, "checks", "detection", "latents")),
    )  # fmt: skip
    (record,) = found.results["encoders"]
    assert found.results["data"]["left_out"] == {
        "nearest neighbours": "7 training images, fewer than the 10 asked for"
    }
    probes = record["probes"]["kind"]
    assert probes["linear"]["nominal"]["value"] == 1 and "retrieval" not in probes
    assert record["left_out"] == {
        "detection": "fewer than 40 test images",
        "representation": "one test image, and it needs two",
    }
    assert "nearest neighbours" in page(found) and "linear, nominal" in text(found.results)
    json.dumps(found.results, allow_nan=False)


BAD_SPLITS = {
    "0..255": (lambda x, y: (np.round(x) * 255, y), "go from 0 to 255; .*divide by 255"),
    "uint8": (lambda x, y: (np.uint8(255 * x), y), "are uint8; they must be float32"),
    "float64": (lambda x, y: (x.astype(float), y), "are float64"),
    "nan": (lambda x, y: (np.where(x > 0.9, np.nan, x), y), "not finite numbers"),
    "another rank": (lambda x, y: (x[..., 0], y), r"have shape \[\d+, 2, 6\]"),
    "none": (lambda x, y: (x[:0], {k: v[:0] for k, v in y.items()}), "give at least one"),
    "no names": (lambda x, y: (x, y["kind"]), "give them by name"),
    "images alone": (lambda x, y: x, "each must be a pair"),
    "no label": (lambda x, y: (x, {}), "lack the label 'kind'"),
    "a number for a name": (lambda x, y: (x, y | {0: y["kind"]}), "is named 0; .*a string"),
}  # fmt: skip
for _name, (_change, _words) in NO_LABELS.items():
    BAD_SPLITS[f"labels: {_name}"] = (
        lambda x, y, change=_change: (x, {k: change(v) for k, v in y.items()}), _words,
    )  # fmt: skip


@pytest.mark.parametrize("bad", BAD_SPLITS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_image_of_both_splits_is_looked_at_before_the_work(split, bad, monkeypatch):
    """What is wrong is in the last batch."""
    monkeypatch.setattr("tf_avae.evaluation.suite.EvaluatedEncoder", None)
    change, words = BAD_SPLITS[bad]
    good = [(X[:50], {"kind": Y[:50]}), (X[50:100], {"kind": Y[50:100]})]
    splits = {"train": good, "test": good}
    splits[split] = [*good, change(X[100:], {"kind": Y[100:]})]
    kind = "training" if split == "train" else "test"
    with pytest.raises(InputError, match=f"(?s){kind} images.*{words}"):
        evaluate([BLOBS], **splits, settings=SETTINGS)


def test_splits_that_are_empty_of_another_shape_endless_or_read_once_are_refused():
    good = [(X, {"kind": Y})]
    wide = [(np.repeat(X, 2, axis=2), {"kind": Y})]
    endless = tf.data.Dataset.from_tensors(good[0]).repeat()
    seen = []

    class Once:
        def __iter__(self):
            seen.append(0)
            return iter(good * (len(seen) < 2))

    for train, test, words in (
        ([], good, "there are no training images"),
        (good, [], "there are no test images"),
        (wide, good, r"training images have shape \[150, 2, 12, 1\]; they must be \[N, 2, 6, 1\]"),
        (endless, good, "training images never end"),
        (good, endless, "test images never end"),
        (iter(good), good, "an iterator, which can be read once"),
        ((batch for batch in good), good, "an iterator, which can be read once"),
        (Once(), good, "there were 150 training images, and 0 when they were read again"),
        (3, good, "training images are of type int"),
        ([(X, {"other": Y})], good, "nothing can be measured: .*no such label"),
    ):
        with pytest.raises(InputError, match=words):
            evaluate(
                [BLOBS], train=train, test=test, settings=replace(SETTINGS, sections=("probes",))
            )
    once = evaluate([BLOBS], train=good, test=iter(good), settings=SETTINGS)
    assert once.results["data"]["test_images"] == 150


def test_a_label_that_is_not_asked_for_may_be_anything():
    names = np.array(["a"] * 60)
    found = evaluated(
        {"kind": Y}, {"kind": Y_TEST, "name": names}, settings=replace(SETTINGS, tasks=("kind",))
    )
    assert found.results["settings"]["tasks"] == ["kind"]
    with pytest.raises(InputError, match="labels 'name' of test images"):
        evaluated({"kind": Y}, {"kind": Y_TEST, "name": names})
    with pytest.raises(
        InputError, match="the training images have no label 'new'; they have: kind"
    ):
        evaluated({"kind": Y}, {"new": Y_TEST}, settings=replace(SETTINGS, tasks=("new",)))
