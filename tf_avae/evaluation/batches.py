"""Functions of batches over arrays of any length."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tf_avae.backend import tf
from tf_avae.inputs import seed_of
from tf_avae.types import ImageShape


def in_batches(
    function: Callable[..., Any], *arrays: np.ndarray, batch_size: int, seed: Any = None
) -> Any:
    """A function's results over arrays [N, ...], a batch at a time, joined along the first axis.

    Args:
        function: tensors [B, ...] to a tensor [B, ...], or to a structure of such.
        arrays: [N, ...] each, N at least 1.
        batch_size: largest B.
        seed: where it is given, an integer or a stateless seed, a stateless seed of each batch,
            [2], is the last argument.
    """
    first = None if seed is None else seed_of(seed)

    def results(start: int) -> Any:
        among = [tf.constant(array[start : start + batch_size]) for array in arrays]
        seeds = [] if first is None else [first + [0, start]]
        return tf.nest.map_structure(np.asarray, function(*among, *seeds))

    parts = [results(start) for start in range(0, len(arrays[0]), batch_size)]
    return tf.nest.map_structure(lambda *pieces: np.concatenate(pieces), *parts)


def image_spec(shape: ImageShape) -> "tf.TensorSpec":
    """What a compiled function of images [B, H, W, C] takes, for any B."""
    return tf.TensorSpec([None, *shape], tf.float32)


def seed_spec() -> "tf.TensorSpec":
    """A stateless seed, as an argument of a compiled function."""
    return tf.TensorSpec([2], tf.int32)


def compiled(*arguments: "tf.TensorSpec") -> Callable[[Callable], Callable]:
    """A decorator: the function as one graph, traced at once, for arguments of these kinds.

    Unlike `tf.function` it does not warn that many graphs are made: each encoder, attack and
    radius has its own.
    """
    return lambda function: tf.function(function, input_signature=arguments).get_concrete_function()
