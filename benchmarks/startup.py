"""How long commands take to say what they do, and to begin it.

`python -m benchmarks.startup` asks each command for its `--help` and prints a Markdown table of the
processor time that this takes, user's and system's, beside that of Python alone: the median of the
rounds, with the least and the most. The same of a training to its first step, and of an evaluation
to its first images. The exit code is 1 where help takes over a second.
`--json FILE` keeps what the table was made from, `--from FILE` makes it again.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import pairing
from tf_avae.console.commands import Parser, run_command
from tf_avae.errors import InputError
from training.rates import spread

COMMANDS = (
    *(f"training.{name}" for name in ("fit", "robustify", "evaluate", "compare", "classify")),
    *(f"training.{name}" for name in ("demo", "draw_faces", "sweep", "theory", "leaderboard")),
    *(f"serving.{name}" for name in ("export", "server", "client", "bulk")),
)
"""What is asked for its help."""

MOST = 1.0
"""Seconds of processor time that help may take."""

FIRST = {
    "training.fit": (["--algo", "vae", "--log-every", "1", "--run-dir", "{}/run"], "vae 1/"),
    "training.evaluate": (["colormnist-robust", "--out", "{}/evaluation"], "encoding"),
}
"""Commands whose work is begun: their words, and what the first line says that tells of it."""

_PYTHON = "Python alone"


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The processor time of each command, all of them in each round."""
    if given.rounds < 1:
        raise InputError(f"rounds is {given.rounds}; it must be at least 1")
    words = {_PYTHON: ["-c", "pass"]} | {name: ["-m", name, "--help"] for name in COMMANDS}
    for of in words.values():
        _seconds(of)  # what is read is in the system's memory from here on, and compiled
    seconds: dict[str, list[float]] = {name: [] for name in words}
    for _ in range(given.rounds):
        for name, of in words.items():
            seconds[name].append(_seconds(of))
    first: dict[str, list[float]] = {name: [] for name in FIRST}
    for _ in range(given.rounds):
        for name, (words_of, mark) in FIRST.items():
            first[name].append(_until(["-m", name, *words_of], mark))
    return {
        "seconds": seconds, "first": first, "rounds": given.rounds, "device": pairing.device()
    }  # fmt: skip


def _until(words: list[str], mark: str) -> float:
    """The processor time of a process of Python until it prints a line with a mark; "{}" in a word
    is an empty folder.

    Raises:
        InputError: it ended without.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-u", *(word.replace("{}", folder) for word in words)],
            cwd=pairing.ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )  # fmt: skip
        assert process.stdout is not None
        try:
            if not any(mark in line for line in process.stdout):
                raise InputError(f"{' '.join(words)} ended without {mark!r}; mend it first")
            values = (
                Path(f"/proc/{process.pid}/stat")
                .read_text(encoding="utf-8")
                .rpartition(")")[2]
                .split()
            )
            return sum(map(int, values[11:13])) / os.sysconf("SC_CLK_TCK")
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _seconds(words: list[str]) -> float:
    """The processor time of a process of Python, user's and system's.

    Raises:
        InputError: it failed.
    """
    process = subprocess.Popen(
        [sys.executable, *words], cwd=pairing.ROOT, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"{' '.join(words)} ended with {process.returncode}; mend it first")
    return used.ru_utime + used.ru_stime


def markdown(found: dict[str, Any]) -> str:
    """A row for each command."""
    rows = [
        [name if name == _PYTHON else f"`{name}`", pairing.shown(spread(seconds))]
        for name, seconds in found["seconds"].items()
    ]
    head = f"Rounds: {found['rounds']}; {found['device']}."
    first = [[f"`{name}`", pairing.shown(spread(of))] for name, of in found["first"].items()]
    tables = (
        pairing.rows_of([heading, "processor time, s"], lines)
        for heading, lines in (("`--help` of", rows), ("work begins of", first))
    )
    return "\n\n".join([head, *tables])


def slow(found: dict[str, Any]) -> list[str]:
    """The commands that take longer than they may."""
    return [name for name, of in found["seconds"].items() if spread(of)["value"] > MOST]


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    summary = (__doc__ or "").split("\n")[0]
    parser = Parser(prog="python -m benchmarks.startup", description=summary)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="[5]")
    pairing.add_files(parser)
    return run_command(lambda: parser, argv, _report)


def _report(given: argparse.Namespace) -> int:
    measured: dict[str, Any] = {}

    def keep(found: dict[str, Any]) -> str:
        measured.update(found)
        return markdown(found)

    pairing.report(given, lambda: measure(given), keep)
    return int(bool(slow(measured)))


if __name__ == "__main__":
    sys.exit(main())
