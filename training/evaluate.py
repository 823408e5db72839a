"""Measures how robust representations are: `python -m training.evaluate RUN --budget paper`."""

import argparse
import math
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tf_avae.attacks import BALLS
from tf_avae.config import Config
from tf_avae.console.commands import Parser, add_trust, run_command
from tf_avae.console.printing import say
from tf_avae.console.progress import StatusLine, duration
from tf_avae.datasets import ImageData
from tf_avae.errors import InputError
from tf_avae.evaluation import (
    BUDGETS,
    DISTANCES,
    Encoder,
    Evaluation,
    Settings,
    Shard,
    evaluate,
    evaluate_shard,
    open_extractor,
)
from tf_avae.evaluation.evaluated import Report
from tf_avae.evaluation.inputs import check_names
from tf_avae.evaluation.part_store import Part, PartStore
from tf_avae.evaluation.proofs import PROOFS
from tf_avae.evaluation.report import page
from tf_avae.evaluation.section import SECTIONS
from tf_avae.evaluation.table import text
from tf_avae.files import absolute, clear_drafts, shown, write_json, write_text
from tf_avae.probes import HEADS
from tf_avae.provenance import provenance, session, source_checksum
from tf_avae.runs.plan import build_model
from tf_avae.saved.encoders import open_encoder
from training.options import add_choice, add_data_options, listed, number, open_given
from training.rates import fit_steps, paired_rates, time_factor
from training.shards import add_shard_options, check_shards, do_shards
from training.signals import Interrupted, StopSignals, deterministic
from training.sweep.cells.places import place_of

RESULTS = ("results.json", "report.html")
"""What an evaluation writes into its folder."""

FAILED_CHECKS = 1
"""Exit code under --strict where an honesty check failed."""

_TIME_FACTOR = "time_factor"
_DATA_BATCH = 500
_TIMING_ROUNDS, _TIMING_SECONDS = 5, 0.5


def add_attack_options(made: Parser, defaults: Settings | None = None) -> None:
    """Adds the flags for the attack budget, the tasks and the number of images, with the defaults
    of an evaluation unless others are given."""
    defaults = defaults or Settings()
    add_choice(made, "--budget", BUDGETS, defaults.budget, "how hard to attack")
    made.add_argument(
        "--epsilon", type=number, nargs="+", default=defaults.epsilons, metavar="X",
        help=f"radii, in pixel values from 0 to 1 [{' '.join(map(str, defaults.epsilons))}]",
    )  # fmt: skip
    add_choice(made, "--norm", BALLS, defaults.norm, "of the perturbation")
    made.add_argument(
        "--images", type=int, metavar="N", help="test images to attack [the budget's number]"
    )
    made.add_argument(
        "--free-images", type=int, default=defaults.free_images, metavar="N",
        help="test images for attacks on the representation and for the honesty checks "
        f"[{defaults.free_images}]",
    )  # fmt: skip
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of the attacks [0]")
    made.add_argument(
        "--batch-size", type=int, default=defaults.batch_size, metavar="N",
        help=f"images attacked at once [{defaults.batch_size}]",
    )  # fmt: skip


def attack_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Settings` that those flags set."""
    names = ("budget", "norm", "images", "free_images", "seed", "batch_size")
    found = {name: getattr(arguments, name) for name in names}
    return found | {"epsilons": tuple(arguments.epsilon)}


def parser() -> Parser:
    """The command line."""
    defaults = Settings()
    made = Parser(
        prog="python -m training.evaluate",
        description="Measures encoders side by side: accuracy of heads under attack, attacks on "
        "the representation, self-consistency, likelihood, and whether the figures can be trusted. "
        "Prints a table; writes results.json and report.html.",
    )
    made.add_argument(
        "encoder", nargs="+", metavar="[NAME=]PATH",
        help="a run, a SavedModel, a Keras model (.keras), an ONNX file (.onnx; without what needs "
        "gradients), or the name of an encoder that comes with the package",
    )  # fmt: skip
    add_attack_options(made)
    made.add_argument("--task", nargs="+", metavar="NAME", help="labels to predict [all]")
    made.add_argument(
        "--head", nargs="+", default=defaults.heads, metavar="NAME",
        help="probes; of attacks that go through one alone, the first "
        f"[{' '.join(defaults.heads)}]\n{listed(HEADS)}",
    )  # fmt: skip
    made.add_argument(
        "--section", nargs="+", default=(*defaults.sections, _TIME_FACTOR), metavar="NAME",
        help=f"what to measure [all]\n{listed(SECTIONS)}\n"
        f"- {_TIME_FACTOR}: of runs, a training step beside one of `vae`",
    )  # fmt: skip
    made.add_argument(
        "--distance", nargs="+", default=defaults.distances, metavar="NAME",
        help=f"attacks on the representation [all]\n{listed(DISTANCES)}",
    )  # fmt: skip
    add_choice(made, "--certify", PROOFS, defaults.certify, "bounds by which images are verified")
    made.add_argument(
        "--outward", action="store_true",
        help="round these bounds outward: proofs of what float32 computes [of real numbers]",
    )  # fmt: skip
    made.add_argument(
        "--fid", metavar="PATH",
        help="feature extractor for the FID: Inception v3 weights without its top (.h5), a Keras "
        "model (.keras) or a SavedModel [none: no FID]",
    )  # fmt: skip
    made.add_argument("--out", metavar="DIR", help="where to write [evaluations/NAMES-BUDGET]")
    add_shard_options(made)
    made.add_argument(
        "--strict", action="store_true",
        help=f"exit with {FAILED_CHECKS} where an honesty check fails, or cannot be made",
    )  # fmt: skip
    add_trust(made)
    add_data_options(made)
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(parser, argv, _evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    settings = Settings(
        **attack_settings(arguments),
        tasks=tuple(arguments.task) if arguments.task else None,
        heads=tuple(arguments.head),
        sections=tuple(name for name in arguments.section if name != _TIME_FACTOR),
        distances=tuple(arguments.distance),
        certify=arguments.certify,
        outward=arguments.outward,
    )
    check_shards(arguments)
    if arguments.strict and arguments.shard:
        raise InputError("--strict is for the command that joins the shards; leave it out here")
    if arguments.shards and not any(SECTIONS[name].pieces for name in settings.sections):
        able = ", ".join(row.name for row in SECTIONS.values() if row.pieces)
        raise InputError(f"no --section can be done in shards; of these it can: {able}")
    if arguments.strict and "checks" not in settings.sections:
        raise InputError("--strict looks at the checks; name checks under --section too")
    fid = arguments.fid
    extractor = None if fid is None else open_extractor(fid, trust=arguments.trust)
    encoders = open_all(arguments.encoder, trust=arguments.trust)
    data, described = open_given(arguments, encoders)
    settings = replace(settings, tasks=settings.tasks or data.tasks or None)
    folder = _folder(arguments.out, encoders, settings)
    if arguments.parts == "":
        raise InputError("--parts is empty; give the folder where finished parts are kept")
    parts = absolute(arguments.parts or folder / "parts")
    try:
        # The cluster first: Ray takes SIGTERM for itself.
        with place_of(arguments) as place, deterministic(), StopSignals() as signals:
            given: dict[str, Any] = {
                "train": data.train_images(_DATA_BATCH),
                "test": data.held_out(_DATA_BATCH),
                "settings": settings,
                "folder": parts,
                "progress": Progress(signals).update,
            }
            if arguments.shard:
                return _do_shard(arguments.shard, encoders, given, folder)
            shards = partial(do_shards, arguments, folder, parts, place, signals)
            evaluation = evaluate(
                encoders,
                **given,
                extractor=extractor,
                data=described,
                class_names=data.class_names,
                shards=shards if arguments.shards else None,
            )
            if _TIME_FACTOR in arguments.section:
                _add_time_factors(evaluation, encoders, data, parts)
            signals.check()
    except Interrupted as stop:
        say(f"\nstopped; finished parts are in {shown(parts)}. The same command goes on")
        return 128 + stop.signum
    write_results(evaluation, folder)
    sound = evaluation.checked and not evaluation.failed_checks
    return FAILED_CHECKS if arguments.strict and not sound else 0


def _do_shard(shard: Shard, encoders: list[Encoder], given: dict[str, Any], folder: Path) -> int:
    pieces, digest = evaluate_shard(encoders, shard, **given)
    done = {"shard": list(shard), "pieces": pieces, "digest": digest}
    done["command"] = session()["command"]
    write_json(folder / "shard.json", {**done, **provenance()})
    say(f"shard {shard.number} of {shard.of} is done: {pieces} pieces")
    return 0


def write_results(evaluation: Evaluation, folder: Path) -> None:
    """Writes results.json and report.html; prints the table and the failed checks."""
    evaluation.results["provenance"] = {"command": session()["command"], **provenance()}
    results, report = (folder / name for name in RESULTS)
    content = page(evaluation)
    write_json(results, evaluation.results)
    write_text(report, content)
    say("\n" + text(evaluation.results))
    for name, task, head, check in evaluation.failed_checks:
        say(f"honesty check failed: {name}, {head} probe of {task}: {check}")
    if "checks" in evaluation.results["settings"]["sections"] and not evaluation.checked:
        say("the honesty checks could not be made")
    say(f"\nresults: {shown(results)}\nreport:  {shown(report)}")


def open_named(words: str, *, trust: bool = False) -> Encoder:
    """The encoder at [NAME=]PATH, as `open_encoder` opens it."""
    name, separator, path = words.partition("=")
    if not separator or absolute(words).exists():
        name, path = "", words
    encoder = open_encoder(path, name or None, trust=trust)
    if not encoder.notes.get("complete", True):
        say(f"note: {path} is not complete: its weights are those after step "
            f"{encoder.notes['step']:,}")  # fmt: skip
    return replace(encoder, notes={"path": path, **encoder.notes})


def open_all(words: list[str], *, trust: bool = False) -> list[Encoder]:
    """The encoders at several [NAME=]PATH.

    Raises:
        InputError: two have one name, or one cannot be opened.
    """
    encoders = [open_named(each, trust=trust) for each in words]
    names = [encoder.name for encoder in encoders]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two encoders are called {name!r}; tell them apart by NAME=PATH")
    check_names(names)
    return encoders


def _folder(given: str | None, encoders: list[Encoder], settings: Settings) -> Path:
    """Makes the output folder and checks that it is writable, before the work."""
    if given == "":
        raise InputError("--out is empty; give the folder to write to, such as evaluations/mine")
    names = re.sub(r"[^\w.-]+", "_", "-".join(encoder.name for encoder in encoders))[:80]
    default = Path("evaluations") / f"{names}-{settings.budget}"
    return writable_folder(absolute(given or default), RESULTS)


def writable_folder(folder: Path, files: Iterable[str]) -> Path:
    """Makes a folder and checks that it can hold these files, before the work that makes them.

    Raises:
        InputError: one of them is a folder.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        if (folder / name).is_dir():
            raise InputError(f"{folder / name} is a folder; give another --out, or remove it")
    clear_drafts(folder, *(Path(name).suffix for name in files))
    with tempfile.TemporaryFile(dir=folder):
        pass
    return folder


def _add_time_factors(
    evaluation: Evaluation, encoders: list[Encoder], data: ImageData, folder: Path
) -> None:
    """Adds to each record the time of a training step over that of the `vae` with the same
    options, or why it is not known."""
    parts = PartStore(folder, {"source": source_checksum()})
    for record, encoder in zip(evaluation.results["encoders"], encoders, strict=True):
        if encoder.notes.get("kind") != "run":
            record["left_out"][_TIME_FACTOR] = "no run: nothing is known of its training"
            continue
        config = Config.from_dict(encoder.notes["config"])
        if config.encoder:
            record["left_out"][_TIME_FACTOR] = "made of an encoder: there is no vae of it"
            continue
        if config.algo == "vae":
            record[_TIME_FACTOR] = {"value": 1.0, "low": 1.0, "high": 1.0}
            continue
        settings = {"time_factor": config.to_dict()}
        found = parts.find("time", settings)
        if found is None:
            say(f"{encoder.name}: timing training steps")
            batches = data.train(config.batch_size, seed=0)
            timed = {
                name: fit_steps(build_model(each, data.image_shape), batches)
                for name, each in (("vae", replace(config, algo="vae")), ("this", config))
            }
            rates = paired_rates(timed, rounds=_TIMING_ROUNDS, seconds=_TIMING_SECONDS)
            found = Part(time_factor(rates, "this", "vae"), {})
            parts.keep("time", settings, found)
        record[_TIME_FACTOR] = found.values


class Progress:
    """The progress line: the current work and the time left.

    The time left is that of the attacks through heads, at the pace so far, if no further image
    breaks: broken images save time. On a terminal one line is rewritten; in a log a line is
    added every ten seconds.

    Args:
        signals: checked each time for a request to stop.
    """

    def __init__(self, signals: StopSignals):
        self._signals = signals
        self._line = StatusLine(say, sys.stdout, 0.2)
        self._shown = -math.inf
        self._last = (time.monotonic(), 0.0)
        self._busy = 0.0  # seconds in which that work was done

    def update(self, report: Report) -> None:
        """Shows the line when it is due; raises `Interrupted` after a signal."""
        self._signals.check()
        now = time.monotonic()
        then, done = self._last
        if report.done > done:
            self._busy += now - then
        self._last = (now, report.done)
        if now - self._shown < self._line.pause:
            return
        self._shown = now
        left = ""
        if report.done > 0 and report.left > 0:
            left = f"  {duration(report.left * self._busy / report.done)} left at most"
        self._line.show(report.text + left)


if __name__ == "__main__":
    sys.exit(main())
