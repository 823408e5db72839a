"""TensorFlow, imported with oneDNN, and without start-up notices where the log level asks so."""

import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping

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
    """Imports TensorFlow; without notices (oneDNN, no CUDA) if `TF_CPP_MIN_LOG_LEVEL` is 2 or 3.

    With oneDNN unless `TF_ENABLE_ONEDNN_OPTS` says otherwise. TensorFlow by itself uses it only on
    CPUs with AVX-512 VNNI or more; without it, gradients of convolutions take several times as
    long on others too (docs/performance.md).

    Notices are written by C++ before that level is read, so the descriptor itself is held back for
    the time of the import; if the import fails, what was held back is shown.

    Raises:
        ModuleNotFoundError: TensorFlow, or what comes with it, is not installed: only the client
            needs none.
    """
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
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _import() -> None:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    need(_NEEDED)
    import tensorflow  # noqa: F401


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
