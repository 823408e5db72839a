"""A frozen encoder in other people's models: the same numbers, wherever they go."""

import gc
import io
import shutil
import weakref
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL as SHAPE
from conftest import small_model

import tf_avae
from tf_avae.errors import InputError
from tf_avae.saved import frozen

CLASSES = 3


@pytest.fixture(scope="module")
def model():
    return small_model(compiled=False)


@pytest.fixture(scope="module")
def base(small_encoder, tmp_path_factory):
    """Two versions, of which the second is the model's."""
    folder = tmp_path_factory.mktemp("models") / "small"
    shutil.copytree(small_encoder, folder / "2")
    (folder / "1").mkdir()
    (folder / "1" / "saved_model.pb").touch()
    return folder


def head(encoder, **options):
    images = keras.Input(SHAPE)
    found = encoder(images)
    logits = keras.layers.Dense(CLASSES, dtype="float32", name="logits", **options)(
        found["embedding"]
    )
    return keras.Model(images, {"logits": logits, **found})


def test_gives_the_models_outputs_by_name(base, model, small_images):
    encoder = tf_avae.load_encoder(base)
    found = encoder(small_images)
    expected = model(tf.constant(small_images))
    assert set(found) == set(expected) == {"embedding", "variance", "inconsistency"}
    for name, value in expected.items():
        assert found[name].dtype == tf.float32
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
    assert encoder.image_shape == SHAPE
    batch = encoder(keras.Input(SHAPE))
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "embedding": (None, 4), "variance": (None, 4), "inconsistency": (None,),
    }  # fmt: skip


def test_gradient_is_that_of_the_models_encoder(base, model, small_images):
    encoder = tf_avae.load_encoder(base, outputs=("embedding",))
    x = tf.constant(small_images[:8])

    def gradient(embed):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(tf.sin(3.0 * embed(x)))
        return tape.gradient(total, x)

    expected = gradient(lambda x: model.encode(x).mean)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(
        gradient(lambda x: encoder(x)["embedding"]), expected, rtol=1e-4, atol=1e-6
    )


def test_what_no_wanted_output_needs_is_left_out(base, model):
    encoder = tf_avae.load_encoder(base, outputs=("embedding",))
    variance = model.encoder.get_layer("variance")
    # Biases of few numbers stay in the graph.
    kernels = [tuple(w.shape) for w in model.encoder.weights if len(w.shape) == 2]
    kernels.remove(tuple(variance.kernel.shape))
    found = [tuple(w.shape) for w in encoder.weights if len(w.shape) == 2]
    assert sorted(found) == sorted(kernels)
    assert list(encoder(np.zeros((1, *SHAPE), np.float32))) == ["embedding"]


def test_a_fit_leaves_it_as_it_is_under_any_policy(base, small_images):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder = tf_avae.load_encoder(base)
        expected = {name: value.numpy() for name, value in encoder(small_images).items()}
        whole = head(encoder)
        whole.trainable = encoder.trainable = True
        assert len(whole.trainable_weights) == 2 and not encoder.trainable_weights
        whole.compile("sgd", {"logits": keras.losses.SparseCategoricalCrossentropy(True)})
        kernel = whole.get_layer("logits").kernel.numpy()
        whole.fit(small_images, {"logits": np.arange(64) % CLASSES}, epochs=2, verbose=0)
        assert np.abs(whole.get_layer("logits").kernel.numpy() - kernel).max() > 0
        found = whole.predict(small_images, verbose=0)
    finally:
        keras.config.set_dtype_policy(before)
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


@keras.saving.register_keras_serializable("test")
class Subclassed(keras.Model):
    """A model that calls it from its own code."""

    def __init__(self, encoder, **options):
        super().__init__(**options)
        self.encoder = encoder
        self.dense = keras.layers.Dense(CLASSES)

    def call(self, images):
        return {"logits": self.dense(self.encoder(images)["embedding"])}

    def get_config(self):
        return {"encoder": keras.saving.serialize_keras_object(self.encoder)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["encoder"]))


def sequential(encoder):
    return keras.Sequential([keras.Input(SHAPE), keras.layers.Rescaling(0.5), encoder])


def test_is_loaded_where_the_encoders_files_are_gone(base, tmp_path, small_images, monkeypatch):
    copy = shutil.copytree(base, tmp_path / "copy")
    kinds = {
        "functional": head,
        "sequential": sequential,
        "subclassed": Subclassed,
    }
    expected = {}
    for kind, build in kinds.items():
        whole = build(tf_avae.load_encoder(copy))
        expected[kind] = whole.predict(small_images, verbose=0)
        whole.save(tmp_path / f"{kind}.keras")
    shutil.rmtree(copy)
    for kind in kinds:
        monkeypatch.setattr(frozen, "_LIVE", weakref.WeakSet())  # as in another process
        found = keras.saving.load_model(tmp_path / f"{kind}.keras").predict(small_images, verbose=0)
        assert set(found) == set(expected[kind])
        for name, value in expected[kind].items():
            np.testing.assert_array_equal(found[name], value)


def test_clones_and_exports_give_the_same(base, tmp_path, small_images):
    whole = head(tf_avae.load_encoder(base))
    expected = whole(small_images)
    for _ in range(2):  # the second where the first is gone
        clone = keras.models.clone_model(whole)
        np.testing.assert_array_equal(clone(small_images)["embedding"], expected["embedding"])
        del clone
        gc.collect()
    whole.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    found = loaded.serve(small_images)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


def test_weights_that_were_changed_in_the_file_are_found(base, tmp_path):
    path = tmp_path / "model.keras"
    head(tf_avae.load_encoder(base)).save(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    content = io.BytesIO(files["model.weights.h5"])
    with h5py.File(content, "r+") as weights:
        group = weights["layers/frozen_encoder/vars"]
        group["0"][0] = group["0"][0] + 1
    files["model.weights.h5"] = content.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in files.items():
            archive.writestr(name, value)
    with pytest.raises(ValueError, match="not those that were saved"):
        keras.saving.load_model(path)


def test_weights_that_somebody_set_are_not_saved_and_not_copied(base, tmp_path, small_images):
    whole = head(tf_avae.load_encoder(base))
    whole.set_weights([weight + 1 for weight in whole.get_weights()])
    with pytest.raises(tf_avae.InputError, match="are not the encoder's"):
        whole.save(tmp_path / "model.keras")
    keras.backend.clear_session()
    gc.collect()
    assert np.isnan(keras.models.clone_model(whole)(small_images)["embedding"]).all()


def test_a_config_alone_gives_no_numbers(base, small_images):
    config = head(tf_avae.load_encoder(base)).to_json()
    keras.backend.clear_session()
    gc.collect()
    rebuilt = keras.models.model_from_json(config)
    assert np.isnan(rebuilt(small_images)["embedding"]).all()


def saved(folder, function, specs, signature="serving_default"):
    module = tf.Module()
    module.function = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, str(folder), {signature: module.function})
    return folder


IMAGE = tf.TensorSpec([None, *SHAPE], tf.float32, "image")


def test_a_graph_that_does_more_than_compute_is_refused_in_safe_mode(tmp_path, small_images):
    (tmp_path / "secret").write_text("12345")

    def spy(image):
        length = tf.strings.length(tf.io.read_file(str(tmp_path / "secret")))
        return {"embedding": tf.reduce_mean(image, [1, 2]) + tf.cast(length, tf.float32)}

    encoder = tf_avae.load_encoder(saved(tmp_path / "spy", spy, [IMAGE]), trust=True)
    keras.Sequential([keras.Input(SHAPE), encoder]).save(tmp_path / "spy.keras")
    with pytest.raises(InputError, match=r"ReadFile.*safe_mode=False"):
        keras.saving.load_model(tmp_path / "spy.keras")
    found = keras.saving.load_model(tmp_path / "spy.keras", safe_mode=False)(small_images)
    np.testing.assert_allclose(
        found["embedding"], small_images.mean((1, 2)) + 5, rtol=1e-5
    )  # fmt: skip


def test_images_of_any_size(tmp_path):
    spec = tf.TensorSpec([None, None, None, 3], tf.float32, "image")
    folder = saved(tmp_path, lambda image: {"embedding": tf.reduce_mean(image, [1, 2])}, [spec])
    encoder = tf_avae.load_encoder(folder)
    assert encoder.image_shape == (None, None, 3)
    x = np.random.default_rng(0).uniform(size=(2, 5, 9, 3)).astype(np.float32)
    np.testing.assert_allclose(encoder(x)["embedding"], x.mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda folder: folder / "none", {}, "neither a run .* nor a SavedModel"),
        (
            lambda folder: saved(folder, lambda image: {"embedding": image}, [IMAGE], "serve"),
            {}, "no signature 'serving_default'; it has: serve",
        ),
        (
            lambda folder: saved(folder, lambda x: {"embedding": x}, [tf.TensorSpec([None, 2])]),
            {}, "takes x and gives embedding; an encoder's takes image",
        ),
        (
            lambda folder: saved(folder, lambda image: {"output_0": image}, [IMAGE]),
            {}, "gives output_0",
        ),
        (
            lambda folder: saved(
                folder, lambda image: {"embedding": image},
                [tf.TensorSpec([None, *SHAPE], tf.uint8, "image")],
            ),
            {}, "image is uint8",
        ),
        (None, {"signature": "embed"}, "no signature 'embed'; it has: .*serving_default"),
        (None, {"outputs": ("mean",)}, r"outputs are \('mean',\); .*embedding, inconsistency"),
        (None, {"outputs": "embedding"}, "give a list"),
        (None, {"outputs": ()}, "give a list"),
    ],
)  # fmt: skip
def test_what_is_no_encoder_says_so(base, tmp_path, make, options, words):
    with pytest.raises(InputError, match=words):
        tf_avae.load_encoder(make(tmp_path) if make else base, **options)


def test_images_that_it_does_not_take(base, small_images):
    encoder = tf_avae.load_encoder(base)
    with pytest.raises(InputError, match=r"images are uint8; .*divide by 255"):
        encoder((255 * small_images).astype(np.uint8))
    with pytest.raises(ValueError, match="expected shape"):
        encoder(small_images[:, :8])
