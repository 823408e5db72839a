"""A head on a frozen encoder, from the command line to a served model."""

import json
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

import tf_avae
from tests.conformance.prepare import untrained_run
from tf_avae.config import Config
from tf_avae.errors import InputError
from tf_avae.evaluation import Encoder, evaluated
from tf_avae.evaluation.proofs import ALL_LAYERS
from tf_avae.evaluation.prover import Prover
from tf_avae.graphs.saved_models import PROVENANCE, SavedModel
from tf_avae.probes import Probe
from tf_avae.runs.run import load_trained
from tf_avae.saved.certified import CertifiedRadius
from tf_avae.saved.classifiers import classifier
from tf_avae.saved.contract import CLASSIFIER_SIGNATURES
from tf_avae.saved.encoders import open_encoder
from tf_avae.saved.exports import export_classifier, served_classifier
from tf_avae.saved.frozen import load_encoder
from tf_avae.saved.versions import warm_up_requests
from training import classify
from training.signals import Interrupted

QUICK = ("--budget", "smoke", "--epsilon", "0.05", "--images", "40", "--free-images", "40",
         "--task", "color")  # fmt: skip


RADII = (0.003, 0.01, 0.03, 1.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("runs") / "run")


def command(capsys, *arguments):
    """Exit code and what was said."""
    try:
        code = classify.main([str(word) for word in arguments])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def made(run, few_digits, tmp_path_factory):
    """What the command makes: its folder, and that of the served model."""
    folder = tmp_path_factory.mktemp("made")
    words = ("--encoder", run, "--data-dir", few_digits, "--out", folder / "out",
             "--to", folder / "models" / "color", "--certified-radius", *map(str, RADII),
             *QUICK)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        # What the others find is the evaluation's own affair, and takes minutes.
        patch.setattr(classify, "SECTIONS", ("probes", "robustness"))
        assert classify.main([str(word) for word in words]) == 0
    return folder / "out", folder / "models" / "color"


@pytest.fixture(scope="module")
def test_split(few_digits):
    data = tf_avae.DATASETS["color_mnist"].open(few_digits)
    ((images, labels),) = data.held_out(200)
    return images.numpy(), labels["color"].numpy()


def test_what_is_measured():
    assert set(classify.SECTIONS) == {"probes", "robustness", "checks", "detection"}


def test_the_three_are_one_classifier(made, run, test_split):
    out, base = made
    images, labels = test_split
    model = keras.saving.load_model(out / "classifier.keras")
    found = model.predict(images, verbose=0)
    served = SavedModel(base)
    for signature in ("serving_default", "classify"):
        answer = served.call(signature, image=tf.constant(images))
        assert set(answer) == {*found, "certified_radius"}
        assert set(answer["certified_radius"].numpy()) <= {0, *np.float32(RADII)}
        for name, value in found.items():
            np.testing.assert_allclose(answer[name], value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["probabilities"], softmax(found["logits"], 1), atol=1e-6)
    encoder = open_encoder(run)
    np.testing.assert_allclose(found["embedding"], encoder.embed(images), rtol=1e-4, atol=1e-5)

    results = json.loads((out / "results.json").read_text())
    (record,) = results["encoders"]
    assert set(record["probes"]["color"]) >= {"linear", "retrieval"}
    assert "mlp" not in record["probes"]["color"] and "representation" not in record
    right = found["logits"].argmax(1) == labels
    nominal = record["probes"]["color"]["linear"]["nominal"]
    assert nominal["value"] == pytest.approx(right.mean()) and nominal["count"] == len(labels)
    (row,) = record["robustness"]["rows"]
    assert row["nominal"]["value"] == pytest.approx(right[:40].mean())
    assert row["accuracy"]["value"] <= row["nominal"]["value"]
    assert "<html" in (out / "report.html").read_text()


def test_the_certified_radius_of_an_affine_classifier(tmp_path, test_split):
    """Where bounds are exact, and the least margin in a ball is a sum."""
    run = untrained_run(tmp_path / "run", arch="linear")
    images, rng = test_split[0], np.random.default_rng(0)
    embedding = open_encoder(run).embed(images).numpy()
    mean, scale, kernel = embedding.mean(0), embedding.std(0), np.float32(rng.normal(size=(8, 3)))
    probe = Probe(mean, scale, ((kernel, np.zeros(3, np.float32)),))
    model = classifier(load_encoder(run), probe)
    radius = CertifiedRadius(run, RADII)
    radius.prove(model, probe)
    found = served_classifier(model, (28, 28, 3), radius=radius).functions["classify"](images)
    classes = found["logits"].numpy().argmax(1)

    weights, offset = load_trained(run).encoder.get_layer("mean").get_weights()
    weights = np.float64(weights) @ (np.float64(kernel) / scale[:, None])  # pixels to logits
    offset = (np.float64(offset) - mean) @ (np.float64(kernel) / scale[:, None])
    pixels, expected = np.float64(images.reshape(len(images), -1)), np.zeros(len(images))
    for epsilon in sorted(RADII):
        low, high = np.clip(pixels - epsilon, 0, 1), np.clip(pixels + epsilon, 0, 1)
        for n, k in enumerate(classes):
            rows = weights[:, [k]] - weights
            margin = low[n] @ np.maximum(rows, 0) + high[n] @ np.minimum(rows, 0)
            if (np.delete(margin + offset[k] - offset, k) > 0).all():
                expected[n] = epsilon
    assert len(set(expected)) == len(set(classes)) == 3
    # What allows for rounding proves less near an end of the grid.
    assert (found["certified_radius"] <= np.float32(expected)).numpy().all()
    assert (found["certified_radius"] == np.float32(expected)).numpy().mean() > 0.95
    with pytest.raises(InputError, match="do not give the classifier's logits"):
        radius.prove(model, probe._replace(scale=2 * scale))


def test_a_closer_look_proves_larger_radii(tmp_path, test_split):
    """Those that an evaluation's bounds of the same name prove, on a network that is not affine."""
    run = untrained_run(tmp_path / "run", arch="shallow")
    images, rng = test_split[0][:40], np.random.default_rng(0)
    embedding = open_encoder(run).embed(images).numpy()
    layers = (np.float32(rng.normal(size=(8, 3))), np.zeros(3, np.float32))
    probe = Probe(embedding.mean(0), embedding.std(0), (layers,))
    model = classifier(load_encoder(run), probe)
    logits = tf.constant(model(images)["logits"])
    grid, found = np.geomspace(1e-6, 1e-3, 9), {}
    for proof in ("interval", "crown"):
        radius = CertifiedRadius(run, list(grid), proof=proof)
        radius.prove(model, probe)
        found[proof] = radius(tf.constant(images), logits).numpy()
    assert (found["crown"] >= found["interval"]).all()
    assert (found["crown"] > found["interval"]).mean() > 0.5 and found["interval"].any()
    prover = Prover(open_encoder(run), images)
    for epsilon in grid[::3]:
        least = prover.least(probe, ALL_LAYERS, True)(images, logits.numpy().argmax(1), epsilon)
        least = np.asarray(least)
        sure = np.abs(least) > 1e-4  # by how little rounding decides
        there = found["crown"] >= np.float32(epsilon)
        assert (there | (least <= 0))[sure].all()


def test_files_are_classified(made, test_split):
    served = SavedModel(made[1])
    pixels = np.round(255 * test_split[0][:3]).astype(np.uint8)
    files = tf.constant([tf.io.encode_png(image).numpy() for image in pixels])
    expected = served.call("classify", image=tf.constant(pixels / np.float32(255)))
    for signature in ("classify_bytes", "embed_bytes"):
        found = served.call(signature, image_bytes=files)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"finite numbers in \[0, 1\]"):
        served.call("classify", image=tf.constant(255 * test_split[0]))


def test_the_export_says_what_it_is(made, run):
    out, base = made
    notes = json.loads((base / "1" / PROVENANCE).read_text())
    assert notes["task"] == "color" and len(notes["class_names"]) == 7
    of_radius = {"epsilons": list(RADII), "norm": "linf", "bounds": "interval"}
    assert notes["certified_radius"] == of_radius
    assert notes["head"]["name"] == "linear" and notes["head"]["regularisation"] > 0
    assert notes["encoder"]["sha256"] == open_encoder(run).notes["sha256"]
    results = json.loads((out / "results.json").read_text())
    (record,) = results["encoders"]
    (row,) = record["robustness"]["rows"]
    assert notes["accuracy"]["nominal"] == record["probes"]["color"]["linear"]["nominal"]
    assert notes["accuracy"]["adversarial"][0]["accuracy"] == row["accuracy"]
    assert {"group": "protocol", "figure": "budget", "value": "smoke"} in notes["evaluation"]
    asked = {request.model_spec.signature_name for request in warm_up_requests(base / "1")}
    assert asked == set(CLASSIFIER_SIGNATURES)


def test_is_an_encoder_too(made, run, test_split):
    images = test_split[0][:20]
    expected = open_encoder(run).embed(images)
    np.testing.assert_allclose(open_encoder(made[1]).embed(images), expected, rtol=1e-4, atol=1e-5)
    frozen = load_encoder(made[1], signature="classify", outputs=("embedding",))
    np.testing.assert_allclose(frozen(images)["embedding"], expected, rtol=1e-4, atol=1e-5)
    # A head on it is the new head, not the one that is in it.
    size = expected.shape[1]
    kernel = np.eye(size, 2, dtype=np.float32)
    probe = Probe(np.zeros(size), np.ones(size), ((kernel, np.zeros(2, np.float32)),))
    again = classifier(load_encoder(made[1]), probe)(images)
    np.testing.assert_allclose(again["logits"], expected[:, :2], rtol=1e-4, atol=1e-5)
    # The export says which data its encoder was trained on.
    assert open_encoder(made[1]).notes["config"]["dataset"] == "color_mnist"


def test_goes_on_with_finished_parts(made, run, few_digits, capsys, monkeypatch):
    def never(*_, **__):
        raise AssertionError("attacked again")

    monkeypatch.setattr(evaluated, "worst_case", never)
    monkeypatch.setattr(classify, "SECTIONS", ("probes", "robustness"))
    before = json.loads((made[0] / "results.json").read_text())
    code, said, _ = command(
        capsys, "--encoder", run, "--data-dir", few_digits, "--out", made[0], *QUICK
    )
    assert code == 0 and "linear, nominal" in said
    after = json.loads((made[0] / "results.json").read_text())
    assert after["encoders"] == before["encoders"]


def test_classes_are_what_the_labels_say(run, few_digits, tmp_path, capsys, monkeypatch):
    """Digits called 1 to 10, of which 10 has one training image, and a test image of class 12."""
    data = tmp_path / "data"
    data.mkdir()
    for file in few_digits.iterdir():
        content = bytearray(file.read_bytes())
        if "labels" in file.name:
            numbers = np.frombuffer(content, np.uint8, offset=8)  # writes into the content
            numbers += 1
            if file.name.startswith("train"):
                numbers[np.flatnonzero(numbers == 10)[1:]] = 1
            else:
                numbers[0] = 12
        (data / file.name).write_bytes(content)
    monkeypatch.setattr(classify, "SECTIONS", ("probes", "robustness"))
    code, said, _ = command(
        capsys, "--encoder", run, "--data-dir", data, "--out", tmp_path / "out",
        "--to", tmp_path / "models" / "letters", *QUICK[:-1], "digit",
    )  # fmt: skip
    assert code == 0
    names = [str(number) for number in range(1, 10)]
    assert f"columns of its logits: {', '.join(names)}\n" in said
    notes = json.loads((tmp_path / "models" / "letters" / "1" / PROVENANCE).read_text())
    assert notes["class_names"] == names and notes["classes"] == list(range(1, 10))
    model = keras.saving.load_model(tmp_path / "out" / "classifier.keras")
    ((images, labels),) = tf_avae.DATASETS["color_mnist"].open(data).held_out(200)
    kept = (labels["digit"].numpy() >= 1) & (labels["digit"].numpy() <= 9)
    answers = model.predict(images, verbose=0)["logits"].argmax(1)
    right = (np.array(notes["classes"])[answers] == labels["digit"].numpy())[kept]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    nominal = results["encoders"][0]["probes"]["digit"]["linear"]["nominal"]
    assert nominal["count"] == kept.sum() and nominal["value"] == pytest.approx(right.mean())
    assert right.mean() > 0.2  # the encoder is not trained; a column off, it would be 0.1
    left_out = results["data"]["left_out"]
    assert list(left_out) == ["digit, class 10", "digit, class 12"]
    assert {
        "group": "left out",
        "figure": "digit, class 12",
        "value": left_out["digit, class 12"],
    } in (notes["evaluation"])
    for name, why in left_out.items():
        assert f"left out: {name}: {why}" in said
        assert f"<li>{name} – {why}</li>" in (tmp_path / "out" / "report.html").read_text()


def test_stops_when_asked_to(run, few_digits, tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(classify.Progress, "update", stop)
    code, said, _ = command(
        capsys, "--encoder", run, "--data-dir", few_digits, "--out", tmp_path / "out", *QUICK
    )
    assert code == 130 and "The same command goes on" in said
    assert not (tmp_path / "out" / "classifier.keras").exists()


@pytest.mark.parametrize(
    ("dataset", "notes", "expected"),
    [
        ("image_folder", {"background": "#808080"}, {"background": "#000000", "fit": "crop"}),
        ("color_mnist", {"background": "#808080"}, {"background": "#808080"}),
        ("color_mnist", {"fit": "pad"}, {"fit": "pad"}),
        ("color_mnist", {}, {}),
    ],
)
def test_files_are_read_as_those_of_the_heads_data(dataset, notes, expected):
    """Where those are files; then as the encoder's own were, where that is known."""
    config = Config(dataset=dataset, background="black", fit="crop")
    assert classify._of_files(config, Encoder("e", lambda x: x, notes=notes)) == expected


@pytest.fixture(scope="module")
def small(small_encoder):
    """An encoder of 12x12 images."""
    return small_encoder.parent


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--task": "hat"}, ["hat", "digit, color"]),
        ({"--head": "tree"}, ["tree", "linear, mlp"]),
        ({"--encoder": "{small}"}, ["12x12x3", "28x28x3"]),
        ({"--encoder": "{tmp}"}, ["neither a run"]),
        ({"--encoder": "{made}/classifier.keras"}, ["keras"]),
        ({"--out": ""}, ["--out is empty"]),
        ({"--out": "{tmp}/file"}, ["cannot use", "file"]),
        ({"--out": "{tmp}/taken"}, ["classifier.keras is a folder"]),
        ({"--to": "{base}", "--version": "1"}, ["version 1 exists"]),
        ({"--to": "{tmp}/file"}, ["file is a file"]),
        ({"--version": "3"}, ["give --to"]),
        ({"--certified-radius": "0.1"}, ["give --to"]),
        ({"--certify": "crwon"}, ["unknown proof 'crwon'", "did you mean 'crown'"]),
        ({"--certify": "crown"}, ["give --certified-radius too"]),
        ({"--certified-radius": "1e-60", "--to": "{tmp}/m"}, ["[1e-60]", "in float32 too"]),
        ({"--certified-radius": "0", "--to": "{tmp}/m"}, ["[0.0]", "above 0"]),
        (
            {"--encoder": "{small}", "--certified-radius": "0.1", "--to": "{tmp}/m"},
            ["does not say what was trained", "give the run"],
        ),
        ({"--data-dir": "/nowhere"}, ["/nowhere"]),
        ({"--budget": "much"}, ["much", "smoke"]),
    ],
)
def test_bad_input_costs_one_line(run, few_digits, made, small, tmp_path, capsys, changes, words):
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "classifier.keras").mkdir(parents=True)
    given = {"--encoder": run, "--data-dir": few_digits, "--out": tmp_path / "out"}
    given |= dict(zip(QUICK[::2], QUICK[1::2], strict=True)) | changes
    places = {"small": small, "tmp": tmp_path, "made": made[0], "base": made[1]}
    words_given = [str(w).format(**places) for pair in given.items() for w in pair]
    code, _, said = command(capsys, *words_given)
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1, said
    for word in words:
        assert word in said
    assert not (tmp_path / "out" / "classifier.keras").exists()


def test_a_classifier_is_the_head_after_the_encoder(small, small_images):
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=shape), rng.normal(size=shape[1])) for shape in ((4, 6), (6, 3))]
    probe = Probe(rng.normal(size=4), rng.uniform(0.01, 2, 4), tuple(layers))
    probe = Probe(*(np.float32(part) for part in probe[:2]),
                  tuple((np.float32(k), np.float32(b)) for k, b in probe.layers))  # fmt: skip
    encoder = load_encoder(small)
    found = classifier(encoder, probe)(small_images)
    x = (np.float64(encoder(small_images)["embedding"]) - probe.mean) / probe.scale
    x = np.maximum(x @ layers[0][0] + layers[0][1], 0) @ layers[1][0] + layers[1][1]
    np.testing.assert_allclose(found["logits"], x, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["probabilities"], softmax(x, 1), atol=1e-3)
    with pytest.raises(InputError, match="head is of 5 dimensions"):
        classifier(encoder, probe._replace(mean=np.zeros(5, np.float32)))


def test_what_is_no_classifier_is_not_exported(small, tmp_path):
    images = keras.Input((12, 12, 3))
    model = keras.Model(images, load_encoder(small)(images))
    with pytest.raises(InputError, match="at least embedding, logits, probabilities"):
        export_classifier(model, tmp_path / "m", {})
    assert not (tmp_path / "m").exists()
