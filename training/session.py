"""Work around `model.fit`: records, checkpoints, pictures, progress, signals."""

import math
import sys
import time
from collections import deque

from tf_avae.backend import keras, tf
from tf_avae.config import Config
from tf_avae.console.printing import say
from tf_avae.console.progress import StatusLine, duration
from tf_avae.datasets import ImageData
from tf_avae.datasets.augmentation import augmented
from tf_avae.datasets.base import Part
from tf_avae.files import for_tensorflow, write_bytes
from tf_avae.model import AVAE
from tf_avae.robustified.objectives import COSINE
from tf_avae.runs.checkpoints import metrics_state, restore, restore_metrics
from tf_avae.runs.optimizers import use_averages
from tf_avae.runs.pictures import model_pictures
from tf_avae.runs.plan import Stage
from tf_avae.runs.run import Run
from training.signals import Interrupted, StopSignals
from training.strategies import Team

_PICTURE_COLUMNS = 12
_HELD_OUT_BATCH = 250
_SURE = 5.0  # seconds of steps whose rate tells how long the rest takes


class LetGo(Exception):
    """Embeddings of clean images are no longer as near to what they were as they have to be.

    Args:
        step: after which that was measured.
        cosine: their similarity.
    """

    def __init__(self, step: int, cosine: float):
        super().__init__(step, cosine)
        self.step, self.cosine = step, cosine


class Recorder(keras.callbacks.Callback):
    """Records one stage of a run while Keras trains it; of several workers only the chief records.

    All events happen at multiples of their intervals, counted from the start of the stage, so a
    resumed run writes what an uninterrupted one writes.

    Args:
        run: where to write; locked by this process.
        stage: the stage being trained.
        data: for held-out terms and pictures.
        signals: checked after each execution for a request to stop.
        team: the workers, all of whom train the stage.
        metrics: running sums to start the first interval with.
    """

    def __init__(
        self, run: Run, stage: Stage, data: ImageData, signals: StopSignals, team: Team,
        metrics: list,
    ):  # fmt: skip
        super().__init__()
        self.run, self.stage, self.data, self.signals, self.team = run, stage, data, signals, team
        self._start_metrics = metrics
        sized = ", --image-size" if run.config.image_size else ""
        asked_for = stage.steps != Config.steps
        self._progress = Progress(stage, "" if asked_for else f"--steps, --arch{sized}")
        self._writer = tf.summary.create_noop_writer()
        if team.is_chief:
            folder = for_tensorflow(run.path / "tensorboard")
            self._writer = tf.summary.create_file_writer(folder)

    @property
    def config(self) -> Config:
        return self.run.config

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        # Keras has just reset the metrics; a run that stopped within an interval goes on in it.
        restore_metrics(self.model, self._start_metrics)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        step = self._step()
        bad = self.model.nonfinite()
        if bad:
            raise self.run.diverged(self.stage, bad[0], ", ".join(bad[1]))
        last = step == self.stage.steps
        due = step % self.config.log_every == 0 or last
        chief = self.team.is_chief
        if chief:
            self._progress.update(step, self.model)
        if due:
            if chief:
                self._record("train", _results(self.model))
            self.model.reset_metrics()
        if step % self.config.eval_every == 0 or last:
            terms = self.team.first(self._held_out_terms)
            check_finite(self.run, self.stage, step, terms)
            if chief:
                self._record("held_out", terms)
            if self.config.keep is not None and terms[COSINE] < self.config.keep:
                raise LetGo(step, terms[COSINE])
        if chief and (step % self.config.pictures_every == 0 or last):
            self.save_pictures()
        # A signal that comes while the others are asked is told to them after the next step.
        asked = self.team.signal(self.signals.received)
        if chief and (step % self.config.checkpoint_every == 0 or last or asked is not None):
            self.run.save_checkpoint(self.stage, self.model)
        if asked is not None:
            raise Interrupted(asked)

    def _held_out_terms(self) -> dict[str, float]:
        model = self.team.to_measure(self.model)
        return held_out_terms(model, self.data, self.config.eval_images)

    def save_pictures(self) -> None:
        """Writes PNGs into the run and into TensorBoard's log."""
        step = self._step()
        images, _ = next(iter(self.data.held_out(_PICTURE_COLUMNS)))
        title = f"{self.stage.algo} after {step:,} steps"
        model = self.team.to_measure(self.model)
        for name, png in model_pictures(model, images, title).items():
            file = f"{self.stage.number}-{self.stage.algo}-{step:09d}-{name}.png"
            write_bytes(self.run.path / "pictures" / file, png)
            with self._writer.as_default():
                picture = tf.io.decode_png(png, channels=3)[tf.newaxis]
                tf.summary.image(f"{self.stage.algo}/{name}", picture, step=step)
        self._writer.flush()

    def _step(self) -> int:
        return int(self.model.step.numpy())

    def _record(self, split: str, terms: dict[str, float]) -> None:
        step = self._step()
        self.run.append_metrics({"stage": self.stage.algo, "step": step, "split": split} | terms)
        with self._writer.as_default():
            for name, value in terms.items():
                tf.summary.scalar(f"{self.stage.algo}/{split}/{name}", value, step=step)
            if self._progress.rate:
                tf.summary.scalar(f"{self.stage.algo}/steps_per_second", self._progress.rate, step)
        self._writer.flush()


def _results(model: AVAE) -> dict[str, float]:
    return {metric.name: float(metric.result()) for metric in model.metrics}


def held_out_terms(model: AVAE, data: ImageData, count: int | None = None) -> dict[str, float]:
    """Mean of each term over the first `count` held-out images, or over all; the means of the
    current training interval do not change."""
    kept = metrics_state(model)
    count = min(count or data.held_out_size, data.held_out_size)
    batches = data.held_out(_HELD_OUT_BATCH).unbatch().take(count).batch(_HELD_OUT_BATCH)
    steps = -(-count // _HELD_OUT_BATCH)
    terms = model.evaluate(batches, steps=steps, verbose=0, return_dict=True)
    restore_metrics(model, kept)
    return {metric.name: terms[metric.name] for metric in model.metrics}


def check_finite(run: Run, stage: Stage, step: int, terms: dict[str, float]) -> None:
    """Raises `TrainingDiverged` if a held-out term is not a finite number."""
    bad = [f"held-out {name}" for name, value in terms.items() if not math.isfinite(value)]
    if bad:
        raise run.diverged(stage, step, ", ".join(bad))


class Progress:
    """The progress line of a stage: step, rate, time left, the bound's terms.

    On a terminal one line is rewritten about twice a second; in a log a line is added every ten
    seconds. Rates are those since 50 lines ago, without the first step, which includes
    tracing.

    Args:
        stage: what is trained.
        shorter: the flags that make it shorter, where nobody chose its length: a note names them,
            once, if the rest turns out to take more than an hour. None for no such note.
    """

    def __init__(self, stage: Stage, shorter: str = ""):
        self.stage = stage
        self._shorter = shorter
        self.rate: float | None = None
        self._line = StatusLine(say, sys.stdout, 0.5)
        self._marks: deque[tuple[float, int]] = deque(maxlen=50)

    def update(self, step: int, model: AVAE) -> None:
        """Shows the line when it is due."""
        now = time.monotonic()
        last = step == self.stage.steps
        if self._marks and now - self._marks[-1][0] < self._line.pause and not last:
            return
        if self._marks:
            then, before = self._marks[0]
            self.rate = (step - before) / (now - then)
            if self._shorter and now - then >= _SURE:
                self._tell_of_hours(step, self.rate)
        self._marks.append((now, step))
        pace = ""
        if self.rate:
            left = duration((self.stage.steps - step) / self.rate)
            pace = f"  {self.rate:.1f} steps/s  {left} left"
        terms = "  ".join(
            f"{name} {_short(value)}" for name, value in _results(model).items() if name != "loss"
        )
        self._line.show(f"{self.stage.algo} {step:,}/{self.stage.steps:,}{pace}  {terms}", last)

    def _tell_of_hours(self, step: int, rate: float) -> None:
        hours = (self.stage.steps - step) / rate / 3600
        if hours > 1:
            self._line.show(
                f"note: {self.stage.steps:,} steps, the default, take about {hours:.2g} hours more "
                f"at {rate:.2g} steps/s; less with other {self._shorter}",
                stays=True,
            )
        self._shorter = ""


def _short(value: float) -> str:
    """A term: shares and similarities need more digits than nats."""
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.3g}"


def train_stage(
    run: Run, stage: Stage, model: AVAE, data: ImageData, signals: StopSignals, team: Team
) -> None:
    """Trains a stage from the model's step to its end, with the other workers of the team.

    Raises:
        Interrupted: one of them received a signal; the state is saved.
        TrainingDiverged: a term is no longer finite.
    """
    start = int(model.step.numpy())
    if start >= stage.steps:
        use_averages(model)
        return
    batch_size = run.config.batch_size

    def batches(part: Part) -> "tf.data.Dataset":
        if model.objective.encodes == "data":
            stream = data.train(batch_size, seed=run.config.seed, start=start, part=part)
            stream = augmented(
                stream.map(lambda images, labels: images), run.config.augment.split(),
                seed=run.config.seed, batch_size=batch_size, start=start, part=part,
            )  # fmt: skip
        else:
            # The objective makes its own images; it is given their number, and nothing to learn
            # from.
            nothing = tf.zeros((batch_size // part.of, *data.image_shape))
            stream = tf.data.Dataset.from_tensors(nothing).repeat()
        return stream.take(stage.steps - start)

    try:
        model.fit(
            team.batches(batches, batch_size),
            epochs=1,
            steps_per_epoch=stage.steps - start,
            shuffle=False,
            verbose=0,
            callbacks=[Recorder(run, stage, data, signals, team, metrics_state(model))],
        )
    except LetGo as stopped:
        if team.is_chief:
            _go_back(run, model, stopped)
        team.start_from_chief(model)


def _go_back(run: Run, model: AVAE, stopped: LetGo) -> None:
    """Takes the weights of the last measurement that kept embeddings where they were."""
    kept = run.checkpoint_measured_before(stopped.step)
    restore(model, kept.arrays)
    use_averages(model)
    say(
        f"stopped: after step {stopped.step:,} the embeddings of held-out images have a cosine "
        f"similarity of {stopped.cosine:.3f} to what they were, less than {run.config.keep:g}; "
        f"taking the weights of step {kept.meta['step']:,}"
    )
