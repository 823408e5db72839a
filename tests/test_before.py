"""What commands wrote before opens, and gives the same numbers: see tests/data/before/README.md."""

import tf_avae  # isort: split

import json
import pickle
import shutil
from pathlib import Path

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
from in_process import run_module

from serving.client import EmbeddingClient
from tests.serving_process import Server, http
from training import classify

BEFORE = Path(__file__).parent / "data" / "before"
SMALL = ("--budget", "smoke", "--epsilon", 0.1, "--images", 45, "--free-images", 45)
SWEEPS = {
    "colormnist": ("--algo", "vae", "se", "--seeds", 1),
    "precision": ("--algo", "vae", "--seeds", 2),
}
OF_SWEEP = ("--arch", "linear", "--latent-dim", 2, "--steps", 2, "--budget", "smoke",
            "--radii", 0.1, "--images", 10)  # fmt: skip


@pytest.fixture(scope="module")
def kept():
    with np.load(BEFORE / "numbers.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All that was written; the runs say where their pictures now are."""
    copy = tmp_path_factory.mktemp("before")
    shutil.unpack_archive(BEFORE / "kept.tar.xz", copy, filter="data")
    for config in copy.glob("runs/*/config.json"):
        values = json.loads(config.read_text())
        assert values["data_dir"] == "pictures"
        config.write_text(json.dumps(values | {"data_dir": str(copy / "pictures")}))
    return copy


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TF_AVAE_CACHE", str(folder / "cache"))


def called(module, *words):
    """What a command prints."""
    code, out, err = run_module(module, *words)
    assert code == 0, out + err
    return out


def assert_same(found, expected, rtol=1e-5, atol=1e-5):
    """All that there was is there, and as it was; `mean` may be called `embedding`."""
    for name, value in expected.items():
        name = "embedding" if name == "mean" and name not in found else name
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=atol, err_msg=name)


def outputs(kept, name):
    """The numbers of one thing, by output."""
    found = {key.partition(":")[2]: kept[key] for key in kept if key.partition(":")[0] == name}
    assert found
    return found


def numbers(values, where=()):
    """The numbers in JSON values, by the path to each."""
    if isinstance(values, dict | list):
        pairs = values.items() if isinstance(values, dict) else enumerate(values)
        return {k: v for name, below in pairs for k, v in numbers(below, (*where, name)).items()}
    return {where: values} if type(values) in (int, float) else {}


def read(path):
    return json.loads(Path(path).read_text())


# --------------------------------------------------------------------- opening


@pytest.mark.parametrize(
    "path", ["runs/avae", "runs/avae_ss", "models/encoder", "models/classifier"]
)
def test_encoders(kept, path):
    expected = outputs(kept, path)
    expected.pop("decoded", None)
    assert_same(tf_avae.load_encoder(path)(kept["images-8"]), expected)


@pytest.mark.parametrize(
    "path",
    ["runs/avae/encoder", "runs/avae/model", "runs/avae_ss/encoder", "runs/avae_ss/model",
     "runs/avae_ss/vae", "classifier/classifier", "keras/vae-mlp", "keras/se-conv",
     "keras/se_avae-conv", "keras/compiled"],
)  # fmt: skip
def test_keras_files(kept, path):
    model = keras.saving.load_model(f"{path}.keras")
    whole = isinstance(model, tf_avae.AVAE)
    assert whole == (not path.endswith(("encoder", "classifier")))
    side = (model.image_shape if whole else model.input_shape)[-2]
    expected = outputs(kept, f"{path}.keras")
    found = model.predict(kept[f"images-{side}"], verbose=0)
    if whole:
        found["decoded"] = model.decode(expected["embedding"])
    # Decoded in training's precision: a sum in another order may be rounded the other way.
    half = whole and model.compute_dtype != "float32"
    assert_same(found, expected, atol=1e-2 if half else 1e-5)


def test_a_compiled_model_is_trained_on(kept):
    model = keras.saving.load_model("keras/compiled.keras")
    images = kept["images-8"]
    found = model.evaluate(images, return_dict=True, verbose=0)
    assert_same(found, outputs(kept, "keras/compiled.keras evaluated"), rtol=1e-4)
    model.train_on_batch(images)
    one_on = outputs(kept, "keras/compiled.keras one step on")
    assert_same(model.predict(images, verbose=0), one_on, rtol=1e-4, atol=1e-4)


def test_a_pickled_transformer(kept):
    with Path("keras/transformer.pkl").open("rb") as file:
        transformer = pickle.load(file)
    expected = outputs(kept, "models/encoder")["embedding"]
    np.testing.assert_allclose(transformer.transform(kept["images-8"]), expected, 1e-5, 1e-5)


# -------------------------------------------------------------------- training


@pytest.mark.parametrize(("algo", "newest"), [("avae", "0-avae-"), ("avae_ss", "1-avae_ss-")])
def test_a_run_goes_on(kept, tmp_path, algo, newest):
    """As if it had been killed: first after its last step, then before."""
    run = shutil.copytree(f"runs/{algo}", tmp_path / algo)
    for name in ("result.json", "model.keras", "encoder.keras"):
        (run / name).unlink()
    images, expected = kept["images-8"], outputs(kept, f"runs/{algo}")
    assert_same(tf_avae.load_encoder(run)(images), expected)

    *_, last = sorted((run / "checkpoints").glob(f"{newest}*.ckpt"))
    last.unlink()
    before = tf_avae.load_encoder(run)(images)["embedding"]
    assert np.abs(before - expected["embedding"]).max() > 0.1
    assert "going on with" in called("training.fit", "--run-dir", run, "--resume")
    assert_same(tf_avae.load_encoder(run)(images), expected, rtol=1e-3, atol=1e-3)
    held_out = read(run / "result.json")["held_out"]
    assert_same(held_out, read(f"runs/{algo}/result.json")["held_out"], rtol=1e-3)
    new, old = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (run, Path("runs", algo))
    )
    assert_same(numbers(new), numbers(old), rtol=1e-3, atol=1e-2)


def test_a_run_begins_with_the_weights_of_another(kept, tmp_path):
    run = tmp_path / "vae"
    words = ("--config", "runs/avae/config.json", "--init-from", "runs/avae", "--algo", "vae",
             "--steps", 1, "--learning-rate", 1e-9, "--run-dir", run)  # fmt: skip
    called("training.fit", *words)
    assert_same(tf_avae.load_encoder(run)(kept["images-8"]), outputs(kept, "runs/avae"), atol=1e-4)


# --------------------------------------------------------------------- results


def test_evaluations_are_read():
    results = "evaluation/results.json"
    for name, table in (
        ("table", called("benchmarks.tables", results)),
        ("detection", called("benchmarks.detection", "--from", results)),
    ):
        assert table == Path(f"evaluation/{name}.md").read_text()


def test_an_evaluation_goes_into_an_export(tmp_path):
    called("serving.export", "runs/avae", "--to", tmp_path / "encoder", "--batch-sizes", 1,
           "--evaluation", "evaluation/results.json")  # fmt: skip
    found, old = (
        read(base / "1/assets.extra/provenance.json")
        for base in (tmp_path / "encoder", Path("models/encoder"))
    )
    same = ("algorithm", "evaluation", "held_out", "image_shape", "step", "weights_sha256")
    assert {name: found[name] for name in same} == {name: old[name] for name in same}


@pytest.mark.parametrize(
    ("path", "sections"),
    [
        ("runs/avae", ("latents", "reconstruction", "consistency", "likelihood")),
        ("models/encoder", ("latents", "reconstruction", "consistency")),
        ("runs/avae/encoder.keras", ("latents",)),
    ],
)
def test_an_evaluation_finds_the_same(tmp_path, path, sections):
    called("training.evaluate", path, *SMALL, "--head", "linear", "--out", tmp_path,
           "--section", "probes", "robustness", *sections,
           "--dataset", "image_folder", "--data-dir", "pictures", "--image-size", 8)  # fmt: skip
    (new,) = read(tmp_path / "results.json")["encoders"]
    old = read("evaluation/results.json")["encoders"][0]
    old["probes"]["folder"].pop("mlp")
    for section in ("probes", *sections):
        expected = numbers(old[section])
        if path == "models/encoder":  # an export does not say rho, nor what follows from it
            expected = {k: v for k, v in expected.items() if not {"rho", "expected"} & {*k}}
        assert_same(numbers(new[section]), expected, rtol=1e-3, atol=1e-3)
    under_attack = [
        [row["accuracy"] for row in record["robustness"]["rows"] if row["head"] == "linear"]
        for record in (new, old)
    ]
    assert under_attack[0] == under_attack[1] != []


def test_a_classifier_is_fitted_again(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(classify, "SECTIONS", ("probes", "robustness"))
    words = ("--encoder", "runs/avae", "--task", "folder", *SMALL, "--out", tmp_path)
    assert classify.main([str(word) for word in words]) == 0
    model = keras.saving.load_model(tmp_path / "classifier.keras")
    found = model.predict(kept["images-8"], verbose=0)
    expected = outputs(kept, "classifier/classifier.keras")
    assert_same(found, expected, rtol=1e-2, atol=1e-2)


# ---------------------------------------------------------------------- sweeps


def page(text):
    """A sweep's page without what it says of the process that printed it."""
    own = ("- command: ", "- commit: ", "- versions: ", "- machine: ")
    return [line for line in text.splitlines() if not line.startswith(own)]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_sweeps_are_read_and_would_go_on(sweep):
    where = ("--out", f"sweeps/{sweep}")
    table = called("training.sweep", sweep, *where, "--table")
    assert page(table) == page(Path("sweeps", sweep, "table.md").read_text())
    listed = called("training.sweep", sweep, *SWEEPS[sweep], *OF_SWEEP, *where, "--dry-run")
    assert "nothing left" in listed and "ready" not in listed


def test_results_of_another_sweep_are_known():
    table = called("training.sweep", "colormnist", "--out", "sweeps/known", "--table")
    assert page(table) == page(Path("sweeps/known/table.md").read_text())


# --------------------------------------------------------------------- serving


def test_the_server_and_its_client(kept, tmp_path, folder):
    configs = "".join(
        f'config {{ name: "{name}" base_path: "{folder}/models/{name}" '
        'model_platform: "tensorflow" }'
        for name in ("encoder", "classifier")
    )
    (tmp_path / "models.txt").write_text(f"model_config_list {{ {configs} }}")
    instance = [[[0.25, 0.5, 0.75]] * 8] * 8
    pictures = sorted(Path("pictures/test").iterdir())
    with Server(tmp_path, f"--model_config_file={tmp_path / 'models.txt'}") as server:
        for name in ("encoder", "classifier"):
            called("serving.client", "embed", *pictures, "--address", server.grpc,
                   "--model", name, "--out", tmp_path / "found.npz")  # fmt: skip
            with np.load(tmp_path / "found.npz") as new, np.load(f"clients/{name}.npz") as old:
                assert list(new["paths"]) == list(old["paths"])
                assert_same(new, {key: old[key] for key in old.files if key != "paths"})
            body = json.dumps({"instances": [instance]})
            status, said = http(server.rest, f"/v1/models/{name}:predict", body)
            assert status == 200
            (old,) = read(f"clients/{name}-predict.json")["predictions"]
            assert_same(json.loads(said)["predictions"][0], old)
        expected = outputs(kept, "models/encoder")
        with EmbeddingClient(server.grpc, "encoder") as client:
            decoded = client.decode(expected["embedding"])
        np.testing.assert_allclose(decoded, expected["decoded"], 1e-5, 1e-5)


def test_bulk_embedding(tmp_path):
    called("serving.bulk", "--model", "models/encoder", "--input", "pictures/test/**",
           "--output", tmp_path / "bulk", "--shards", 1)  # fmt: skip
    new, old = (
        {row["path"]: row for row in pq.read_table(base / "embeddings").to_pylist()}
        for base in (tmp_path / "bulk", Path("bulk"))
    )
    assert new.keys() == old.keys() and len(old) == 45
    for path, row in old.items():
        assert_same(new[path], {name: v for name, v in row.items() if name != "path"})
    manifests = [read(base / "manifest.json") for base in (tmp_path / "bulk", Path("bulk"))]
    assert manifests[0]["columns"] == manifests[1]["columns"]
