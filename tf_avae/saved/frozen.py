"""A trained encoder as a layer that any Keras model can hold."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_avae import private
from tf_avae.backend import keras, tf
from tf_avae.errors import InputError
from tf_avae.graphs.flat_graphs import FlatGraph, flatten
from tf_avae.graphs.saved_models import SavedModel, holds_saved_model, listed
from tf_avae.inputs import MARGIN, images_of
from tf_avae.runs.run import holds_run, load_trained
from tf_avae.saved.shipped import SHIPPED, located
from tf_avae.types import Images, Tensor


@keras.saving.register_keras_serializable("tf_avae")
class FrozenEncoder(keras.layers.Layer):
    """An encoder that is not trained, from `load_encoder`: images to a dict of named outputs.

    Images are [B, H, W, C] in [0, 1]. It computes in float32 whatever the policy, and is
    differentiable with respect to the images. It has no trainable weights, also where `trainable`
    is set. A model that holds it can be saved, loaded where the encoder's own files are not,
    cloned and exported: the graph is in the layer's config and the weights are in the model's.

    Loading a `.keras` file checks that the weights are those that were saved, and, in Keras' safe
    mode (the default), that the graph does nothing but compute.

    Args:
        graph: what it computes; the config of a `FlatGraph` will do.
        image_shape: (H, W, C); None where a side is free.
        outputs: shape of each output, of which the first is the batch's, and its dtype.
        sha256: digest of graph and weights.
        values: the weights. Unless they are given they are those of a layer with this digest, if
            there is one in this process, and otherwise not numbers until they are loaded.
    """

    def __init__(
        self,
        graph: FlatGraph | Mapping[str, Any],
        *,
        image_shape: Sequence[int | None],
        outputs: Mapping[str, tuple[Sequence[int | None], str]],
        sha256: str,
        values: Sequence[np.ndarray] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**{**kwargs, "dtype": "float32", "trainable": False})
        self._graph = graph if isinstance(graph, FlatGraph) else FlatGraph.from_config(graph)
        self.image_shape = tuple(image_shape)
        self.output_kinds = {
            name: (tuple(shape), dtype) for name, (shape, dtype) in outputs.items()
        }
        self.sha256 = sha256
        self.input_spec = keras.InputSpec(shape=(None, *self.image_shape))
        if values is None:
            values = next((layer._numbers() for layer in list(_LIVE) if layer._holds(sha256)), None)
        kinds = self._graph.weights.values()
        if values is None:
            values = [np.full(shape, _unknown(dtype)) for shape, dtype in kinds]
        self._values: list[Any] = [
            self.add_weight(
                name=f"weight_{number}", shape=shape, dtype=dtype, trainable=False,
                initializer=keras.initializers.Zeros(), autocast=False,
            )
            for number, (shape, dtype) in enumerate(kinds)
        ]  # fmt: skip
        for weight, value in zip(self._values, values, strict=True):
            weight.assign(value)
        self.built = True
        _LIVE.add(self)

    def call(self, images: Images) -> dict[str, Tensor]:
        images = images_of(images, image_shape=self.image_shape, margin=MARGIN, none=True)
        return self._graph(images, [weight.value for weight in self._values])

    def compute_output_spec(self, images: Any) -> dict[str, keras.KerasTensor]:
        batch = images.shape[0]
        return {
            name: keras.KerasTensor((batch, *shape[1:]), dtype)
            for name, (shape, dtype) in self.output_kinds.items()
        }

    def _numbers(self) -> list[np.ndarray]:
        return [np.asarray(weight) for weight in self._values]

    def _holds(self, sha256: str) -> bool:
        """Whether its weights are those of this digest, and not what somebody has set."""
        return self.sha256 == sha256 == self._graph.digest(self._numbers())

    def save_own_variables(self, store: Any) -> None:
        if not self._holds(self.sha256):
            raise InputError(
                f"the weights of {self.name!r} are not the encoder's: somebody has set them, or "
                "they were never loaded; make the layer anew with load_encoder"
            )
        super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        if not self._holds(self.sha256):
            raise InputError(
                f"the weights of {self.name!r} are not those that were saved with it; the file is "
                "damaged, or was changed: save the model again"
            )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "graph": self._graph.to_config(),
            "image_shape": list(self.image_shape),
            "outputs": {n: [list(shape), dtype] for n, (shape, dtype) in self.output_kinds.items()},
            "sha256": self.sha256,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FrozenEncoder:
        layer = cls(**config)
        beyond = layer._graph.operations()
        if private.in_safe_mode() and beyond:
            raise InputError(
                f"the encoder {layer.name!r} uses {', '.join(sorted(beyond))}, which may do more "
                "than compute; if you trust where the model comes from, load it with "
                "safe_mode=False"
            )
        return layer


_LIVE: weakref.WeakSet[FrozenEncoder] = weakref.WeakSet()
"""The layers of this process, so that clones have weights."""


def _unknown(dtype: str) -> Any:
    return np.array(np.nan if np.dtype(dtype).kind == "f" else 0, dtype)


def load_encoder(
    path: str | Path,
    *,
    signature: str = "serving_default",
    outputs: Sequence[str] | None = None,
    name: str | None = None,
    trust: bool = False,
) -> FrozenEncoder:
    """The encoder at a path, as a frozen Keras layer.

        encoder = tf_avae.load_encoder("models/encoder")
        images = keras.Input(encoder.image_shape)
        model = keras.Model(images, keras.layers.Dense(10)(encoder(images)["embedding"]))

    Args:
        path: a SavedModel, a folder of numbered versions of one (the newest is taken), a run, or
            the name of an encoder that comes with the package: a row of `SHIPPED`.
        signature: of a SavedModel: what to call. It takes `image` and gives `embedding`.
        outputs: names of the outputs that are wanted: all unless given. What none of them needs
            is left out of the graph: a gradient of the embedding alone costs less than half of one
            that goes back through `inconsistency` too.
        name: the layer's.
        trust: whether to open a SavedModel whose graph may do more than compute.

    Raises:
        InputError: there is no such thing at the path, it has no such signature or outputs, the
            signature takes or gives something else, or the graph may do more than compute.
    """
    path = located(path)
    if holds_run(path):
        model = load_trained(path)
        spec = tf.TensorSpec([None, *model.image_shape], tf.float32, "image")
        compiled = tf.function(lambda image: model(image), input_signature=[spec])
        function = compiled.get_concrete_function()
    elif holds_saved_model(path):
        saved = SavedModel(path, trust=trust)
        function = embedding_signature(saved, signature)
    else:
        raise InputError(
            f"{path} is neither a run (config.json) nor a SavedModel (saved_model.pb), nor one "
            f"that comes with the package ({', '.join(SHIPPED)}); of a Keras model, load the file "
            "with keras.saving.load_model"
        )
    return freeze(function, outputs, name=name or "encoder")


def freeze(function: Any, outputs: Sequence[str] | None = None, *, name: str) -> FrozenEncoder:
    """A concrete function of images with named outputs, as a layer.

    Args:
        function: of one tensor [B, H, W, C].
        outputs: those that are wanted; all unless given.
        name: the layer's.

    Raises:
        InputError: it has no such outputs.
    """
    known = function.structured_outputs
    wanted = tuple(sorted(known) if outputs is None else outputs)
    if isinstance(outputs, str) or not wanted or not set(wanted) <= set(known):
        raise InputError(
            f"outputs are {outputs!r}; give a list of some of: {', '.join(sorted(known))}"
        )
    for output in wanted:
        if known[output].shape.rank is None:
            raise InputError(f"output {output!r} has no known rank; export it with one")
    graph, values = flatten(function, wanted)
    (given,) = function.inputs[:1]
    return FrozenEncoder(
        graph,
        image_shape=given.shape.as_list()[1:],
        outputs={n: (known[n].shape.as_list(), known[n].dtype.name) for n in wanted},
        sha256=graph.digest(values),
        values=values,
        name=name,
    )


def embedding_signature(saved: SavedModel, signature: str = "serving_default") -> Any:
    """A signature that is an encoder's, as a concrete function.

    Raises:
        InputError: it is not there, or is something else's.
    """
    inputs, outputs = saved.inputs(signature), saved.outputs(signature)
    if set(inputs) != {"image"} or "embedding" not in outputs:
        raise InputError(
            f"{saved.path}: signature {signature!r} takes {listed(inputs)} and gives "
            f"{listed(outputs)}; an encoder's takes image and gives embedding"
        )
    (image,) = inputs.values()
    if image.dtype != tf.float32 or image.shape.rank != 4:
        raise InputError(
            f"{saved.path}: image is {image.dtype.name} of shape {image.shape}; an encoder takes "
            "float32 [N, H, W, C]"
        )
    return saved.function(signature)
