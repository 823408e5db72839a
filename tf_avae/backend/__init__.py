"""TensorFlow and Keras as this package needs them, imported when something of theirs is first used.

    from tf_avae.backend import keras, tf, tfp

A command's `--help` has no need of them. TensorFlow comes with oneDNN, and without start-up notices
where the log level asks so; Keras comes on TensorFlow.
"""

import importlib
import importlib.util
import json
import logging
import os
import re
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tf_avae.errors import InputError, NotInstalled, reason

_NEEDED = {
    "tensorflow": "TensorFlow",
    "keras": "Keras",
    "tensorflow_probability": "TensorFlow Probability",
    "tf_keras": "tf-keras",
    "tensorflow_datasets": "TensorFlow Datasets",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "PIL": "pillow",
}
"""What the package imports to work, as people know it."""

_OPTIONAL = ("matplotlib", "sklearn")
"""What Keras imports where it is installed, for its own figures and wrappers: a third of the time
that its import takes."""

for_a_command = False
"""Whether this process runs a command of this package, which uses neither."""

# TensorFlow reads these when it is imported, whoever imports it. By itself it uses oneDNN only on
# CPUs with AVX-512 VNNI or more; without it, gradients of convolutions take several times as long
# on others too (docs/performance.md). It logs a dozen lines before its first result: who wants
# those has set the level.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

_NOTICE = re.compile(
    rb"WARNING: All log messages before absl::|To enable the following|[IWE]\d{4} "
)
"""How lines of TensorFlow's log begin."""

_turn = threading.Lock()


class Lazy(ModuleType):
    """A module that is imported when something of it is first used.

    Args:
        name: of the module.
        before: called first.
    """

    def __init__(self, name: str, before: Callable[[], None] = lambda: None):
        super().__init__(name)
        self._before = before
        self._module: ModuleType | None = None

    def __getattr__(self, name: str) -> Any:
        if self._module is None:
            self._before()
            self._module = importlib.import_module(self.__name__)
        return getattr(self._module, name)


if TYPE_CHECKING:
    import keras
    import tensorflow as tf
    import tensorflow_probability as tfp
else:
    keras, tf, tfp = (
        Lazy(name, lambda: import_tensorflow())
        for name in ("keras", "tensorflow", "tensorflow_probability")
    )


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras, without notices of how that starts: see `without_notices`.

    Raises:
        NotInstalled: TensorFlow, or what comes with it, is missing: only the client needs none.
        InputError: Keras is set to another backend, or its settings cannot be used.
    """
    _check_backend()
    with without_notices():
        _import()
        sys.modules["tensorflow"].config.list_physical_devices()


@contextmanager
def without_notices() -> Iterator[None]:
    """Within the block TensorFlow's notices (oneDNN, no CUDA) do not reach standard error, if
    `TF_CPP_MIN_LOG_LEVEL` is 2 or 3.

    They are written by C++ before that level is read, so the descriptor itself is held back. What
    else was written there meanwhile is shown after the block, and all of it if the block fails.
    """
    # A block within another, or in another thread, is left to the one that holds back.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") not in ("2", "3") or not _turn.acquire(False):
        yield
        return
    left_out: re.Pattern[bytes] | None = _NOTICE
    with ExitStack() as after:
        after.callback(_turn.release)
        if sys.stderr is not None:  # as it is where a process starts with the descriptor closed
            sys.stderr.flush()
        try:
            kept = os.dup(2)
        except OSError:
            # Left closed, it would be that of the next file opened, with messages in it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            kept = os.dup(2)
        after.callback(os.close, kept)
        held = after.enter_context(tempfile.TemporaryFile())
        os.dup2(held.fileno(), 2)
        try:
            yield
        except InputError:
            raise
        except BaseException:
            left_out = None
            raise
        finally:
            os.dup2(kept, 2)
            held.seek(0)
            for line in held:
                if not (left_out and left_out.match(line)):
                    os.write(kept, line)


@contextmanager
def _hidden(names: Sequence[str]) -> Iterator[None]:
    """Within the block these modules are as if they were not installed, unless they have been
    imported."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keeps TensorFlow's warnings back within the block."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _import() -> None:
    # Keras' own import comes here again, while some are hidden (None) that were there before it.
    need({name: of for name, of in _NEEDED.items() if sys.modules.get(name, name) is not None})
    try:
        # TFP first: after TensorFlow it would import its layers and experiments at once.
        importlib.import_module("tensorflow_probability")
        with _hidden(_OPTIONAL if for_a_command else ()):
            for name in ("keras", "tensorflow"):
                importlib.import_module(name)
    except Exception as error:  # of many kinds, from what reads Keras' settings
        if not any(
            "keras" in Path(at.filename).parts for at in traceback.extract_tb(error.__traceback__)
        ):
            raise
        raise InputError(
            f"Keras cannot be imported ({reason(error)}); mend or remove {_settings()}, and unset "
            "the environment's variables KERAS_..."
        ) from error


def _check_backend() -> None:
    """Raises `InputError` where Keras is, or would be, on another backend than TensorFlow."""
    if "keras" in sys.modules:
        # Another thread may be in the middle of its import, which this waits for.
        keras_itself: Any = importlib.import_module("keras")
        where, backend = "Keras' backend", keras_itself.config.backend()
    else:
        where, backend = _chosen_backend()
    if backend != "tensorflow":
        raise InputError(
            f"{where} is {backend!r}; tf_avae works with Keras on TensorFlow: set the "
            "environment's variable KERAS_BACKEND=tensorflow before Keras is imported"
        )


def _chosen_backend() -> tuple[str, object]:
    """The place where Keras reads its backend, and the backend."""
    if os.environ.get("KERAS_BACKEND"):
        return "KERAS_BACKEND", os.environ["KERAS_BACKEND"]
    path = _settings()
    try:
        return f"the backend in {path}", json.loads(path.read_bytes()).get("backend", "tensorflow")
    except (OSError, ValueError, AttributeError):  # no file, or one that Keras does not read either
        return "", "tensorflow"


def _settings() -> Path:
    """Keras' own file of settings, where Keras looks for it."""
    home = Path("~").expanduser()
    folder = (home if os.access(home, os.W_OK) else Path("/tmp")) / ".keras"
    return Path(os.environ.get("KERAS_HOME", folder)).expanduser() / "keras.json"


def need(modules: Mapping[str, str], extra: str = "tf") -> None:
    """Raises `NotInstalled` if modules are missing; the message names the extra that has them.

    Args:
        modules: names of modules to those of their distributions.
        extra: one of this package's.
    """
    missing = [shown for name, shown in modules.items() if not _is_installed(name)]
    if missing:
        raise NotInstalled(
            f"not installed: {', '.join(missing)}; pip install 'tf-avae[{extra}]', or in a "
            f"checkout: pip install '.[{extra}]'"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around the module is missing
        return False
