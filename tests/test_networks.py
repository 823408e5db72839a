"""The architectures against App. F."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tf_avae.backend.float32 import Float32View
from tf_avae.errors import InputError
from tf_avae.networks import ARCHITECTURES


def of_kind(model, kind):
    return [layer for layer in model.layers if type(layer) is kind]


def build(name, image_shape=(28, 28, 3), latent_dim=64, **how):
    row = ARCHITECTURES[name]
    return row.encoder(image_shape, latent_dim, **how), row.decoder(image_shape, latent_dim, **how)


def test_mlp_is_four_layers_of_200_each_way():
    encoder, decoder = build("mlp")
    assert [layer.units for layer in of_kind(encoder, layers.Dense)] == [200] * 4 + [64, 64]
    assert [layer.units for layer in of_kind(decoder, layers.Dense)] == [200] * 4 + [28 * 28 * 3]
    # Weights and biases of 2352-200-200-200-200-128 and 64-200-200-200-200-2352, by hand.
    assert encoder.count_params() == 470_600 + 3 * 40_200 + 128 * 201
    assert decoder.count_params() == 13_000 + 3 * 40_200 + 2352 * 201


def test_conv_is_that_of_app_f():
    encoder, decoder = build("conv")
    convs = of_kind(encoder, layers.Conv2D)
    assert [c.filters for c in convs] == [8, 16, 32, 64, 128, 256, 512]
    assert [c.strides[0] for c in convs] == [2, 1, 2, 1, 2, 1, 2]
    assert {c.kernel_size for c in convs} == {(3, 3)}
    assert convs[-1].output.shape[1:] == (2, 2, 512)
    assert len(of_kind(encoder, layers.BatchNormalization)) == 6  # between seven
    transposed = of_kind(decoder, layers.Conv2DTranspose)
    assert [c.filters for c in transposed] == [64, 32, 3]
    assert [c.strides[0] for c in transposed] == [1, 2, 1]
    assert len(of_kind(decoder, layers.BatchNormalization)) == 2  # between three


def test_celeba_is_that_of_app_f():
    encoder, decoder = build("celeba", (64, 64, 3))
    convs = of_kind(encoder, layers.Conv2D)
    assert [c.filters for c in convs] == [128, 256, 512, 1024]
    assert {(c.strides, c.kernel_size) for c in convs} == {((2, 2), (5, 5))}
    assert convs[-1].output.shape[1:] == (4, 4, 1024)
    assert len(of_kind(encoder, layers.BatchNormalization)) == 4
    transposed = of_kind(decoder, layers.Conv2DTranspose)
    assert [c.filters for c in transposed] == [512, 256, 128, 3]
    assert {(c.strides, c.kernel_size) for c in transposed} == {((2, 2), (5, 5))}
    assert ARCHITECTURES["celeba"].pgd_steps == 5
    assert ARCHITECTURES["mlp"].pgd_steps == ARCHITECTURES["conv"].pgd_steps == 20


def test_resnet_is_a_stem_and_three_residual_blocks():
    encoder, decoder = build("resnet", (64, 64, 3))
    convs = of_kind(encoder, layers.Conv2D)
    # The stem; of each block two of 3x3, the first of stride 2, and one beside them of 1x1.
    kinds = [(c.filters, c.kernel_size[0], c.strides[0]) for c in convs]
    blocks = [(n, k, s) for n in (64, 128, 256) for k, s in ((3, 2), (3, 1), (1, 2))]
    assert sorted(kinds) == sorted([(32, 3, 2), *blocks])
    assert len(of_kind(encoder, layers.Add)) == 3
    assert len(of_kind(encoder, layers.BatchNormalization)) == len(convs)
    assert of_kind(encoder, layers.Flatten)[0].input.shape[1:] == (4, 4, 256)
    assert [c.filters for c in of_kind(decoder, layers.Conv2DTranspose)] == [128, 64, 32, 3]
    # By hand: what is next to the embedding sees the input of the block and what was made of it.
    (last,) = (a for a in of_kind(encoder, layers.Add) if a.output.shape[1] == 4)
    images = np.random.default_rng(0).uniform(size=(2, 64, 64, 3)).astype(np.float32)
    ends = keras.Model(encoder.input, [*last.input, encoder.get_layer("mean").input])
    inner, beside, features = (end.numpy() for end in ends(images))
    np.testing.assert_array_equal(features, np.maximum(inner + beside, 0).reshape(2, -1))


@pytest.mark.parametrize(
    ("name", "channels", "units", "normalised", "decoding"),
    [
        ("shallow", 16, 200, 0, [200] * 4),
        ("leaky", 16, 200, 0, [200] * 4),
        ("wide", 32, 512, 0, [200] * 4),
        ("compact", 32, 256, 0, [128]),
        ("compact_bn", 32, 256, 2, [128] * 4),
    ],
)
def test_those_for_bounds_are_as_the_table_says(name, channels, units, normalised, decoding):
    encoder, decoder = build(name)
    convs = of_kind(encoder, layers.Conv2D)
    assert [c.filters for c in convs] == [channels, 2 * channels]
    assert {(c.strides, c.kernel_size, c.use_bias) for c in convs} == {
        ((2, 2), (4, 4), not normalised)
    }
    assert len(of_kind(encoder, layers.BatchNormalization)) == normalised
    assert [d.units for d in of_kind(encoder, layers.Dense)] == [units, 64, 64]
    assert [d.units for d in of_kind(decoder, layers.Dense)] == [*decoding, 28 * 28 * 3]


def test_linear_is_affine_with_a_constant_variance():
    encoder, decoder = build("linear", (4, 4, 1), 3)
    a, b = np.random.default_rng(0).uniform(size=(2, 5, 4, 4, 1)).astype(np.float32)
    mean = lambda x: encoder(x)["embedding"].numpy()  # noqa: E731
    np.testing.assert_allclose(mean(0.25 * a + 0.75 * b), 0.25 * mean(a) + 0.75 * mean(b), 1e-4)
    np.testing.assert_array_equal(encoder(a)["variance"], encoder(b)["variance"])
    z, w = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(
        decoder(2.0 * z - w), 2.0 * decoder(z) - decoder(w), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp", (5, 7, 1)),
        ("linear", (3, 2, 4)),
        ("conv", (10, 14, 1)),
        ("celeba", (32, 48, 3)),
        ("resnet", (32, 48, 3)),
    ],
)
def test_any_size_that_fits(name, shape):
    encoder, decoder = build(name, shape, 6)
    images = np.random.default_rng(0).uniform(size=(2, *shape)).astype(np.float32)
    outputs = encoder(images)
    assert outputs["embedding"].shape == outputs["variance"].shape == (2, 6)
    assert (outputs["variance"].numpy() > 0).all()
    decoded = decoder(outputs["embedding"]).numpy()
    assert decoded.shape == images.shape
    assert name == "linear" or (decoded.min() >= 0 and decoded.max() <= 1)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("conv", (27, 28, 3)), ("conv", (8, 8, 3)), ("celeba", (28, 28, 3)), ("celeba", (0, 16, 3))],
)
def test_a_size_that_does_not_fit_is_named(name, shape):
    with pytest.raises(InputError, match=f"{shape[0]}x{shape[1]}.*multiples of"):
        build(name, shape)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_heads_and_weights_are_float32_and_the_float32_view_takes_rounding_away(name, policy):
    """The same weights under another policy: other numbers, but for the view."""
    mixed, mixed_decoder = build(name, (12, 12, 3), 4, policy=policy, seed=3)
    plain, plain_decoder = build(name, (12, 12, 3), 4, seed=3)
    images = np.random.default_rng(0).uniform(size=(4, 12, 12, 3)).astype(np.float32)
    assert {weight.dtype for weight in mixed.weights + mixed_decoder.weights} == {"float32"}
    exact = plain(images)["embedding"]
    rounded = mixed(images)["embedding"]
    assert rounded.dtype == tf.float32 and mixed_decoder(exact).dtype == tf.float32
    assert (rounded.numpy() != exact.numpy()).any()
    np.testing.assert_array_equal(Float32View(mixed)(images)["embedding"], exact)
    np.testing.assert_array_equal(Float32View(mixed_decoder)(exact), plain_decoder(exact))
    np.testing.assert_array_equal(mixed(images)["embedding"], rounded)
    assert {layer.dtype_policy.name for layer in of_kind(mixed, layers.ReLU)} <= {policy}


@pytest.mark.parametrize("name", ["conv", "celeba", "resnet"])
def test_bfloat16_gradients_are_those_of_float32_at_the_smallest_size(name):
    """They are not where a kernel meets a single pixel: some are uninitialised memory there."""
    shape = (ARCHITECTURES[name].smallest,) * 2 + (3,)
    images = np.random.default_rng(0).uniform(size=(16, *shape)).astype(np.float32)
    found = []
    for policy in ("float32", "mixed_bfloat16"):
        encoder, _ = build(name, shape, 4, policy=policy)

        @tf.function
        def gradients(encoder=encoder):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(encoder(images, training=False)["embedding"] ** 2)
            return tape.gradient(loss, [v.value for v in encoder.trainable_variables])

        found.append(gradients())
    for exact, rounded in zip(*found, strict=True):
        if exact is not None:  # the variance's head
            error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
            assert error < 0.1


def test_seed_decides_the_weights_and_layers_differ():
    one, _ = build("mlp", seed=1)
    same, _ = build("mlp", seed=1)
    other, _ = build("mlp", seed=2)
    for a, b, c in zip(one.weights, same.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)
        assert "bias" in a.path or (a.numpy() != c.numpy()).any()
    squares = [w.numpy() for w in one.weights if w.shape == (200, 200)]
    assert len({w.tobytes() for w in squares}) == 3


def test_encoder_file_needs_keras_alone(tmp_path):
    encoder, _ = build("conv", (12, 12, 3), 4)
    encoder.save(tmp_path / "encoder.keras")
    config = encoder.get_config()
    assert not any("tf_avae" in str(layer) for layer in config["layers"])
    images = np.random.default_rng(0).uniform(size=(4, 12, 12, 3)).astype(np.float32)
    again = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(again(images)["variance"], encoder(images)["variance"])
