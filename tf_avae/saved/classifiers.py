"""A classifier of images as one Keras model: a frozen encoder and a fitted head."""

from typing import Any

import numpy as np

from tf_avae.backend import keras
from tf_avae.errors import InputError
from tf_avae.probes import Probe


def classifier(encoder: Any, probe: Probe) -> "keras.Model":
    """Encoder and head in one, in float32 whatever the policy; nothing in it is trained.

    Args:
        encoder: from `load_encoder`, or its layers from `keras_encoder`.
        probe: a head fitted to its embeddings.

    Returns:
        a model of images [B, H, W, C] in [0, 1], which gives "logits" and "probabilities", [B, K]
        each, and what the encoder gives.

    Raises:
        InputError: the head is of embeddings of another size, or the encoder takes images of any.
    """
    shape = encoder.input_shape[1:] if hasattr(encoder, "layers") else encoder.image_shape
    if None in shape:
        raise InputError(
            f"the encoder takes images of shape {shape}; a classifier is made for "
            "images of one size: give an encoder that is"
        )
    images = keras.Input(shape, name="image", dtype="float32")
    found = encoder(images)
    embedding = found["embedding"]
    if embedding.shape[1:] != probe.mean.shape:
        raise InputError(
            f"the head is of {len(probe.mean)} dimensions, the encoder gives {embedding.shape[1]}; "
            "fit the head to this encoder's embeddings"
        )
    # The layer divides by the root of the variance.
    variance = np.square(probe.scale.astype(np.float64))
    x = keras.layers.Normalization(
        mean=probe.mean, variance=variance, dtype="float32", name="standard"
    )(embedding)
    *hidden, last = probe.layers
    for number, (kernel, bias) in enumerate(hidden):
        x = _dense(f"hidden_{number}", kernel, bias, "relu")(x)
    logits = _dense("logits", *last, None)(x)
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(logits)
    outputs = {**found, "logits": logits, "probabilities": probabilities}
    return keras.Model(images, outputs, name="classifier", trainable=False)


def _dense(
    name: str, kernel: np.ndarray, bias: np.ndarray, activation: str | None
) -> "keras.layers.Layer":
    layer = keras.layers.Dense(len(bias), activation=activation, dtype="float32", name=name)
    layer.build((None, len(kernel)))
    layer.set_weights([kernel, bias])
    return layer
