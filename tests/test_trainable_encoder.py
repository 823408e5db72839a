"""An encoder that is trained further in other people's models."""

import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL as SHAPE
from conftest import small_model

import tf_avae
from tests.conformance.prepare import untrained_run
from tests.test_load_encoder import head, saved
from tf_avae.errors import InputError
from tf_avae.runs.run import load_trained
from tf_avae.saved import frozen
from tf_avae.saved.exports import export_classifier, served_encoder
from tf_avae.saved.versions import publish

LABELS = np.arange(64) % 3
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def jolted(**options):
    """A convolutional model whose statistics, scales and offsets are not those it begins with."""
    model = small_model(arch="conv", compiled=False, **options)
    rng = np.random.default_rng(0)
    for weight in model.weights[1:]:
        if len(weight.shape) == 1:
            weight.assign(weight + rng.uniform(0, 0.3, weight.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return jolted()


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    publish(served_encoder(model), folder, {}, batch_sizes=(1,))
    return folder


def load(base, **options):
    return tf_avae.load_encoder(base, trainable=True, **options)


def sources(kind, request, tmp_path):
    """Where an encoder is, and the model that it is of, where there is one."""
    if kind == "shipped":
        return "colormnist-robust", None
    if kind == "export":
        return request.getfixturevalue("base"), request.getfixturevalue("model")
    run = untrained_run(tmp_path / "run")
    keras.backend.clear_session()  # Keras numbers its names anew
    model = load_trained(run)
    keras.backend.clear_session()
    return run, model


@pytest.mark.parametrize("kind", ["export", "run", "shipped"])
def test_it_begins_as_the_frozen_one(kind, request, tmp_path):
    path, _ = sources(kind, request, tmp_path)
    ours, theirs = load(path), tf_avae.load_encoder(path)
    images = np.random.default_rng(1).uniform(size=(5, *ours.image_shape)).astype(np.float32)
    expected, found = theirs(images), ours(images)
    assert list(found) == list(expected) == ["embedding", "inconsistency", "variance"]
    for name, value in expected.items():
        assert found[name].dtype == tf.float32
        np.testing.assert_allclose(found[name], value, **CLOSE)
    assert isinstance(ours, tf_avae.TrainableEncoder) and not ours.name.startswith("trainable")
    assert {weight.dtype for weight in ours.weights} == {"float32"}


@pytest.mark.parametrize("kind", ["export", "run"])
def test_gradients_are_those_of_the_models_own_networks(kind, request, tmp_path):
    """With respect to every kernel, bias, scale and offset, and to the images."""
    path, model = sources(kind, request, tmp_path)
    encoder = load(path)
    x = tf.constant(np.random.default_rng(1).uniform(size=(5, *model.image_shape)), tf.float32)

    def gradients(call, variables):
        with tf.GradientTape() as tape:
            tape.watch(x)
            found = call(x)
            total = sum(tf.reduce_sum(tf.sin(value)) for value in found.values())
        return [g.numpy() for g in tape.gradient(total, [*variables, x])]

    def ours(x):
        q = model.encode(x)
        again = model.encode(model.decode(q.mean))
        between = tf.reduce_sum((q.mean - again.mean) ** 2, 1) + tf.reduce_sum(
            (tf.sqrt(q.variance) - tf.sqrt(again.variance)) ** 2, 1
        )
        return {"embedding": q.mean, "variance": q.variance, "inconsistency": between}

    theirs = [*model.encoder.trainable_variables, *model.decoder.trainable_variables]
    names = [variable.path.replace("/", ".") for variable in theirs]
    mine = {weight.name: weight for weight in encoder.trainable_weights}
    assert sorted(mine) == sorted(names)
    fixed = [w.name.rpartition(".")[2] for w in encoder.non_trainable_weights]
    assert set(fixed) <= {"moving_mean", "moving_variance"} and (kind == "run") == (not fixed)
    found = gradients(encoder, [mine[name].value for name in names])
    expected = gradients(ours, [variable.value for variable in theirs])
    for name, a, b in zip([*names, "images"], found, expected, strict=True):
        assert np.abs(b).max() > 0, name
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max(), err_msg=name)


def fitted(base, small_images, **options):
    """A classifier after a few steps, and its encoder."""
    encoder = load(base, outputs=("embedding",), **options)
    whole = head(encoder)
    whole.compile(
        keras.optimizers.SGD(1e-2),
        {"logits": keras.losses.SparseCategoricalCrossentropy(True), "embedding": None},
    )
    whole.fit(small_images, {"logits": LABELS}, batch_size=16, epochs=2, verbose=0)
    return whole, encoder


def test_a_fit_moves_all_but_the_statistics_and_no_other_layer(base, model, small_images):
    elsewhere, second = tf_avae.load_encoder(base), load(base)
    expected = elsewhere(small_images)["embedding"].numpy()
    before = {weight.name: weight.numpy() for weight in load(base).weights}
    _, encoder = fitted(base, small_images)
    for weight in encoder.weights:
        moved = not np.array_equal(weight.numpy(), before[weight.name])
        assert moved == weight.trainable == ("moving" not in weight.name), weight.name
    trained = [v for v in model.encoder.trainable_variables if "variance" not in v.path]
    assert len(encoder.trainable_weights) == len(trained)
    assert np.abs(encoder(small_images)["embedding"] - expected).max() > 1e-3
    np.testing.assert_array_equal(elsewhere(small_images)["embedding"], expected)
    np.testing.assert_allclose(second(small_images)["embedding"], expected, **CLOSE)


def test_what_was_trained_is_saved_cloned_and_exported(base, tmp_path, small_images, monkeypatch):
    whole, encoder = fitted(base, small_images)
    expected = whole(small_images)
    clone = keras.models.clone_model(whole)
    np.testing.assert_array_equal(clone(small_images)["embedding"], expected["embedding"])
    assert clone.get_layer(encoder.name).get_config() == encoder.get_config()
    whole.save(tmp_path / "model.keras")
    whole.save_weights(tmp_path / "model.weights.h5")
    whole.export(tmp_path / "exported", verbose=False)
    monkeypatch.setattr(frozen, "_LIVE", weakref.WeakSet())  # as in another process
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fresh = head(load(base, outputs=("embedding",)))
    fresh.load_weights(tmp_path / "model.weights.h5")
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    for again in (loaded, fresh, exported.serve):
        for name, value in expected.items():
            np.testing.assert_allclose(again(small_images)[name], value, **CLOSE)
    for m in (whole, loaded):  # and training goes on
        m.fit(small_images, {"logits": LABELS}, shuffle=False, verbose=0)
    for a, b in zip(whole.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_can_be_frozen_for_a_while(base, small_images):
    encoder = load(base, outputs=("embedding",))
    count = len(encoder.trainable_weights)
    encoder.trainable = False
    again = keras.models.clone_model(head(encoder)).get_layer("encoder")
    for layer in (encoder, again):
        assert not layer.trainable_weights
        layer.trainable = True
        assert len(layer.trainable_weights) == count


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_it_trains_in_float32_under_any_policy(base, small_images, policy):
    expected, _ = fitted(base, small_images)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(0)
        found, encoder = fitted(base, small_images)
    finally:
        keras.config.set_dtype_policy(before)
    assert {weight.dtype for weight in encoder.weights} == {"float32"}
    embedding = found(small_images)["embedding"]
    assert embedding.dtype == tf.float32
    first = load(base)(small_images)["embedding"]
    moved = np.abs(expected(small_images)["embedding"] - first).max()
    assert 0.1 * moved < np.abs(embedding - first).max() < 10 * moved


def constant(base, folder, model):
    """A SavedModel of the encoder with numbers in the place of variables."""
    numbers = [tf.constant(w.numpy()) for w in model.encoder.weights]

    def embed(image):
        with keras.StatelessScope(list(zip(model.encoder.variables, numbers, strict=True))):
            return {"embedding": model.encode(image).mean}

    return saved(folder, embed, [tf.TensorSpec([None, *SHAPE], tf.float32, "image")])


def as_a_classifier(base, folder, model):
    """What `training.classify` publishes, in which the encoder is frozen."""
    images = keras.Input(SHAPE, name="image")
    found = tf_avae.load_encoder(base)(images)
    logits = keras.layers.Dense(3)(found["embedding"])
    outputs = {**found, "logits": logits, "probabilities": keras.layers.Softmax()(logits)}
    return export_classifier(keras.Model(images, outputs), folder, {}, batch_sizes=(1,))


def quantised(base, folder, model):
    small = small_model(compiled=False)
    small.quantize("int8")
    return publish(served_encoder(small), folder, {}, batch_sizes=(1,))


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (constant, "embedding is made of no weights that can be trained: they are constants"),
        (as_a_classifier, "embedding is made of no weights.* frozen; export the run again"),
        pytest.param(
            quantised, "embedding is made of weights that are quantised", marks=pytest.mark.long
        ),
    ],
)
def test_what_cannot_be_trained_is_said(base, model, tmp_path, make, words):
    path = make(base, tmp_path / "other", model)
    tf_avae.load_encoder(path)
    with pytest.raises(InputError, match=words):
        load(path)


def test_a_graph_that_does_more_than_compute_is_refused_in_safe_mode(tmp_path, small_images):
    (tmp_path / "secret").write_text("12345")
    module = tf.Module()
    module.weight = tf.Variable(2.0, name="own/weight")

    def spy(image):
        length = tf.strings.length(tf.io.read_file(str(tmp_path / "secret")))
        mean = tf.reduce_mean(image, [1, 2])
        return {"embedding": module.weight * mean + tf.cast(length, tf.float32)}

    spec = tf.TensorSpec([None, *SHAPE], tf.float32, "image")
    module.embed = tf.function(spy, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "spy"), {"serving_default": module.embed})
    with pytest.raises(InputError, match=r"ReadFile.*trust=True"):
        load(tmp_path / "spy")
    encoder = load(tmp_path / "spy", trust=True)
    assert [weight.name for weight in encoder.trainable_weights] == ["own.weight"]
    keras.Sequential([keras.Input(SHAPE), encoder]).save(tmp_path / "spy.keras")
    with pytest.raises(InputError, match=r"ReadFile.*safe_mode=False"):
        keras.saving.load_model(tmp_path / "spy.keras")
    found = keras.saving.load_model(tmp_path / "spy.keras", safe_mode=False)(small_images)
    np.testing.assert_allclose(found["embedding"], 2 * small_images.mean((1, 2)) + 5, rtol=1e-5)
