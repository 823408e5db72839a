"""Every public door against every input that is no images: refused in words, and nothing is done.

A new door is a row of `DOORS`; a new kind of bad input one of `BAD`.
"""

import re
from functools import partial

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis.extra.numpy import array_shapes, arrays

import tf_avae
from serving.transformer import RobustEmbedding
from tests.conftest import SMALL, small_model
from tf_avae.evaluation import (
    BUDGETS,
    DISTANCES,
    Encoder,
    Settings,
    attack_representation,
    evaluate,
    worst_case,
)
from tf_avae.inputs import image_array, images_of, label_array, refusals, seed_of

GOOD = np.random.default_rng(0).uniform(size=(4, *SMALL)).astype(np.float32)
LABELS = np.array([0, 1, 0, 1])


def with_one(value):
    """Good images but for one value of the last."""
    images = GOOD.copy()
    images[-1, -1, -1, -1] = value
    return images


BAD = {
    "no channel axis": (GOOD[..., 0], "shape"),
    "one image": (GOOD[0], "shape"),
    "flat": (GOOD.reshape(4, -1), "shape"),
    "rank 5": (GOOD[np.newaxis], "shape"),
    "other channels": (GOOD[..., :1], "shape"),
    "other sides": (GOOD[:, :6], "shape"),
    "none": (GOOD[:0], "at least one|shape"),
    "a scalar": (0.5, "shape|type"),
    "uint8": ((255 * GOOD).astype(np.uint8), "uint8"),
    "float64": (GOOD.astype(np.float64), "float64"),
    "float16": (GOOD.astype(np.float16), "float16"),
    "bools": (GOOD > 0.5, "bool"),
    "words": (np.full(GOOD.shape, "a"), "str|U1|string"),
    "a word": ("images", "str"),
    "nothing": (None, "NoneType|type"),
    "objects": (np.full(GOOD.shape, None), "type|object"),
    "0 to 255": (255 * GOOD, r"0, 1\]"),
    "-1 to 1": (2 * GOOD - 1, r"0, 1\]"),
    "one above": (with_one(1.01), r"0, 1\]"),
    "one below": (with_one(-0.01), r"0, 1\]"),
    "not a number": (with_one(np.nan), "finite"),
    "infinite": (with_one(np.inf), "finite"),
}  # fmt: skip


def of_stream(images):
    """A data set of one batch."""
    return tf.data.Dataset.from_tensors(images)


def mean_of(x):
    return tf.reduce_sum(x, [1, 2, 3])


def embed(x):
    return tf.reshape(x, [-1, int(np.prod(SMALL))])


def classify(x):
    return embed(x)[:, :2]


SMOKE = Settings(
    "smoke", epsilons=(0.1,), tasks=("one",), heads=("linear",), sections=("probes",), neighbours=1
)


def evaluated(train, test):
    batches = [[(x, {"one": LABELS[: len(np.atleast_1d(x))]})] for x in (train, test)]
    return evaluate([Encoder("e", embed)], train=batches[0], test=batches[1], settings=SMOKE)


@pytest.fixture(scope="module")
def model():
    made = small_model("se")
    made.fit(GOOD, batch_size=2, verbose=0)
    return made


@pytest.fixture(scope="module")
def transformer(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("encoder") / "encoder.keras"
    model.encoder.save(file)
    return RobustEmbedding(file)


@pytest.mark.parametrize("kind", BAD)
def test_the_transformer_refuses_them_too(transformer, kind):
    images, words = BAD[kind]
    if kind in ("float64", "float16", "uint8"):  # which it takes, and divides by 255
        np.testing.assert_allclose(
            transformer.transform(images), transformer.transform(GOOD), atol=2e-2
        )
        return
    with pytest.raises(ValueError, match=f"{words}|float|X "):
        transformer.transform(images)


@pytest.fixture(scope="module")
def frozen(model):
    return tf_avae.saved.frozen.as_layer(
        tf.function(
            model.encoder, input_signature=[tf.TensorSpec([None, *SMALL])]
        ).get_concrete_function(),
        name="encoder",
    )


# Of each door: from the images and a trained model to a call.
DOORS = {
    "fit": lambda x, m, f: m.fit(x, batch_size=2, verbose=0),
    "fit, labels": lambda x, m, f: m.fit(x, LABELS, batch_size=2, verbose=0),
    "fit, stream": lambda x, m, f: m.fit(of_stream(x), verbose=0),
    "fit, generator": lambda x, m, f: m.fit(((b,) for b in [x]), steps_per_epoch=1, verbose=0),
    "fit, validation": lambda x, m, f: m.fit(GOOD, validation_data=(x, LABELS), verbose=0),
    "train_on_batch": lambda x, m, f: m.train_on_batch(x),
    "evaluate": lambda x, m, f: m.evaluate(x, verbose=0),
    "evaluate, stream": lambda x, m, f: m.evaluate(of_stream(x), verbose=0),
    "test_on_batch": lambda x, m, f: m.test_on_batch(x),
    "predict": lambda x, m, f: m.predict(x, verbose=0),
    "predict, stream": lambda x, m, f: m.predict(of_stream(x), verbose=0),
    "predict_on_batch": lambda x, m, f: m.predict_on_batch(x),
    "call": lambda x, m, f: m(x),
    "attack": lambda x, m, f: m.attack(x, seed=0),
    "pgd": lambda x, m, f: tf_avae.pgd(mean_of, x, epsilon=0.1, steps=2, seed=0),
    "apgd": lambda x, m, f: tf_avae.apgd(mean_of, x, epsilon=0.1, steps=2, seed=0),
    "square": lambda x, m, f: tf_avae.square(mean_of, x, epsilon=0.1, queries=2, seed=0),
    "pgd, graph": lambda x, m, f: _in_graph(tf_avae.pgd, x),
    "worst_case": lambda x, m, f: worst_case(
        classify, x, LABELS, epsilon=0.1, budget=BUDGETS["smoke"]
    ),
    "representation": lambda x, m, f: attack_representation(
        Encoder("e", embed).encode, x, DISTANCES["mean_l2"], epsilon=0.1, steps=2
    ),
    "evaluation, training": lambda x, m, f: evaluated(x, GOOD),
    "evaluation, test": lambda x, m, f: evaluated(GOOD, x),
    "frozen encoder": lambda x, m, f: f(x),
}
# What an attack and a frozen encoder are made for may be of any shape.
ANY_SHAPE = {
    "pgd", "apgd", "square", "pgd, graph", "worst_case", "representation", "evaluation, test"
}  # fmt: skip
# An encoder of nothing gives nothing.
ANY_NUMBER = {"call", "frozen encoder", "predict, stream"}
# A layer of Keras' casts other floats itself.
ANY_FLOAT = {"frozen encoder"}
# Keras looks first, and says in its own words what is no tensor or has another shape.
KERAS_FIRST = {"call", "frozen encoder", "fit, generator"}


def _in_graph(attack, x):
    def run(x):
        return attack(mean_of, x, epsilon=0.1, steps=2, seed=0)

    with refusals():
        return tf.function(run, autograph=False)(x)


def weights_of(model):
    return [w.copy() for w in model.get_weights()]


@pytest.mark.parametrize("door", DOORS)
def test_a_door_refuses_what_is_no_images(door, model, frozen):
    DOORS[door](GOOD, model, frozen)
    before = weights_of(model)
    for kind, (images, words) in BAD.items():
        other_shape = kind in ("other channels", "other sides") and door in ANY_SHAPE
        other_number = kind == "none" and door in ANY_NUMBER
        other_float = kind in ("float64", "float16") and door in ANY_FLOAT
        if other_shape or other_number or other_float:
            continue
        if "stream" in door and not _makes_stream(images):
            continue
        words = ".*" if door in KERAS_FIRST and re.search("shape|type|str", words) else words
        of_kind = ValueError if door in KERAS_FIRST else tf_avae.InputError
        with pytest.raises(of_kind, match=words):
            DOORS[door](images, model, frozen)
    if door != "fit, validation":  # which comes after an epoch
        for now, then in zip(weights_of(model), before, strict=True):
            np.testing.assert_array_equal(now, then)


def _makes_stream(images):
    try:
        of_stream(images)
    except (ValueError, TypeError, tf.errors.InvalidArgumentError):
        return False
    return True


def test_the_terms_of_images_without_a_channel_axis_are_not_those_of_a_broadcast():
    model = tf_avae.AVAE(
        objective="vae", architecture="mlp", image_shape=(4, 6, 1), latent_dim=2
    )  # of as many images as they are high
    grey, how = GOOD.reshape(-1)[: 4 * 4 * 6].reshape(4, 4, 6), {"seed": tf.constant([0, 0])}
    with pytest.raises(tf_avae.InputError, match=r"shape \[4,4,6\]; they must be \[\?,4,6,1\]"):
        model.terms(grey, **how)
    found, same = (model.terms(f(grey[..., None]), **how) for f in (np.asarray, tf.constant))
    np.testing.assert_array_equal(found["bound"], same["bound"])
    assert found["bound"].shape == [4]


def test_a_nested_list_is_the_array_that_it_says(model):
    for door in ("fit", "train_on_batch", "evaluate", "test_on_batch", "predict_on_batch"):
        DOORS[door](GOOD.tolist(), model, None)
    found, expected = (model.predict(x, verbose=0) for x in (GOOD.tolist(), GOOD))
    np.testing.assert_array_equal(found["embedding"], expected["embedding"])


def test_a_bad_batch_far_in_a_stream_is_not_trained_on(model):
    before = int(model.step)
    batches = tf.data.Dataset.from_tensor_slices(np.stack([GOOD, GOOD, with_one(np.nan)]))
    with pytest.raises(tf_avae.InputError, match=r"not finite: \d+ \S+ \S+ 1 ;.*divide by 255"):
        model.fit(batches, verbose=0)
    assert int(model.step) == before + 2
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_a_batch_as_high_as_its_images_is_no_grey_image():
    """Keras would add a channel axis and broadcast the loss: 12 images of 12x12, in a batch."""
    grey = np.zeros((12, 12, 12), np.float32)
    model = tf_avae.AVAE(
        objective=tf_avae.OBJECTIVES["vae"], architecture=tf_avae.ARCHITECTURES["mlp"],
        image_shape=(12, 12, 1), latent_dim=2,
    )  # fmt: skip
    model.compile("adam")
    for data in (grey, of_stream(grey)):
        with pytest.raises(tf_avae.InputError, match=r"\[12, 12, 12\].*np\.newaxis"):
            model.fit(data, verbose=0)
    assert np.isfinite(model.fit(grey[..., np.newaxis], verbose=0).history["loss"]).all()


def test_what_rounding_does_is_encoded_and_not_trained_on(model):
    nearly = with_one(1.0005)
    assert np.isfinite(model.predict(nearly, verbose=0)["embedding"]).all()
    with pytest.raises(tf_avae.InputError, match=r"to 1\.0005;"):
        model.fit(nearly, verbose=0)


def test_a_saved_model_is_loaded_with_its_optimizer_and_without_xla(tmp_path, model):
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.jit_compile is False and type(loaded.optimizer) is type(model.optimizer)
    np.testing.assert_array_equal(
        loaded.optimizer.variables[-1].numpy(), model.optimizer.variables[-1].numpy()
    )


ATTACKS = {
    "pgd": partial(tf_avae.pgd, steps=3),
    "apgd": partial(tf_avae.apgd, steps=3),
    "square": partial(tf_avae.square, queries=3),
}


@pytest.mark.parametrize("name", ATTACKS)
@hypothesis.given(
    images=arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=5, min_side=0, max_side=3),
        elements=st.floats(-2, 2, width=32) | st.floats(width=32),
    ),
    bounds=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
    epsilon=st.floats(0, 1),
)
@hypothesis.settings(max_examples=60)
def test_an_attack_refuses_or_stays_in_its_ball_and_bounds(name, images, bounds, epsilon):
    legal = (
        images.ndim == 4
        and len(images) > 0
        and bounds[0] < bounds[1]
        and np.isfinite(images).all()
        and (images >= np.float32(bounds[0])).all()
        and (images <= np.float32(bounds[1])).all()
    )
    attack = partial(
        ATTACKS[name], lambda x: tf.reduce_sum(x * x, [1, 2, 3]), images, epsilon=epsilon,
        seed=3, bounds=bounds,
    )  # fmt: skip
    if not legal or not images.size:
        if not legal:
            with pytest.raises(tf_avae.InputError):
                attack()
        return
    found = attack().numpy()
    assert found.shape == images.shape
    assert np.abs(found.astype(np.float64) - images).max() <= epsilon * (1 + 1e-6) + 1e-6
    assert found.min() >= np.float32(bounds[0]) and found.max() <= np.float32(bounds[1])


@pytest.mark.parametrize(
    ("seed", "words"),
    [(-1, "at least 0"), (2**31, r"below 2\^31"), (True, "bool"), (1.5, "float"), ("a", "string"),
     ([1, 2, 3], r"\[3\]"), (None, "NoneType"), ([2**40, 0], "32 bits"),
     (tf.constant(2**40, tf.int64), "32 bits")],
)  # fmt: skip
def test_what_is_no_seed(seed, words):
    with pytest.raises(tf_avae.InputError, match=words):
        seed_of(seed)
    with pytest.raises(tf_avae.InputError, match=words):
        tf_avae.pgd(mean_of, GOOD, epsilon=0.1, steps=1, seed=seed)


def test_a_number_is_a_seed_wherever_a_pair_is():
    for seed in (7, np.int64(7), np.uint8(7), tf.constant(7), [7, 0], tf.constant([7, 0])):
        np.testing.assert_array_equal(seed_of(seed), [7, 0])
    posterior = tf_avae.Posterior(tf.zeros((2, 3)), tf.ones((2, 3)))
    np.testing.assert_array_equal(posterior.sample(7), posterior.sample(tf.constant([7, 0])))


@pytest.mark.parametrize("steps", [0, -1, 2.5, "3", None, True])
def test_what_is_no_number_of_steps(steps):
    for attack in (tf_avae.pgd, tf_avae.apgd):
        with pytest.raises(tf_avae.InputError, match=r"steps is .*at least 1"):
            attack(mean_of, GOOD, epsilon=0.1, steps=steps, seed=0)
    with pytest.raises(tf_avae.InputError, match="epsilon is"):
        tf_avae.pgd(mean_of, GOOD, epsilon="0.1", steps=1, seed=0)


def test_images_and_labels_that_are_some_pass_as_they_are():
    for images in (GOOD, GOOD.tolist(), tf.constant(GOOD)):
        np.testing.assert_array_equal(images_of(images), GOOD)
        np.testing.assert_array_equal(image_array(images), GOOD)
    assert image_array(GOOD) is GOOD
    beyond = 100 * GOOD
    np.testing.assert_array_equal(images_of(beyond, bounds=(-np.inf, np.inf)), beyond)
    np.testing.assert_array_equal(image_array(beyond, bounds=(-np.inf, np.inf)), beyond)
    for refuse in (images_of, image_array):
        with pytest.raises(tf_avae.InputError, match="finite"):
            refuse(with_one(np.inf), bounds=(-np.inf, np.inf))
    gaps = [1, 26, 3]
    for labels in (gaps, np.array(gaps, np.uint8), tf.constant(gaps)):
        np.testing.assert_array_equal(label_array(labels, count=3, classes=27), gaps)


@pytest.mark.parametrize(
    ("labels", "words"),
    [([[0], [1]], r"\[2, 1\].*ravel"), ([0, -1], "down to -1"), ([0, 2], "up to 2"),
     ([0.0, 1.0], "float32"), (["a", "b"], "U1"), ([True, False], "bool"), ([0], r"\[1\]"),
     (None, "NoneType"), (3, r"\[\]")],
)  # fmt: skip
def test_what_is_no_labels(labels, words):
    with pytest.raises(tf_avae.InputError, match=words):
        label_array(labels, count=2, classes=2)


def test_the_linear_architecture_takes_any_numbers_and_its_attack_stays_in_the_ball():
    """Its data are Gaussian: nothing bounds them but ε."""
    model = small_model("se", arch="linear", epsilon=0.1)
    images = np.random.default_rng(0).normal(size=(4, *SMALL)).astype(np.float32)
    assert images.min() < -1 and images.max() > 2
    model.fit(images, verbose=0)
    change = np.abs(model.attack(images, seed=0) - images)
    assert 0.05 < change.max() <= 0.1 + 1e-6
    images[0, 0, 0, 0] = np.inf
    with pytest.raises(tf_avae.InputError, match="finite"):
        model.fit(images, verbose=0)
