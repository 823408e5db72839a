"""Registers this package's classes with Keras and TFDS when those are imported, or at once if they
were imported before it."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from tf_avae.backend import without_notices

_WAITING = {
    # Their classes are in files of models.
    "keras": ("backend.layers", "model", "runs.optimizers", "saved.frozen"),
    # Builders, for `tfds.load`.
    "tensorflow_datasets": ("datasets.celeb_a.tfds", "datasets.color_mnist.tfds"),
    "tensorflow": (),
}
"""Name of a library that is imported without notices, to the modules that register something with
it."""


class _Finder(MetaPathFinder):
    """Finds the libraries by the other finders, and registers with them after their import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _WAITING:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with without_notices():
                    execute(module)
                _register(fullname)

            loader.exec_module = exec_module
        return spec


def _register(library: str) -> None:
    modules = _WAITING.pop(library, ())
    # Another thread may be in the middle of its import, which this waits for.
    found: Any = importlib.import_module(library)
    if library == "keras" and found.config.backend() != "tensorflow":
        return  # nothing of this package works there, and using it raises an error
    for module in modules:
        importlib.import_module(f"tf_avae.{module}")


def register_when_imported() -> None:
    """Registers with the libraries that are imported, and with the others when they are."""
    for library in [name for name in _WAITING if name in sys.modules]:
        _register(library)
    sys.meta_path.insert(0, _Finder())


_ABOVE = {"model": "robustified.model"}
"""Modules to those that register a subclass of what they have."""


def register_above(name: str) -> None:
    """Registers what lies above a module, at its end: files name classes that need it whole, and
    Keras may be imported in the middle of it."""
    importlib.import_module(f"tf_avae.{_ABOVE[name]}")
