"""The fused Adam against Adam's formulas in numpy, and against Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_avae.config import Config
from tf_avae.runs.optimizers import FusedAdam, adam, averages, use_averages

RATE, BETA_1, BETA_2, TINY = 0.01, 0.8, 0.99, 1e-5
SHAPES = {"kernel": (3, 2), "bias": (2,)}
OPTIONS = {"learning_rate": RATE, "beta_1": BETA_1, "beta_2": BETA_2, "epsilon": TINY}


def gradients(steps):
    rng = np.random.default_rng(0)
    return [[rng.normal(size=s).astype(np.float32) for s in SHAPES.values()] for _ in range(steps)]


def trained(optimizer, steps=6, compiled=False):
    """Two variables after some steps, and the optimiser's own."""
    variables = [keras.Variable(np.ones(s, np.float32), name=n) for n, s in SHAPES.items()]
    optimizer.build(variables)

    def apply(*values):
        optimizer.apply(list(values), variables)

    apply = tf.function(apply, autograph=False) if compiled else apply
    for values in gradients(steps):
        apply(*map(tf.constant, values))
    return variables, optimizer.variables


@pytest.mark.parametrize("compiled", [False, True])
def test_follows_adams_formulas(compiled):
    variables, _ = trained(FusedAdam(**OPTIONS), compiled=compiled)
    at = [np.ones(shape) for shape in SHAPES.values()]
    first, second = [np.zeros_like(x) for x in at], [np.zeros_like(x) for x in at]
    for step, values in enumerate(gradients(6), 1):
        for n, gradient in enumerate(values):
            first[n] = BETA_1 * first[n] + (1 - BETA_1) * gradient
            second[n] = BETA_2 * second[n] + (1 - BETA_2) * np.float64(gradient) ** 2
            # Kingma & Ba, ICLR 2015, end of Section 2, with epsilon as Keras has it.
            size = RATE * np.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
            at[n] -= size * first[n] / (np.sqrt(second[n]) + TINY)
    for variable, expected in zip(variables, at, strict=True):
        np.testing.assert_allclose(variable, expected, rtol=1e-5)
        assert np.abs(expected - 1).max() > RATE


def test_has_the_variables_of_keras_adam():
    for mine, theirs in zip(
        trained(FusedAdam(**OPTIONS))[1], trained(keras.optimizers.Adam(**OPTIONS))[1], strict=True
    ):
        assert mine.name == theirs.name
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_weight_decay_and_clipping_are_those_of_keras():
    more = {**OPTIONS, "weight_decay": 0.1, "global_clipnorm": 0.5}
    for mine, theirs in zip(
        trained(FusedAdam(**more))[0], trained(keras.optimizers.Adam(**more))[0], strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_a_step_without_finite_gradients_is_skipped_under_loss_scaling():
    optimizer = keras.optimizers.LossScaleOptimizer(FusedAdam(**OPTIONS), initial_scale=8.0)
    variable = keras.Variable(np.ones(2, np.float32))
    optimizer.build([variable])
    optimizer.apply([tf.constant([np.inf, 1.0])], [variable])
    np.testing.assert_array_equal(variable, [1.0, 1.0])
    assert float(optimizer.dynamic_scale) == 4.0
    optimizer.apply([4.0 * tf.constant([1.0, -1.0])], [variable])
    # The first step is of length RATE whatever the gradient.
    np.testing.assert_allclose(variable, [1 - RATE, 1 + RATE], rtol=1e-5)


def test_is_rebuilt_from_its_config_and_says_what_it_lacks():
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(FusedAdam(**OPTIONS))
    )
    assert type(again) is FusedAdam and again.beta_1 == BETA_1
    with pytest.raises(ValueError, match=r"no amsgrad; use keras\.optimizers\.Adam"):
        FusedAdam(amsgrad=True)


def test_averages_are_those_of_every_step_and_take_the_weights_place():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer=adam(Config(learning_rate=0.1, ema_momentum=0.9), 4), loss="mse")
    assert not averages(model)
    seen = []
    for step in range(4):
        model.train_on_batch(np.eye(2), np.full((2, 1), 5.0 * (-1) ** step))
        seen.append(model.layers[0].kernel.numpy())
    expected = seen[0]
    for weights in seen[1:]:
        expected = 0.9 * expected + 0.1 * weights
    twin = keras.models.clone_model(model)
    use_averages(model, twin)
    np.testing.assert_allclose(twin.layers[0].kernel, expected, rtol=1e-5)
    np.testing.assert_array_equal(model.layers[0].kernel, seen[-1])
    assert np.abs(seen[-1] - expected).max() > 0.01
    use_averages(model)
    np.testing.assert_array_equal(model.layers[0].kernel, twin.layers[0].kernel)


def rates(**fields):
    optimizer = adam(Config(learning_rate=0.5, **fields), 100)
    found = []
    for step in (0, 5, 10, 55, 100):
        optimizer.iterations.assign(step)
        found.append(float(optimizer.learning_rate))
    return found


def test_the_learning_rate_rises_and_falls_as_asked():
    assert rates() == [0.5] * 5
    assert rates(learning_rate_warmup=10) == pytest.approx([0, 0.25, 0.5, 0.5, 0.5])
    middle = 0.5 * (0.05 + 0.95 / 2)
    rising = {"learning_rate_warmup": 10, "learning_rate_decay": "cosine"}
    assert rates(**rising) == pytest.approx([0, 0.25, 0.5, middle, 0.025])
    quarter = 0.5 * (0.05 + 0.95 * (1 + np.cos(0.55 * np.pi)) / 2)
    assert rates(learning_rate_decay="cosine")[3] == pytest.approx(quarter)
