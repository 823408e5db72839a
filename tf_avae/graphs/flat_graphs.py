"""A function of TensorFlow's as one flat graph and its weights: data, from which it can be rebuilt.

A signature of a SavedModel calls functions that compute all of its outputs, and its gradient goes
back through all of them, wanted or not. Here the calls are gone, and so is what no wanted output
needs.
"""

import base64
import binascii
import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from tf_avae.backend import private, tf
from tf_avae.errors import InputError, reason
from tf_avae.graphs.operations import COMPUTES, closure, node_of
from tf_avae.types import Tensor

_WEIGHT = 1024
"""Constants of more bytes are weights; what is smaller (shapes, axes) stays in the graph."""

_CHECKS = frozenset({"Assert", "If"})
"""Operations that others may depend on without using their outputs."""


class FlatGraph:
    """A function of one tensor with named outputs.

    Args:
        graph: a GraphDef, whose weights are placeholders.
        weights: name of the placeholder to shape and dtype name of the weight.
        inputs: the tensor that the input goes to.
        outputs: name of each output to its tensor.
    """

    def __init__(
        self,
        graph: bytes,
        weights: Mapping[str, tuple[tuple[int, ...], str]],
        inputs: str,
        outputs: Mapping[str, str],
    ):
        self._bytes, self.weights = graph, dict(weights)
        self._input, self.outputs = inputs, dict(outputs)
        self._graph = tf.compat.v1.GraphDef.FromString(graph)

    def operations(self) -> set[str]:
        """The names of the operations in it that may do more than compute."""
        inside = [
            node.op for function in self._graph.library.function for node in function.node_def
        ]
        return {*inside, *(node.op for node in self._graph.node)} - COMPUTES

    def needs(self, output: str) -> set[str]:
        """The names of the weights that an output is made of."""
        nodes = {node.name: node for node in self._graph.node}
        return closure(nodes, [node_of(self.outputs[output])], _is_data) & self.weights.keys()

    def __call__(self, inputs: Tensor, weights: Iterable[Tensor]) -> dict[str, Tensor]:
        """The outputs, by name, for weights in the order of `self.weights`; differentiable."""
        return self._function(inputs, *weights)

    @cached_property
    def _function(self) -> Any:
        placed = {node.name: node for node in self._graph.node}
        head = placed[node_of(self._input)].attr
        spec = tf.TensorSpec(tf.TensorShape(head["shape"].shape), tf.DType(head["dtype"].type))
        weights = [tf.TensorSpec(*kind) for kind in self.weights.values()]

        def run(inputs: Tensor, *values: Tensor) -> dict[str, Tensor]:
            named = {f"{name}:0": v for name, v in zip(self.weights, values, strict=True)}
            found = tf.graph_util.import_graph_def(
                self._graph,
                input_map={self._input: inputs, **named},
                return_elements=list(self.outputs.values()),
                name="",
            )
            return dict(zip(self.outputs, found, strict=True))

        return tf.compat.v1.wrap_function(run, [spec, *weights])

    def digest(self, weights: Iterable[np.ndarray]) -> str:
        """SHA-256 over the graph, which outputs it gives, and the weights."""
        found = hashlib.sha256(self._bytes + repr(sorted(self.outputs.items())).encode())
        for array in weights:
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def to_config(self) -> dict[str, Any]:
        """JSON values that `from_config` makes the same of. The weights are not among them."""
        return {
            "graph": base64.b64encode(zlib.compress(self._bytes, 9)).decode(),
            "weights": [
                [name, list(shape), dtype] for name, (shape, dtype) in self.weights.items()
            ],
            "input": self._input,
            "outputs": self.outputs,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "FlatGraph":
        """The graph of a config from `to_config`; raises `InputError` for any other."""
        try:
            return cls(
                zlib.decompress(base64.b64decode(config["graph"])),
                {name: (tuple(shape), dtype) for name, shape, dtype in config["weights"]},
                config["input"],
                config["outputs"],
            )
        except (KeyError, TypeError, ValueError, binascii.Error, zlib.error, DecodeError) as error:
            raise InputError(f"the config of an encoder is damaged ({error!r})") from error


def variables_of(function: Any) -> dict[str, tf.Variable]:
    """The variables of a concrete function, by the names of the constants that `flatten` makes of
    them."""
    known = {id(variable.handle): variable for variable in function.graph.variables}
    captured = ((known.get(id(given)), inside) for given, inside in function.graph.captures)
    return {inside.op.name: variable for variable, inside in captured if variable is not None}


def flatten(
    function: Any, outputs: Iterable[str], weights: Iterable[str] = ()
) -> tuple[FlatGraph, list[np.ndarray]]:
    """What a function computes for some of its outputs, and the weights it has now.

    Args:
        function: a concrete function of one tensor that gives a dict.
        outputs: names of the wanted outputs.
        weights: names of constants that are weights however small; these come first.

    Raises:
        InputError: it uses something that is neither a number nor an operation, such as a table.
    """
    try:
        flat = private.convert_variables_to_constants_v2(function, lower_control_flow=False)
    except Exception as error:  # TensorFlow raises many kinds over what it cannot convert
        raise InputError(
            f"the graph cannot be taken out of its SavedModel ({reason(error)}); it must hold "
            "variables and operations only"
        ) from error
    # Structured outputs are flattened in the order of their names.
    tensors = dict(zip(sorted(function.structured_outputs), flat.outputs, strict=True))
    wanted = {name: tensors[name].name for name in outputs}
    (given,) = flat.inputs
    graph = _needed(flat.graph.as_graph_def(), [given.name, *wanted.values()])
    places = {name: place for place, name in enumerate(weights)}
    values: dict[str, np.ndarray] = {}
    for node in graph.node:
        if node.op == "Const" and (
            node.name in places or node.attr["value"].tensor.ByteSize() > _WEIGHT
        ):
            array = values[node.name] = tf.make_ndarray(node.attr["value"].tensor)
            del node.attr["value"]
            node.op = "Placeholder"
            node.attr["shape"].shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    # TensorFlow's own order differs from time to time.
    ordered = sorted(values, key=lambda name: (places.get(name, len(places)), name))
    kinds = {name: (values[name].shape, values[name].dtype.name) for name in ordered}
    serialized = graph.SerializeToString(deterministic=True)
    return FlatGraph(serialized, kinds, given.name, wanted), [values[name] for name in ordered]


def _needed(graph: "tf.compat.v1.GraphDef", tensors: Sequence[str]) -> "tf.compat.v1.GraphDef":
    """The graph without the nodes that these tensors do not depend on.

    Each function's results wait for all that was in it, also for what they are not made of. Of that
    only checks are kept, and what they look at.
    """
    nodes = {node.name: node for node in graph.node}
    outputs = {node_of(tensor) for tensor in tensors}
    checks = {
        name
        for name in closure(nodes, outputs)
        if nodes[name].op in _CHECKS or nodes[name].op not in COMPUTES
    }
    needed = closure(nodes, outputs | checks, _is_data)
    kept = tf.compat.v1.GraphDef(versions=graph.versions, library=graph.library)
    kept.node.extend(node for node in graph.node if node.name in needed)
    for node in kept.node:
        data = [tensor for tensor in node.input if _is_data(tensor)]
        first = {node_of(tensor) for tensor in node.input if tensor.startswith("^")} & needed
        if node.name in outputs and data:
            first |= checks
        del node.input[:]
        node.input.extend([*data, *(f"^{name}" for name in sorted(first))])
    return kept


def _is_data(tensor: str) -> bool:
    """Whether an input is a number, and not only waited for."""
    return not tensor.startswith("^")
