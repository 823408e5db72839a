"""What an exported model proves of a ball of images, in the graph that it serves."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from tf_avae.backend import keras, tf
from tf_avae.bounds import Bounds, Box, ball, lead
from tf_avae.errors import InputError
from tf_avae.evaluation.proofs import PROOFS
from tf_avae.inputs import MARGIN, UNIT, images_of
from tf_avae.model import AVAE
from tf_avae.probes import Probe
from tf_avae.saved.classifiers import classifier
from tf_avae.saved.layers import keras_encoder
from tf_avae.types import Images, PerExample, Tensor

Certify: TypeAlias = Callable[[Images, PerExample], dict[str, Tensor]]
"""Images [N, H, W, C] and radii [N] to "embedding", "lower" and "upper", [N, D] each."""


def certifier(model: AVAE) -> Certify:
    """The function that embeds images and bounds the embeddings of all images near them.

    Bounds hold for each image of the architecture's range within `epsilon` of an image in every
    pixel value, and for the image itself, as float32 computes its embedding (`Bounds` says of
    which computations that is known). The function reads the weights that the model has then.

    Raises:
        InputError: a layer of the encoder is of a kind without bounds; it is named. What the
            function refuses, images or radii, is a `tf.errors.InvalidArgumentError` in a graph.
    """
    bounds, limits = Bounds(model.encoder), model.architecture.bounds

    def certify(image: Images, epsilon: PerExample) -> dict[str, Tensor]:
        image = images_of(
            image, image_shape=model.image_shape, bounds=limits, margin=MARGIN, none=True
        )
        near = _near(image, _radii(epsilon, tf.shape(image)[0]), limits)
        box = bounds(near, outward=True)["embedding"]
        embedding = model.encode(image, float32=True).mean
        return {"embedding": embedding, "lower": box.lower, "upper": box.upper}

    # A graph of its own, which the signatures of images and of files share.
    specs = tf.TensorSpec([None, *model.image_shape], tf.float32), tf.TensorSpec([None], tf.float32)
    return tf.function(certify, input_signature=specs)


class CertifiedRadius:
    """How far a classifier's class is proven to hold around an image, on a grid of radii.

    Args:
        encoder: path of the classifier's encoder, as `load_encoder` takes it.
        epsilons: the grid, L-infinity radii in pixel values, above 0.
        proof: name of a row of `PROOFS`: by which bounds. Each is tried on all images, since a
            graph takes as long for those that another has decided.
        trust: whether to open a SavedModel that may do more than compute.

    Attributes:
        epsilons: the grid, ascending.
        proof: the row.

    Raises:
        InputError: the radii are no such numbers, the encoder's layers are not known, or there are
            no bounds of one.
    """

    def __init__(
        self, encoder: str | Path, epsilons: Sequence[float], *, proof: str = "interval",
        trust: bool = False,
    ):  # fmt: skip
        self.proof = PROOFS[proof]
        self.epsilons = sorted(set(epsilons))
        with np.errstate(over="ignore"):
            radii = np.array(self.epsilons, np.float64).astype(np.float32)  # as a graph takes them
        if not epsilons or not ((radii > 0) & (radii < np.inf)).all():
            raise InputError(
                f"certified radii are {list(epsilons)}; they must be finite numbers above 0, in "
                "float32 too and in pixel values, which go from 0 to 1"
            )
        network = keras_encoder(encoder, trust=trust)
        embedding = {"embedding": network.output["embedding"]}
        self._encoder = keras.Model(network.inputs, embedding, name="proven", trainable=False)
        Bounds(self._encoder)
        self._bounds: Bounds | None = None

    def prove(self, model: "keras.Model", probe: Probe) -> None:
        """Makes ready to be called.

        Args:
            model: the classifier: images to "logits" and what else it gives.
            probe: its head.

        Raises:
            InputError: the classifier's encoder has changed meanwhile.
        """
        layers = classifier(self._encoder, probe)
        few = np.random.default_rng(0).uniform(size=(4, *layers.input_shape[1:]))
        expected, found = model(np.float32(few))["logits"], layers(np.float32(few))["logits"]
        most = 1e-3 * max(1.0, np.abs(expected).max())
        if not np.abs(expected - found).max() <= most:
            raise InputError(
                "the encoder's layers do not give the classifier's logits, so nothing can be "
                "proven of it; start again, or leave out the certified radius"
            )
        self.weights = layers.weights
        self._bounds = Bounds(keras.Model(layers.inputs, layers.output["logits"]))

    def __call__(self, images: Images, logits: Tensor) -> PerExample:
        """The largest radius of the grid within which no image has another class, [B] float32; 0
        where none is proven.

        Args:
            images: [B, H, W, C] in [0, 1].
            logits: the classifier's, [B, K].
        """
        assert self._bounds is not None, "prove it first"
        count, classes = len(self.epsilons), logits.shape[1]
        labels = tf.argmax(logits, axis=1, output_type=tf.int32)
        # The balls of an image lie one after the other.
        radii = tf.tile(tf.constant(self.epsilons, tf.float32), tf.shape(images)[:1])
        near = _near(tf.repeat(images, count, axis=0), radii, UNIT)
        labels = tf.repeat(labels, count)
        proven = tf.zeros_like(labels, tf.bool)
        for relaxed in self.proof.relaxed:
            least = lead(self._bounds, near, labels, classes, relaxed=relaxed, outward=True)
            proven |= least > 0
        return tf.reduce_max(tf.reshape(tf.where(proven, radii, 0.0), [-1, count]), axis=1)


def _near(images: Images, radii: PerExample, limits: tuple[float, float]) -> Box:
    """The balls around images, and the images: those that rounding has put outside of the limits
    are taken too."""
    box = ball(images, radii, bounds=limits, outward=True)
    return Box(tf.minimum(box.lower, images), tf.maximum(box.upper, images))


def _radii(epsilon: PerExample, count: Tensor) -> PerExample:
    """The same radii, checked when the graph runs: finite, at least 0, one for each image."""
    sound = (epsilon >= 0) & (epsilon < float("inf"))  # false for what is not a number

    def refuse() -> "tf.Operation":
        return tf.raw_ops.Assert(
            condition=False,
            data=[
                "epsilon must hold finite numbers of at least 0, one an image; the first that is "
                "not, how many there are, and how many images:",
                tf.boolean_mask(epsilon, ~sound)[:1], tf.size(epsilon), count,
                "; epsilon is a distance in pixel values, which go from 0 to 1",
            ],
        )  # fmt: skip

    whole = tf.reduce_all(sound) & (tf.size(epsilon) == count)
    with tf.control_dependencies([tf.cond(whole, tf.no_op, refuse)]):
        return tf.identity(epsilon)
