"""A run directory: exact config, provenance, metrics, checkpoints, weights and pictures."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tf_avae import plugins
from tf_avae.backend import keras
from tf_avae.backend.float32 import in_float32
from tf_avae.config import Config, option, read_json
from tf_avae.datasets import open_data
from tf_avae.errors import InputError, TrainingDiverged, reason
from tf_avae.files import (
    absolute,
    clear_drafts,
    drafting,
    naming,
    replacing,
    write_bytes,
    write_json,
)
from tf_avae.provenance import accelerators, provenance, session
from tf_avae.records import NUMBER, damage_told, damaged, read_record
from tf_avae.runs import checkpoints
from tf_avae.runs.checkpoints import Checkpoint, DamagedCheckpoint
from tf_avae.runs.plan import Stage, build_model, rows_of, stages
from tf_avae.types import ImageShape

if TYPE_CHECKING:
    from tf_avae.model import AVAE

_FOLDERS = ("checkpoints", "pictures", "tensorboard")

_WRITES = (
    (".", ".json", ".jsonl", ".keras"), ("checkpoints", ".ckpt"), ("pictures", ".png"),
)  # fmt: skip
"""The folders in which a run writes files atomically, and their suffixes. Other commands may write
below a run too."""


class Run:
    """A run directory that this process may read, and write while it holds the lock.

    Attributes:
        path: the directory.
        config: the resolved config.
        metrics_path: one JSON object a line: stage, step, split and the mean of each term, in nats.
            No times, so that a resumed run's file is that of an uninterrupted one, to the byte.
        model_path: the trained model, for `keras.saving.load_model`.
        encoder_path: the trained encoder alone: plain Keras, images to {"embedding", "variance"}.
        original_path: the encoder that a robust copy is made of, as `saved.given` opens it.
        result_path: terms on all held-out images; it is there when the run is complete.
    """

    def __init__(self, path: Path, config: Config):
        self.path, self.config = path, config
        self.metrics_path, self.result_path = path / "metrics.jsonl", path / "result.json"
        self.model_path, self.encoder_path = path / "model.keras", path / "encoder.keras"
        self.original_path = path / "original.keras"
        self._lock: IO[bytes] | None = None

    # ------------------------------------------------------------------ opening

    @classmethod
    def create(
        cls, path: str | Path, config: Config, data_checksums: dict[str, str],
        given: keras.Model | None = None,
    ) -> Run:  # fmt: skip
        """Makes a new run directory, whole or not at all, with the encoder that is given, if any.

        Raises:
            InputError: the directory exists and is not empty, or cannot be written.
        """
        path = absolute(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(
                f"{path} exists; give another --run-dir, or --resume to go on with the run in it"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with drafting(path.parent) as draft:
                for folder in _FOLDERS:
                    (draft / folder).mkdir()
                (draft / "metrics.jsonl").touch()
                write_json(draft / "config.json", config.to_dict())
                notes = provenance() | {"data": data_checksums, "sessions": []}
                write_json(draft / "provenance.json", notes)
                if given is not None:
                    given.save(draft / "original.keras")
                draft.chmod(0o755)  # mkdtemp's folders are private
                draft.rename(path)
        except OSError as error:
            raise InputError(
                f"cannot write the run directory {path}: {error.strerror or error}; "
                "give another --run-dir"
            ) from error
        run = cls(path, config)
        run.lock()
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run, to read.

        Raises:
            InputError: there is no run at this path, its config is damaged, or it names a row that
                is not here; the error says which plugin had it.
        """
        path = absolute(path)
        if not holds_run(path):
            raise InputError(f"{path} holds no run: it has no config.json")
        run = cls(path, Config.from_dict(read_json(path / "config.json")))
        for field, rows in rows_of(run.config).items():
            given = getattr(run.config, field)
            for name in given.split() if option(field).several else [given]:
                if name and name not in rows:
                    rows.find(name, plugins.of(run.provenance()["sessions"]))
        return run

    def lock(self) -> None:
        """Keeps other processes from writing here until `unlock`, or until this one ends.

        Raises:
            InputError: another process has the lock, or the directory cannot be written.
        """
        try:
            self._lock = (self.path / ".lock").open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process is training {self.path}; wait, or stop it"
            ) from error
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def unlock(self) -> None:
        """Lets other processes, or a later command of this one, write here."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def begin_session(
        self, data_checksums: dict[str, str], devices: dict[str, Any] | None = None
    ) -> None:
        """Notes this command in the provenance, and the devices that it uses where they matter.

        What a killed process left half written is removed; the caller has the lock.

        Raises:
            InputError: the data are not those the run was started with, or the run is damaged.
        """
        notes = self.provenance()
        for name in sorted(notes["data"].keys() | data_checksums.keys()):
            found, was = data_checksums.get(name), notes["data"].get(name)
            if found != was:
                raise InputError(
                    f"{name}: not what this run was trained on (checksum {found}, was {was}); put "
                    "the old files back"
                )
        for folder in _FOLDERS:
            try:
                (self.path / folder).mkdir(exist_ok=True)
            except FileExistsError as error:
                raise InputError(
                    f"{self.path / folder} is a file where the run has a folder; take it away"
                ) from error
        for folder, *suffixes in _WRITES:
            clear_drafts(self.path / folder, *suffixes)
        notes["sessions"].append(session() | {"accelerators": accelerators()} | (devices or {}))
        write_json(self.path / "provenance.json", notes)

    def provenance(self) -> dict[str, Any]:
        """What the run was begun with, the digests of its data by name, and its sessions.

        Raises:
            InputError: it is damaged.
        """
        shape = {"data": {str: str}, "sessions": [{"command": str, "started": str}]}
        return read_record(self.path / "provenance.json", shape, "put it back, or start a new run")

    # ------------------------------------------------------------------ models

    def given(self) -> keras.Model | None:
        """The encoder that a robust copy is made of; None where there is none.

        Raises:
            InputError: its file is gone or damaged.
        """
        from tf_avae.graphs.saved_models import load_keras_model

        return load_keras_model(self.original_path) if self.config.encoder else None

    def build(self, image_shape: ImageShape, algo: str | None = None) -> AVAE:
        """The compiled model, with the weights that training begins with; see `build_model`."""
        return build_model(self.config, image_shape, algo, self.given())

    # ------------------------------------------------------------------ metrics

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Adds a row to metrics.jsonl."""
        with naming(self.metrics_path), self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    # ------------------------------------------------------------------ checkpoints

    def checkpoint_paths(self) -> list[Path]:
        """Checkpoints, newest first."""
        return sorted((self.path / "checkpoints").glob("[0-9]*.ckpt"), reverse=True)

    def save_checkpoint(self, stage: Stage, model: AVAE) -> Path:
        """Saves the exact state of training, and drops all but the newest checkpoints.

        Raises:
            TrainingDiverged: a weight is not finite; nothing is saved or dropped.
        """
        step = int(model.step.numpy())
        state = checkpoints.model_state(model)
        if not all(np.isfinite(array).all() for array in state.values()):
            raise self.diverged(stage, step, "weights")
        with naming(self.metrics_path), self.metrics_path.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            length = file.tell()
        path = self.path / "checkpoints" / f"{stage.number}-{stage.algo}-{step:09d}.ckpt"
        meta: dict[str, Any] = {"stage": stage.number, "step": step}
        meta |= {"metrics_length": length, "metrics_sha256": digest}
        path.parent.mkdir(exist_ok=True)
        checkpoints.save(path, state, meta)
        for old in self._superseded():
            old.unlink()
        return path

    def _superseded(self) -> list[Path]:
        """All but the newest checkpoints, and the newest one of a measurement where `keep` may go
        back to that."""
        paths = self.checkpoint_paths()
        measured = (p for p in paths if int(p.stem[-9:]) % self.config.eval_every == 0)
        needed = next(measured, None) if self.config.keep else None
        return [p for p in paths[self.config.keep_checkpoints :] if p != needed]

    def diverged(self, stage: Stage, step: int, what: str) -> TrainingDiverged:
        """The error for something that stopped being finite at a step."""
        kept, uses = self.checkpoint_paths(), rows_of(self.config)["algo"][stage.algo].uses
        smaller = ["learning_rate", *(f for f in ("epsilon", "rho", "penalty_weight") if f in uses)]
        larger = ["obs_var", *(["epsilon_warmup", "steps"] if "epsilon" in uses else [])]
        less, more = (
            " or ".join(f"--{name.replace('_', '-')}" for name in names)
            for names in (smaller, larger)
        )
        return TrainingDiverged(
            f"step {step} of {stage.algo}: {what} not finite; the last good checkpoint is "
            f"{kept[0] if kept else 'none'}. A smaller {less}, a larger {more}, or --precision "
            "float32 may help"
        )

    def newest_checkpoint(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole checkpoint, and what is wrong with newer ones.

        Raises:
            InputError: there are checkpoints, and none is whole; or there are none, and yet
                something was trained.
        """
        damage: list[str] = []
        paths = self.checkpoint_paths()
        for path in paths:
            try:
                return checkpoints.load(path), damage
            except DamagedCheckpoint as error:
                damage.append(str(error))
        if paths:
            raise InputError(
                f"no checkpoint of {self.path} is whole: {'; '.join(damage)}; start a new run"
            )
        if self.metrics_path.exists() and self.metrics_path.stat().st_size:
            raise InputError(
                f"{self.path} has metrics but no checkpoint to go on from; put its checkpoints "
                "back, or start a new run"
            )
        return None, []

    def checkpoint_measured_before(self, step: int) -> Checkpoint:
        """The newest checkpoint before a step at which held-out images were measured too.

        Raises:
            InputError: there is no whole one left.
        """
        for path in self.checkpoint_paths():
            try:
                found = checkpoints.load(path)
            except DamagedCheckpoint:
                continue
            if found.meta["step"] < step and found.meta["step"] % self.config.eval_every == 0:
                return found
        raise InputError(
            f"{self.path} has no whole checkpoint left of a measurement before step {step}; start "
            "a new run"
        )

    def rewind_metrics(self, checkpoint: Checkpoint | None) -> None:
        """Drops the rows that were written after a checkpoint (all of them, if there is none).

        Raises:
            InputError: rows that were there before it are gone, or altered; nothing is dropped.
        """
        length = checkpoint.meta["metrics_length"] if checkpoint else 0
        there = self.metrics_path.read_bytes() if self.metrics_path.exists() else b""
        kept = there[:length]
        digest = checkpoint and checkpoint.meta.get("metrics_sha256")  # older ones have none
        wrong = None
        if len(kept) < length:
            wrong = f"it has {len(kept):,} of the {length:,} bytes"
        elif digest and hashlib.sha256(kept).hexdigest() != digest:
            wrong = f"its first {length:,} bytes are not those"
        if wrong:
            raise damaged(
                self.metrics_path,
                f"{wrong} that were there at the newest checkpoint",
                "put the file back, or begin a new run, which --init-from gives this one's weights",
            )
        if kept != there:
            write_bytes(self.metrics_path, kept)
        else:
            self.metrics_path.touch()

    # ------------------------------------------------------------------ results

    def result(self) -> dict[str, Any] | None:
        """The terms on all held-out images by name as "held_out", and the number of these as
        "images"; None where the run is not complete.

        Raises:
            InputError: it is damaged.
        """
        return read_result(self.result_path) if os.path.lexists(self.result_path) else None

    def save_model(self, model: AVAE, path: Path) -> None:
        """Saves a whole model without its optimiser, atomically."""
        bare = model.twin()  # Keras saves the optimiser of what has one
        with replacing(path) as temporary:
            bare.save(temporary)

    def save_encoder(self, model: AVAE) -> None:
        """Saves the encoder, atomically; it computes in float32 whatever the precision was."""
        encoder = in_float32(model.encoder)
        encoder.set_weights(model.encoder.get_weights())
        with replacing(self.encoder_path) as temporary:
            encoder.save(temporary)


def read_result(path: Path) -> dict[str, Any]:
    """What a run's result.json holds: see `Run.result`.

    Raises:
        InputError: it is missing or damaged.
    """
    return read_record(
        path, {"held_out": {str: NUMBER}}, "take it away, and --resume writes it again"
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl.

    Raises:
        InputError: it is damaged.
    """
    with damage_told(path, "put it back from a copy"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row["stage"], row["step"], row["split"]
        return rows


def holds_run(path: Path) -> bool:
    """Whether a folder is a run's directory."""
    return (path / "config.json").is_file()


def load_trained(path: str | Path) -> AVAE:
    """The model of a run: its trained weights, or those of its newest checkpoint.

    Raises:
        InputError: there is no run at this path, or it has no weights yet.
    """
    from tf_avae.model import AVAE
    from tf_avae.runs.optimizers import use_averages

    run = Run.open(path)
    if run.model_path.is_file():
        try:
            model = keras.saving.load_model(run.model_path, compile=False)
        except InputError:
            raise
        except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{run.model_path} is damaged ({reason(error)}); train it again"
            ) from error
        if not isinstance(model, AVAE):
            raise InputError(f"{run.model_path} holds another kind of model; train it again")
        return model
    checkpoint, _ = run.newest_checkpoint()
    if checkpoint is None:
        raise InputError(f"{run.path} has no weights yet; let it train first")
    config = run.config
    image_shape = open_data(config).image_shape
    model = run.build(image_shape, stages(config)[checkpoint.meta["stage"]].algo)
    checkpoints.restore(model, checkpoint.arrays)
    use_averages(model)
    return model
