"""Interval bounds of a network (Gowal et al., arXiv 1810.12715), and backward ones of its last
layers (CROWN-IBP, Zhang et al., arXiv 1906.06316)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tf_avae.backend import keras, private, tf
from tf_avae.bounds.boxes import ROUNDING, SMALLEST, Box, rounding_of
from tf_avae.bounds.parts import Linear, Monotone, Part, parts_of
from tf_avae.errors import InputError
from tf_avae.types import Tensor


class Step(NamedTuple):
    """One part of a layer, at its place in the network.

    Attributes:
        part: what it does.
        inputs: numbers of the tensors it takes; 0 is the network's input.
        output: number of the tensor it makes.
    """

    part: Part
    inputs: tuple[int, ...]
    output: int


class Bounds:
    """What a network can give for every input in a box.

    Reads the weights that the network has when it is called, in inference mode and in float32. For
    every x in the box the output is in the box that a call gives, as far as real numbers go; with
    `outward` also as float32 computes it, in whatever order it adds (Winograd's and Fourier's
    convolutions and TF32 aside), if an activation is right to 8 units in the last place.

    Args:
        network: a functional or sequential Keras model of one input, made of affine and
            convolutional layers, pooling, batch normalisation, reshaping, additions and monotone
            activations (`tf_avae.bounds.parts` has the list).

    Raises:
        InputError: a layer is of another kind; it is named.
    """

    def __init__(self, network: keras.Model):
        self._steps: list[Step] = []
        numbers = itertools.count(1)
        found = _trace(network, None, numbers, self._steps)
        self._shape = [None, *network.inputs[0].shape[1:]]
        self._outputs = keras.tree.map_structure(lambda symbol: symbol.number, found)

    def __call__(self, box: Box, *, outward: bool = False) -> Any:
        """A box for each output.

        Args:
            box: of inputs, [B, ...] each side.
            outward: wide enough for the rounding of float32.

        Returns:
            `Box`es in the structure of the network's outputs, such as {"embedding": Box, ...}; an
            end is infinite where bounds overflowed.

        Raises:
            InputError: the box is not float32, or not of the network's inputs.
        """
        boxes = self._forward(box, outward)
        return keras.tree.map_structure(lambda number: boxes[number].sound, self._outputs)

    def _forward(self, box: Box, outward: bool) -> dict[int, Box]:
        """The boxes of all tensors of the network."""
        ends = [tf.convert_to_tensor(end) for end in box]
        for end in ends:
            if end.dtype != tf.float32 or not end.shape.is_compatible_with(self._shape):
                raise InputError(
                    f"the box is {end.dtype.name} of shape {end.shape}; the network takes float32 "
                    f"of shape {self._shape}"
                )
        boxes = {0: Box(*ends)}
        # A layer of mixed precision around this call would have the weights rounded.
        with private.AutocastScope("float32"):
            for part, inputs, output in self._steps:
                taken = [boxes[i] for i in inputs]
                if isinstance(part, Linear):
                    boxes[output] = _linear(part, taken, outward)
                else:
                    boxes[output] = _monotone(part, taken, outward)
        return boxes

    def least(
        self,
        box: Box,
        coefficients: Tensor,
        constant: Tensor | float = 0.0,
        *,
        output: str | None = "embedding",
        relaxed: int = 0,
        outward: bool = False,
    ) -> Tensor:
        """Lower bounds of linear functions of an output: of coefficients . output + constant.

        The functions are folded into the network's last affine layers, so the bounds are at
        least as tight as those of the output's box. Relaxed activations mostly make them tighter
        still, but looser where a unit's interval is wide and mostly above 0.

        Args:
            box: of inputs, [B, ...] each side.
            coefficients: [B, K, D] or [K, D], for an output [B, D]; taken in float32.
            constant: [B, K], [K] or a number.
            output: which of the network's outputs; None where it has one without a name.
            relaxed: how many activations of the form max(slope x, x), counted from the output,
                are taken by their linear relaxation (CROWN). 0 folds into the last affine layers
                alone; a large number goes back to the input. It costs K backward passes.
            outward: allow for the rounding of float32.

        Returns:
            [B, K].

        Raises:
            InputError: there is no such output; so is the box refused by a call.
        """
        names = list(self._outputs) if isinstance(self._outputs, dict) else [None]
        if output not in names or (output is None and not isinstance(self._outputs, int)):
            raise InputError(
                f"output is {output!r}; the network has {', '.join(map(repr, names))}: name one, "
                "or give None where it is one tensor"
            )
        last = self._outputs if output is None else self._outputs[output]
        boxes = self._forward(box, outward)
        rows = tf.cast(coefficients, tf.float32)
        batch = tf.shape(boxes[last].lower)[0]
        if rows.shape.rank == 2:
            rows = tf.broadcast_to(rows, tf.concat([[batch], tf.shape(rows)], 0))
        # What is added up is float64, so that only the network's own sums have to be allowed for.
        if not tf.is_tensor(constant):
            constant = np.asarray(constant, np.float64)  # TensorFlow takes a number in float32
        total = tf.zeros(tf.shape(rows)[:2], tf.float64) + tf.cast(constant, tf.float64)
        pending: dict[int, _Pending] = {last: _Pending(rows, relaxed)}
        with private.AutocastScope("float32"):
            for step in reversed(self._steps):
                here = pending.pop(step.output, None)
                if here is None:
                    continue
                taken = [boxes[i] for i in step.inputs]
                if isinstance(step.part, Linear):
                    added, found = _back_linear(step.part, here, taken, outward)
                elif here.relaxed > 0 and step.part.slope is not None:
                    added, found = _back_relaxed(step.part.slope, here, taken[0], outward)
                else:
                    total += _concretised(here.rows, boxes[step.output], outward)
                    continue
                total += added
                for number, one in zip(step.inputs, found, strict=True):
                    pending[number] = one.plus(pending.get(number))
        for number, here in pending.items():
            total += _concretised(here.rows, boxes[number], outward)
        if outward:
            total -= 4.0 * ROUNDING * tf.abs(total) + SMALLEST
        return tf.cast(total, tf.float32)


class _Symbol:
    """A tensor of the network while it is traced; no container, so Keras' trees keep it whole."""

    def __init__(self, number: int, shape: Any):
        self.number = number
        self.shape = tuple(shape)


def _computes_otherwise(network: Any) -> bool:
    """Whether a model is none of Keras' two kinds, or gives something else than its layers do. A
    subclass is a functional model too where it is made of inputs and outputs."""
    kind, plain = type(network), (keras.Sequential, private.Functional)
    return (
        getattr(kind, "call", None) not in [of.call for of in plain]
        or kind.__call__ not in [of.__call__ for of in plain]
        or "call" in vars(network)
    )


def _trace(network: Any, inputs: list[_Symbol] | None, numbers: Any, steps: list[Step]) -> Any:
    """Adds the network's parts to the steps; the symbols of its outputs. Its one input is tensor 0
    where none is given."""
    if _computes_otherwise(network):
        raise InputError(
            f"no bounds: {getattr(network, 'name', network)!r} is a {type(network).__name__} with "
            "a call of its own; bounds are known of functional and sequential Keras models"
        )
    if not network.built:
        raise InputError(f"no bounds: {network.name!r} has no weights yet; begin with keras.Input")
    if isinstance(network, keras.Sequential):
        network = private.functional_of(network)
    shapes = [tuple(one.shape[1:]) for one in network.inputs]
    if len(shapes) != (1 if inputs is None else len(inputs)):
        raise InputError(
            f"no bounds: {network.name!r} takes {len(shapes)} inputs; bounds are known of models "
            "that take one"
        )
    if None in itertools.chain(*shapes):
        raise InputError(
            f"no bounds: {network.name!r} takes inputs of any size, {shapes[0]}; give the sizes to "
            "keras.Input"
        )
    if inputs is None:
        inputs = [_Symbol(0, network.inputs[0].shape)]
    given = [symbol.shape[1:] for symbol in inputs]
    if given != shapes:  # Keras would add or take away an axis of 1
        raise InputError(
            f"no bounds: {network.name!r} takes inputs of shape {shapes} and is given {given}; "
            "reshape them first"
        )

    def record(operation: Any) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if named.pop("training", None):
                raise InputError(
                    f"no bounds: {operation.name!r} is made part of the model in training mode; "
                    "leave out training=True"
                )
            given = keras.tree.flatten((arguments, named))
            taken = [symbol for symbol in given if isinstance(symbol, _Symbol)]
            constants = [v for v in given if not isinstance(v, _Symbol) and v is not None]
            if isinstance(operation, private.Functional | keras.Sequential):
                _check_order(operation, arguments)
                return _trace(operation, taken, numbers, steps)
            if constants:
                raise InputError(
                    f"no bounds: {operation.name!r} ({type(operation).__name__}) takes a constant; "
                    "use a layer, such as Rescaling"
                )
            specs = keras.tree.map_structure(_spec, (arguments, named))
            shape = operation.compute_output_spec(*specs[0], **specs[1]).shape
            for part in parts_of(operation):
                output = next(numbers)
                steps.append(Step(part, tuple(symbol.number for symbol in taken), output))
                taken = [_Symbol(output, shape)]
            return taken[0]

        return call

    return private.run_through_graph(network, inputs, record)


def _spec(value: Any) -> Any:
    """A symbol as Keras' tensor of its shape."""
    return keras.KerasTensor(value.shape) if isinstance(value, _Symbol) else value


def _check_order(network: Any, arguments: tuple[Any, ...]) -> None:
    """Raises `InputError` where a nested model is called with several inputs in another structure
    than it was made of: Keras then goes by their names."""
    if len(network.inputs) == 1:
        return
    try:
        made, called = map(keras.tree.lists_to_tuples, (network.input, *arguments))
        keras.tree.assert_same_structure(made, called)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"no bounds: {network.name!r} is called with its inputs in another structure than it "
            "was made with; give them in the same one"
        ) from error


# -------------------------------------------------------------------- forward


def _linear(part: Linear, boxes: list[Box], outward: bool) -> Box:
    constant = 0.0 if part.constant is None else part.constant()
    if part.apply is part.magnitude:  # each end goes to an end
        found = Box(part.apply(*(b.lower for b in boxes)), part.apply(*(b.upper for b in boxes)))
        found = Box(found.lower + constant, found.upper + constant)
    else:
        centers, radii = [b.center for b in boxes], [b.radius for b in boxes]
        center, radius = part.apply(*centers) + constant, part.magnitude(*radii)
        found = Box(center - radius, center + radius)
    return found.wider(_slack(part, boxes)) if outward and part.terms else found


def _slack(part: Linear, boxes: list[Box]) -> Tensor:
    """How far rounding carries the network's own numbers out of exact bounds, and the bounds from
    exact ones: each at most gamma times the sum of the absolute values, with the sum's own."""
    sizes = part.magnitude(*(b.magnitude for b in boxes))
    if part.constant is not None:
        sizes += part.size() if part.size else tf.abs(part.constant())
    whole, ends = math.prod(sizes.shape[1:]), [math.prod(b.lower.shape[1:]) for b in boxes]
    terms = part.terms + len(boxes) + max(max(ends) // whole, whole // min(ends))
    slack = 4.0 * rounding_of(terms + 4) * sizes + SMALLEST
    if part.apply is part.magnitude:
        return slack
    # So small weights may be taken for 0 here, and by the network or not.
    lost = tf.cast(_underflow(boxes), tf.float32)
    return slack + tf.reshape(lost, [-1] + [1] * (sizes.shape.rank - 1))


def _monotone(part: Monotone, boxes: list[Box], outward: bool) -> Box:
    boxes = [box.sound for box in boxes]
    found = Box(part.apply(*(b.lower for b in boxes)), part.apply(*(b.upper for b in boxes)))
    if outward and part.size is not None:
        # Of the network's activations and of these: 8 units each.
        low, high = (32.0 * ROUNDING * (tf.abs(end) + part.size) + SMALLEST for end in found)
        found = Box(found.lower - low, found.upper + high)
    return found


# -------------------------------------------------------------------- backward


class _Pending(NamedTuple):
    """Functions of a tensor of the network, yet to be bounded.

    Attributes:
        rows: their coefficients, [B, K, ...].
        relaxed: how many activations may still be relaxed.
    """

    rows: Tensor
    relaxed: int

    def plus(self, other: _Pending | None) -> _Pending:
        """The sum of the functions of one tensor that two ways lead to."""
        if other is None:
            return self
        return _Pending(self.rows + other.rows, min(self.relaxed, other.relaxed))


def _dot(rows: Tensor, values: Tensor) -> Tensor:
    """Coefficients [B, K, ...] by values [B, ...] or broadcast to that: [B, K] float64."""
    values = _over(tf.cast(values, tf.float64), rows)
    axes = list(range(2, rows.shape.rank))
    return tf.reduce_sum(tf.cast(rows, tf.float64) * values, axis=axes)


def _over(values: Tensor, rows: Tensor) -> Tensor:
    """Values as coefficients [B, K, ...] take them."""
    values = tf.broadcast_to(values, tf.concat([tf.shape(rows)[:1], tf.shape(rows)[2:]], 0))
    return tf.expand_dims(values, 1)


def _back(apply: Callable[..., Tensor], rows: Tensor, boxes: list[Box]) -> list[Tensor]:
    """The transpose of a linear map, applied to coefficients [B, K, ...] of its output."""
    lead = tf.shape(rows)[:2]
    flat = tf.reshape(rows, tf.concat([[-1], tf.shape(rows)[2:]], 0))
    flat = tf.ensure_shape(flat, [None, *rows.shape[2:]])
    points = []
    for box in boxes:
        shape = tf.concat([tf.shape(flat)[:1], tf.shape(box.lower)[1:]], 0)
        points.append(tf.ensure_shape(tf.zeros(shape), [None, *box.lower.shape[1:]]))
    with tf.GradientTape() as tape:
        tape.watch(points)
        found = apply(*points)
    gradients = tape.gradient(
        found, points, output_gradients=flat, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return [
        tf.ensure_shape(
            tf.reshape(gradient, tf.concat([lead, tf.shape(gradient)[1:]], 0)),
            [rows.shape[0], rows.shape[1], *gradient.shape[1:]],
        )
        for gradient in gradients
    ]


def _underflow(boxes: list[Box]) -> Tensor:
    """What coefficients of these tensors, taken for 0 in float32, can amount to: [B, 1] float64."""
    sizes = [tf.reshape(b.magnitude, [tf.shape(b.lower)[0], -1]) for b in boxes]
    return SMALLEST * sum(tf.reduce_sum(tf.cast(s, tf.float64), 1, keepdims=True) for s in sizes)


def _back_linear(
    part: Linear, here: _Pending, boxes: list[Box], outward: bool
) -> tuple[Tensor, list[_Pending]]:
    added = tf.zeros([], tf.float64)
    if part.constant is not None:
        added += _dot(here.rows, part.constant())
    if outward and part.terms:
        # Of the network's sums; and of the coefficients', which need be no others than they are:
        # what they are off by in this step alone counts.
        added -= _dot(tf.abs(here.rows), _slack(part, boxes)) + _underflow(boxes)
    return added, [_Pending(rows, here.relaxed) for rows in _back(part.apply, here.rows, boxes)]


def _back_relaxed(
    slope: float, here: _Pending, box: Box, outward: bool
) -> tuple[Tensor, list[_Pending]]:
    """max(slope x, x) lies above a line through 0, and below its chord."""
    box = box.sound
    low, high = box
    crossing = ~((low >= 0.0) | (high <= 0.0))  # so is what overflowed and is not a number
    # In halves, so that the width of a box is a number; without an end, the chord is none.
    chord = (0.5 * high - slope * (0.5 * low)) / tf.where(crossing, 0.5 * high - 0.5 * low, 1.0)
    settled = tf.where(high > 0.0, 1.0, slope)  # where the sign of x is known
    upper = tf.where(crossing, chord, settled)
    lower = tf.where(crossing, tf.where(high > -low, 1.0, slope), settled)
    offset = tf.where(crossing, (slope - chord) * low, 0.0)
    positive, negative = tf.maximum(here.rows, 0.0), tf.minimum(here.rows, 0.0)
    rows = positive * _over(lower, here.rows) + negative * _over(upper, here.rows)
    added = _dot(negative, offset)
    if outward:
        added -= 16.0 * ROUNDING * _dot(tf.abs(here.rows), box.magnitude) + _underflow([box])
    return added, [_Pending(rows, here.relaxed - 1)]


def _concretised(rows: Tensor, box: Box, outward: bool) -> Tensor:
    """The least value of functions of a tensor in a box."""
    box = Box(tf.cast(box.lower, tf.float64), tf.cast(box.upper, tf.float64))
    if outward:
        box = box.wider(2.0**-30 * box.magnitude)  # the sum's own rounding, of up to 2**22 numbers
    return _dot(rows, box.center) - _dot(tf.abs(rows), box.radius)
