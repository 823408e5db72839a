"""What bounds of logits say of a class."""

from tf_avae.backend import tf
from tf_avae.bounds.boxes import Box
from tf_avae.bounds.network import Bounds
from tf_avae.types import PerExample, Tensor


def lead(
    bounds: Bounds, box: Box, labels: Tensor, classes: int, *, relaxed: int = 0,
    outward: bool = False,
) -> PerExample:  # fmt: skip
    """What the logit of a label exceeds each other logit by, at least, wherever in a box. Above 0
    the class is proven for the whole box.

    Args:
        bounds: of a network whose one output are logits, [B, classes].
        box: of images, [B, ...] each side.
        labels: columns of the logits, [B] int32.
        classes: how many logits there are, at least 2.
        relaxed, outward: those of `Bounds.least`.

    Returns:
        [B] float32; -inf where bounds overflowed.
    """
    # Whether a minimum passes on what is not a number is the device's affair.
    found = leads(bounds, box, labels, classes, relaxed=relaxed, outward=outward)
    return tf.reduce_min(tf.where(tf.math.is_nan(found), -float("inf"), found), axis=1)


def leads(
    bounds: Bounds, box: Box, labels: Tensor, classes: int, *, relaxed: int = 0,
    outward: bool = False,
) -> Tensor:  # fmt: skip
    """As `lead`, one by one: [B, classes - 1], not a number where bounds overflowed."""
    label = labels[:, tf.newaxis]
    others = tf.range(classes - 1)[tf.newaxis]
    others += tf.cast(others >= label, tf.int32)
    rows = tf.one_hot(label, classes) - tf.one_hot(others, classes)
    return bounds.least(box, rows, output=None, relaxed=relaxed, outward=outward)
