"""An encoder with a linear probe as plain arrays, for other libraries to rebuild."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tf_avae.backend import keras
from tf_avae.probes import Probe

_Part = tuple[dict[str, Any], dict[str, Any]]
"""What a layer is, and its weights by name."""


def arrays_of(encoder: keras.Model, probe: Probe) -> dict[str, np.ndarray]:
    """The network from images to logits, for `np.savez`.

    "layers" is a JSON list of the layers in order; the weights of the n-th are "n.NAME". Kinds, and
    what they have beside their weights, all laid out as Keras does:

    - flatten: "shape", (H, W, C), of what it flattens.
    - dense: kernel [in, out], bias.
    - convolution: kernel [h, w, in, out], bias where there is one; "stride", "shape" as above.
      Padded as "same".
    - batch_norm, in inference mode: gamma, beta, mean, variance; "epsilon".
    - relu.
    - standardise: mean, scale; the first layer of the probe.

    Raises:
        KeyError: a layer of another kind.
    """
    parts = [part for layer in encoder.layers if layer.name != "variance" for part in _of(layer)]
    parts.append(({"kind": "standardise"}, {"mean": probe.mean, "scale": probe.scale}))
    for number, (kernel, bias) in enumerate(probe.layers):
        parts += [({"kind": "relu"}, {})] if number else []
        parts.append(({"kind": "dense"}, {"kernel": kernel, "bias": bias}))
    arrays = {"layers": np.array(json.dumps([layer for layer, _ in parts]))}
    for number, (_, weights) in enumerate(parts):
        arrays |= {f"{number}.{name}": np.asarray(value) for name, value in weights.items()}
    return arrays


def probe_of(arrays: Any) -> Probe:
    """The linear probe of such arrays."""
    standardise, dense = (len(json.loads(str(arrays["layers"]))) - n for n in (2, 1))
    mean, scale = (arrays[f"{standardise}.{name}"] for name in ("mean", "scale"))
    return Probe(mean, scale, ((arrays[f"{dense}.kernel"], arrays[f"{dense}.bias"]),))


def _of(layer: keras.layers.Layer) -> Iterator[_Part]:
    yield from _KINDS[type(layer)](layer)
    if getattr(layer, "activation", None) is keras.activations.relu:
        yield {"kind": "relu"}, {}


def _dense(layer: Any) -> list[_Part]:
    return [({"kind": "dense"}, {"kernel": layer.kernel, "bias": layer.bias})]


def _flatten(layer: Any) -> list[_Part]:
    shape = layer.input.shape[1:]
    return [({"kind": "flatten", "shape": shape}, {})] if len(shape) > 1 else []


def _convolution(layer: Any) -> list[_Part]:
    bias = {"bias": layer.bias} if layer.use_bias else {}
    spec = {"kind": "convolution", "stride": layer.strides[0], "shape": layer.input.shape[1:]}
    return [(spec, {"kernel": layer.kernel, **bias})]


def _batch_norm(layer: Any) -> list[_Part]:
    weights = {"mean": layer.moving_mean, "variance": layer.moving_variance}
    weights |= {"gamma": layer.gamma, "beta": layer.beta}
    return [({"kind": "batch_norm", "epsilon": layer.epsilon}, weights)]


_KINDS: dict[type, Callable[[Any], list[_Part]]] = {
    keras.layers.InputLayer: lambda layer: [],
    keras.layers.Flatten: _flatten,
    keras.layers.Dense: _dense,
    keras.layers.Conv2D: _convolution,
    keras.layers.BatchNormalization: _batch_norm,
    keras.layers.ReLU: lambda layer: [({"kind": "relu"}, {})],
}
