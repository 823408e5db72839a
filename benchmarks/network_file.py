"""An encoder with a probe as plain arrays, for other libraries to rebuild."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tf_avae.backend import keras
from tf_avae.config import Config, read_json
from tf_avae.errors import InputError
from tf_avae.graphs.saved_models import (
    PROVENANCE,
    holds_saved_model,
    load_keras_model,
    newest_version,
)
from tf_avae.networks import image_shape_of
from tf_avae.probes import Probe
from tf_avae.runs.plan import build_model, resolve
from tf_avae.runs.run import holds_run, load_trained
from tf_avae.saved.frozen import load_encoder
from tf_avae.saved.shipped import located

_Part = tuple[dict[str, Any], dict[str, Any]]
"""What a layer is, and its weights by name."""

ACTIVATIONS = (
    "relu elu gelu hard_sigmoid mish relu6 selu sigmoid silu softplus softsign tanh".split()
)
"""Those that are rebuilt elsewhere, by Keras' names."""


def keras_encoder(path: str | Path) -> keras.Model:
    """The encoder at a path as a Keras model with layers.

    A SavedModel holds a graph and no layers. Its architecture is built anew from the config that
    was noted when it was exported, and takes its weights.

    Args:
        path: what `open_encoder` opens.

    Raises:
        InputError: there is no such thing at the path, or a SavedModel that does not say what was
            trained, or has other weights than that.
    """
    path = located(path)
    if holds_run(path):
        return load_trained(path).encoder
    if not holds_saved_model(path):
        return load_keras_model(path)
    noted = newest_version(path) / PROVENANCE
    config = read_json(noted).get("config") if noted.is_file() else None
    if config is None:
        raise InputError(
            f"{path} does not say what was trained, so its layers cannot be built anew; give the "
            "run, or what serving.export made of it"
        )
    layer = load_encoder(path, outputs=("embedding",), trainable=True)
    shape = image_shape_of(layer.image_shape)
    model = build_model(resolve(Config.from_dict(config)), shape).encoder
    weights = [w for layer in model.layers if layer.name != "variance" for w in layer.weights]
    empty, full = _in_order(weights), _in_order(layer.weights)
    if {n: [w.shape for w in of] for n, of in empty.items()} != {
        n: [w.shape for w in of] for n, of in full.items()
    }:
        raise InputError(
            f"{path} has other weights than {config['arch']} has now; export the run again"
        )
    for name, of_name in empty.items():
        for weight, value in zip(of_name, full[name], strict=True):
            weight.assign(value)
    return model


def _in_order(weights: Iterable[keras.Variable]) -> dict[tuple[str, str], list[keras.Variable]]:
    """Weights by kind of layer and name, in the order in which their layers were made.

    Keras numbers the layers of a kind, from wherever its process had come to.
    """
    found: dict[tuple[str, str], list[tuple[int, Any]]] = defaultdict(list)
    for weight in weights:
        layer, name = weight.path.replace(".", "/").split("/")[-2:]
        numbered = re.fullmatch(r"(.*?)(?:_(\d+))?", layer)
        assert numbered
        found[numbered[1], name].append((int(numbered[2] or 0), weight))
    return {
        key: [weight for _, weight in sorted(of, key=lambda pair: pair[0])]
        for key, of in found.items()
    }


def arrays_of(encoder: keras.Model, probe: Probe) -> dict[str, np.ndarray]:
    """The network from images to logits, for `np.savez`.

    "layers" is a JSON list of the layers in order; the weights of the n-th are "n.NAME". Kinds, and
    what they have beside their weights, all laid out as Keras does:

    - flatten: "shape", (H, W, C), of what it flattens.
    - dense: kernel [in, out], bias.
    - convolution: kernel [h, w, in, out], bias where there is one; "stride", "shape" as above.
      Padded as "same".
    - batch_norm, in inference mode: gamma, beta, mean, variance; "epsilon".
    - a name of `ACTIVATIONS`; leaky_relu: "slope".
    - standardise: mean, scale; the first layer of the probe.

    Raises:
        InputError: a layer of another kind, or with another option; it is named.
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
    """The probe of such arrays."""
    kinds = [layer["kind"] for layer in json.loads(str(arrays["layers"]))]
    first = kinds.index("standardise")
    mean, scale = (arrays[f"{first}.{name}"] for name in ("mean", "scale"))
    layers = tuple(
        (arrays[f"{number}.kernel"], arrays[f"{number}.bias"])
        for number, kind in enumerate(kinds)
        if number > first and kind == "dense"
    )
    return Probe(mean, scale, layers)


def _of(layer: keras.layers.Layer) -> Iterator[_Part]:
    if type(layer) not in _KINDS:
        raise _refused(layer, "is of a kind", [kind.__name__ for kind in _KINDS])
    yield from _KINDS[type(layer)](layer)
    activation = getattr(layer, "activation", None)
    if activation not in (None, keras.activations.linear):
        name = keras.activations.serialize(activation)
        if name not in ACTIVATIONS:
            raise _refused(layer, f"has the activation {name}", ACTIVATIONS)
        yield {"kind": name}, {}


def _refused(layer: keras.layers.Layer, what: str, known: Iterable[str]) -> InputError:
    return InputError(
        f"layer {layer.name!r} ({type(layer).__name__}) {what} that is not rebuilt elsewhere; "
        f"known are: {', '.join(known)}"
    )


def _only(layer: Any, **options: Any) -> None:
    """Raises `InputError` unless these options of a layer have these values."""
    for name, value in options.items():
        if getattr(layer, name) != value:
            raise _refused(layer, f"has {name} {getattr(layer, name)}", [str(value)])


def _dense(layer: Any) -> list[_Part]:
    _only(layer, use_bias=True)
    return [({"kind": "dense"}, {"kernel": layer.kernel, "bias": layer.bias})]


def _flatten(layer: Any) -> list[_Part]:
    shape = layer.input.shape[1:]
    return [({"kind": "flatten", "shape": shape}, {})] if len(shape) > 1 else []


def _convolution(layer: Any) -> list[_Part]:
    _only(
        layer, padding="same", groups=1, dilation_rate=(1, 1), data_format="channels_last",
        strides=layer.strides[:1] * 2,
    )  # fmt: skip
    bias = {"bias": layer.bias} if layer.use_bias else {}
    spec = {"kind": "convolution", "stride": layer.strides[0], "shape": layer.input.shape[1:]}
    return [(spec, {"kernel": layer.kernel, **bias})]


def _batch_norm(layer: Any) -> list[_Part]:
    _only(layer, center=True, scale=True)
    weights = {"mean": layer.moving_mean, "variance": layer.moving_variance}
    weights |= {"gamma": layer.gamma, "beta": layer.beta}
    return [({"kind": "batch_norm", "epsilon": layer.epsilon}, weights)]


def _relu(layer: Any) -> list[_Part]:
    _only(layer, max_value=None, threshold=0.0)
    slope = float(layer.negative_slope)
    return [({"kind": "leaky_relu", "slope": slope} if slope else {"kind": "relu"}, {})]


_KINDS: dict[type, Callable[[Any], list[_Part]]] = {
    keras.layers.InputLayer: lambda layer: [],
    keras.layers.Flatten: _flatten,
    keras.layers.Dense: _dense,
    keras.layers.Conv2D: _convolution,
    keras.layers.BatchNormalization: _batch_norm,
    keras.layers.Activation: lambda layer: [],
    keras.layers.ReLU: _relu,
    keras.layers.LeakyReLU: lambda layer: [
        ({"kind": "leaky_relu", "slope": float(layer.negative_slope)}, {})
    ],
}
