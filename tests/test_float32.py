"""Networks in float32 whatever they train in: shared by threads, quantised, made by others."""

import gc
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL, small_model
from keras import layers

from tf_avae.backend.float32 import Float32View
from tf_avae.errors import InputError
from tf_avae.graphs.saved_models import SavedModel
from tf_avae.saved.encoders import open_encoder
from tf_avae.saved.exports import served_encoder
from tf_avae.saved.versions import publish

SEED = tf.constant([0, 5])


def policies(*networks):
    return [layer.dtype_policy.name for network in networks for layer in network.layers]


def relative_error(found, right):
    return float(np.abs(found - right).max() / np.abs(right).max())


@pytest.mark.parametrize("arch", ["mlp", "conv"])
def test_threads_that_call_one_model_get_what_one_gets_and_change_nothing(small_images, arch):
    mixed, plain = small_model(arch=arch, precision="mixed_float16"), small_model(arch=arch)
    kept, images = policies(mixed.encoder, mixed.decoder), tf.constant(small_images)
    # Eagerly and in a graph, whose kernels round otherwise.
    ways = (lambda model: model, lambda model: tf.function(lambda x: model(x), autograph=False))
    right = [way(plain)(images) for way in ways]
    together = threading.Barrier(4)

    def call(number):
        found = []
        for turn in range(3):
            together.wait()
            which = (number + turn) % 2
            found.append((which, ways[which](mixed)(images)))
            mixed.encode(images)  # in half precision, beside the others
        return found

    with ThreadPoolExecutor(4) as threads:
        for which, outputs in itertools.chain(*threads.map(call, range(4))):
            for name, value in right[which].items():
                np.testing.assert_array_equal(outputs[name], value)
    assert policies(mixed.encoder, mixed.decoder) == kept


def test_a_thread_that_predicts_leaves_training_as_it_is(make_model, small_images):
    """Weights after `fit` are those without the thread, to the bit."""
    alone, beside = (make_model("vae", precision="mixed_bfloat16") for _ in range(2))
    alone.fit(small_images, batch_size=16, shuffle=False, verbose=0)
    done, failures = threading.Event(), []

    def predict():
        while not done.wait(0.02):
            try:
                found = beside(tf.constant(small_images[:4]))
                assert all(np.isfinite(value).all() for value in found.values())
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        beside.fit(small_images, batch_size=16, shuffle=False, verbose=0)
    finally:
        done.set()
        thread.join()
    assert not failures
    for a, b in zip(alone.get_weights(), beside.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradients_reach_the_images_and_the_networks_own_weights(small_images):
    mixed, plain = small_model(arch="conv", precision="mixed_float16"), small_model(arch="conv")

    def gradients(model):
        @tf.function
        def of(images):
            with tf.GradientTape() as tape:
                tape.watch(images)
                loss = tf.reduce_sum(model.encode(images, float32=True).mean ** 2)
            variables = [v.value for v in model.encoder.trainable_variables]
            return tape.gradient(loss, [images, *variables])

        return [g for g in of(tf.constant(small_images)) if g is not None]

    found, right = gradients(mixed), gradients(plain)
    assert len(found) == len(right) == len(mixed.encoder.trainable_variables) - 1  # variance's head
    for a, b in zip(found, right, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_view_follows_the_weights_and_holds_none(make_model, small_images):
    model = make_model("vae", precision="mixed_bfloat16")
    held = {id(array) for array in gc.get_objects() if isinstance(array, tf.Variable)}
    before = model(small_images)["embedding"].numpy()
    gc.collect()
    made = [v for v in gc.get_objects() if isinstance(v, tf.Variable) and id(v) not in held]
    assert not made
    model.encoder.set_weights([0.5 * w for w in model.encoder.get_weights()])
    right = small_model("vae", compiled=False)
    right.set_weights(model.get_weights())
    after = model(small_images)["embedding"].numpy()
    np.testing.assert_array_equal(after, right(small_images)["embedding"])
    assert relative_error(after, before) > 0.1
    assert len(model.weights) == len(right.weights)  # saved and counted once


@pytest.mark.filterwarnings(
    "ignore:Layer .* does not have a `quantize`", "ignore:Skipping variable"
)
@pytest.mark.parametrize(("arch", "precision"), [("mlp", "mixed_bfloat16"), ("conv", "float32")])
def test_a_quantised_model_works_to_its_own_accuracy(small_images, tmp_path, arch, precision):
    """8 bits a weight: an error of a hundredth or so, not 1e15."""
    images = tf.constant(small_images)
    model = small_model(arch=arch, precision=precision)
    exact = model(images)["embedding"].numpy()
    model.quantize("int8")
    found = model(images)
    assert 1e-4 < relative_error(found["embedding"].numpy(), exact) < 0.1
    predicted = model.predict(small_images, verbose=0)["embedding"]
    np.testing.assert_allclose(predicted, found["embedding"], 1e-2, 1e-3)
    assert np.isfinite(list(model.terms(images, seed=SEED, float32=True).values())).all()
    model.save(tmp_path / "model.keras")
    model.encoder.save(tmp_path / "encoder.keras")
    for again in (keras.saving.load_model(tmp_path / "model.keras"), model.twin()):
        for name, value in again(images).items():
            np.testing.assert_array_equal(value, found[name])
    opened = open_encoder(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(opened.embed(images), found["embedding"])
    if arch == "mlp":
        path = publish(served_encoder(model), tmp_path / "m", {}, version=1, batch_sizes=(1,))
        served = SavedModel(path).call("serving_default", image=images)
        np.testing.assert_allclose(served["embedding"], found["embedding"], 1e-2, 1e-3)


class _Scaled(layers.Layer):
    """A layer of somebody's own, with a layer in it that is made late."""

    def build(self, shape):
        self.inner = layers.Dense(shape[-1], dtype=self.dtype_policy)
        self.inner.build(shape)
        self.scale = self.add_weight(shape=(1,), initializer="ones", name="scale")

    def call(self, x):
        return self.inner(x) * self.scale


def of_others(dtype):
    """What people save: nested models, wrappers, attention, what was adapted to data."""
    keras.utils.set_random_seed(3)
    images = keras.Input(SMALL)
    normal = layers.Normalization(dtype=dtype)
    normal.adapt(np.random.default_rng(1).uniform(size=(8, *SMALL)).astype(np.float32))
    x = layers.Rescaling(2.0, dtype=dtype)(normal(images))
    x = layers.SeparableConv2D(6, 3, dtype=dtype)(x)
    inner = keras.Sequential(
        [layers.Dense(6, dtype=dtype), layers.BatchNormalization(dtype=dtype), layers.ReLU()]
    )
    x = layers.Reshape((100, 6), dtype=dtype)(inner(x))
    x = layers.MultiHeadAttention(2, 3, dtype=dtype)(x, x)
    x = layers.Bidirectional(layers.LSTM(3, dtype=dtype), dtype=dtype)(x)
    x = _Scaled(dtype=dtype)(layers.Dropout(0.5, dtype=dtype)(x))
    return keras.Model(images, keras.ops.cast(x, "float32"))


@pytest.mark.parametrize("dtype", ["mixed_float16", "float16"])
def test_networks_of_others_are_computed_in_float32_too(small_images, dtype):
    theirs, plain = of_others(dtype), of_others("float32")
    plain.set_weights([w.astype(np.float32) for w in theirs.get_weights()])
    plain.layers[1].finalize_state()  # of `Normalization`: as loading does
    view = Float32View(theirs)
    right = plain(small_images).numpy()
    np.testing.assert_allclose(view(small_images), right, rtol=1e-4, atol=1e-6)
    assert relative_error(theirs(small_images).numpy(), right) > 1e-3
    around = layers.Lambda(lambda _: view(small_images), dtype=dtype)  # rounds its own weights
    np.testing.assert_array_equal(around(np.zeros(1)), view(small_images))


@pytest.mark.parametrize("dtype", ["mixed_float16", "bfloat16", "float64"])
def test_a_sequential_network_that_no_other_calls_is_computed_in_float32(small_images, dtype):
    def made(dtype):
        return keras.Sequential(
            [keras.Input(SMALL), layers.Flatten(dtype=dtype), layers.Dense(4, dtype=dtype)]
        )

    theirs, plain = made(dtype), made("float32")
    plain.set_weights([w.astype(np.float32) for w in theirs.get_weights()])
    found = Float32View(theirs)(small_images)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, plain(small_images), rtol=1e-5, atol=1e-6)


class _Own(keras.Model):
    def __init__(self, dtype, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, dtype=dtype)

    def call(self, x):
        return self.dense(layers.Flatten()(x))


def test_what_cannot_be_made_again_is_refused_in_words(small_images):
    model = _Own("mixed_float16", name="theirs")
    model(small_images)
    with pytest.raises(InputError, match=r"'theirs' computes in float16.*_Own has a call of its"):
        Float32View(model)(small_images)
    plain = _Own("float32")
    np.testing.assert_array_equal(Float32View(plain)(small_images), plain(small_images))
