"""Cases in processes of their own, ours and other libraries', told in turn to work.

One process works at a time, on all cores; the others wait, and keep what they have compiled. So
ratios are of times a round apart, and the peak memory of a case is that of its process.
"""

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tf_avae.config import read_json
from tf_avae.console.commands import Parser
from tf_avae.console.printing import answer, note
from tf_avae.errors import InputError
from tf_avae.files import absolute, write_json
from tf_avae.provenance import accelerators, provenance
from tf_avae.records import damage_told
from tf_avae.registry import Registry
from training.rates import Steps, time_factor

ROOT = Path(__file__).parent.parent
CORES = len(os.sched_getaffinity(0))

_LIMIT = 600.0  # seconds for one answer
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Peer:
    """Another library, or ours.

    Attributes:
        name: the row's name.
        summary: for `--help`.
        module: what `peers.worker` runs.
        environment: folder of the virtual environment that has it; None for this one.
        archs: the architectures it is compared on.
    """

    name: str
    summary: str
    module: str
    environment: str | None
    archs: tuple[str, ...]


class Left(Exception):
    """A case that is left out, and why, in a few words."""


class Worker:
    """A process that has prepared its cases; see `benchmarks/peers/worker.py`.

    Starts at once; `ready` waits until it can be told to work.

    Args:
        python: the interpreter.
        module: what it runs.
        settings: JSON values.
        path: folders to import from before others.
    """

    def __init__(
        self, python: Path, module: str, settings: dict[str, Any], path: Iterable[Path] = ()
    ):
        self.cases: tuple[str, ...] = ()
        self.about = ""
        self._module = module
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        threads = {f"{library}_NUM_THREADS": str(CORES) for library in ("OMP", "OPENBLAS", "MKL")}
        folders = os.pathsep.join(map(str, (*path, ROOT, _HERE)))
        self._process = subprocess.Popen(
            [python, "-P", "-m", "peers.worker", module],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, encoding="utf-8",
            env=os.environ | threads | {"PYTHONPATH": folders},
        )  # fmt: skip
        self._say(settings)

    def ready(self) -> None:
        """Waits until it has prepared its cases.

        Raises:
            Left: a library that it needs is absent, or it failed.
        """
        answer = self._answer()
        self.cases, self.about = tuple(answer["cases"]), answer["about"]

    def steps(self, case: str, each: int = 1) -> Steps:
        """Makes steps of a case, so many at once, and waits for them."""

        def run(steps: int) -> int:
            whole = -(-steps // each) * each
            self._say({"run": case, "steps": whole})
            self._answer()
            return whole

        return run

    def result(self) -> np.ndarray:
        """What came of the steps it made last."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.npy"
            self._say({"save": str(path)})
            self._answer()
            return np.load(path)

    def peak(self) -> int:
        """The most memory it had so far, in bytes."""
        return resident(self._process.pid)["peak"]

    def now(self) -> int:
        """The memory it has, in bytes."""
        return resident(self._process.pid)["now"]

    def close(self) -> None:
        """Ends it, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what it no longer reads
                    pipe.close()

    def _say(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer says that it has ended
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        waiting, _, _ = select.select([self._process.stdout], [], [], _LIMIT)
        if not waiting:
            self.close()
            raise Left(f"no answer in {_LIMIT:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines() or [""]
            raise Left(f"ended with {code}: {said[-1]}")
        answer = json.loads(line)
        if "absent" in answer:
            note(f"{self._module}: {answer['absent']}")
            raise Left("absent")
        if "failed" in answer:
            raise Left(answer["failed"].splitlines()[0])
        return answer


class Workers(contextlib.ExitStack):
    """The processes of a benchmark, all ended with the block.

    Args:
        environments: the folder that holds the peers' environments.

    Attributes:
        left: what is left out, and why.
        about: what does the work, by name.
    """

    def __init__(self, environments: Path):
        super().__init__()
        self.environments = environments
        self.left: dict[str, str] = {}
        self.about: dict[str, str] = {}
        self._started: dict[str, Worker] = {}

    def start(
        self, name: str, peer: Peer, settings: dict[str, Any], path: Iterable[Path] = ()
    ) -> None:
        """Starts the process of a case, or notes why it is left out."""
        python = Path(sys.executable)
        if peer.environment is not None:
            python = self.environments / peer.environment / "bin" / "python"
        if not python.is_file():
            self.left[name] = "absent"
            return
        worker = Worker(python, peer.module, settings | {"threads": CORES}, path)
        self.callback(worker.close)
        self._started[name] = worker

    def ready(self, need: Callable[[str], bool]) -> dict[str, Worker]:
        """The processes that are ready to work.

        Args:
            need: which of them must not be left out.

        Raises:
            InputError: one of those is.
        """
        found = {}
        for name, worker in self._started.items():
            try:
                worker.ready()
            except Left as why:
                if need(name):
                    raise InputError(f"{name}: {why}") from why
                self.left[name] = str(why)
            else:
                found[name] = worker
                self.about[name] = worker.about
        return found


def resident(process: int) -> dict[str, int]:
    """The memory of a process, in bytes: "now", and at its "peak"."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    lines = dict(line.split(":", 1) for line in status.splitlines())
    keys = {"peak": "VmHWM", "now": "VmRSS"}
    return {name: int(lines[key].split()[0]) * 1024 for name, key in keys.items()}


def device() -> str:
    """What TensorFlow computes on: the graphics processors, or the cores of which processor."""
    if names := accelerators():
        return ", ".join(names)
    lines = [
        line.split(":", 1)
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line
    ]
    model = next((value.strip() for key, value in lines if key.strip() == "model name"), "unknown")
    return f"{CORES} cores, {model}"


def ratios(rates: dict[str, list[float]], name: str, over: str) -> dict[str, float]:
    """How many times as fast one is as another: median, least and most of the rounds'."""
    return time_factor(rates, over, name)


def shown(ratio: dict[str, float] | None) -> str:
    """A median with its least and most, as a cell of a table."""
    if ratio is None:
        return ""
    return f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def megabytes(size: int) -> str:
    """Bytes as a cell of a table."""
    return f"{size / 1e6:,.0f}"


def rows_of(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table, its figures to the right."""
    heads = list(heads)
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def add_options(parser: Parser, rounds: int, seconds: float, peers: Iterable[str] = ()) -> None:
    """The options that the benchmarks share."""
    parser.add_argument("--rounds", type=int, default=rounds, metavar="N", help=f"[{rounds}]")
    parser.add_argument(
        "--seconds", type=float, default=seconds, metavar="X",
        help=f"per case and round, about [{seconds:g}]",
    )  # fmt: skip
    if peers:
        parser.add_argument(
            "--against", nargs="*", metavar="PEER",
            help=f"compare with other libraries: {', '.join(peers)}; none named: all of them. "
            "`make bench-peers` installs them; what is absent is left out",
        )  # fmt: skip
        parser.add_argument(
            "--environments", type=absolute, default=ROOT, metavar="DIR",
            help="where their virtual environments are [the checkout]",
        )  # fmt: skip
    add_files(parser)


def add_files(parser: Parser) -> None:
    """The options of what keeps figures and prints a table of them."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep the figures")
    parser.add_argument(
        "--from", dest="source", metavar="FILE", help="only print the table of kept figures"
    )


def check_options(given: argparse.Namespace) -> None:
    """Raises `InputError` for a number out of range."""
    if given.rounds < 1:
        raise InputError(f"rounds is {given.rounds}; it must be at least 1")
    if not 0 < given.seconds <= _LIMIT / 2:
        raise InputError(
            f"seconds is {given.seconds:g}; it must be above 0 and at most {_LIMIT / 2:g}"
        )


def report(
    given: argparse.Namespace,
    measure: Callable[[], dict[str, Any]],
    markdown: Callable[[dict[str, Any]], str],
) -> int:
    """Prints the table of kept figures, or measures them, and keeps them where asked.

    Raises:
        InputError: there are no such figures.
    """
    if given.source:
        found = read_json(given.source)
        with damage_told(given.source, "measure again"):
            text = markdown(found)
    else:
        found = measure() | provenance()
        text = markdown(found)
    if given.json:
        write_json(given.json, found)
    answer(text)
    return 0


def asked(names: list[str] | None, peers: Registry[Peer]) -> list[str]:
    """The peers that `--against` stands for: none where it was not given, all where it names none.

    Raises:
        InputError: there is no such peer.
    """
    if names is None:
        return []
    return [peers[name].name for name in names] or list(peers)
