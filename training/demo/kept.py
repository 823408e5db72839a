"""What the demo makes at its first start and keeps in the user's cache: a plain VAE, and heads."""

import hashlib
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tf_avae import __version__
from tf_avae.console.printing import note, say
from tf_avae.datasets import ImageData
from tf_avae.errors import InputError, reason
from tf_avae.evaluation import Encoder
from tf_avae.evaluation.batches import in_batches
from tf_avae.files import cache_folder, exclusive, replacing
from tf_avae.probes import HEADS, Probe
from tf_avae.runs.run import Run, holds_run
from tf_avae.saved.encoders import open_encoder
from training import fit

STEPS = 1000
"""Of the plain VAE's training."""

_TRAINED = (
    *("--algo", "vae", "--arch", "shallow", "--obs-var", "0.01", "--learning-rate", "0.002"),
    *("--eval-images", "1000", "--keep-checkpoints", "1"),
)
_BATCH = 500


class Stopped(Exception):
    """The training was stopped; it goes on at the next start.

    Attributes:
        code: the exit code.
    """

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


def folder() -> Path:
    """The demo's own in the user's cache; it is made."""
    path = cache_folder() / "demo"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def plain_vae(data_dir: str | None = None, steps: int = STEPS) -> Path:
    """The run of a plain VAE, trained where it is not there whole.

    Args:
        data_dir: as `open_color_mnist` takes it.
        steps: of its training.

    Raises:
        Stopped: by a signal.
        InputError: the cache or the data cannot be used.
    """
    path = folder() / f"vae-{__version__}-{steps}"
    words = [*_TRAINED, "--steps", str(steps), "--run-dir", str(path), "--begin-or-resume"]
    words += ["--data-dir", data_dir] if data_dir else []

    def wait() -> None:
        note(f"another process makes {path}; waiting for it")

    with exclusive(folder() / "lock", wait):
        there = path.exists()
        try:
            return _whole(path, words)
        except InputError as error:
            if not there:
                raise
            note(f"note: {error}. It is made anew")
            shutil.rmtree(path)
            return _whole(path, words)


def _whole(path: Path, words: list[str]) -> Path:
    """The run, trained to its end and opened once."""
    if not holds_run(path) or Run.open(path).result() is None:
        say("training a plain VAE, which is kept for the next time")
        code = fit.fit(fit.parser().read(words), lambda run: None)
        if code:
            raise Stopped(code)
    open_encoder(path)
    return path


def linear_heads(encoder: Encoder, data: ImageData, images: int) -> dict[str, Probe]:
    """A linear head on an encoder for each task of the data, fitted where it is not kept.

    Args:
        encoder: the encoder; its notes name its digest.
        data: whose first training images it is fitted to.
        images: so many.
    """
    told = repr((__version__, encoder.notes["sha256"], data.checksums, images))
    path = folder() / f"heads-{hashlib.sha256(told.encode()).hexdigest()[:16]}.npz"
    if path.exists():
        try:
            return _read(path, data)
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            note(f"note: {path} is damaged ({reason(error)}). It is made anew")
    say(f"fitting heads on {encoder.name}, which are kept for the next time")
    shown, labels = next(data.train_images(images).as_numpy_iterator())
    embeddings = in_batches(encoder.embed, shown, batch_size=_BATCH)
    heads = {task: HEADS["linear"].fit(embeddings, labels[task], 0).probe for task in data.tasks}
    with replacing(path) as draft:
        np.savez(draft, **_arrays(heads))  # type: ignore[arg-type]  # numpy's own flag
    return heads


def _arrays(heads: Mapping[str, Probe]) -> dict[str, np.ndarray]:
    return {
        f"{task}/{name}": array
        for task, head in heads.items()
        for name, array in zip(
            _NAMES, (head.mean, head.scale, *head.layers[0], head.classes), strict=True
        )
    }


_NAMES = ("mean", "scale", "kernel", "bias", "classes")


def _read(path: Path, data: ImageData) -> dict[str, Probe]:
    with np.load(path) as file:
        found = {task: [file[f"{task}/{name}"] for name in _NAMES] for task in data.tasks}
    return {
        task: Probe(mean, scale, ((kernel, bias),), classes)
        for task, (mean, scale, kernel, bias, classes) in found.items()
    }
