"""Evaluations in shards: each a command of its own, at once on this machine or on a cluster."""

import argparse
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from tf_avae.console.commands import Parser
from tf_avae.console.printing import say
from tf_avae.errors import InputError
from tf_avae.evaluation import Shard
from tf_avae.files import shown
from tf_avae.records import read_record
from training.signals import StopSignals
from training.sweep.cells.declaration import AGAIN, Declaration, shard_cell
from training.sweep.cells.engine import run_cells
from training.sweep.cells.folder import SweepFolder
from training.sweep.cells.places import Place, add_place_options, check_place

_OURS = ("encoder", "out", "strict", "parts", "shards", "shard", "processes", "cluster",
         "cell_cpus", "cell_gpus", "plugin")  # fmt: skip
"""Flags of `training.evaluate` that a shard's command has not, or has another value of."""


def add_shard_options(made: Parser) -> None:
    """Adds the flags that split an evaluation."""
    made.add_argument(
        "--shards", type=int, metavar="N",
        help="do the attacks and proofs in N shards, each a command of its own [in this process]",
    )  # fmt: skip
    made.add_argument(
        "--shard", type=_shard, metavar="I/N",
        help="do the I-th of N shards alone, from a queue of your own: first 0/N, which fits the "
        "heads, then 1/N to N/N; the command without it joins them. Give all the same --parts",
    )  # fmt: skip
    made.add_argument(
        "--parts", metavar="DIR", help="where finished parts are kept and looked for [DIR/parts]"
    )
    add_place_options(made, "a core each, at most as many as shards")


def _shard(words: str) -> Shard:
    if not re.fullmatch(r"\d{1,9}/\d{1,9}", words):
        raise argparse.ArgumentTypeError(f"{words!r} is not I/N, such as 3/8")
    shard = Shard(*map(int, words.split("/")))
    if shard.number > shard.of or not shard.of:
        raise argparse.ArgumentTypeError(f"{words!r}: I must be from 0 to N, and N at least 1")
    return shard


def check_shards(arguments: argparse.Namespace) -> None:
    """Raises `InputError` for flags that make no sense; fills in the number of processes."""
    shards = arguments.shards
    if shards is not None and shards < 1:
        raise InputError(f"shards is {shards}; it must be at least 1")
    if shards and arguments.shard:
        raise InputError("--shards does all shards and --shard one; give one of them")
    for flag in ("cluster", "processes"):
        if getattr(arguments, flag) is not None and not shards:
            raise InputError(f"--{flag} is where shards run; say how many: --shards N")
    check_place(arguments)
    if arguments.cluster is None and arguments.processes is None:
        arguments.processes = min(shards or 1, os.cpu_count() or 1)


def do_shards(
    arguments: argparse.Namespace,
    folder: Path,
    parts: Path,
    place: Place,
    signals: StopSignals,
    digest: str,
) -> None:
    """Does all shards of an evaluation.

    Args:
        arguments: of the command.
        folder: of the evaluation; logs are kept in it.
        parts: where parts are kept.
        place: where commands run.
        signals: what comes is handed on to them.
        digest: of what decides the outcome, here.

    Raises:
        InputError: one failed, whose last lines are printed; or the digest is another there.
        Interrupted: a signal came.
    """
    options: dict[str, Any] = {k: v for k, v in vars(arguments).items() if k not in _OURS}
    options["parts"] = str(parts)
    # Heads are fitted once, before the shards.
    cells = [shard_cell("heads", arguments.encoder, {**options, "shard": f"0/{arguments.shards}"})]
    for number in range(1, arguments.shards + 1):
        each = {**options, "shard": f"{number}/{arguments.shards}"}
        cells.append(shard_cell(f"shard-{number}", arguments.encoder, each, "heads"))
    declaration = Declaration("shards", {"digest": digest}, tuple(cells))
    named = json.dumps(declaration.to_dict(), sort_keys=True)
    name = hashlib.sha256(named.encode()).hexdigest()[:12]
    sweep = SweepFolder.create(folder / "shards" / name, declaration)
    outcome = run_cells(sweep, cells[:1], place=place, signals=signals)
    if not outcome.failed:
        found = read_record(sweep.result("heads"), {"digest": str}, AGAIN)["digest"]
        if found != digest:
            raise InputError(
                "the encoder computes other numbers where the shards run than here, where they are "
                "joined (another processor or release?); run this command on a machine like those"
            )
        outcome = run_cells(sweep, cells, place=place, signals=signals)
    if outcome.failed or outcome.left:
        first = (outcome.failed + outcome.left)[0]
        raise InputError(
            f"{len(outcome.failed)} of {arguments.shards} shards failed, the first {first}; its "
            f"log: {shown(sweep.log(first))}. The same command tries again"
        )
    say(f"all {arguments.shards} shards are done")
