"""The file in which a benchmark leaves an encoder for the commands."""

from pathlib import Path

from tf_avae.backend import keras
from tf_avae.console.printing import say
from tf_avae.errors import InputError
from tf_avae.files import absolute, replacing, shown


def encoder_path(out: Path) -> Path:
    """Where `--out` is.

    Raises:
        InputError: it is no name of a Keras model.
    """
    if out.suffix != ".keras":
        raise InputError(f"--out is {out}; it must end in .keras")
    return absolute(out)


def save_encoder(encoder: keras.Model, path: Path) -> None:
    """Saves an encoder, atomically, and says where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        encoder.save(temporary)
    say(f"encoder: {shown(path)}")
