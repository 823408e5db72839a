"""Trains a head on a frozen encoder: `python -m training.classify --encoder PATH --task NAME`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_avae.backend import keras
from tf_avae.config import Config, read_json
from tf_avae.console.commands import Parser, add_trust, run_command, sigterm_unwinds
from tf_avae.console.printing import say
from tf_avae.datasets import DATASETS, ImageData
from tf_avae.errors import InputError
from tf_avae.evaluation import Encoder, Evaluation, Settings, evaluate
from tf_avae.evaluation.batches import in_batches
from tf_avae.evaluation.evaluated import EvaluatedEncoder
from tf_avae.evaluation.proofs import PROOFS
from tf_avae.evaluation.tasks import class_name
from tf_avae.files import absolute, replacing, shown
from tf_avae.graphs.saved_models import PROVENANCE
from tf_avae.probes import HEADS
from tf_avae.registry import unknown
from tf_avae.saved.classifiers import classifier
from tf_avae.saved.encoders import OF_FILES, locate
from training.evaluate import (
    RESULTS,
    Progress,
    add_attack_options,
    attack_settings,
    open_named,
    writable_folder,
    write_results,
)
from training.options import add_choice, add_data_options, data_config, open_given
from training.signals import Interrupted, StopSignals, deterministic

if TYPE_CHECKING:
    from tf_avae.saved.certified import CertifiedRadius
    from tf_avae.saved.frozen import LoadedEncoder

SECTIONS = ("probes", "robustness", "checks", "detection")
"""What is measured of a classifier: sections of the evaluation."""

_MODEL = "classifier.keras"
_DATA_BATCH, _FEW = 500, 3
_SAME = 1e-4  # largest difference of logits, over the largest logit where that is above 1


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m training.classify",
        description="Trains a head on a frozen encoder, says how accurate the classifier is, "
        "attacked and not, and whether those figures can be trusted; writes encoder and head as "
        "one Keras model, and publishes it for serving. Stopped, the same command goes on.",
    )
    made.add_argument(
        "--encoder", required=True, metavar="[NAME=]PATH", help="a run or a SavedModel"
    )
    made.add_argument("--task", required=True, metavar="NAME", help="the label to predict")
    add_choice(made, "--head", HEADS, "linear", "what is trained")
    made.add_argument(
        "--out", required=True, metavar="DIR", help=f"where {_MODEL} and {', '.join(RESULTS)} go"
    )
    made.add_argument(
        "--to", metavar="DIR",
        help="also publish it there as a served model, for example models/digits [no]",
    )  # fmt: skip
    made.add_argument(
        "--version", type=int, metavar="N",
        help="of what is published [one more than the largest version there]",
    )  # fmt: skip
    made.add_argument(
        "--certified-radius", type=float, nargs="+", default=[], metavar="EPS",
        help="also publish, for each image, the largest of these radii within which no image has "
        "another class, by proof (L-infinity, pixel values from 0 to 1) [no]",
    )  # fmt: skip
    add_choice(made, "--certify", PROOFS, None, "bounds by which these radii are proven [interval]")
    add_attack_options(made)
    add_trust(made)
    add_data_options(made)
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(parser, argv, _classify)


def _classify(arguments: argparse.Namespace) -> int:
    from tf_avae.saved.certified import CertifiedRadius
    from tf_avae.saved.exports import figures
    from tf_avae.saved.frozen import load_encoder
    from tf_avae.saved.versions import check_target

    settings = Settings(
        **attack_settings(arguments),
        tasks=(arguments.task,),
        heads=(arguments.head,),
        sections=SECTIONS,
        certify=arguments.certify or "interval",
    )
    if arguments.to is not None:
        check_target(arguments.to, arguments.version)
    elif arguments.version is not None:
        raise InputError(f"version is {arguments.version}, and nothing is published; give --to too")
    grid = arguments.certified_radius
    if grid and arguments.to is None:
        raise InputError("--certified-radius is an output of what is published; give --to too")
    if arguments.certify and not grid:
        raise InputError(
            f"--certify {arguments.certify} is of certified radii; give --certified-radius too"
        )
    if arguments.out == "":
        raise InputError("--out is empty; give the folder to write to, such as classifiers/digits")
    encoder = open_named(arguments.encoder, trust=arguments.trust)
    path, _ = locate(encoder.notes["path"])
    frozen = load_encoder(path, trust=arguments.trust)
    radius = None
    if grid:
        radius = CertifiedRadius(path, grid, proof=settings.certify, trust=arguments.trust)
    data, described = open_given(arguments, [encoder])
    if arguments.task not in data.labels:
        raise unknown("task", arguments.task, list(data.labels))
    folder = writable_folder(absolute(arguments.out), (*RESULTS, _MODEL))
    with deterministic(), StopSignals() as signals:
        _must_be_one(frozen, encoder, data)
        try:
            evaluation = evaluate(
                [encoder],
                train=data.train_images(_DATA_BATCH),
                test=data.held_out(_DATA_BATCH),
                settings=settings,
                data=described,
                folder=folder / "parts",
                progress=Progress(signals).update,
                class_names=data.class_names,
            )
            signals.check()
        except Interrupted as stop:
            parts = shown(folder / "parts")
            say(f"\nstopped; finished parts are in {parts}. The same command goes on")
            return 128 + stop.signum
        evaluated = evaluation.evaluated_encoders[encoder.name]
        fitted = evaluated.fitted(arguments.task, arguments.head)
        model = classifier(frozen, fitted.probe)
        _must_agree(model, evaluated, arguments.task, arguments.head)
        if radius is not None:
            radius.prove(model, fitted.probe)
        with replacing(folder / _MODEL) as temporary:
            model.save(temporary)
        write_results(evaluation, folder)
    say(f"model:   {shown(folder / _MODEL)}")
    classes = [int(number) for number in fitted.probe.classes]
    names = [class_name(arguments.task, number, data.class_names) for number in classes]
    if names != list(data.class_names[arguments.task]):
        say(f"columns of its logits: {', '.join(names)}")
    if arguments.to is not None:
        if signals.received is not None:
            say("stopped before it was published. The same command goes on")
            return 128 + signals.received
        notes = {
            "task": arguments.task,
            "class_names": names,
            "classes": classes,
            "head": {"name": arguments.head, **fitted.notes},
            "data": described,
            "encoder": _of_encoder(path, encoder.notes),
            "config": encoder.notes.get("config"),
            "accuracy": _accuracy(evaluation, arguments.task, arguments.head),
            "evaluation": figures(folder / RESULTS[0], encoder.notes["sha256"]),
        }
        how = _of_files(data_config(arguments, [encoder]), encoder)
        with sigterm_unwinds():  # the draft is removed on the way out
            _publish(model, arguments.to, notes, arguments.version, how, radius)
    return 0


def _must_be_one(frozen: LoadedEncoder, encoder: Encoder, data: ImageData) -> None:
    """Raises unless the measured encoder is the one that will be written."""
    if frozen.image_shape != data.image_shape:
        return  # which the evaluation says
    images, _ = next(iter(data.held_out(_FEW)))
    if not np.allclose(frozen(images)["embedding"], encoder.embed(images), rtol=1e-3, atol=1e-4):
        raise InputError(
            f"{encoder.notes['path']} has changed meanwhile: another version or checkpoint has "
            "appeared; start again"
        )


def _must_agree(model: keras.Model, evaluated: EvaluatedEncoder, task: str, head: str) -> None:
    """Raises unless the Keras model is the classifier that was attacked."""
    expected = evaluated.logits(task, head)
    images, _ = evaluated.attacked(task, len(expected))
    found = in_batches(
        lambda images: model(images)["logits"], images, batch_size=evaluated.settings.batch_size
    )
    off, largest = np.abs(found - expected).max(), max(1.0, np.abs(expected).max())
    if not off <= _SAME * largest:
        raise RuntimeError(
            f"the Keras model's logits differ from those that were attacked by {off:g}, more than "
            f"{_SAME * largest:g}; nothing was written"
        )


def _of_encoder(path: Path, notes: dict[str, Any]) -> dict[str, Any]:
    """The provenance of the encoder in a classifier: that of its export, if it is one."""
    exported = path / PROVENANCE
    kept = {key: notes.get(key) for key in ("path", "kind", "sha256")}
    if exported.is_file():
        return {**kept, "provenance": read_json(exported)}
    return {**kept, "step": notes.get("step"), "trained_at_commit": notes.get("trained_at_commit")}


def _accuracy(evaluation: Evaluation, task: str, head: str) -> dict[str, Any]:
    """Nominal and robust accuracy, with their 95 % confidence intervals."""
    (record,) = evaluation.results["encoders"]
    return {
        "nominal": record["probes"][task][head]["nominal"],
        "adversarial": [
            {key: row[key] for key in ("epsilon", "accuracy", "nominal")}
            for row in record["robustness"]["rows"]
        ],
        "budget": evaluation.results["settings"]["budget"],
        "norm": evaluation.results["settings"]["norm"],
    }


def _of_files(config: Config, encoder: Encoder) -> dict[str, Any]:
    """How image files become images: as those of the data that the head was fitted to do, or, where
    those are no files, as the encoder's own did."""
    if set(OF_FILES) <= set(DATASETS[config.dataset].options):
        return {name: getattr(config, name) for name in OF_FILES}
    return {name: encoder.notes[name] for name in OF_FILES if name in encoder.notes}


def _publish(
    model: keras.Model,
    base: str,
    notes: dict[str, Any],
    version: int | None,
    how: dict[str, Any],
    radius: CertifiedRadius | None,
) -> None:
    from tf_avae.saved.exports import export_classifier
    from tf_avae.saved.versions import serve_command

    say("exporting")
    folder = export_classifier(model, base, notes, version=version, radius=radius, **how)
    name = folder.parent.name
    say(
        f"version {folder.name} of {name}: {shown(folder)}, verified against the model\n"
        f"\nServe it here:   {serve_command(folder)}"
    )


if __name__ == "__main__":
    sys.exit(main())
