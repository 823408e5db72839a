"""The model as a Keras user meets it: compile, fit, evaluate, predict, callbacks, saving."""

import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_avae import AVAE, BALLS
from tf_avae import distributions as d
from tf_avae.errors import InputError
from tf_avae.objectives import COUPLINGS, OBJECTIVES

SEED = tf.constant([0, 5])
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


# Each objective, and each precision; the rest take minutes of tracing.
ALWAYS = {(algo, "mlp", "float32") for algo in OBJECTIVES} | {
    ("avae", "conv", "mixed_bfloat16"), ("se_avae", "mlp", "mixed_float16"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("algo", "arch", "precision"),
    [
        pytest.param(*kind, marks=[] if kind in ALWAYS else pytest.mark.long)
        for kind in itertools.product(OBJECTIVES, ("mlp", "conv"), POLICIES)
    ],
)
def test_every_objective_takes_steps_in_every_precision(
    make_model, small_images, algo, arch, precision
):
    model = make_model(algo, arch=arch, precision=precision)
    history = model.fit(small_images, batch_size=32, epochs=2, verbose=0).history
    assert set(history) == {"loss", *OBJECTIVES[algo].terms}
    assert np.isfinite([*history.values()]).all()
    assert model.nonfinite() is None
    assert int(model.step) == 4
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (precision == "mixed_float16")
    moved = sum(float(tf.reduce_sum(tf.abs(w))) for w in model.optimizer.variables)
    assert np.isfinite(moved)
    assert {w.dtype for w in model.trainable_weights} == {"float32"}
    terms = model.terms(tf.constant(small_images), seed=SEED)
    assert {value.dtype for value in terms.values()} == {tf.float32}


def test_mixed_precision_learns_as_float32_does(make_model, small_images):
    """Loss scaling that was not undone, or undone twice, would show."""
    bounds = {}
    for precision in POLICIES:
        model = make_model("avae", precision=precision)
        history = model.fit(small_images, batch_size=32, epochs=10, verbose=0).history
        bounds[precision] = history["bound"][0], history["bound"][-1]
    for start, end in bounds.values():
        assert end == pytest.approx(bounds["float32"][1], rel=0.02)
        assert end > start


def test_reported_terms_are_the_means_over_the_epoch(make_model, small_images):
    """Batches of 24, 24 and 16: each example counts once."""
    model = make_model("vae")
    model.optimizer.learning_rate = 0.0
    reported = model.fit(small_images, batch_size=24, shuffle=False, verbose=0).history
    again = make_model("vae")
    kl = d.kl_to_prior(again.encode(small_images)).numpy().mean()
    assert reported["kl"][0] == pytest.approx(kl, rel=1e-5)
    assert reported["loss"][0] == pytest.approx(-reported["bound"][0])
    parts = reported["reconstruction"][0] - reported["kl"][0]
    assert reported["bound"][0] == pytest.approx(parts, rel=1e-5)


def test_evaluation_is_repeatable_and_changes_nothing(make_model, small_images):
    model = make_model("se_avae", arch="conv")
    before = [w.numpy() for w in model.weights]
    one = model.evaluate(small_images, batch_size=20, verbose=0, return_dict=True)
    two = model.evaluate(small_images, batch_size=20, verbose=0, return_dict=True)
    assert one == two
    assert set(one) == {"loss", *OBJECTIVES["se_avae"].terms}
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("algo", ["vae", "avae_ss"])
def test_evaluation_encodes_the_images_it_is_given(make_model, small_images, algo):
    model = make_model(algo)
    terms = model.evaluate(small_images, batch_size=64, verbose=0, return_dict=True)
    kl = d.kl_to_prior(model.encode(small_images)).numpy().mean()
    assert terms["kl"] == pytest.approx(kl, rel=1e-5)


def test_predict_gives_embedding_variance_and_inconsistency(make_model, small_images):
    model = make_model("avae")
    outputs = model.predict(small_images, batch_size=10, verbose=0)
    q = model.encode(small_images)
    again = model.encode(model.decode(q.mean))
    np.testing.assert_allclose(outputs["embedding"], q.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs["variance"], q.variance, rtol=1e-5)
    means = ((q.mean - again.mean) ** 2).numpy().sum(1)
    stddevs = ((np.sqrt(q.variance) - np.sqrt(again.variance)) ** 2).sum(1)
    np.testing.assert_allclose(outputs["inconsistency"], means + stddevs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("precision", POLICIES[1:])
def test_predictions_are_float32_whatever_the_precision(make_model, small_images, precision):
    mixed, plain = make_model(precision=precision, seed=4), make_model(seed=4)
    for name, value in mixed.predict(small_images, verbose=0).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, plain.predict(small_images, verbose=0)[name])


@pytest.mark.parametrize(
    "algo",
    [pytest.param(algo, marks=[] if algo == "vae" else pytest.mark.long) for algo in OBJECTIVES],
)
def test_saved_and_loaded_model_is_the_same(make_model, small_images, tmp_path, algo):
    options = {"observation_variance": 0.3, "rho": 0.9, "rho_se": 0.8, "epsilon": 0.2, "seed": 3}
    model = make_model(algo, arch="conv", precision="mixed_bfloat16", **options)
    model.fit(small_images, batch_size=32, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_config() == model.get_config()
    ours, theirs = (m.predict(small_images, verbose=0) for m in (model, again))
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
    np.testing.assert_array_equal(
        model.decode(ours["embedding"]), again.decode(theirs["embedding"])
    )
    # Training goes on from there as it would have gone on.
    for m in (model, again):
        m.fit(small_images, batch_size=32, shuffle=False, verbose=0)
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_steps_per_execution_and_callbacks_change_nothing(make_model, small_images, tmp_path):
    batches = tf.data.Dataset.from_tensor_slices(small_images).batch(16).repeat(3)
    one, many = make_model("avae"), make_model("avae")
    one.fit(batches, shuffle=False, verbose=0)
    many.compile(optimizer=keras.optimizers.Adam(1e-3), steps_per_execution=5)
    many.fit(
        batches,
        shuffle=False,
        verbose=0,
        validation_data=batches,
        callbacks=[
            keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
            keras.callbacks.EarlyStopping(monitor="val_bound", mode="max"),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        ],
    )
    assert (tmp_path / "best.keras").exists()
    for a, b in zip(one.weights, many.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_labels_beside_the_images_are_ignored(make_model, small_images):
    batches = tf.data.Dataset.from_tensor_slices(small_images).batch(16)
    labelled = batches.map(lambda x: (x, {"digit": tf.zeros(16, tf.int32)}))
    one, other = make_model("avae"), make_model("avae")
    one.fit(batches, verbose=0, shuffle=False)
    other.fit(labelled, verbose=0, shuffle=False)
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_noise_differs_from_step_to_step_and_is_decided_by_the_seed(make_model, small_images):
    images = tf.constant(small_images)
    model = make_model("vae")

    def reconstruction(*seed):
        return model.terms(images, seed=tf.constant(seed))["reconstruction"].numpy()

    np.testing.assert_array_equal(reconstruction(0, 1), reconstruction(0, 1))
    assert (reconstruction(0, 1) != reconstruction(0, 2)).all()
    assert (reconstruction(0, 1) != reconstruction(1, 1)).all()


@pytest.mark.parametrize(("batch_norm", "same"), [("data", True), ("all", False)])
def test_which_passes_update_moving_statistics(make_model, small_images, batch_norm, same):
    """With "data", avae moves them as vae does: the pass over x~ leaves them alone."""
    moved = []
    for algo in ("vae", "avae"):
        model = make_model(algo, arch="conv", batch_norm=batch_norm)
        model.terms(tf.constant(small_images), seed=SEED, training=True)
        moved.append(model.encoder.non_trainable_weights[0].numpy())
    assert (moved[0] == moved[1]).all() == same


def test_a_step_that_is_not_finite_is_known_with_its_terms(make_model, small_images):
    model = make_model("avae")
    weight = model.decoder.trainable_weights[-1]

    def spoil(batch, logs):
        if batch == 2:
            weight.assign(np.full(weight.shape, np.nan))

    callback = keras.callbacks.LambdaCallback(on_train_batch_begin=spoil)
    model.fit(small_images, batch_size=16, verbose=0, callbacks=[callback])
    step, terms = model.nonfinite()
    assert step == 3
    # Whether the encoder of what is decoded sees it depends on the processor: a rectified unit
    # makes 0 of it with AVX-512, and passes it on without.
    assert {"bound", "reconstruction"} <= set(terms)
    assert terms == [name for name in OBJECTIVES["avae"].terms if name in terms]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"rho": 1.0}, "rho is 1; it must be at least 0 and below 1"),
        ({"observation_variance": 0.0}, "obs_var is 0; it must be above 0"),
        ({"latent_dim": 0}, "latent_dim is 0"),
        ({"epsilon": -1.0}, "epsilon is -1"),
        ({"pgd_steps": 0}, "pgd_steps is 0"),
        ({"batch_norm": "none"}, "unknown batch_norm 'none'"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_values_are_named(make_model, bad, words):
    with pytest.raises(InputError, match=words):
        make_model(**bad)


def test_an_objective_without_an_attack_says_so(make_model, small_images):
    with pytest.raises(ValueError, match="'vae' attacks nothing"):
        make_model("vae").attack(tf.constant(small_images), seed=SEED)


def test_networks_and_heads_are_of_the_asked_size(make_model):
    model = make_model(latent_dim=7)
    assert model.decode(tf.zeros((3, 7))).shape == (3, 12, 12, 3)
    assert model.generate(5, seed=SEED).shape == (5, 12, 12, 3)


def test_sample_weights_are_refused(make_model, small_images):
    with pytest.raises(ValueError, match="sample weights are given"):
        make_model().fit(small_images, np.zeros(64), sample_weight=np.ones(64), verbose=0)


def test_rows_may_be_named_and_numbers_may_be_numpys(make_model):
    given = AVAE(
        objective="se", architecture="mlp", image_shape=np.array([12, 12, 3]), ball="l2",
        latent_dim=np.int64(4), coupling="sampled", rho=np.float64(0.5), seed=np.uint8(3),
        pgd_steps=np.int32(3), epsilon=np.float32(0.25),
    )  # fmt: skip
    plain = make_model(
        "se", coupling=COUPLINGS["sampled"], ball=BALLS["l2"], rho=0.5, seed=3, epsilon=0.25
    )
    assert given.get_config() | {"name": ""} == plain.get_config() | {"name": ""}
    assert json.loads(json.dumps(given.get_config()))["seed"] == 3
    for a, b in zip(given.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"objective": "aave"}, "unknown objective 'aave' .did you mean 'avae'"),
        ({"architecture": None}, "unknown architecture None; choose one of: mlp"),
        ({"ball": 2}, "unknown norm 2"),
        ({"coupling": OBJECTIVES["avae"]}, "unknown coupling"),
        ({"image_shape": (12, 12)}, r"image_shape is \(12, 12\); it must be \(height"),
        ({"image_shape": (12, 0, 3)}, "whole numbers of at least 1"),
        ({"image_shape": 12}, "image_shape is 12"),
        ({"latent_dim": 4.0}, "latent_dim is 4.0; it must be of type int"),
        ({"seed": True}, "seed is True; it must be of type int"),
        ({"rho": "0.5"}, "rho is '0.5'; it must be of type float"),
        ({"dtype": "float16"}, "unknown precision 'float16'.*choose one of: float32"),
        ({"dtype": "double"}, "unknown precision 'double'"),
    ],
)
def test_what_is_no_row_or_number_is_named(bad, words):
    known = {"objective": "vae", "architecture": "mlp", "image_shape": (12, 12, 3)}
    with pytest.raises(InputError, match=words):
        AVAE(**known | bad)


@keras.saving.register_keras_serializable("tests")
class Wider(AVAE):
    """With an argument of its own beside the model's."""

    def __init__(self, *, width, **options):
        super().__init__(latent_dim=2 * width, **options)
        self.width = width

    def get_config(self):
        config = {**super().get_config(), "width": self.width}
        del config["latent_dim"]
        return config


@keras.saving.register_keras_serializable("tests")
class Settled(AVAE):
    """With arguments of its own only."""

    def __init__(self, width=1, name=None):
        super().__init__(
            objective="vae",
            architecture="mlp",
            image_shape=(12, 12, 3),
            latent_dim=width,
            name=name,
        )
        self.width = width

    def get_config(self):
        return {"width": self.width, "name": self.name}


@pytest.mark.parametrize(
    "model",
    [
        lambda: Wider(width=2, objective="avae", architecture="mlp", image_shape=(12, 12, 3)),
        lambda: Settled(3),
    ],
)
def test_a_subclass_with_a_config_of_its_own_is_made_again(small_images, tmp_path, model):
    model = model()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for again in (loaded, model.twin()):
        assert type(again) is type(model) and again.width == model.width
        for name, value in model(small_images).items():
            np.testing.assert_array_equal(again(small_images)[name], value)


@pytest.mark.parametrize("algo", ["avae_ss", "vae"])
def test_which_networks_train_is_the_objectives_affair(make_model, small_images, algo):
    model = make_model(algo, arch="conv")
    trains = [model.encoder] if algo == "avae_ss" else [model.encoder, model.decoder]
    theirs = [id(v) for network in trains for v in network.trainable_variables]
    model.trainable = False
    assert model.trainable_variables == []
    model.trainable = True
    assert [id(v) for v in model.trainable_variables] == theirs
    model.decoder.trainable = True  # also where somebody asks for it
    before = model.decoder.get_weights()
    model.fit(small_images, batch_size=32, verbose=0)
    same = [np.array_equal(a, b) for a, b in zip(before, model.decoder.get_weights(), strict=True)]
    assert all(same) if algo == "avae_ss" else not any(same)
    frozen = make_model(algo, arch="conv", trainable=False, compiled=False)
    assert frozen.trainable_variables == [] and not frozen.twin().trainable
