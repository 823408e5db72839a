"""The private names of TensorFlow and Keras that this package uses, with the reason of each. A new
release may move them; tests of each use would fail.
"""

from importlib import import_module
from typing import Any

from tf_avae.backend import import_tensorflow

_HOMES = {
    # Switches a layer's autocast off for a call, whatever its policy: `Float32View`.
    "AutocastScope": "keras.src.backend",
    # The class of `keras.Model(inputs, outputs)`, to tell such models from subclassed ones.
    "Functional": "keras.src.models.functional",
    # Whether `load_model` was asked to trust the file, for layers that hold a graph.
    "in_safe_mode": "keras.src.saving.serialization_lib",
    # A function's graph with its variables as constants: TFLite's converter alone is public.
    "convert_variables_to_constants_v2": "tensorflow.python.framework.convert_to_constants",
    # Which names are operations, and not functions of a graph's own.
    "op_def_registry": "tensorflow.python.framework",
    # A SavedModel's program, read without running it.
    "parse_saved_model": "tensorflow.python.saved_model.loader_impl",
    # Switches determinism off again: `enable_op_determinism` is public, and nothing undoes it.
    "disable_op_determinism": "tensorflow.python.framework.config",
    "is_op_determinism_enabled": "tensorflow.python.framework.config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tf_avae.backend.private' has no attribute {name!r}")
    import_tensorflow()
    home = import_module(_HOMES[name])
    return getattr(home, name, None) or import_module(f"{_HOMES[name]}.{name}")


def functional_of(model: Any) -> Any:
    """The functional model that a sequential one is run as."""
    return model._functional


def run_through_graph(network: Any, inputs: list[Any], operation_of: Any) -> Any:
    """What a functional model gives where each of its operations is replaced; `clone_model` alone
    of what is public goes through a model's graph, and it makes another model."""
    return network._run_through_graph(inputs, operation_fn=operation_of)
