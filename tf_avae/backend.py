"""TensorFlow and Keras, imported as this package needs them: TensorFlow with oneDNN, and without
start-up notices where the log level asks so; Keras on TensorFlow."""

import importlib.util
import json
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from tf_avae.errors import InputError, reason

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
"""What `import tf_avae` imports, as people know it."""


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras; without notices (oneDNN, no CUDA) if `TF_CPP_MIN_LOG_LEVEL` is
    2 or 3.

    With oneDNN unless `TF_ENABLE_ONEDNN_OPTS` says otherwise. TensorFlow by itself uses it only on
    CPUs with AVX-512 VNNI or more; without it, gradients of convolutions take several times as
    long on others too (docs/performance.md).

    Notices are written by C++ before that level is read, so the descriptor itself is held back for
    the time of the import; if the import fails, what was held back is shown.

    Raises:
        ModuleNotFoundError: TensorFlow, or what comes with it, is not installed: only the client
            needs none.
        InputError: Keras is set to another backend, or its settings cannot be used. Uncaught, as
            in a command, it is one line and exit code 2.
    """
    _check_backend()
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") not in ("2", "3"):
        _import()
        return
    if sys.stderr is not None:  # as it is where a process starts with the descriptor closed
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:
        # Left closed, it would be that of the next file opened, with TensorFlow's messages in it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            _import()
            sys.modules["tensorflow"].config.list_physical_devices()
        except InputError:
            raise
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keeps TensorFlow's warnings back within the block."""
    import tensorflow as tf

    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _import() -> None:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    need(_NEEDED)
    try:
        import keras  # noqa: F401
        import tensorflow  # noqa: F401
    except Exception as error:  # of many kinds, from what reads Keras' settings
        if not any(
            "keras" in Path(at.filename).parts for at in traceback.extract_tb(error.__traceback__)
        ):
            raise
        _refuse(
            f"Keras cannot be imported ({reason(error)}); mend or remove {_settings()}, and unset "
            "the environment's variables KERAS_...",
            error,
        )


def _check_backend() -> None:
    """Raises `InputError` where Keras is, or would be, on another backend than TensorFlow."""
    if "keras" in sys.modules:
        where, backend = "Keras' backend", sys.modules["keras"].config.backend()
    else:
        where, backend = _chosen_backend()
    if backend != "tensorflow":
        _refuse(
            f"{where} is {backend!r}; tf_avae works with Keras on TensorFlow: set the "
            "environment's variable KERAS_BACKEND=tensorflow before Keras is imported"
        )


def _chosen_backend() -> tuple[str, object]:
    """Where Keras will be told its backend, and what."""
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


def _refuse(message: str, cause: Exception | None = None) -> NoReturn:
    """Raises an `InputError` that ends a process in one line.

    Commands import this package before they could catch anything.
    """
    refusal, before = InputError(message), sys.excepthook

    def last(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if error is not refusal:
            before(kind, error, trace)
            return
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)

    sys.excepthook = last
    raise refusal from cause


def need(modules: Mapping[str, str]) -> None:
    """Raises where modules that TensorFlow's extra brings are not installed.

    Args:
        modules: names of modules to those of their distributions.

    Raises:
        ModuleNotFoundError: some are not there.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"tf_avae needs {', '.join(modules[name] for name in missing)}; in a checkout: "
            "pip install '.[tf]' (serving.client needs no TensorFlow)",
            name=missing[0],
        )
