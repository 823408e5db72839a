"""Batch normalisation by the statistics of another batch."""

from collections.abc import Callable
from typing import TypeVar

from tf_avae.backend import keras
from tf_avae.backend.float32 import layers_of
from tf_avae.errors import InputError
from tf_avae.types import Tensor

T = TypeVar("T")

Statistics = list[tuple[keras.Variable, Tensor]]
"""Variables of a network, and the values that stand for them in `keras.StatelessScope`."""


def normalises(network: keras.Model) -> bool:
    """Whether a layer of a network is batch normalisation."""
    return any(isinstance(layer, keras.layers.BatchNormalization) for layer in layers_of(network))


def with_statistics(network: keras.Model, train: Callable[[], T]) -> tuple[T, Statistics]:
    """What a pass in training mode gives, and the statistics that its batch was normalised by.

    In `keras.StatelessScope(statistics)` a pass in inference mode normalises by these, wherever
    the network is called, in float32 too.

    Args:
        network: what is called; its moving statistics go on as in any training pass.
        train: makes the pass.

    Raises:
        InputError: a layer's momentum is 1: it never takes up what its batch was normalised by.
    """
    layers = [
        layer
        for layer in layers_of(network)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    for layer in layers:
        if layer.momentum >= 1:
            raise InputError(
                f"layer {layer.name!r} has momentum {layer.momentum:g}; give it less than 1, or "
                "--batch-norm data"
            )
    moving = [(layer, v) for layer in layers for v in (layer.moving_mean, layer.moving_variance)]
    # From 0 one update leaves (1 - momentum) times the batch's own.
    with keras.StatelessScope([(v, keras.ops.zeros_like(v)) for _, v in moving]) as scope:
        result = train()
        moved = {id(v): scope.get_current_value(v) for v in network.variables}
    updated = {id(v): layer.momentum * v + moved[id(v)] for layer, v in moving}
    for variable in network.non_trainable_variables:
        value = updated.get(id(variable), moved[id(variable)])
        if value is not None and value is not variable.value:
            variable.assign(value)
    return result, [(v, moved[id(v)] / (1.0 - layer.momentum)) for layer, v in moving]
