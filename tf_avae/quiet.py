"""TensorFlow, imported with oneDNN, and without start-up notices where the log level asks so."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


def import_tensorflow() -> None:
    """Imports TensorFlow; without notices (oneDNN, no CUDA) if `TF_CPP_MIN_LOG_LEVEL` is 2 or 3.

    With oneDNN unless `TF_ENABLE_ONEDNN_OPTS` says otherwise. TensorFlow by itself uses it only on
    CPUs with AVX-512 VNNI or more; without it, gradients of convolutions take several times as
    long on others too (docs/performance.md).

    Notices are written by C++ before that level is read, so the descriptor itself is held back for
    the time of the import; if the import fails, what was held back is shown.

    Raises:
        ModuleNotFoundError: TensorFlow is not installed: only the client needs none.
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
    try:
        import tensorflow  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise ModuleNotFoundError(
            "tf_avae needs TensorFlow; install it with: pip install '.[tf]' in a checkout "
            "(serving.client needs none)",
            name="tensorflow",
        ) from None
