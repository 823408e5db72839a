"""Networks in float32, whatever the precision that they train in.

Attacks, evaluation and exported models must not inherit the rounding of mixed precision, and no
call may change what other threads are calling.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tf_avae.backend import keras, private
from tf_avae.errors import InputError, reason
from tf_avae.types import Tensor


class Float32View:
    """A network's outputs in inference mode, computed in float32, with the weights that it has.

    Nothing of the network is changed or copied, so threads may call it, and may train the network
    meanwhile. A network that computes in float32 is called as it is; of another one a twin in
    float32 is made once, and is called on the network's weights. A network that is quantised
    stays so, and what is not quantised in it is float32.

    It is no Keras object: a model that keeps it neither saves nor counts the weights twice.
    """

    def __init__(self, network: keras.Model):
        self._network = network
        self._made: tuple[list[str], keras.Model] | None = None

    def __call__(self, inputs: Any) -> Any:
        """What the network gives.

        Raises:
            InputError: it computes in another precision, and cannot be made again in float32.
        """
        network = self._network
        if not _others(network):
            return network(inputs, training=False)
        policies = [layer.dtype_policy.name for layer in layers_of(network)]
        made = self._made
        if made is None or made[0] != policies:  # new, or quantised since
            self._made = made = (policies, _twin(network))
        # A layer of mixed precision around this call would have the weights rounded.
        with private.AutocastScope("float32"), keras.StatelessScope(_state(made[1], network)):
            return made[1](inputs, training=False)


def _others(network: keras.Model) -> set[str]:
    """The floating-point types other than float32 that it computes in."""
    floats = {"float16", "bfloat16", "float64"}
    return floats.intersection(layer.compute_dtype for layer in layers_of(network))


def layers_of(network: keras.Model) -> Iterator[keras.Layer]:
    """The layers of a network, and those of networks in it."""
    for layer in network.layers:
        yield layer
        yield from layers_of(layer) if hasattr(layer, "layers") else ()


def _twin(network: keras.Model) -> keras.Model:
    """The same network in float32, without values for its variables.

    Made in a thread of its own: Keras keeps per thread which variables are yet to be filled, and
    TensorFlow which graph or strategy variables are made for. These never are filled.
    """

    def make() -> keras.Model:
        with keras.StatelessScope(initialize_variables=False):
            twin = in_float32(network)
        # Layers that work out at the end of loading what their variables stand for.
        settled = [layer for layer in layers_of(twin) if hasattr(layer, "finalize_state")]
        values = _state(twin, network)
        with (
            private.AutocastScope("float32"),
            keras.StatelessScope(values, initialize_variables=False),
        ):
            for layer in settled:
                layer.finalize_state()
        return twin

    cloned = (private.Functional, keras.Sequential)
    try:
        for part in (network, *layers_of(network)):
            if isinstance(part, keras.Model) and type(part).call not in [k.call for k in cloned]:
                raise TypeError(f"{type(part).__name__} has a call of its own")
        with ThreadPoolExecutor(1) as thread:
            twin = thread.submit(make).result()
        _state(twin, network)
        return twin
    except Exception as error:  # layers of others raise many kinds
        raise InputError(
            f"the model {network.name!r} computes in {' and '.join(sorted(_others(network)))}, and "
            f"cannot be made again in float32 ({reason(error)}); build it of Keras' own layers, or "
            "give all of its layers the dtype float32"
        ) from error


def _state(twin: keras.Model, network: keras.Model) -> list[tuple[keras.Variable, Tensor]]:
    """The variables of a twin, and the values that they stand for."""
    pairs = list(zip(twin.variables, network.variables, strict=True))
    for own, given in pairs:
        if _plain_name(own) != _plain_name(given) or own.shape != given.shape:
            raise ValueError(f"{given.path} {given.shape} became {own.path} {own.shape}")
    return [(own, given.value) for own, given in pairs]


def _plain_name(variable: keras.Variable) -> str:
    """The name without the number that Keras adds to default names."""
    return re.sub(r"_\d+$", "", variable.name)


def quantised_config(networks: Mapping[str, keras.Model]) -> dict[str, Any]:
    """`networks`, each as Keras saves it, where a layer of one is quantised; otherwise nothing.

    The arguments that a network was built with do not describe it then.
    """
    if not any(layer.quantization_mode for n in networks.values() for layer in layers_of(n)):
        return {}
    save = keras.saving.serialize_keras_object
    return {"networks": {name: save(network) for name, network in networks.items()}}


def in_float32(network: keras.Model, made: dict[int, keras.Layer] | None = None) -> keras.Model:
    """A new network of the same layers, whose inputs, weights and computations are float32.

    Args:
        network: made of layers, or networks of layers, that have a config.
        made: new layers by the ids of the old ones; a layer that is used twice is made once.
    """
    return in_policy(network, "float32", made)


def in_policy(
    network: keras.Model, policy: str, made: dict[int, keras.Layer] | None = None
) -> keras.Model:
    """As `in_float32`, but for the policy by which its layers compute."""
    known: dict[int, keras.Layer] = {} if made is None else made

    def clone(layer: keras.Layer) -> keras.Layer:
        if id(layer) not in known:
            known[id(layer)] = (
                in_policy(layer, policy, known)
                if isinstance(layer, (private.Functional, keras.Sequential))
                else type(layer).from_config(_config_in(policy, layer.get_config()))
            )
        return known[id(layer)]

    def given(tensor: keras.KerasTensor) -> keras.KerasTensor:
        dtype = "float32" if _is_float(tensor.dtype) else tensor.dtype
        return keras.Input(batch_shape=tensor.shape, dtype=dtype, name=tensor.name)

    # A sequential model has an `input` only where another model calls it.
    of = network.inputs[0] if isinstance(network, keras.Sequential) else network.input
    inputs = keras.tree.map_structure(given, of)
    return keras.models.clone_model(network, input_tensors=inputs, clone_function=clone)


def saved_in(policy: str, network: keras.Model) -> dict[str, Any]:
    """What Keras saves of a network that computes by a policy; its outputs are float32."""
    if policy != "float32":
        network = in_policy(network, policy)
        outputs = {
            name: keras.layers.Activation("linear", dtype="float32", name=name)(output)
            for name, output in network.output.items()
        }
        network = keras.Model(network.input, outputs, name=network.name)
    return keras.saving.serialize_keras_object(network)


def _config_in(policy: str, config: Any) -> Any:
    """A layer's config in which every floating-point type or policy is this one."""
    if isinstance(config, list | tuple):
        return type(config)(_config_in(policy, value) for value in config)
    if not isinstance(config, Mapping):
        return config
    if "DTypePolicy" in str(config.get("class_name")):
        names = ("name", "source_name", "default_policy")  # of plain, quantised ones and of maps
        known = _config_in(policy, config["config"])
        return {**config, "config": {k: policy if k in names else known[k] for k in known}}
    return {
        key: policy if key == "dtype" and _is_float(value) else _config_in(policy, value)
        for key, value in config.items()
    }


def _is_float(dtype: Any) -> bool:
    return isinstance(dtype, str) and "float" in dtype
