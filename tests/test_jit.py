"""Steps that XLA compiles."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_avae import distributions
from tf_avae.attacks import starts
from tf_avae.config import Config
from tf_avae.errors import InputError
from tf_avae.runs.plan import build_model, resolve
from training.signals import deterministic
from training.strategies import Team

CONFIG = resolve(Config(algo="vae", arch="mlp", latent_dim=4))


def no_noise(draw, shape):
    """Numbers from -1 to 1, of the type that is drawn, which only the shape decides."""
    kind = draw(shape).dtype
    numbers = tf.sin(tf.cast(tf.range(tf.reduce_prod(shape)), tf.float32))
    return tf.reshape(tf.cast(numbers, kind), shape)


def trained(make_model, images, algo, jit):
    keras.utils.set_random_seed(0)
    model = make_model(algo, compiled=False)
    model.compile(keras.optimizers.SGD(1e-4), jit_compile=jit)
    assert model.jit_compile is jit
    model.fit(images, batch_size=32, epochs=2, shuffle=False, verbose=0)
    assert model.nonfinite() is None and int(model.step) == 4
    return model.get_weights()


@pytest.mark.parametrize(
    "algo",
    ["avae", *(pytest.param(a, marks=pytest.mark.long) for a in ("se_avae", "certified_elbo"))],
)
def test_they_are_the_steps_that_they_are_without(make_model, small_images, monkeypatch, algo):
    """With the noise taken out: XLA draws other numbers, and so it is seen that it is there. A sign
    of a gradient that is almost zero turns with rounding."""
    with deterministic():
        start = make_model(algo, compiled=False).get_weights()
        noisy = [trained(make_model, small_images, algo, jit) for jit in (False, True, True)]
        for module in (distributions, starts):
            monkeypatch.setattr(module, "own_rows", no_noise)
        plain, compiled = (trained(make_model, small_images, algo, jit) for jit in (False, True))
    moved = [np.abs(a - b).max() for a, b in zip(plain, start, strict=True)]
    for one, other, far in zip(plain, compiled, moved, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=0.03 * far + 2e-8)
    assert max(moved) > 1e-4
    apart = [np.abs(a - b).max() for a, b in zip(*noisy[:2], strict=True)]
    assert max(np.divide(apart, np.maximum(moved, 1e-9))) > 0.3
    # The same numbers each time.
    assert all(np.array_equal(a, b) for a, b in zip(*noisy[1:], strict=True))


@pytest.mark.parametrize("jit", ["on", "off"])
def test_the_option_says_so_and_is_of_one_device(jit, monkeypatch):
    config = replace(CONFIG, jit=jit)
    with deterministic():
        assert build_model(config, (12, 12, 3)).jit_compile is (jit == "on")
    team = Team("none", None, print)
    team.check(config)
    monkeypatch.setattr(Team, "replicas", 2)
    if jit == "on":
        with pytest.raises(InputError, match="jit is on and there are 2 replicas"):
            team.check(config)


@pytest.mark.parametrize("labels", [False, True])
def test_images_of_a_stream_are_checked_though_xla_drops_the_check(make_model, labels):
    model = make_model("vae", compiled=False)
    model.compile(keras.optimizers.SGD(1e-5), jit_compile=True)
    before = model.get_weights()
    bad = np.full((32, 12, 12, 3), 200.0, np.float32)
    batch = (bad, np.zeros(32)) if labels else bad
    with pytest.raises(InputError, match=r"images .*200"):
        model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
