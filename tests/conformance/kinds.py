"""A model with signatures of all kinds, for facts that an encoder has no signature for."""

from pathlib import Path

import tensorflow as tf

LABELS = [10.0, 20.0, 30.0]
ECHOED = {
    "truth": tf.bool, "byte": tf.uint8, "short": tf.int16, "int": tf.int32, "long": tf.int64,
    "half": tf.float16, "double": tf.float64, "text": tf.string, "complex": tf.complex64,
}  # fmt: skip


def save(folder: Path) -> None:
    """Writes the SavedModel."""
    module = tf.Module()
    floats = tf.TensorSpec([None], tf.float32, "x")
    # The initial value is only there once the version is loaded: as the official counter's.
    module.count = tf.Variable(7.0)

    def signature(*specs):
        return lambda function: tf.function(function, input_signature=specs)

    signatures = {
        "serving_default": signature(tf.TensorSpec(None, tf.float32, "x"))(
            lambda x: {"y": x / 2 + 2}
        ),
        "two": signature(
            tf.TensorSpec([None, 2], tf.int32, "n"), tf.TensorSpec([None], tf.string, "s")
        )(lambda n, s: {"n": 2 * n, "s": s, "s_bytes": s}),
        "labels": signature(floats)(lambda x: {"y": 2 * x, "labels": tf.constant(LABELS)}),
        "scalar": signature(floats)(lambda x: {"y": 2 * x, "word": tf.constant("word")}),
        "nothing": signature()(lambda: {"count": module.count + 0}),
    }
    for name, kind in ECHOED.items():
        signatures[name] = signature(tf.TensorSpec(None, kind, "x"))(
            lambda x: {"y": tf.identity(x)}
        )
    module.functions = list(signatures.values())
    tf.saved_model.save(module, str(folder), signatures=signatures)
