"""What a run directory holds, and that it stands by itself."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_resume import OPTIONS, fit

from tf_avae.config import Config
from tf_avae.objectives import OBJECTIVES
from tf_avae.provenance import provenance
from tf_avae.runs.run import Run, load_trained


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A short run of an objective that attacks, and of the one with two stages."""
    folder = tmp_path_factory.mktemp("runs")
    for algo in ("se_avae", "avae_ss"):
        fit("--algo", algo, *OPTIONS, "--pictures-every", 50, "--run-dir", folder / algo)
    return folder


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_metrics_have_a_row_per_interval_and_stage(runs):
    found = [(r["stage"], r["split"], r["step"]) for r in rows(runs / "avae_ss")]
    train = {"vae": [7, 14, 21, 28, 35, 40], "avae_ss": [7, 14, 21, 28, 35, 42, 49, 56, 60]}
    for stage, steps in train.items():
        assert [step for s, split, step in found if (s, split) == (stage, "train")] == steps
    held_out = [(s, step) for s, split, step in found if split == "held_out"]
    assert held_out == [("vae", 25), ("vae", 40), ("avae_ss", 25), ("avae_ss", 50), ("avae_ss", 60)]
    terms = {"loss", *OBJECTIVES["se_avae"].terms, "attack_gain", "zero_gradients"}
    for row in rows(runs / "se_avae"):
        assert set(row) == {"stage", "step", "split", *terms}
        assert row["attack_gain"] > 0 and 0 <= row["zero_gradients"] < 1


def test_pictures_are_pngs_of_each_stage(runs):
    names = {path.name for path in (runs / "se_avae" / "pictures").iterdir()}
    kinds = ("adversarial", "decoded", "reconstructions", "samples")
    assert names == {f"0-se_avae-{step:09d}-{kind}.png" for step in (50, 60) for kind in kinds}
    names = {path.name for path in (runs / "avae_ss" / "pictures").iterdir()}
    assert {name.split("-")[1] for name in names} == {"vae", "avae_ss"}
    for path in (runs / "se_avae" / "pictures").iterdir():
        image = tf.io.decode_png(path.read_bytes()).numpy()
        assert image.shape[1] > 500 and image.std() > 10


def test_tensorboard_has_the_scalars_and_pictures(runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(runs / "se_avae" / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {f"se_avae/train/{name}" for name in OBJECTIVES["se_avae"].terms} <= tags
    assert {"se_avae/held_out/bound", "se_avae/adversarial", "se_avae/steps_per_second"} <= tags
    logged = [
        (event.step, float(tf.make_ndarray(event.tensor_proto)))
        for event in events.Tensors("se_avae/train/kl")
    ]
    written = [(r["step"], r["kl"]) for r in rows(runs / "se_avae") if r["split"] == "train"]
    assert [step for step, _ in logged] == [step for step, _ in written]
    np.testing.assert_allclose([v for _, v in logged], [v for _, v in written], rtol=1e-6)


def test_provenance_says_where_it_comes_from(runs):
    notes = json.loads((runs / "avae_ss" / "provenance.json").read_text())
    assert notes["versions"]["tensorflow"] == tf.__version__
    assert notes["versions"]["keras"] == keras.__version__
    assert notes["data"]["train-images-idx3-ubyte"] == "6bbc9ace898e44ae57da46a324031adb"
    assert len(notes["sessions"]) == 1
    assert notes["sessions"][0]["command"].startswith("python -m training.fit --algo avae_ss")
    found = len(tf.config.list_physical_devices("GPU"))
    assert len(notes["accelerators"]) == len(notes["sessions"][0]["accelerators"]) == found


def test_provenance_names_the_graphics_processors(monkeypatch):
    names = {"/physical_device:GPU:0": "NVIDIA H100 80GB HBM3", "/physical_device:GPU:1": "other"}
    monkeypatch.setattr(tf.config, "list_physical_devices", {"GPU": list(names)}.get)

    def details(gpu):
        return {"device_name": names[gpu], "compute_capability": (9, 0)}

    monkeypatch.setattr(tf.config.experimental, "get_device_details", details)
    assert provenance()["accelerators"] == list(names.values())


@pytest.mark.long
def test_config_file_starts_the_same_run_elsewhere(runs, tmp_path):
    config = runs / "se_avae" / "config.json"
    assert Config.from_dict(json.loads(config.read_text())) == Run.open(runs / "se_avae").config
    fit("--config", config, "--run-dir", tmp_path / "again")
    for name in ("metrics.jsonl", "result.json", "config.json"):
        again, first = (tmp_path / "again" / name), (runs / "se_avae" / name)
        assert again.read_bytes() == first.read_bytes()


def test_model_and_encoder_files_agree(runs, color_mnist):
    images, _ = next(iter(color_mnist.held_out(20)))
    model = load_trained(runs / "avae_ss")
    encoder = keras.saving.load_model(runs / "avae_ss" / "encoder.keras")
    np.testing.assert_array_equal(model.encode(images).mean, encoder(images)["embedding"])
    np.testing.assert_array_equal(model(images)["variance"], encoder(images)["variance"])
    assert int(model.step) == 60


def test_encoder_file_computes_in_float32_whatever_the_precision(tmp_path, color_mnist):
    run = tmp_path / "run"
    fit("--algo", "vae", *OPTIONS, "--precision", "mixed_bfloat16", "--run-dir", run)
    images, _ = next(iter(color_mnist.held_out(20)))
    encoder = keras.saving.load_model(run / "encoder.keras")
    assert {layer.compute_dtype for layer in encoder.layers} == {"float32"}
    embedding = load_trained(run).predict(images, verbose=0)["embedding"]
    np.testing.assert_allclose(encoder(images)["embedding"], embedding, rtol=1e-5, atol=1e-6)


def test_ss_changes_the_encoder_of_the_vae_it_started_from_and_nothing_else(runs):
    vae = keras.saving.load_model(runs / "avae_ss" / "vae.keras")
    model = load_trained(runs / "avae_ss")
    for a, b in zip(vae.decoder.weights, model.decoder.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    moved = [
        (a.numpy() != b.numpy()).any()
        for a, b in zip(vae.encoder.weights, model.encoder.weights, strict=True)
    ]
    assert all(moved)


@pytest.mark.long
def test_ss_from_a_run_is_what_ss_alone_does_after_its_own_vae(runs, tmp_path):
    """One stage from a trained VAE equals two stages: the same weights at the end."""
    vae = [*OPTIONS, "--steps", 40]
    fit("--algo", "vae", *vae, "--run-dir", tmp_path / "vae")
    fit(
        "--algo", "avae_ss", *OPTIONS, "--init-from", tmp_path / "vae",
        "--run-dir", tmp_path / "ss",
    )  # fmt: skip
    one, two = load_trained(tmp_path / "ss"), load_trained(runs / "avae_ss")
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_unused_options_are_said(tmp_path):
    done = fit(
        "--algo", "vae", *OPTIONS, "--rho", 0.5, "--run-dir", tmp_path / "run"
    )  # fmt: skip
    assert "note: --rho has no effect on vae" in done.stdout
    assert "note: --pgd-steps has no effect on vae" in done.stdout
