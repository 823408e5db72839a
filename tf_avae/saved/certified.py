"""What an exported encoder proves of a ball of images, in the graph that embeds them."""

from collections.abc import Callable
from typing import TypeAlias

from tf_avae.backend import tf
from tf_avae.bounds import Bounds, Box, ball
from tf_avae.inputs import MARGIN, images_of
from tf_avae.model import AVAE
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
        near = ball(image, _radii(epsilon, tf.shape(image)[0]), bounds=limits, outward=True)
        # An image that rounding has put outside of the range, which is taken, is in the box too.
        near = Box(tf.minimum(near.lower, image), tf.maximum(near.upper, image))
        box = bounds(near, outward=True)["embedding"]
        embedding = model.encode(image, float32=True).mean
        return {"embedding": embedding, "lower": box.lower, "upper": box.upper}

    # A graph of its own, which the signatures of images and of files share.
    specs = tf.TensorSpec([None, *model.image_shape], tf.float32), tf.TensorSpec([None], tf.float32)
    return tf.function(certify, input_signature=specs)


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
