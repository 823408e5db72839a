"""Shows what one attack does to encoders: `python -m training.compare RUN RUN --out FILE.png`."""

import argparse
import sys
from typing import Any

import numpy as np

from tf_avae.backend import tf
from tf_avae.console.commands import Parser, add_trust, run_command
from tf_avae.console.printing import say
from tf_avae.errors import InputError
from tf_avae.evaluation import Encoder, Settings, evaluate
from tf_avae.evaluation.tasks import class_name
from tf_avae.files import absolute, shown, write_bytes
from tf_avae.plots import sheet
from training.evaluate import Progress, add_attack_options, attack_settings, open_all
from training.options import add_data_options, open_given
from training.signals import Interrupted, StopSignals, deterministic

_HEAD = "linear"
_COLUMNS = 12
_BATCH = 500


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m training.compare",
        description="Attacks the same images through each encoder and a linear head, and draws "
        "what becomes of them: the attacked image, what it decodes to, what the head reads. "
        "Prints how many are still read. A quick look: training.evaluate measures.",
    )
    made.add_argument("encoder", nargs="+", metavar="[NAME=]PATH", help="a run or an export")
    made.add_argument("--out", required=True, metavar="FILE", help="the picture, .png")
    add_attack_options(made, Settings(budget="smoke", epsilons=(0.1,)))
    add_trust(made)
    add_data_options(made)
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(parser, argv, _compare)


def _compare(arguments: argparse.Namespace) -> int:
    out = absolute(arguments.out)
    if out.suffix != ".png":
        raise InputError(f"--out is {arguments.out!r}; it must end in .png")
    if len(arguments.epsilon) != 1:
        raise InputError(f"{len(arguments.epsilon)} radii are given; a picture is of one")
    encoders = open_all(arguments.encoder, trust=arguments.trust)
    for encoder in encoders:
        if encoder.decode is None:
            raise InputError(
                f"{encoder.name} has no decoder; give a run of training.fit, or an export of one"
            )
    data, _ = open_given(arguments, encoders)
    chosen = attack_settings(arguments)
    task = data.tasks[0]
    settings = Settings(**chosen, tasks=(task,), heads=(_HEAD,), sections=("robustness",))
    with deterministic(), StopSignals() as signals:
        try:
            evaluation = evaluate(
                encoders,
                train=data.train_images(_BATCH),
                test=data.held_out(_BATCH),
                settings=settings,
                progress=Progress(signals).update,
                class_names=data.class_names,
            )
            signals.check()
        except Interrupted as stop:
            say("\nstopped; nothing was written")
            return 128 + stop.signum
    (epsilon,) = settings.epsilons
    rows: dict[str, Any] = {}
    words: dict[str, list[tuple[str, bool]]] = {}
    for encoder, record in zip(encoders, evaluation.results["encoders"], strict=True):
        evaluated = evaluation.evaluated_encoders[encoder.name]
        images, labels = evaluated.attacked(task, _COLUMNS)
        attacked = evaluated.outcomes(task, _HEAD, epsilon).attacked[:_COLUMNS]
        columns = evaluated.classify(task, _HEAD)(tf.constant(attacked)).numpy().argmax(1)
        classes = evaluated.tasks[task].classes[columns]
        rows.setdefault("images", images)
        rows[f"{encoder.name}\nattacked"] = attacked
        rows[decoded := f"{encoder.name}\ndecoded, read"] = _decoded(encoder, attacked)
        words[decoded] = [
            (class_name(task, number, data.class_names), column == label)
            for number, column, label in zip(classes, columns, labels, strict=True)
        ]
        (row,) = record["robustness"]["rows"]
        say(
            f"{encoder.name}: of {row['accuracy']['count']} images, {row['nominal']['value']:.1%} "
            f"are read as they are, {row['accuracy']['value']:.1%} under attack"
        )
    heading = f"Attacked within {epsilon:g} of each pixel value, decoded, and read ({task})"
    write_bytes(out, sheet(rows, heading, words))
    say(f"picture: {shown(out)}")
    return 0


def _decoded(encoder: Encoder, images: np.ndarray) -> np.ndarray:
    assert encoder.decode
    return np.asarray(encoder.decode(encoder.embed(tf.constant(images))))


if __name__ == "__main__":
    sys.exit(main())
