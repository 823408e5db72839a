"""Modules of users that register rows of their own: objectives, architectures, data sets ...

A command imports those that `--plugin` names, and those that an installed distribution announces
as entry points of the group `tf_avae.plugins`. In Python, importing the module is enough.
"""

import hashlib
import importlib
import importlib.metadata
import sys
import traceback
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from tf_avae.backend import import_tensorflow
from tf_avae.errors import InputError

GROUP = "tf_avae.plugins"
"""The group of entry points."""

OURS = ("tf_avae", "training", "serving")

_importing: ContextVar[str | None] = ContextVar("plugin", default=None)
_loaded: dict[str, ModuleType | None] = {}
_named: list[str] = []


def load(given: str) -> None:
    """Imports a plugin.

    Args:
        given: the name of a module, or the path of a file `NAME.py`.

    Raises:
        InputError: it is not there, cannot be imported, or is called like another module.
    """
    path = Path(given).absolute()
    is_file = path.suffix == ".py"
    name = path.stem if is_file else given
    if is_file and not path.is_file():
        raise InputError(f"plugin {given} is not there; give a file NAME.py or a module")
    if not is_file and not all(part.isidentifier() for part in given.split(".")):
        raise InputError(f"plugin {given!r} is no module; give its name, or a file NAME.py")
    # A console script does not look for modules in the folder that it is started in.
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    import_tensorflow()  # which the plugin would import with its notices
    token = _importing.set(name)
    try:
        module = importlib.import_module(name)
        if module.__file__ is None:
            raise InputError(f"{name!r} is a folder without __init__.py; name a module in it")
        if is_file and Path(module.__file__).resolve() != path.resolve():
            raise InputError(f"there is another module {name!r}; rename {path.name}")
    except Exception as error:
        raise InputError(f"plugin {name} cannot be imported: {_told(error)}") from error
    finally:
        _importing.reset(token)
    _loaded[name] = module
    words = str(path) if is_file else name
    if words not in _named:
        _named.append(words)


def load_installed() -> None:
    """Imports the plugins that installed distributions announce."""
    for point in importlib.metadata.entry_points(group=GROUP):
        load(point.module)


def flags() -> list[str]:
    """The options with which another command loads the plugins that this one was given."""
    return [f"--plugin={words}" for words in _named]


def note(module: str) -> str | None:
    """The plugin that a module belongs to, which is noted as loaded; None for this package's own.

    Args:
        module: the name of one that registers a row.
    """
    if module.partition(".")[0] in OURS:
        return None
    plugin = _importing.get() or module
    _loaded.setdefault(plugin, sys.modules.get(plugin))
    return plugin


def loaded() -> dict[str, str]:
    """The plugins of this process, and the SHA-256 of each one's source."""
    return {name: _digest(module) for name, module in sorted(_loaded.items())}


def of(sessions: Iterable[Mapping[str, Any]]) -> list[str]:
    """The plugins that sessions of a run note."""
    return sorted({name for session in sessions for name in session.get("plugins", ())})


def changed(noted: Mapping[str, str]) -> list[str]:
    """The plugins whose source is not the one that a session noted."""
    now = loaded()
    return [name for name, digest in noted.items() if now.get(name, digest) != digest]


def remedy(names: Iterable[str]) -> str:
    """How to get the rows that something was made with, for the end of an error message; empty
    where the plugins that had them are loaded."""
    flags = " ".join(f"--plugin {name}" for name in names if name not in _loaded)
    return f"; it was made with {flags} (in Python: import that first)" if flags else ""


def _digest(module: ModuleType | None) -> str:
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _told(error: Exception) -> str:
    """An error and the line of the plugin that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    at = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    place = f" ({Path(at[-1].filename).name}, line {at[-1].lineno})" if at else ""
    return f"{type(error).__name__}: {error}{place}"
