"""The whole evaluation: from Python on any callable, and the command line."""

import dataclasses
import json
import os
import signal
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_resume import fit

import tf_avae
from tests.in_process import run_module
from tf_avae.distributions import Posterior
from tf_avae.errors import InputError
from tf_avae.evaluation import Encoder, Settings, evaluate
from tf_avae.evaluation.budgets import BUDGETS
from tf_avae.evaluation.evaluated import images_through
from tf_avae.evaluation.part_store import Part, PartStore
from tf_avae.evaluation.report import page
from tf_avae.evaluation.representation import DISTANCES
from tf_avae.evaluation.robustness import Outcomes
from tf_avae.evaluation.table import text
from tf_avae.graphs.saved_models import PROVENANCE
from tf_avae.runs.run import load_trained
from tf_avae.saved.encoders import open_encoder
from training import evaluate as command

QUICK = ("--budget", "smoke", "--epsilon", "0.1", "--task", "digit", "--images", "60",
         "--head", "linear", "--distance", "mean_l2", "--free-images", "30")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory, few_digits):
    """An `avae` of a few steps on 800 digits."""
    path = tmp_path_factory.mktemp("runs") / "avae"
    fit(
        *("--algo", "avae", "--data-dir", few_digits, "--steps", 300, "--log-every", 100),
        *("--latent-dim", 16, "--learning-rate", 1e-3, "--obs-var", 0.1, "--run-dir", path),
    )
    return path


def export(run, folder, signature="serving_default", names=("image", "embedding")):
    """A SavedModel of a run's encoder and decoder."""
    model = load_trained(run)
    module = tf.Module()
    module.model = model
    spec = tf.TensorSpec([None, *model.image_shape], tf.float32, name=names[0])
    module.embed = tf.function(
        lambda image: {
            names[1]: model.encode(image).mean,
            "variance": model.encode(image).variance,
        },
        input_signature=[spec],
    )
    module.decode = tf.function(
        lambda latent: {"image": model.decode(latent)},
        input_signature=[tf.TensorSpec([None, model.latent_dim], tf.float32, name="latent")],
    )
    tf.saved_model.save(module, str(folder), {signature: module.embed, "decode": module.decode})
    return folder


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory):
    version = export(run, tmp_path_factory.mktemp("saved") / "model" / "3")
    (version / "assets.extra").mkdir()
    config = json.loads((run / "config.json").read_text())
    (version / PROVENANCE).write_text(json.dumps({"config": config}))
    return version.parent


def run_command(*arguments):
    return run_module("training.evaluate", *arguments)


def figures(folder):
    """What must be the same each time: all but where it was made, and the measured time."""
    results = json.loads((folder / "results.json").read_text())
    del results["provenance"]
    for encoder in results["encoders"]:
        encoder.pop("time_factor", None)
    return results


@pytest.fixture(scope="module")
def evaluated(run, saved, tmp_path_factory):
    """The command on a run and on its SavedModel."""
    out = tmp_path_factory.mktemp("evaluated")
    code, printed, complaint = run_command(run, f"copy={saved}", "--out", out, *QUICK)
    assert code == 0, complaint
    return out, printed


def test_results_are_complete(evaluated, few_digits):
    out, _ = evaluated
    results = json.loads((out / "results.json").read_text())
    assert results["settings"]["budget"] == "smoke" and results["settings"]["seed"] == 0
    assert results["data"]["name"] == "color_mnist" and results["data"]["test_images"] == 120
    assert len(results["data"]["checksums"]["t10k-images-idx3-ubyte"]) == 32
    assert results["provenance"]["versions"]["scikit-learn"]
    assert "training.evaluate" in results["provenance"]["command"]
    encoder, copy = results["encoders"]
    assert encoder["name"] == "avae" and encoder["config"]["steps"] == 300 and encoder["complete"]
    sections = {"probes", "robustness", "certified", "checks", "representation", "consistency",
                "detection", "reconstruction", "likelihood", "latents", "time_factor"}  # fmt: skip
    assert sections <= encoder.keys()
    assert encoder["left_out"] == {"fid": "no feature extractor given"}
    assert set(copy["left_out"]) == {"likelihood", "fid", "time_factor"}
    assert copy["kind"] == "SavedModel" and len(copy["sha256"]) == 64
    row = encoder["robustness"]["rows"][0]
    letters = row["outcomes"]
    assert len(letters) == 60
    assert row["nominal"]["value"] == pytest.approx(1 - letters.count("x") / 60)
    assert row["accuracy"]["value"] == pytest.approx(letters.count(".") / 60)
    assert row["accuracy_after"] == pytest.approx(
        [row["nominal"]["value"], letters.count(".") / 60]
    )


def test_a_saved_model_has_the_figures_of_its_run(evaluated):
    encoder, copy = figures(evaluated[0])["encoders"]
    for section in ("probes", "robustness", "certified", "checks", "detection", "reconstruction"):
        assert json.dumps(encoder[section]) == json.dumps(copy[section])
    assert encoder["consistency"]["inconsistency"] == copy["consistency"]["inconsistency"]


def test_figures_are_those_of_the_pieces(evaluated, run, few_digits):
    """The nominal accuracy by scikit-learn alone, on embeddings of the Keras file."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = tf_avae.DATASETS["color_mnist"].open(few_digits)
    encoder = keras.saving.load_model(run / "encoder.keras")
    splits = []
    for batches in (data.train_images(200), data.held_out(200)):
        pairs = [(encoder.predict_on_batch(x)["embedding"], y["digit"].numpy()) for x, y in batches]
        splits.append([np.concatenate(part) for part in zip(*pairs, strict=True)])
    probes = figures(evaluated[0])["encoders"][0]["probes"]["digit"]
    model = LogisticRegression(C=probes["linear"]["regularisation"], tol=1e-6, max_iter=5000)
    reference = make_pipeline(StandardScaler(), model).fit(*splits[0])
    assert probes["linear"]["nominal"]["value"] == pytest.approx(
        reference.score(*splits[1]),
        abs=0.009,  # one of 120
    )
    assert probes["majority"] == np.bincount(splits[1][1]).max() / 120
    # Chance is about 0.11; after so few steps the figure differs from processor to processor.
    assert 0.2 < probes["linear"]["nominal"]["value"] < 1
    answers, shares = reference.predict(splits[1][0]), reference.predict_proba(splits[1][0])
    found = probes["linear"]
    assert found["balanced"] == pytest.approx(
        balanced_accuracy_score(splits[1][1], answers), abs=0.02
    )
    area = roc_auc_score(splits[1][1], shares, multi_class="ovr", average="macro")
    assert found["roc_auc"]["value"] == pytest.approx(area, abs=0.001)


def test_the_table_is_printed(evaluated):
    out, printed = evaluated
    table = text(json.loads((out / "results.json").read_text()))
    assert table in printed
    rows = ("linear, nominal", "linear, nominal, ROC AUC", "linear, smoke, ε 0.1",
            "checks passed", "ε 0.1, knowing, ROC AUC")  # fmt: skip
    beside = ("10 nearest neighbours", "active units", "MSE", "log p(x)", "time factor")
    for words in rows + beside:
        assert words in table
    assert f"report:  {out / 'report.html'}" in printed


def test_a_stopped_evaluation_goes_on_and_ends_the_same(evaluated, run, tmp_path, monkeypatch):
    """The signal is real; only the moment is arranged."""
    out, _ = evaluated
    sections = ("probes", "robustness", "representation")
    arguments = (run, "--out", tmp_path, *QUICK, "--section", *sections)
    keep = PartStore.keep

    def interrupted(self, name, *part):
        keep(self, name, *part)
        if name == "outcomes":
            monkeypatch.undo()
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(PartStore, "keep", interrupted)
    code, printed, complaint = run_command(*arguments)
    assert code == 130, complaint
    assert "The same command goes on" in printed and "Traceback" not in complaint
    assert not (tmp_path / "results.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("parts/[!.]*")}
    assert any(path.name.startswith("outcomes-") for path in kept)
    code, _, complaint = run_command(*arguments)
    assert code == 0, complaint
    for path, written in kept.items():
        if "started" not in path.name:
            assert path.stat().st_mtime_ns == written
    (found,), (whole, _) = figures(tmp_path)["encoders"], figures(out)["encoders"]
    assert {name: found[name] for name in sections} == {name: whole[name] for name in sections}


# ---------------------------------------------------------------------- from Python


def arrays_of(data, count):
    images, labels = next(iter(data.held_out(count)))
    return images, labels


def blind(x):
    return tf.zeros((tf.shape(x)[0], 3)) + 0.0 * tf.reduce_sum(x)


def pixels(x):
    return tf.reshape(tf.nn.avg_pool2d(x, 4, 4, "VALID"), [-1, 147])


SETTINGS = Settings(
    "smoke", epsilons=(0.1,), tasks=("color",), images=40, free_images=30, neighbours=5
)


@pytest.fixture(scope="module")
def by_hand(few_digits):
    data = tf_avae.DATASETS["color_mnist"].open(few_digits)
    told = []
    evaluation = evaluate(
        [Encoder("pixels", pixels), Encoder("blind", blind)],
        train=data.train_images(200), test=data.held_out(200), settings=SETTINGS,
        progress=told.append,
    )  # fmt: skip
    return evaluation, told


def test_any_callable_is_evaluated(by_hand):
    evaluation, told = by_hand
    encoder, _ = evaluation.results["encoders"]
    assert encoder["probes"]["color"]["linear"]["nominal"]["value"] > 0.95
    assert encoder["left_out"].keys() == {
        "certified", "consistency", "detection", "reconstruction", "likelihood", "fid"
    }  # fmt: skip
    assert encoder["representation"]["left_out"] == ["w2", "kl", "reverse_kl", "symmetric_kl"]
    moved = {row["distance"] for row in encoder["representation"]["rows"]}
    assert moved == {"mean_l2", "cosine"}
    assert "active_units" not in encoder["latents"]
    # 2 encoders, 2 heads, 40 images, 10 steps
    assert told[0].left == 2 * 2 * 40 * 10 and told[-1].left == 0
    assert told[-1].done > 0


def test_a_collapsed_encoder_is_on_top_of_the_findings(by_hand):
    evaluation, _ = by_hand
    failed = evaluation.failed_checks
    for head in ("linear", "mlp"):
        assert ("blind", "color", head, "above-chance") in failed
        assert ("blind", "color", head, "gradients") in failed
    encoder = evaluation.results["encoders"][1]
    assert encoder["latents"]["effective_dimension"] == 0
    assert encoder["representation"]["rows"][0]["tasks"]["color"]["shift"] is None
    json.dumps(evaluation.results, allow_nan=False)


def test_only_what_is_asked_for_is_measured_and_is_the_same(by_hand, few_digits):
    whole, _ = by_hand
    data = tf_avae.DATASETS["color_mnist"].open(few_digits)

    def only(heads, *sections):
        told = []
        found = evaluate(
            [Encoder("pixels", pixels)], train=data.train_images(200), test=data.held_out(200),
            settings=replace(SETTINGS, heads=heads, sections=sections), progress=told.append,
        )  # fmt: skip
        shown = text(found.results)
        assert len(page(found)) > 1000
        return found, found.results["encoders"][0], told, shown

    found, encoder, told, shown = only(("mlp",), "robustness")
    assert encoder.keys() == {"name", "left_out", "robustness"} and encoder["left_out"] == {}
    expected = whole.results["encoders"][0]["robustness"]["rows"]
    assert encoder["robustness"]["rows"] == [row for row in expected if row["head"] == "mlp"]
    # Of one encoder, one head and 40 images: at most 10 steps of each.
    assert 0 < max(report.left for report in told) <= 40 * 10 and told[-1].left == 0
    assert "mlp, smoke, ε 0.1" in shown and "linear" not in shown and "nearest" not in shown
    assert found.failed_checks == []
    assert len(found.pictures[0]) == 1
    found, encoder, told, shown = only(("linear",), "probes", "latents")
    assert encoder.keys() == {"name", "left_out", "probes", "latents"}
    probes = whole.results["encoders"][0]["probes"]["color"]
    assert encoder["probes"]["color"] == {k: v for k, v in probes.items() if k != "mlp"}
    assert {report.left for report in told} == {0} and found.pictures == [[]]
    assert "linear, nominal" in shown and "smoke" not in shown and "checks" not in shown


def test_a_class_without_test_images_is_no_obstacle(few_digits):
    """Balanced accuracy and the area are then over the others."""
    data = tf_avae.DATASETS["color_mnist"].open(few_digits)
    ((images, labels),) = data.held_out(200)
    kept = labels["color"].numpy() != 3
    found = evaluate(
        [Encoder("pixels", pixels)], train=data.train_images(200),
        test=[(images[kept], {"color": labels["color"][kept]})],
        settings=replace(SETTINGS, heads=("linear",), sections=("probes", "robustness")),
    )  # fmt: skip
    record = found.results["encoders"][0]
    probes = record["probes"]["color"]
    assert probes["classes"] == len(np.unique(labels["color"][kept]))
    assert probes["linear"]["balanced"] > 0.9 and probes["linear"]["roc_auc"]["value"] > 0.95
    of = labels["color"].numpy()[kept][:40]
    for row in record["robustness"]["rows"]:
        stands = np.array(list(row["outcomes"])) == "."
        shares = [stands[of == k].mean() for k in np.unique(of)]
        assert row["balanced"] == pytest.approx(np.mean(shares))


def test_heads_but_the_first_are_attacked_on_fewer_images():
    settings = Settings("paper", heads=("mlp", "linear", "margin"), images=50, other_images=20)
    counts = {
        there: [images_through(head, settings, there) for head in settings.heads]
        for there in (100, 30, 10)
    }
    assert counts == {100: [50, 20, 20], 30: [30, 20, 20], 10: [10, 10, 10]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": "huge"}, "unknown budget 'huge'"),
        ({"norm": "l1"}, "unknown norm 'l1'"),
        ({"epsilons": (0.1, 1.5)}, r"epsilon is 1\.5; it must be from 0 to 1"),
        ({"epsilons": (0.1, 0.1)}, "must be above 0 and differ"),
        ({"epsilons": (0.0,)}, "must be above 0"),
        ({"epsilons": ()}, "no epsilon is given"),
        ({"distances": ("w3",)}, "unknown distance 'w3'"),
        ({"images": 0}, "images is 0; it must be at least 1"),
        ({"free_images": 3}, "free_images is 3; it must be at least 10"),
        ({"tasks": ("digit", "digit")}, "tasks are digit, digit; name each once"),
        ({"heads": ("linear", "svm")}, "unknown head 'svm'"),
        ({"heads": ("mlp", "mlp")}, "heads are mlp, mlp; name each once"),
        ({"heads": ()}, "no head is given; name at least one of: linear, mlp"),
        ({"sections": ("robust",)}, "unknown section 'robust'.*did you mean 'robustness'"),
        ({"sections": ("fid", "fid")}, "sections are fid, fid; name each once"),
        ({"sections": ()}, "no section is given; name at least one of: probes, "),
        ({"distances": ("w2", "w2")}, "distances are w2, w2; name each once"),
        ({"chain_steps": 1}, "chain_steps is 1; it must be at least 2"),
        ({"seed": -1}, "seed is -1"),
        ({"budget": 3}, "unknown budget 3; choose one of: smoke"),
        ({"norm": None}, "unknown norm None"),
        ({"images": 1.5}, "images is 1.5; it must be of type int"),
        ({"samples": None}, "samples is None; it must be of type int"),
        ({"epsilons": ("0.1",)}, "epsilon is '0.1'; it must be of type float"),
    ],
)
def test_bad_settings_are_named(change, words):
    with pytest.raises(InputError, match=words):
        Settings(**change)


def test_settings_take_rows_names_and_numbers_of_numpys():
    given = Settings(
        budget=BUDGETS["smoke"], norm=tf_avae.BALLS["l2"], heads="mlp", sections=["probes"],
        distances=DISTANCES["w2"], tasks="digit", epsilons=np.float32([0.25, 1]),
        images=np.int64(5), seed=np.int32(2),
    )  # fmt: skip
    plain = Settings(
        budget="smoke", norm="l2", heads=("mlp",), sections=("probes",), distances=("w2",),
        tasks=("digit",), epsilons=(0.25, 1.0), images=5, seed=2,
    )  # fmt: skip
    assert given == plain
    assert json.dumps(dataclasses.asdict(given)) == json.dumps(dataclasses.asdict(plain))
    assert Settings(epsilons=0.1).epsilons == (0.1,)


def test_bad_encoders_and_data_are_named(few_digits):
    data = tf_avae.DATASETS["color_mnist"].open(few_digits)
    train, test = data.train_images(200), data.held_out(200)

    def tried(encoders, test=test, settings=SETTINGS):
        return evaluate(encoders, train=train, test=test, settings=settings)

    one = Encoder("one", pixels)
    with pytest.raises(InputError, match="of different names"):
        tried([one, one])
    with pytest.raises(InputError, match="printable"):
        tried([Encoder("two\nlines", pixels)])
    with pytest.raises(InputError, match="an encoder is named None"):
        tried([Encoder(None, pixels)])
    for bad in (one, pixels, [pixels], (each for each in [one])):
        with pytest.raises(InputError, match=r"give a list of tf_avae.evaluation.Encoder"):
            tried(bad)
    for embed, words in (
        (lambda x: x, r"embeds them as \(3, 28, 28, 3\), not \[N, D\]"),
        (lambda x: tf.cast(pixels(x), tf.float16), "does not embed in float32"),
        (lambda x: pixels(x) * np.nan, "not finite"),
        (lambda x: pixels(x).numpy(), "one fails on 3 images .*gives ndarray; .*tensors"),
        (lambda x: pixels(tf.image.resize(x, (28, 28), method="area")), "no entry for: ResizeArea"),
        (lambda x: tf.reshape(x, [1, 7]), "one fails on 3 images of 28x28x3: .*Input to reshape"),
    ):
        with pytest.raises(InputError, match=words):
            tried([Encoder("one", embed)])
    for posterior, words in (
        (lambda x: Posterior(pixels(x) + 1, tf.ones_like(pixels(x))), "something else than"),
        (lambda x: Posterior(pixels(x), 0 * pixels(x)), "variance that is not above 0"),
        (lambda x: Posterior(pixels(x), tf.ones_like(pixels(x))[:, :3]), "of another shape"),
    ):
        with pytest.raises(InputError, match=words):
            tried([Encoder("one", pixels, posterior)])
    with pytest.raises(InputError, match="decodes to float32"):
        tried([Encoder("one", pixels, decode=lambda z: z)])
    with pytest.raises(InputError, match="one takes images of 32x32x3, the data are 28x28x3"):
        tried([Encoder("one", pixels, image_shape=(32, 32, 3))])
    with pytest.raises(InputError, match="unknown task 'colour'"):
        tried([one], settings=Settings(tasks=("colour",)))


# ---------------------------------------------------------------------- the command line


def refused(capsys, *arguments):
    """The one line of complaint."""
    try:
        code = command.main([str(word) for word in arguments])
    except SystemExit as stop:
        code = stop.code
    complaint = capsys.readouterr().err
    assert code == 2
    assert complaint.startswith("error: ") and complaint.count("\n") == 1, complaint
    return complaint


def test_bad_input_is_one_line_and_earlier_results_stay(
    capsys, tmp_path, monkeypatch, run, saved, evaluated
):
    out, _ = evaluated
    before = {path: path.read_bytes() for path in out.glob("*.*")}
    monkeypatch.chdir(tmp_path)
    no_weights = tmp_path / "new"
    no_weights.mkdir()
    (no_weights / "config.json").write_bytes((run / "config.json").read_bytes())
    other = export(run, tmp_path / "other", signature="predict")
    renamed = export(run, tmp_path / "renamed", names=("picture", "embedding"))
    keras.Sequential([keras.Input((9, 9, 1)), keras.layers.Flatten()]).save(
        tmp_path / "small.keras"
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"half")
    (tmp_path / "broken.h5").write_bytes(b"half")
    for arguments, words in (
        ([tmp_path / "none"], ["is neither a run", "SavedModel"]),
        ([no_weights], ["has no weights yet", "let it train first"]),
        ([other], ["has no signature 'serving_default'", "it has: decode, predict"]),
        ([renamed], ["takes picture and gives embedding", "takes image"]),
        ([tmp_path / "broken"], ["is damaged"]),
        ([tmp_path / "small.keras"], ["small takes images of 9x9x1", "28x28x3"]),
        ([run, "--epsilon", "1.2"], ["epsilon is 1.2", "from 0 to 1"]),
        ([run, "--epsilon", "big"], ["--epsilon", "'big'"]),
        ([run, "--budget", "strongest"], ["unknown budget 'strongest'", "did you mean 'strong'"]),
        ([run, "--head", "svm"], ["unknown head 'svm'", "linear, mlp"]),
        ([run, "--section", "probe"], ["unknown section 'probe'", "did you mean 'probes'"]),
        ([run, "--section", "fid", "--strict"], ["--strict looks at the checks"]),
        ([run, "--distance", "emd"], ["unknown distance 'emd'", "w2, kl"]),
        ([run, "--task", "shape"], ["unknown task 'shape'", "digit, color"]),
        ([run, "--fid", tmp_path / "none.h5"], ["no such feature extractor"]),
        ([run, "--fid", tmp_path / "broken.h5"], ["does not hold the weights of Inception"]),
        ([run, "--fid", ""], ["holds no SavedModel"]),
        ([run, "--task", "digit", "digit"], ["tasks are digit, digit"]),
        ([run, run], ["two encoders are called 'avae'", "NAME=PATH"]),
        ([run, "--dataset", "cifar"], ["unknown data set 'cifar'"]),
        ([run, "--data-dir", tmp_path / "none"], ["is not a folder"]),
        ([run, "--images", "0"], ["images is 0"]),
        ([run, "--out", ""], ["--out is empty"]),
        ([], ["--help"]),
    ):
        complaint = refused(capsys, *arguments, *([] if "--out" in arguments else ["--out", out]))
        for word in words:
            assert word in complaint
    assert {path: path.read_bytes() for path in out.glob("*.*")} == before


@pytest.mark.long  # the page and the failed checks are tested from Python
def test_strict_tells_by_its_exit_code(tmp_path, run, few_digits):
    """An encoder that sees nothing, as a Keras file."""
    image = keras.Input((28, 28, 3))
    constant = keras.layers.Rescaling(0.0, offset=1.0)(keras.layers.Flatten()(image))
    keras.Model(image, constant).save(tmp_path / "blind.keras")
    code, printed, complaint = run_command(
        tmp_path / "blind.keras", "--data-dir", few_digits, "--out", tmp_path / "out", "--strict",
        *QUICK,
    )  # fmt: skip
    assert code == command.FAILED_CHECKS, complaint
    assert "honesty check failed: blind, linear probe of digit: above-chance" in printed
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("honesty checks failed") < page.index("<h2>")


def test_help_names_every_budget_and_distance(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("- paper: PGD, 40 steps, 10 random starts", "- w2: squared", "--strict"):
        assert words in shown


# ---------------------------------------------------------------------- parts


def test_encoders_open_from_runs_saved_models_and_keras_files(run, saved, few_digits):
    data = tf_avae.DATASETS["color_mnist"].open(few_digits)
    images, _ = next(iter(data.held_out(9)))
    encoders = [open_encoder(path) for path in (run, saved, saved / "3", run / "encoder.keras")]
    assert [e.name for e in encoders] == ["avae", "model", "3", "encoder"]
    expected = load_trained(run)(images)
    for encoder in encoders:
        assert encoder.image_shape == (28, 28, 3)
        np.testing.assert_allclose(encoder.embed(images), expected["embedding"], atol=1e-5)
        np.testing.assert_allclose(
            encoder.posterior(images).variance, expected["variance"], rtol=1e-4
        )
        with tf.GradientTape() as tape:
            tape.watch(images)
            value = tf.reduce_sum(encoder.embed(images) ** 2)
        assert (np.abs(tape.gradient(value, images)).max(axis=(1, 2, 3)) > 0).all()
    assert [e.decode is None for e in encoders] == [False, False, False, True]
    assert encoders[0].rho == 0.975 and encoders[0].observation_variance == 0.1


def test_parts_are_found_by_what_decides_them(tmp_path):
    parts = PartStore(tmp_path, {"encoder": "a"})
    found = Part({"value": 1.5}, {"x": np.arange(3)})
    parts.keep("cell", {"epsilon": 0.1}, found)
    again = PartStore(tmp_path, {"encoder": "a"}).find("cell", {"epsilon": 0.1})
    assert again.values == {"value": 1.5}
    np.testing.assert_array_equal(again.arrays["x"], [0, 1, 2])
    assert PartStore(tmp_path, {"encoder": "b"}).find("cell", {"epsilon": 0.1}) is None
    assert parts.find("cell", {"epsilon": 0.2}) is None
    (file,) = tmp_path.iterdir()
    # One that has taken the name of another, as in a folder that was put together by hand.
    parts.keep("cell", {"epsilon": 0.2}, Part({"value": 2.5}, {}))
    (other,) = set(tmp_path.iterdir()) - {file}
    kept = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    again = PartStore(tmp_path, {"encoder": "a"})
    assert [again.find("cell", {"epsilon": e}) for e in (0.1, 0.2)] == [None, None]
    file.write_bytes(kept)
    assert (
        PartStore(tmp_path, {"encoder": "a"}).find("cell", {"epsilon": 0.1}).values == found.values
    )
    file.write_bytes(kept[:-20])
    assert PartStore(tmp_path, {"encoder": "a"}).find("cell", {"epsilon": 0.1}) is None


def test_parts_that_nobody_can_use_are_cleared(tmp_path):
    of = {source: PartStore(tmp_path, {"source": source}) for source in ("old", "new")}
    for parts in of.values():
        parts.keep("cell", {}, Part({}, {}))
    (tmp_path / ".tmp-killed.npz").write_bytes(b"half")
    (tmp_path / "mine.txt").touch()
    assert len(list(tmp_path.iterdir())) == 4
    again = PartStore(tmp_path, {"source": "new", "encoder": "b"})
    assert PartStore(tmp_path, {"source": "new"}).find("cell", {}) is not None
    assert again.find("cell", {}) is None
    assert len(list(tmp_path.iterdir())) == 2


def nominal(evaluation):
    return evaluation.results["encoders"][0]["probes"]["color"]["linear"]["nominal"]["value"]


def test_another_gradient_label_or_training_split_is_another_evaluation(few_digits, tmp_path):
    """Finished parts are kept for what decided them, which values of embeddings alone do not."""
    data = tf_avae.DATASETS["color_mnist"].open(few_digits)
    train, test = list(data.train_images(200)), list(data.held_out(200))

    def run(embed=pixels, train=train, test=test, sections=("probes", "robustness", "checks")):
        settings = replace(SETTINGS, epsilons=(0.1, 0.3), heads=("linear",), sections=sections)
        found = evaluate(
            [Encoder("one", embed)], train=train, test=test, settings=settings, folder=tmp_path
        )
        return found, {path.name for path in tmp_path.iterdir()}

    @tf.custom_gradient
    def astray(x):
        return pixels(x), lambda up: tf.reverse(
            tf.repeat(tf.repeat(tf.reshape(up, [-1, 7, 7, 3]), 4, axis=1), 4, axis=2), [1]
        )

    first, kept = run()
    again, kept_again = run()
    assert again.results == first.results and kept_again == kept
    assert first.failed_checks == []
    misled, with_misled = run(embed=lambda x: astray(x))
    assert len(with_misled) == 2 * len(kept)
    assert misled.failed_checks
    shift = lambda batches: [(x, {"color": (y["color"] + 1) % 7}) for x, y in batches]  # noqa: E731
    assert nominal(first) > 0.95
    for shifted in ({"train": shift(train)}, {"test": shift(test)}):
        assert nominal(run(**shifted, sections=("probes",))[0]) < 0.1


def test_outcomes_have_a_letter_for_each_trial():
    clean = np.array([False, True, True, True, True])
    broken_by = np.array([-1, -1, 0, 10, 58])
    outcomes = Outcomes(clean, broken_by, tuple(map(str, range(59))), None, None)
    assert outcomes.compact() == "x.0Aw"
