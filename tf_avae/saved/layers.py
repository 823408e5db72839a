"""Encoders with their layers, also of a SavedModel, which holds none."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tf_avae.backend import keras
from tf_avae.config import Config, read_json
from tf_avae.errors import InputError
from tf_avae.graphs.saved_models import (
    PROVENANCE,
    SavedModel,
    holds_saved_model,
    load_keras_model,
    newest_version,
)
from tf_avae.networks import image_shape_of
from tf_avae.runs.plan import build_model, resolve
from tf_avae.runs.run import holds_run, load_trained
from tf_avae.saved.frozen import as_layer, embedding_signature
from tf_avae.saved.shipped import located


def keras_encoder(path: str | Path, *, trust: bool = False) -> keras.Model:
    """The encoder at a path as a Keras model with layers.

    A SavedModel holds a graph and no layers. Its architecture is built anew from the config that
    was noted when it was exported, and takes its weights.

    Args:
        path: what `open_encoder` opens.
        trust: whether to open a SavedModel or a Keras model that may do more than compute.

    Raises:
        InputError: there is no such thing at the path, or a SavedModel that does not say what was
            trained, or has other weights than that.
    """
    path = located(path)
    if holds_run(path):
        return load_trained(path).encoder
    if not holds_saved_model(path):
        return load_keras_model(path, trust=trust)
    noted = newest_version(path) / PROVENANCE
    config = read_json(noted).get("config") if noted.is_file() else None
    if config is None:
        raise InputError(
            f"{path} does not say what was trained, so its layers cannot be built anew; give the "
            "run, or what serving.export made of it"
        )
    if config.get("encoder"):
        raise InputError(
            f"{path} is of an encoder that somebody had, whose layers are in the run alone; give "
            "the run"
        )
    saved = SavedModel(path, trust=trust)  # its variables live as long as it does
    function = embedding_signature(saved)
    # What the graph does not give would keep the weights that it is built with.
    there = [name for name in ("embedding", "variance") if name in function.structured_outputs]
    layer = as_layer(function, there, name="encoder", trainable=True)
    shape = image_shape_of(layer.image_shape)
    built = build_model(resolve(Config.from_dict(config)), shape).encoder
    model = keras.Model(built.inputs, {name: built.output[name] for name in there}, name=built.name)
    empty, full = _in_order(model.weights), _in_order(layer.weights)
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
