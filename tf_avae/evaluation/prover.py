"""Bounds of what heads say of all images in a ball, through an encoder's layers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tf_avae.backend import keras, tf
from tf_avae.bounds import Bounds, Box, ball, lead
from tf_avae.errors import InputError, reason
from tf_avae.evaluation.batches import compiled, image_spec
from tf_avae.evaluation.encoder import Encoder
from tf_avae.probes import Probe
from tf_avae.types import Images, PerExample, Tensor

_PROBED_EPSILON = 0.01

_REFUSED = "no bounds: "


class Prover:
    """Bounds of what heads say of all images in a ball around one, through an encoder.

    Args:
        encoder: it must give its layers.
        images: a few that it is tried on, [N, H, W, C].

    Attributes:
        digest: tells apart by their bounds layers that compute the same.

    Raises:
        InputError: there are no bounds of it; the message begins with "no bounds: ".
    """

    def __init__(self, encoder: Encoder, images: np.ndarray):
        if encoder.network is None:
            raise InputError(f"{_REFUSED}its layers are not known")
        few = tf.constant(images)
        try:
            self._network = encoder.network()
            bounds = Bounds(self._network)
            at, around = (bounds(ball(few, epsilon)) for epsilon in (0.0, _PROBED_EPSILON))
        except InputError as error:
            said = str(error)
            raise InputError(said if said.startswith(_REFUSED) else _REFUSED + said) from error
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise InputError(f"{_REFUSED}its layers fail on images: {reason(error)}") from error
        # Whatever stands between images and layers, or other weights, would make bounds of another
        # function than the one that is attacked.
        expected = np.asarray(encoder.embed(few))
        if not (isinstance(at, Box) and at.lower.shape == expected.shape) or not np.allclose(
            at.center, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
        ):
            raise InputError(f"{_REFUSED}its layers do not give its embeddings")
        self.digest = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in around)).hexdigest()
        self._shape = images.shape[1:]
        self._heads: dict[tuple[int, ...], _Head] = {}
        self._graphs: dict[tuple, Callable] = {}

    def least(
        self, probe: Probe, relaxed: int, outward: bool
    ) -> Callable[[Images, Tensor, float], PerExample]:
        """What the logit of an image's label exceeds all others by, at least, wherever in the ball.

        Args:
            probe: a head.
            relaxed, outward: those of `Bounds.least`.

        Returns:
            a function of images [B, H, W, C], columns of their labels [B] and the L-infinity
            ball's radius, which is true until the next call of this one.
        """
        units = tuple(len(bias) for _, bias in probe.layers)
        if units not in self._heads:
            self._heads[units] = _Head(self._network, units)
        head = self._heads[units]
        head.take(probe)
        key = (units, relaxed, outward)
        if key not in self._graphs:
            self._graphs[key] = _traced(head.bounds, self._shape, units[-1], relaxed, outward)
        graph = self._graphs[key]
        return lambda images, labels, epsilon: graph(
            images, labels, tf.constant(epsilon, tf.float32)
        )


class _Head:
    """A head as layers on a network, so that one graph serves all heads of as many units, and
    rounding is allowed for in the head as in the network.

    Attributes:
        bounds: of the logits.
    """

    def __init__(self, network: keras.Model, units: tuple[int, ...]):
        # Names of their own: a model that was loaded may have any that Keras gives.
        name = f"{network.name}_head_{'_'.join(map(str, units))}"
        self._scale = keras.layers.BatchNormalization(
            epsilon=0.0, center=False, dtype="float32", name=f"{name}_scale"
        )
        self._layers = [
            keras.layers.Dense(
                count, activation="relu" if number < len(units) else None,
                kernel_initializer="zeros", dtype="float32", name=f"{name}_{number}",
            )
            for number, count in enumerate(units, start=1)
        ]  # fmt: skip
        outputs = self._scale(network.outputs[0])
        for layer in self._layers:
            outputs = layer(outputs)
        self.bounds = Bounds(keras.Model(network.inputs, outputs))

    def take(self, probe: Probe) -> None:
        """Gives the layers a head's weights."""
        self._scale.gamma.assign(1.0 / probe.scale)
        self._scale.moving_mean.assign(probe.mean)
        self._scale.moving_variance.assign(np.ones_like(probe.scale))
        for layer, weights in zip(self._layers, probe.layers, strict=True):
            layer.set_weights(weights)


def _traced(bounds: Bounds, shape: Any, classes: int, relaxed: int, outward: bool) -> Callable:
    labels, radius = tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.float32)

    @compiled(image_spec(shape), labels, radius)
    def least(images: Images, labels: Tensor, epsilon: Tensor) -> PerExample:
        box = ball(images, epsilon, outward=outward)
        return lead(bounds, box, labels, classes, relaxed=relaxed, outward=outward)

    return least
