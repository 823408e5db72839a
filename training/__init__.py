"""Command lines over `tf_avae`."""

import os
import sys
import tempfile


def _import_tensorflow_quietly() -> None:
    """Imports TensorFlow without its start-up notices (oneDNN, no CUDA).

    They are written by C++ before any log level is read, so the descriptor itself is held back
    for the time of the import; if the import fails, what was held back is shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


_import_tensorflow_quietly()
