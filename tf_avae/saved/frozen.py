"""A trained encoder as a layer that any Keras model can hold: frozen, or to be trained further."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from tf_avae.backend import keras, private, tf
from tf_avae.errors import InputError
from tf_avae.graphs.flat_graphs import FlatGraph, flatten, variables_of
from tf_avae.graphs.saved_models import SavedModel, holds_saved_model, listed
from tf_avae.inputs import MARGIN, UNIT, images_of
from tf_avae.runs.run import holds_run, load_trained
from tf_avae.saved.shipped import SHIPPED, located
from tf_avae.types import Images, Tensor


class LoadedEncoder(keras.layers.Layer):
    """An encoder from `load_encoder`: images to a dict of named outputs.

    Images are [B, H, W, C] in [0, 1]. It computes in float32 and in inference mode whatever the
    policy, and is differentiable with respect to the images. A model that holds it can be saved,
    loaded where the encoder's own files are not, cloned and exported: the graph is in the layer's
    config and the weights are in the model's. Loading a `.keras` file checks, in Keras' safe mode
    (the default), that the graph does nothing but compute.

    Args:
        graph: what it computes; the config of a `FlatGraph` will do.
        image_shape: (H, W, C); None where a side is free.
        outputs: shape of each output, of which the first is the batch's, and its dtype.
        sha256: digest of graph and weights.
        variables: a name for each weight, and whether it is trained; none is unless given.
        values: the weights. Unless they are given they are those of a layer with this digest, if
            there is one in this process, and otherwise not numbers until they are loaded.
    """

    sha256: Any
    bounds = UNIT

    def __init__(
        self,
        graph: FlatGraph | Mapping[str, Any],
        *,
        image_shape: Sequence[int | None],
        outputs: Mapping[str, tuple[Sequence[int | None], str]],
        sha256: str,
        variables: Sequence[tuple[str, bool]] | None = None,
        values: Sequence[np.ndarray] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self._graph = graph if isinstance(graph, FlatGraph) else FlatGraph.from_config(graph)
        self.image_shape = tuple(image_shape)
        self.output_kinds = {
            name: (tuple(shape), dtype) for name, (shape, dtype) in outputs.items()
        }
        self.input_spec = keras.InputSpec(shape=(None, *self.image_shape))
        if values is None:
            values = next((layer._numbers() for layer in list(_LIVE) if layer._holds(sha256)), None)
        kinds = self._graph.weights.values()
        if values is None:
            unknown = {"f": np.nan}  # by the kind of a dtype
            values = [np.full(s, unknown.get(np.dtype(d).kind, 0), d) for s, d in kinds]
        numbered = ((f"weight_{number}", False) for number in range(len(kinds)))
        self._named = tuple((name, trained) for name, trained in variables or numbered)
        self._values: list[Any] = [
            self.add_weight(
                name=name, shape=shape, dtype=dtype, trainable=trained,
                initializer=keras.initializers.Zeros(), autocast=False,
            )
            for (name, trained), (shape, dtype) in zip(self._named, kinds, strict=True)
        ]  # fmt: skip
        for weight, value in zip(self._values, values, strict=True):
            weight.assign(value)
        self.built = True
        _LIVE.add(self)

    def call(self, images: Images) -> dict[str, Tensor]:
        images = images_of(
            images, image_shape=self.image_shape, bounds=self.bounds, margin=MARGIN, none=True
        )
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
        """Whether its weights still have this digest."""
        return self.sha256 == sha256 == self._graph.digest(self._numbers())

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "graph": self._graph.to_config(),
            "image_shape": list(self.image_shape),
            "outputs": {n: [list(shape), dtype] for n, (shape, dtype) in self.output_kinds.items()},
            "sha256": self.sha256,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        layer = cls(**config)
        beyond = layer._graph.operations()
        if private.in_safe_mode() and beyond:
            raise InputError(
                f"the encoder {layer.name!r} uses {', '.join(sorted(beyond))}, which may do more "
                "than compute; if you trust where the model comes from, load it with "
                "safe_mode=False"
            )
        return layer


@keras.saving.register_keras_serializable("tf_avae")
class FrozenEncoder(LoadedEncoder):
    """An encoder that is not trained: it has no trainable weights, also where `trainable` is set.

    Its weights are those of its digest: others are not saved, not copied and not loaded.
    """

    def __init__(self, graph: FlatGraph | Mapping[str, Any], *, sha256: str, **kwargs: Any):
        self.sha256 = sha256
        super().__init__(graph, sha256=sha256, **{**kwargs, "trainable": False})

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


@keras.saving.register_keras_serializable("tf_avae")
class TrainableEncoder(LoadedEncoder):
    """An encoder to be trained further: kernels, biases, and scales and offsets of normalisation.

    Moving statistics are weights that are not trained: it normalises by them, in `fit` too. Its
    weights are copies. A clone begins with those that the layer has then.
    """

    @property
    def sha256(self) -> str:
        return self._graph.digest(self._numbers())

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "variables": [list(pair) for pair in self._named]}


_LIVE: weakref.WeakSet[LoadedEncoder] = weakref.WeakSet()
"""The layers of this process, so that clones have weights."""


def load_encoder(
    path: str | Path,
    *,
    signature: str = "serving_default",
    outputs: Sequence[str] | None = None,
    name: str | None = None,
    trust: bool = False,
    trainable: bool = False,
) -> LoadedEncoder:
    """The encoder at a path, as a Keras layer, frozen unless it is to be trained.

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
        trainable: whether to give a `TrainableEncoder`, to be trained further, instead of a
            `FrozenEncoder`. Ask for the outputs that are trained on alone: the weights of the
            decoder, which `inconsistency` is made of, are there otherwise, and decay.

    Raises:
        InputError: there is no such thing at the path, it has no such signature or outputs, the
            signature takes or gives something else, the graph may do more than compute, or there
            is nothing to train in it.
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
    return as_layer(function, outputs, name=name or "encoder", trainable=trainable)


def as_layer(
    function: Any, outputs: Sequence[str] | None = None, *, name: str, trainable: bool = False
) -> LoadedEncoder:
    """A concrete function of images with named outputs, as a layer.

    Args:
        function: of one tensor [B, H, W, C].
        outputs: those that are wanted; all unless given.
        name: the layer's.
        trainable: whether its variables can be trained.

    Raises:
        InputError: it has no such outputs, or nothing to train.
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
    variables = variables_of(function) if trainable else {}
    graph, values = flatten(function, wanted, variables)
    (given,) = function.inputs[:1]
    kwargs: dict[str, Any] = {
        "image_shape": given.shape.as_list()[1:],
        "outputs": {n: (known[n].shape.as_list(), known[n].dtype.name) for n in wanted},
        "sha256": graph.digest(values),
        "values": values,
        "name": name,
    }
    if not trainable:
        return FrozenEncoder(graph, **kwargs)
    _check_trainable(graph, variables)
    # Keras allows no slash in a name.
    named = {
        n: (v.name.partition(":")[0].replace("/", "."), v.trainable) for n, v in variables.items()
    }
    kwargs["variables"] = [
        named.get(n, (f"weight_{i}", False)) for i, n in enumerate(graph.weights)
    ]
    return TrainableEncoder(graph, **kwargs)


def _check_trainable(graph: FlatGraph, variables: Mapping[str, tf.Variable]) -> None:
    """Raises `InputError` unless each output is made of weights that can be trained."""
    for output in graph.outputs:
        used = [variables[name] for name in graph.needs(output) if name in variables]
        if not any(variable.trainable for variable in used):
            raise InputError(
                f"{output} is made of no weights that can be trained: they are constants there, or "
                "were frozen; export the run again (python -m serving.export), or load the run, or "
                "leave out outputs"
            )
        if any(variable.dtype.is_integer for variable in used):
            raise InputError(
                f"{output} is made of weights that are quantised, which cannot be trained; train "
                "the encoder from before, and quantise what comes of it"
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
