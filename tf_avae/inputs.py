"""The one definition of images, of labels and of seeds, for all public functions.

Arrays and eager tensors are looked at as they are, and refused by an `InputError`. Inside a graph
the rank, the shape and the dtype are looked at when it is traced, and the values by one pass over
them when it runs (XLA leaves that pass out: it drops assertions). `refusals` turns what a running
graph refuses into an `InputError` too.
"""

import contextlib
import numbers
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tf_avae.backend import tf
from tf_avae.errors import InputError
from tf_avae.types import Images, Tensor

UNIT = (0.0, 1.0)
"""Smallest and largest pixel value of all that is trained on, evaluated, embedded and served."""

MARGIN = 1e-3
"""How far a pixel may lie outside the bounds where an image is only encoded: what resizing and
rounding may do. Training, evaluation and attacks allow nothing."""

_SAYS = " must hold finite numbers in "
_SAID = re.compile(r"\[([^\[\]]+" + _SAYS + r"\[.*?)\](?:\s*\n|$)")
_SIDES = re.compile(r"Shape of tensor \S+ (\[.*?]) is not compatible with expected shape (\[.*?])")
"""The messages of a graph about the values and the shape of images, within TensorFlow's own."""


def images_of(
    value: Any,
    *,
    image_shape: Sequence[int | None] | None = None,
    bounds: tuple[float, float] = UNIT,
    margin: float = 0.0,
    none: bool = False,
    what: str = "images",
) -> Images:
    """Images as a tensor: rank 4, float32, at least one, finite, inside the bounds.

    Args:
        value: [N, H, W, C]: an array, a nested list, or a tensor, also one inside a graph.
        image_shape: (H, W, C) that they must have, None for a side that is free.
        bounds: smallest and largest pixel value.
        margin: how far outside the bounds a value may lie.
        none: whether there may be none at all.
        what: what they are called in an error.

    Returns:
        the same numbers. Inside a graph what is made of them is not computed before they are
        checked.

    Raises:
        InputError: they are not; a graph that runs raises `tf.errors.InvalidArgumentError`, which
            `refusals` makes one of.
    """
    images = _tensor(value, what)
    _check_kind(images.shape, images.dtype.name, image_shape, bounds, none, what)
    images = tf.ensure_shape(images, [None, *(image_shape or [None] * 3)])
    low, high = _limits(bounds, margin)
    sound = tf.reduce_all((images >= low) & (images <= high))  # false for what is not a number
    if not none:
        sound &= tf.shape(images)[0] > 0
    if tf.is_symbolic_tensor(images):
        with tf.control_dependencies([_assertion(sound, images, bounds, what)]):
            return tf.identity(images)
    if not sound:
        _check_values(images.numpy(), bounds, what)
    return images


def image_array(
    value: Any,
    *,
    image_shape: Sequence[int | None] | None = None,
    bounds: tuple[float, float] = UNIT,
    margin: float = 0.0,
    what: str = "images",
) -> np.ndarray:
    """The same as an array, [N, H, W, C] float32; see `images_of`."""
    images = _array(value, what)
    _check_kind(images.shape, images.dtype.name, image_shape, bounds, False, what)
    low, high = _limits(bounds, margin)
    if not (images.min() >= low and images.max() <= high):  # false for what is not a number
        _check_values(images, bounds, what)
    return images


def label_array(
    value: Any, *, count: int | None = None, classes: int | None = None, what: str = "labels"
) -> np.ndarray:
    """Class numbers as an array: [N] integers, at least 0. Numbers may be missing between them.

    Args:
        value: an array, a list or a tensor.
        count: N, where it is known.
        classes: K, where they must be below it.
        what: what they are called in an error.

    Raises:
        InputError: they are not.
    """
    labels = _array(value, what)
    if labels.ndim != 1 or count not in (None, len(labels)):
        there = "one an image" if count is None else f"{count:,} of them, one an image"
        raise InputError(
            f"{what} have shape {_shape(labels.shape)}; they must be [N], {there}: flatten a "
            "column with labels.ravel(), and one-hot rows with labels.argmax(1)"
        )
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"{what} are {labels.dtype}; they must be integers, the numbers of classes: number "
            "them with np.unique(labels, return_inverse=True)[1]"
        )
    if len(labels) and labels.min() < 0:
        raise InputError(
            f"{what} go down to {labels.min()}; class numbers are at least 0: number the classes "
            "with np.unique(labels, return_inverse=True)[1]"
        )
    if classes is not None and len(labels) and labels.max() >= classes:
        raise InputError(
            f"{what} go up to {labels.max()}, and there are {classes} classes, numbered from 0; "
            "leave out examples of other classes, or number the classes anew"
        )
    return labels


def labels_of(value: Any, *, count: Tensor | int, classes: int, what: str = "labels") -> Tensor:
    """Class numbers as a tensor: [N] integers in [0, K), beside whatever there are N of.

    Args:
        value: an array, a list, or a tensor, also one inside a graph.
        count: N.
        classes: K.
        what: what they are called in an error.

    Raises:
        InputError: they are not; a graph that runs raises `tf.errors.InvalidArgumentError`.
    """
    known = count if isinstance(count, int) else None
    symbolic = tf.is_symbolic_tensor(value)
    labels = _tensor(
        value if symbolic else label_array(value, count=known, classes=classes, what=what), what
    )
    if symbolic and (labels.shape.rank != 1 or not labels.dtype.is_integer):
        raise InputError(
            f"{what} are {labels.dtype.name} of shape {_shape(labels.shape)}; they must be "
            "integers [N], the numbers of classes, one an image"
        )
    labels = labels if labels.dtype in (tf.int32, tf.int64) else tf.cast(labels, tf.int64)
    if known is not None and not symbolic:
        return labels
    sound = tf.reduce_all((labels >= 0) & (labels < classes)) & (tf.size(labels) == count)
    says = f"{what} must be integers in [0, {classes}), one an image; some of them, number, of:"
    data = [says, labels, tf.size(labels), count]
    # No `cond`, which would cost more than what it saves in each step of an attack.
    with tf.control_dependencies([tf.raw_ops.Assert(condition=sound, data=data)]):
        return tf.identity(labels)


def seed_of(value: Any) -> Tensor:
    """A stateless seed, an int32 tensor of shape [2], from an integer or such a tensor.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_):
        number = int(value)
        if not 0 <= number < 2**31:
            raise InputError(f"seed is {number}; it must be at least 0 and below 2^31")
        return tf.constant([number, 0], tf.int32)
    seed = _tensor(value, "seed")
    one = seed.shape == []
    if not seed.dtype.is_integer or not (one or seed.shape.is_compatible_with([2])):
        raise InputError(
            f"seed is {seed.dtype.name} of shape {_shape(seed.shape)}; give an integer, such as 0, "
            "or an integer tensor of shape [2]"
        )
    if not tf.is_symbolic_tensor(seed) and (abs(seed.numpy().astype(float)) >= 2**31).any():
        raise InputError(f"seed is {seed.numpy().tolist()}; its numbers must be of 32 bits")
    seed = tf.cast(seed, tf.int32)
    return tf.stack([seed, 0]) if one else seed


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turns what a graph refuses inside this block into an `InputError`."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if said := _SAID.search(error.message):
            raise InputError(said[1].replace("] [", " ")) from error
        if sides := _SIDES.search(error.message):
            raise InputError(
                f"images have shape {sides[1]}; they must be {sides[2]}: resize them, or make a "
                "model for this shape"
            ) from error
        raise


def _limits(bounds: tuple[float, float], margin: float) -> tuple[np.float32, np.float32]:
    """The least and the greatest value allowed. Infinity is never allowed."""
    most = float(np.finfo(np.float32).max)
    return np.float32(max(bounds[0] - margin, -most)), np.float32(min(bounds[1] + margin, most))


def _tensor(value: Any, what: str) -> Tensor:
    """A value as a tensor."""
    try:
        return tf.convert_to_tensor(value)
    except (ValueError, TypeError) as error:
        raise _no_array(value, what) from error


def _array(value: Any, what: str) -> np.ndarray:
    """A value as an array."""
    try:
        array = np.asarray(value)
        if not hasattr(value, "dtype") and array.dtype == np.float64:
            array = array.astype(np.float32)  # Python's numbers, as TensorFlow converts them
    except (ValueError, TypeError) as error:
        raise _no_array(value, what) from error
    if array.dtype.kind == "O":
        raise _no_array(value, what)
    return array


def _no_array(value: Any, what: str) -> InputError:
    return InputError(
        f"{what} are of type {type(value).__name__}, which is no array of numbers; give an array "
        "or a tensor (a list must be of equal parts)"
    )


def _check_kind(
    shape: Any,
    dtype: str,
    image_shape: Sequence[int | None] | None,
    bounds: tuple[float, float],
    none: bool,
    what: str,
) -> None:
    """Raises `InputError` for a wrong shape or dtype."""
    if dtype != "float32":
        scale = ", and divide by 255 if they go up to 255" if bounds == UNIT else ""
        raise InputError(
            f"{what} are {dtype}; they must be float32 in {_span(bounds)}: convert them with "
            f"astype(np.float32) or tf.cast{scale}"
        )
    wanted = "[N, " + ", ".join("any" if s is None else str(s) for s in image_shape or "HWC") + "]"
    remedy = ""
    if getattr(shape, "rank", 0) is None:
        remedy = "set its shape with tf.ensure_shape"
    elif len(shape) == 3:
        remedy = "give grey images a last axis, images[..., np.newaxis], or one image a first"
    elif len(shape) != 4:
        remedy = "reshape them"
    elif image_shape is not None and any(
        None not in (a, b) and a != b for a, b in zip(shape[1:], image_shape, strict=True)
    ):
        remedy = "resize them, or make a model for this shape"
    elif shape[0] == 0 and not none:
        remedy = "give at least one"
    if remedy:
        raise InputError(f"{what} have shape {_shape(shape)}; they must be {wanted}: {remedy}")


def _check_values(images: np.ndarray, bounds: tuple[float, float], what: str) -> None:
    """Raises the `InputError` for images of which some values are out of range or not finite."""
    finite, rule = np.isfinite(images), f"they must be finite and in {_span(bounds)}"
    if not finite.all():
        raise InputError(
            f"{what} hold {np.sum(~finite):,} values that are not finite numbers (the first in "
            f"number {np.argmin(finite.reshape(len(images), -1).all(1))}); {rule}: leave those "
            "images out, or mend what made them"
        )
    raise InputError(
        f"{what} go from {images.min():g} to {images.max():g}; {rule}: {_remedy(bounds)}"
    )


def _assertion(sound: Tensor, images: Images, bounds: tuple[float, float], what: str) -> Any:
    """The same inside a graph; the message's numbers are computed only if it fails."""

    def refuse() -> "tf.Operation":
        return tf.raw_ops.Assert(
            condition=False,
            data=[
                f"{what}{_SAYS}{_span(bounds)}, at least one; how many there are, least, greatest, "
                "and how many are not finite:",
                tf.size(images), tf.reduce_min(images), tf.reduce_max(images),
                tf.math.count_nonzero(~tf.math.is_finite(images)),
                f"; {_remedy(bounds)}",
            ],
        )  # fmt: skip

    return tf.cond(sound, tf.no_op, refuse)


def _remedy(bounds: tuple[float, float]) -> str:
    if bounds == UNIT:
        return "divide by 255 what goes up to 255, and clip what rounding has put outside"
    return "rescale or clip them, or give other bounds"


def _span(bounds: tuple[float, float]) -> str:
    return f"[{bounds[0]:g}, {bounds[1]:g}]"


def _shape(shape: Any) -> str:
    if getattr(shape, "rank", 0) is None:
        return "of unknown rank"
    return "[" + ", ".join("N" if side is None else str(side) for side in shape) + "]"
