"""Encoders that somebody has, made robust without labels."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL

import tf_avae
from tests.in_process import run_module
from tests.test_resume import assert_same
from tf_avae.backend.float32 import saved_in
from tf_avae.config import Config
from tf_avae.datasets import open_data
from tf_avae.distributions import Posterior
from tf_avae.errors import InputError
from tf_avae.evaluation import table
from tf_avae.objectives import COUPLINGS, Hyperparameters, Passes
from tf_avae.robustified.model import Robustified
from tf_avae.robustified.objectives import ROBUST, cosine
from tf_avae.robustified.pixels import PIXELS, as_pixels
from tf_avae.runs.plan import Stage, resolve
from tf_avae.runs.run import Run, load_trained
from tf_avae.saved.encoders import open_encoder
from tf_avae.saved.exports import served_encoder
from tf_avae.saved.given import application_names, open_given
from training.kept import _near

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(3)
H = Hyperparameters(1.0, 0.9, 0.8, COUPLINGS["analytic"], 1.0, 0.7)


def posterior():
    return Posterior(
        tf.constant(RNG.normal(size=(5, 3))), tf.constant(RNG.uniform(0.1, 2.0, (5, 3)))
    )


# -------------------------------------------------------------------- objectives


def passes():
    return Passes(None, None, None, posterior(), None, posterior(), q_original=posterior())


def test_fare_is_two_squared_distances():
    p = passes()
    mean, moved, was = (q.mean.numpy() for q in (p.q, p.q_adversarial, p.q_original))
    terms = ROBUST["fare"].bound(p, H)
    near, far = ((mean - was) ** 2).sum(1), ((moved - was) ** 2).sum(1)
    np.testing.assert_allclose(terms["bound"], -near - 0.7 * far)
    np.testing.assert_allclose(ROBUST["fare"].attack(p.q_original, p.q_adversarial, H), far)
    lengths = np.linalg.norm(mean, axis=1) * np.linalg.norm(was, axis=1)
    similar = (mean * was).sum(1) / lengths
    np.testing.assert_allclose(terms["cosine"], similar)
    assert cosine(tf.zeros((1, 3)), tf.ones((1, 3))) == 0


def test_coupled_is_the_expectation_over_both_codes():
    """By sampling z ~ q_0 and z' ~ q: the mean of log N(z'; rho z, 1 - rho^2) - log q(z')."""
    p, count = passes(), 400_000
    terms = ROBUST["coupled"].bound(p, H)
    for q, name in ((p.q, "coupling"), (p.q_adversarial, "coupling_se")):
        z, other = (
            of.mean.numpy() + np.sqrt(of.variance.numpy()) * RNG.normal(size=(count, 5, 3))
            for of in (p.q_original, q)
        )

        def log_normal(x, mean, variance):
            return -0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance)).sum(-1)

        value = log_normal(other, 0.8 * z, 1 - 0.8**2)
        value -= log_normal(other, q.mean.numpy(), q.variance.numpy())
        error = value.std(0) / math.sqrt(count)
        assert (np.abs(terms[name] - value.mean(0)) < 5 * error).all(), name
    np.testing.assert_allclose(terms["bound"], terms["coupling"] + 0.7 * terms["coupling_se"])
    attack = ROBUST["coupled"].attack(p.q_original, p.q_adversarial, H)
    np.testing.assert_allclose(attack, -terms["coupling_se"])


# -------------------------------------------------------------------- models


def linear_encoder(weights):
    images = keras.Input(SMALL)
    layer = keras.layers.Dense(1)
    encoder = keras.Model(images, {"embedding": layer(keras.layers.Flatten()(images))})
    layer.set_weights([weights, np.zeros(1)])
    return encoder


def robust(encoder, **options):
    model = Robustified(
        objective="fare", image_shape=SMALL, latent_dim=encoder.output["embedding"].shape[1],
        networks={"encoder": keras.saving.serialize_keras_object(encoder)}, **options,
    )  # fmt: skip
    model.start_from(encoder)
    return model


@pytest.mark.parametrize("adversary", ["pgd", "interval"])
def test_the_worst_image_of_a_linear_encoder(adversary):
    """|w . d| is at most epsilon times the sum of |w|, and is that at a corner of the ball."""
    weights = RNG.normal(size=(math.prod(SMALL), 1)).astype(np.float32)
    model = robust(linear_encoder(weights), adversary=adversary, epsilon=0.1, pgd_steps=20)
    images = tf.constant(RNG.uniform(0.2, 0.8, (4, *SMALL)), tf.float32)
    terms = model.terms(images, seed=tf.constant([0, 0]), training=True)
    expected = (0.1 * np.abs(weights).sum()) ** 2
    np.testing.assert_allclose(terms["penalty"], expected, rtol=1e-3)
    np.testing.assert_allclose(terms["attack_gain"], expected, rtol=1e-3)
    np.testing.assert_allclose(terms["distance"], 0.0, atol=1e-9)
    np.testing.assert_allclose(terms["cosine"], 1.0, rtol=1e-6)


def convolutional(**more):
    """An encoder with what training mode would move: moving statistics and dropout."""
    images = keras.Input(SMALL)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(images)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    return keras.Model(images, keras.layers.Dense(6)(x), **more)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_step_moves_the_copy_alone(precision, small_images, tmp_path):
    given, path = convolutional(), tmp_path / "given.keras"
    given.layers[2].set_weights([RNG.uniform(0.5, 1.5, 8) for _ in range(4)])
    given.save(path)
    encoder = open_given(path)
    np.testing.assert_allclose(encoder(small_images)["embedding"], given(small_images), rtol=1e-6)
    model = Robustified(
        objective="fare", image_shape=SMALL, latent_dim=6, epsilon=0.1, pgd_steps=3,
        networks={"encoder": saved_in(precision, encoder)}, dtype=precision,
    )  # fmt: skip
    model.start_from(encoder)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    before = model.original.get_weights()
    moving = [v.numpy() for v in model.encoder.non_trainable_variables]
    history = model.fit(small_images, batch_size=16, epochs=3, verbose=0).history
    assert history["penalty"][-1] < history["penalty"][0]
    for one, other in zip(before, model.original.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(moving, model.encoder.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.predict(small_images, verbose=0).keys() == {"embedding"}
    # Saved and loaded it is the same model, held to the same embeddings.
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(
        again.encode_original(small_images).mean, model.encode_original(small_images).mean
    )
    np.testing.assert_array_equal(
        again(small_images)["embedding"], model(small_images)["embedding"]
    )
    saved = served_encoder(model)
    assert "decode" not in saved.functions and "decode" in saved.left_out


# -------------------------------------------------------------------- encoders of others


@pytest.mark.parametrize("name", PIXELS)
def test_pixels_are_those_of_keras(name):
    images = RNG.uniform(size=(2, 4, 4, 3)).astype(np.float32)
    layer = keras.Model(given := keras.Input((4, 4, 3)), as_pixels(given, 3, PIXELS[name].of, "it"))
    expected = {
        "unit": images,
        "bytes": 255 * images,
        "tf": 2 * images - 1,
        "torch": (images - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        "caffe": 255 * images[..., ::-1] - [103.939, 116.779, 123.68],
    }[name]
    np.testing.assert_allclose(layer(images), expected, rtol=1e-5, atol=1e-4)
    assert not layer.trainable_weights


def test_an_application_takes_its_own_pixels_and_weights(tmp_path):
    make = {"include_top": False, "pooling": "avg", "input_shape": (32, 32, 3)}
    network = keras.applications.MobileNet(weights=None, **make)
    path = tmp_path / "mine.weights.h5"
    network.save_weights(path)
    encoder = open_given("MobileNet", weights=str(path), image_shape=(32, 32, 3))
    images = RNG.uniform(size=(2, 32, 32, 3)).astype(np.float32)
    expected = network(keras.applications.mobilenet.preprocess_input(255 * images))
    np.testing.assert_allclose(encoder(images)["embedding"], expected, rtol=1e-3, atol=1e-15)
    assert len(encoder.trainable_weights) == len(network.trainable_weights)
    assert "ResNet50" in application_names()


def test_an_export_gives_what_it_gave_and_keeps_no_layer_beside_it():
    q = open_encoder("colormnist-robust").posterior
    images = tf.constant(RNG.uniform(size=(3, 28, 28, 3)), tf.float32)
    both = open_given("colormnist-robust", outputs=("embedding", "variance"))
    for name, expected in zip(("embedding", "variance"), q(images), strict=True):
        np.testing.assert_allclose(both(images)[name], expected, rtol=1e-4, atol=1e-5)
    alone = open_given("colormnist-robust")
    np.testing.assert_array_equal(alone(images)["embedding"], both(images)["embedding"])
    assert len(alone.weights) == len(both.weights) - 2


def integers():
    images = keras.Input(SMALL, dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(images)
    return keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


def frozen():
    model = convolutional()
    model.trainable = False
    return model


def random():
    images = keras.Input(SMALL)

    @keras.saving.register_keras_serializable("test_robustify")
    class Noise(keras.layers.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))

    return keras.Model(images, keras.layers.Dense(2)(Noise(name="noisy")(flat(images))))


def by_the_batch():
    x = keras.layers.BatchNormalization()(images := keras.Input(SMALL), training=True)
    return keras.Model(images, keras.layers.Dense(2)(flat(x)))


def flat(images):
    return keras.layers.Flatten()(images)


def maps():
    images = keras.Input(SMALL)
    return keras.Model(images, keras.layers.Conv2D(4, 3)(images))


def two():
    images = keras.Input(SMALL)
    return keras.Model(images, [keras.layers.Dense(n)(flat(images)) for n in (2, 3)])


def blind():
    """What sees its input as black."""
    x = keras.layers.Rescaling(1e-12)(images := keras.Input(SMALL))
    return keras.Model(images, keras.layers.Dense(2, bias_initializer="ones")(flat(x)))


@pytest.mark.parametrize(
    ("make", "more", "refusal"),
    [
        (integers, {}, "takes uint8, through which no gradient goes; save it with a float input"),
        (frozen, {}, "has no trainable weights; set `trainable = True`"),
        (random, {}, "otherwise each time; a layer draws numbers"),
        (by_the_batch, {}, "otherwise each time; .* or normalises by the batch: save it without"),
        (maps, {}, r"shape \(None, 10, 10, 4\); they must be \[N, D\]: pool the map"),
        (two, {}, "gives 2 outputs; an encoder gives embedding"),
        (blind, {}, "embeds 4 images of noise alike; say with --pixels"),
        (convolutional, {"image_shape": (14, 14, 3)}, "takes images of 12x12x3, and these are 14"),
        (convolutional, {"outputs": ("embedding", "variance")}, "no variance.*take --algo fare"),
        (convolutional, {"weights": "x.h5"}, "has its own; leave them out"),
        (convolutional, {"pixels": "byte"}, "unknown kind of pixels 'byte'.*'bytes'"),
    ],
)
def test_what_is_no_such_encoder_is_refused(make, more, refusal, tmp_path):
    path = tmp_path / "given.keras"
    make().save(path)
    with pytest.raises(InputError, match=refusal):
        open_given(path, **more)


@pytest.mark.parametrize(
    ("name", "more", "refusal"),
    [
        ("MobileNet", {}, "without weights; give --encoder-weights FILE, or imagenet"),
        ("MobileNet", {"weights": "none.h5"}, "'none.h5'; there is no such file"),
        ("MobileNetV9", {}, "nor one of keras.applications .did you mean 'MobileNet"),
    ],
)
def test_what_names_no_encoder_is_refused(name, more, refusal):
    with pytest.raises(InputError, match=refusal):
        open_given(name, **more)


# -------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """An encoder of ColorMNIST that labels have trained for a moment."""
    images = keras.Input((28, 28, 3))
    x = keras.layers.Conv2D(16, 4, strides=4, activation="relu")(images)
    embedding = keras.layers.Dense(16)(flat(x))
    whole = keras.Model(images, keras.layers.Dense(10)(keras.layers.ReLU()(embedding)))
    whole.compile(
        keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    stream = tf_avae.DATASETS["color_mnist"].open().train(64, seed=0)
    whole.fit(stream.map(lambda x, y: (x, y["digit"])), steps_per_epoch=150, verbose=0)
    path = tmp_path_factory.mktemp("mine") / "mine.keras"
    keras.Model(images, embedding).save(path)
    return path


OPTIONS = (
    "--dataset", "color_mnist", "--epsilon", "1/20", "--pgd-steps", "3", "--steps", "60",
    "--checkpoint-every", "20", "--eval-every", "20", "--eval-images", "250", "--log-every", "20",
    "--batch-size", "32",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(mine, few_digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a robust one"
    code, out, err = run_module(
        "training.robustify", "--encoder", mine, "--data-dir", few_digits, "--run-dir", folder,
        *OPTIONS, "--learning-rate", "0.001",
    )  # fmt: skip
    assert code == 0, err
    return folder, out


def test_the_command_keeps_heads_and_search_and_holds_more(run, mine):
    folder, out = run
    found = json.loads((folder / "kept.json").read_text())
    before, after = found["before"], found["after"]
    assert found["epsilon"] == 1 / 20 and found["images"] == 120
    assert before["clean"]["cosine"] == {"mean": pytest.approx(1), "low": pytest.approx(1)}
    assert before["clean"]["found"] == 1.0
    assert before["clean"]["heads"]["digit"] > 0.7
    assert after["clean"]["heads"]["digit"] > before["clean"]["heads"]["digit"] - 0.05
    assert after["clean"]["cosine"]["mean"] > 0.95
    assert after["attacked"]["cosine"]["mean"] > before["attacked"]["cosine"]["mean"]
    assert after["attacked"]["heads"]["digit"] > before["attacked"]["heads"]["digit"] + 0.05
    assert out.endswith(" --to 'models/a robust one'\n")
    # What is printed is what is in the file.
    line = next(line for line in out.splitlines() if line.startswith("digit, a head"))
    told = [float(word) for word in line.split()[-4:]]
    kept = [r["heads"]["digit"] for r in (before["clean"], after["clean"])]
    np.testing.assert_allclose(told[:2], 100 * np.array(kept), atol=0.051)
    # The similarity that training reports is that of the embeddings.
    original = keras.saving.load_model(mine)
    robust = keras.saving.load_model(folder / "encoder.keras")
    images = np.concatenate([x for x, _ in load_data(folder).held_out(250).as_numpy_iterator()])
    one, other = original(images), robust(images)["embedding"]
    similar = cosine(one, other).numpy().mean()
    held_out = json.loads((folder / "result.json").read_text())["held_out"]
    assert held_out["cosine"] == pytest.approx(similar, rel=1e-4)
    assert after["clean"]["cosine"]["mean"] == pytest.approx(similar, rel=1e-4)


def load_data(folder):
    return open_data(Run.open(folder).config)


def test_a_resumed_run_ends_as_an_uninterrupted_one(run, mine, tmp_path):
    folder, _ = run
    other = tmp_path / "stopped"
    shutil.copytree(folder, other)
    for name in ("result.json", "model.keras", "encoder.keras", "kept.json"):
        (other / name).unlink()
    newest = max((other / "checkpoints").iterdir())
    newest.unlink()
    code, out, err = run_module("training.robustify", "--run-dir", other, "--resume")
    assert code == 0 and "going on with fare after step 40" in out, err
    assert_same(other, folder)
    # The encoder that it is held to is part of the run.
    (other / "original.keras").write_bytes(b"")
    assert json.loads((folder / "config.json").read_text())["encoder"] == str(mine)
    code, _, err = run_module("training.robustify", "--run-dir", other, "--resume")
    assert code == 2 and "original.keras is not a Keras model" in err


def test_it_stops_where_embeddings_leave(mine, few_digits, tmp_path):
    """With a rate so large that they do, it ends with the weights of the last good measurement."""
    code, out, err = run_module(
        "training.robustify", "--encoder", mine, "--data-dir", few_digits, "--run-dir",
        tmp_path / "run", *OPTIONS, "--learning-rate", "0.05", "--keep", "0.9999",
    )  # fmt: skip
    assert code == 0, err
    assert re.search(
        r"stopped: after step 20 .* less than 0.9999; taking the weights of step 0", out
    )
    kept = json.loads((tmp_path / "run" / "kept.json").read_text())
    assert kept["after"] == kept["before"]


def test_a_run_is_opened_as_any_other(run):
    folder, _ = run
    encoder, model = open_encoder(folder), load_trained(folder)
    assert encoder.decode is None and encoder.posterior is None and encoder.network() is not None
    images = tf.constant(RNG.uniform(size=(3, 28, 28, 3)), tf.float32)
    np.testing.assert_array_equal(encoder.embed(images), model(images)["embedding"])
    layer = tf_avae.load_encoder(folder)
    np.testing.assert_allclose(layer(images)["embedding"], model(images)["embedding"], rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["--run-dir", "{}/none"], "no encoder is given; say which with --encoder"),
        (["--run-dir", "{}/none", "--begin-or-resume"], "no encoder is given; say which"),
        ([], "no encoder is given; say which with --encoder"),
        (["--encoder", "{}"], "is neither the path of a run"),
        (["--encoder", "{}/none.keras"], "none.keras is neither the path of a run"),
        (["--encoder", "{mine}", "--dataset", "color_mnist", "--keep", "0.9"], "the same value"),
        (["--encoder", "{mine}", "--algo", "vae"], "unknown objective 'vae'.*fare, coupled"),
        (["--encoder", "{mine}", "--epsilon", "4/0"], "invalid float value"),
    ],
)
def test_bad_words_are_refused(words, refusal, mine, tmp_path):
    words = [word.format(tmp_path, mine=mine) for word in words]
    code, _, err = run_module("training.robustify", *words, "--steps", "3", "--eval-every", "2")
    assert code == 2 and re.search(refusal, err) and "Traceback" not in err, err


@pytest.mark.parametrize(
    ("given", "refusal"),
    [
        ({"algo": "vae", "keep": 0.9, "pixels": "unit"}, "pixels, keep of no encoder; give"),
        ({"algo": "fare", "encoder": "e", "init_from": "r"}, "robust copy .* leave init_from out"),
    ],
)
def test_what_does_not_go_together_is_refused(given, refusal):
    with pytest.raises(InputError, match=refusal):
        resolve(Config(**given))


def test_a_robust_run_is_none_to_start_from(run, tmp_path):
    folder, _ = run
    code, out, err = run_module("training.fit", "--run-dir", folder, "--resume")
    assert code == 0 and "encoder:  " in out and "--init-from" not in out, err
    code, _, err = run_module(
        "training.fit", "--algo", "vae", "--init-from", folder, "--run-dir", tmp_path / "vae"
    )
    assert code == 2 and "has no decoder to start from; give a run of training.fit" in err


def test_the_checkpoint_that_keep_may_go_back_to_is_not_dropped(run, tmp_path):
    """Signals make checkpoints between measurements."""
    folder = shutil.copytree(run[0], tmp_path / "run")
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    config = dataclasses.replace(Run.open(folder).config, keep=0.9, keep_checkpoints=1)
    opened, model = Run(folder, config), load_trained(folder)
    model.compile(keras.optimizers.Adam())
    for step in (20, 23, 27):
        model.step.assign(step)
        opened.save_checkpoint(Stage(0, "fare", 60), model)
    assert [path.stem[-2:] for path in opened.checkpoint_paths()] == ["27", "20"]
    assert opened.checkpoint_measured_before(40).meta["step"] == 20


@pytest.mark.parametrize(
    ("file", "name", "task", "row"),
    [
        ("digits", "before", "digit", "before ([file](results/pictures/digits.json))"),
        ("digits", "after", "digit", "after, 3,000 steps"),
        ("digits-ball", "after", "digit", "`--pgd-start ball` ([file]({}/digits-ball.json))"),
        ("scratch", "pixels", "folder", "raw pixels, 32 px ([file]({}/scratch.json))"),
        ("scratch", "scratch", "folder", "a `vae` from nothing, `resnet`, 32 px, 1,000 steps"),
        ("lite0", "before", "folder", "EfficientNet-Lite0, 96 px ([file]({}/lite0.json))"),
        ("lite0", "after", "folder", "its robust copy, 200 steps"),
    ],
)
def test_the_pages_figures_are_those_kept(file, name, task, row):
    folder = ROOT / "docs/results/pictures"
    results = json.loads((folder / f"{file}.json").read_text())
    (record,) = (e for e in results["encoders"] if e["name"] == name)
    (epsilon,) = results["settings"]["epsilons"]
    shares = [
        record["probes"][task]["linear"]["nominal"],
        table.attacked(record["robustness"], task, "linear", epsilon)["accuracy"],
    ]
    cells = [table.percent(share).line for share in shares]
    if "checks" in record:
        passed = [c["passed"] for g in record["checks"]["groups"] for c in g["checks"]]
        cells.append(f"{sum(passed)} of {len(passed)}")
    line = f"{row.format('results/pictures')} | {' | '.join(cells)} |"
    assert results["settings"]["budget"] == "strong"
    assert line in (ROOT / "docs/pictures.md").read_text()


def test_what_is_left_at_a_quarter_of_the_radius_is_in_the_file():
    results = json.loads((ROOT / "docs/results/pictures/lite0-1.json").read_text())
    before, after = (
        table.percent(table.attacked(e["robustness"], "folder", "linear", 0.00392)["accuracy"]).line
        for e in results["encoders"]
    )

    sentence = f"leaves {after} % of the first 100, where it leaves {before} of the original"
    assert sentence in (ROOT / "docs/pictures.md").read_text()


def test_nearness_is_that_of_numpy():
    one, index = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 3))
    index[0] = one[0]
    found = _near(one, index)
    table = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in index] for a in one])
    assert found["cosine"]["mean"] == pytest.approx(table.diagonal().mean())
    assert found["found"] == np.mean(table.argmax(1) == np.arange(6))
