"""The model as a Keras user meets it: compile, fit, evaluate, predict, callbacks, saving."""

import itertools
import json
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import SMALL_CONV
from tf_avae import AVAE, BALLS
from tf_avae import distributions as d
from tf_avae.backend.normalisation import with_statistics
from tf_avae.errors import InputError
from tf_avae.networks import ARCHITECTURES
from tf_avae.objectives import COUPLINGS, OBJECTIVES
from tf_avae.runs.optimizers import FusedAdam

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
    attacks = {"attack_gain"} if OBJECTIVES[algo].attack else set()
    attacks |= {"zero_gradients"} if attacks and OBJECTIVES[algo].adversary == "pgd" else set()
    assert set(history) == {"loss", *OBJECTIVES[algo].terms, *attacks}
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


@pytest.mark.long
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
    model = make_model("se_avae", arch=SMALL_CONV)
    before = [w.numpy() for w in model.weights]
    one = model.evaluate(small_images, batch_size=20, verbose=0, return_dict=True)
    two = model.evaluate(small_images, batch_size=20, verbose=0, return_dict=True)
    assert one == two
    assert set(one) == {"loss", *OBJECTIVES["se_avae"].terms, "attack_gain", "zero_gradients"}
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
    many.compile(optimizer=FusedAdam(1e-3), steps_per_execution=5)
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


def test_auxiliary_passes_are_normalised_by_the_clean_batch(make_model, small_images):
    """In a ball of radius 0 the attacked image is the clean one: so must be its code, which moving
    statistics that have seen nothing yet would put elsewhere."""
    images = tf.constant(small_images)
    apart = {}
    for batch_norm in ("data", "clean"):
        for precision in ("float32", "mixed_bfloat16"):
            model = make_model(
                "certified_elbo", arch=SMALL_CONV, batch_norm=batch_norm, epsilon=0.0,
                precision=precision, adversary="pgd",
            )  # fmt: skip
            found = model.terms(images, seed=SEED, training=True)
            apart[batch_norm, precision] = float(tf.reduce_max(found["penalty"]))
    assert apart["clean", "float32"] < 1e-6 and apart["clean", "mixed_bfloat16"] < 1e-2
    assert min(apart["data", "float32"], apart["data", "mixed_bfloat16"]) > 0.1


def test_statistics_of_a_batch_are_those_that_numpy_finds(small_images):
    normal = keras.layers.BatchNormalization(momentum=0.9)
    inner = keras.Sequential([keras.Input((12, 12, 3)), normal])
    network = keras.Sequential([keras.Input((12, 12, 3)), keras.layers.Rescaling(2.0), inner])
    before = normal.moving_variance.numpy()
    trained, statistics = with_statistics(network, lambda: network(small_images, training=True))
    values = 2.0 * np.float64(small_images)
    moments = {"moving_mean": values.mean((0, 1, 2)), "moving_variance": values.var((0, 1, 2))}
    assert [variable.name for variable, _ in statistics] == list(moments)
    for variable, value in statistics:
        np.testing.assert_allclose(value, moments[variable.name], rtol=1e-5)
    with keras.StatelessScope(statistics):
        again = network(small_images[:5], training=False)
    np.testing.assert_allclose(again, trained[:5], atol=1e-6)
    expected = 0.9 * before + 0.1 * moments["moving_variance"]
    np.testing.assert_allclose(normal.moving_variance, expected, rtol=1e-5)
    normal.momentum = 1.0
    with pytest.raises(InputError, match="has momentum 1; give it less"):
        with_statistics(network, lambda: network(small_images, training=True))


def test_the_gain_of_the_attack_is_what_it_adds_to_its_aim(make_model, small_images):
    model = make_model("adversarial_elbo", arch="shallow", pgd_start="ball", latent_dim=3)
    images = tf.constant(small_images)
    found = model.terms(images, seed=SEED)
    use = tf.stack([SEED[0], SEED[1] * 3 + 2])
    q, other = model.encode(images), model.encode(model.attack(images, seed=use))
    ratio = other.variance.numpy() / q.variance.numpy()
    moved = (other.mean.numpy() - q.mean.numpy()) ** 2 / q.variance.numpy()
    expected = 0.5 * (moved + ratio - 1 - np.log(ratio)).sum(1)
    np.testing.assert_allclose(found["attack_gain"], expected, rtol=1e-4, atol=1e-6)
    assert expected.min() > 0


@pytest.mark.parametrize(("batch_norm", "same"), [("data", True), ("clean", True), ("all", False)])
def test_which_passes_update_moving_statistics(make_model, small_images, batch_norm, same):
    """With "data", avae moves them as vae does: the pass over x~ leaves them alone."""
    moved = []
    for algo in ("vae", "avae"):
        model = make_model(algo, arch=SMALL_CONV, batch_norm=batch_norm)
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


def test_an_attack_starts_where_it_is_told_to(make_model, small_images):
    """With steps too short to matter it ends at its start, in training's terms too."""
    model = make_model("se", pgd_start="brighter", pgd_step_size=1e-9, epsilon=0.2)
    found = model.attack(small_images, seed=3)
    np.testing.assert_allclose(found, np.minimum(small_images + 0.2, 1), atol=1e-6)
    again = AVAE.from_config(model.get_config())
    assert again.pgd_start.name == "brighter"
    with pytest.raises(InputError, match=r"start 'image' is where a distance .* has no gradient"):
        make_model("se", pgd_start="image")


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


@keras.saving.register_keras_serializable("tests")
class Penalised(AVAE):
    """With a term of its own, in which a layer of its own has a part."""

    def __init__(self, *, weight=0.5, layer=True, **options):
        super().__init__(**options)
        self.weight, self.layer = weight, layer
        self.head = keras.layers.Dense(2, dtype="float32") if layer else tf.identity
        if layer:
            self.head.build((None, self.latent_dim))

    def get_config(self):
        return super().get_config() | {"weight": self.weight, "layer": self.layer}

    def terms(self, images, **how):
        terms = super().terms(images, **how)
        mean = self.encode(images, float32=how.get("float32", False)).mean
        penalty = tf.reduce_sum(tf.square(self.head(mean)), 1)
        return {**terms, "penalty": penalty, "bound": terms["bound"] - self.weight * penalty}


def penalised(algo="vae", compiled=True, **options):
    model = Penalised(
        objective=algo, architecture="mlp", image_shape=(12, 12, 3), latent_dim=4, **options
    )
    if compiled:
        model.compile(FusedAdam(1e-3))
    return model


def test_terms_that_a_subclass_adds_are_reported_and_trained_on(make_model, small_images, tmp_path):
    model, plain = penalised(weight=3.0), make_model("vae")
    code = model.encode(small_images).mean.numpy() @ model.head.kernel.numpy()
    expected = plain.evaluate(small_images, batch_size=64, verbose=0, return_dict=True)
    expected["penalty"] = np.square(code).sum(1).mean()
    expected["bound"] -= 3 * expected["penalty"]
    found = model.evaluate(small_images, batch_size=64, verbose=0, return_dict=True)
    for name in OBJECTIVES["vae"].terms:
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    assert found["penalty"] == pytest.approx(expected["penalty"], rel=1e-5)
    assert found["loss"] == -found["bound"]
    names = ["loss", *OBJECTIVES["vae"].terms, "penalty"]
    assert [metric.name for metric in model.metrics] == names
    kernel = model.head.kernel.numpy()
    board = keras.callbacks.TensorBoard(tmp_path)
    history = model.fit(
        small_images, validation_data=(small_images,), epochs=20, verbose=0, callbacks=[board]
    ).history
    assert set(history) == {*names, *(f"val_{name}" for name in names)}
    assert history["penalty"][-1] < 0.5 * history["penalty"][0]
    assert np.abs(model.head.kernel.numpy() - kernel).max() > 0
    (events,) = (tmp_path / "train").glob("events*")
    tags = {
        v.tag for e in tf.compat.v1.train.summary_iterator(str(events)) for v in e.summary.value
    }
    assert "epoch_penalty" in tags


def test_a_subclass_that_adds_terms_is_cloned_saved_and_goes_on(small_images, tmp_path):
    model = penalised("se", weight=2.0, dtype="mixed_bfloat16", seed=3, pgd_steps=2)
    model.fit(small_images, batch_size=32, verbose=0)
    for again in (
        keras.models.clone_model(model), Penalised.from_config(model.get_config()), model.twin()
    ):  # fmt: skip
        assert type(again) is Penalised and again.get_config() == model.get_config()
        again.set_weights(model.get_weights())
        again.compile()
        ours, theirs = (m.evaluate(small_images, verbose=0) for m in (model, again))
        assert ours == theirs and len(ours) == 8
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    one, other = (
        m.fit(small_images, batch_size=32, shuffle=False, verbose=0).history for m in (model, again)
    )
    assert one == other and "penalty" in one and int(again.step) == 4
    for a, b in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_subclass_that_adds_terms_is_quantised(small_images, tmp_path):
    model = penalised(layer=False)
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    ours, theirs = (m.evaluate(small_images, verbose=0, return_dict=True) for m in (model, again))
    assert ours == theirs and "penalty" in ours


def test_a_term_of_ones_own_that_is_not_finite_is_named(small_images):
    model = penalised()
    model.head.kernel.assign(np.full((4, 2), np.nan))
    model.fit(small_images, verbose=0)
    step, terms = model.nonfinite()
    assert step == 1 and {"penalty", "bound"} <= set(terms) and terms[-1] == "penalty"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {"penalty": t["bound"]}, "terms of Bad gives penalty; .*'bound' among them"),
        (lambda t: t["bound"], "terms of Bad gives a .*Tensor; it must give a dict"),
        (lambda t: t | {"loss": t["bound"]}, "none called 'loss'"),
        (
            lambda t: t | {"mine": tf.reduce_mean(t["kl"])},
            r"'mine' of Bad is float32 of shape \(\)",
        ),
        (lambda t: t | {"mine": t["kl"][:, None]}, r"'mine' of Bad is float32 of shape \(97, 1\)"),
        (lambda t: t | {"mine": t["kl"][:1]}, r"'mine' of Bad .* \(1,\); it must be float32 \[B\]"),
        (lambda t: t | {"bound": tf.cast(t["kl"], tf.bfloat16)}, "'bound' of Bad is bfloat16"),
    ],
)
def test_what_are_no_terms_is_refused_when_the_model_is_compiled(change, words):
    class Bad(AVAE):
        def terms(self, images, **how):
            return change(super().terms(images, **how))

    model = Bad(objective="vae", architecture="mlp", image_shape=(12, 12, 3), latent_dim=4)
    with pytest.raises(InputError, match=words):
        model.compile("adam")


def test_rows_of_ones_own_train_and_are_registered_to_be_saved(make_model, small_images, tmp_path):
    def bound(p, h):
        terms = OBJECTIVES["vae"].bound(p, h)
        return {**terms, "spread": d.entropy(p.q)}

    row = replace(OBJECTIVES["vae"], name="own", bound=bound, terms=("bound", "spread"))
    options = {"architecture": "mlp", "image_shape": (12, 12, 3), "latent_dim": 4}
    model = AVAE(objective=row, **options)
    model.compile("adam")
    with pytest.raises(
        InputError, match="'own' gives bound, reconstruction, kl, spread; its terms"
    ):
        model.fit(small_images, verbose=0)
    model = AVAE(
        objective=replace(row, terms=(*OBJECTIVES["vae"].terms, "spread")),
        **options | {
            "architecture": replace(ARCHITECTURES["mlp"], name="mine"),
            "ball": replace(BALLS["l2"], name="round"),
            "coupling": replace(COUPLINGS["sampled"], name="drawn"),
        },
    )  # fmt: skip
    model.compile(FusedAdam(1e-3))
    found = model.fit(small_images, verbose=0, shuffle=False).history
    plain = make_model("vae").fit(small_images, verbose=0, shuffle=False).history
    assert found.pop("spread") and found == plain
    for made_again in (model.twin, lambda: model.save(tmp_path / "model.keras")):
        with pytest.raises(InputError, match=r"objective 'own' is not registered.*OBJECTIVES.reg"):
            made_again()


@pytest.mark.parametrize("algo", ["avae_ss", "vae"])
def test_which_networks_train_is_the_objectives_affair(make_model, small_images, algo):
    model = make_model(algo, arch=SMALL_CONV)
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
