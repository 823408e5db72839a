"""Does the cells of a sweep, each as a process of its own, several at once if asked to."""

import os
import shlex
import signal
import subprocess
import sys
import time
from typing import IO, NamedTuple

from tf_avae import plugins
from tf_avae.console.progress import duration
from tf_avae.files import shown
from training.signals import StopSignals
from training.sweep.cells.declaration import Cell
from training.sweep.cells.folder import (
    COMMAND,
    FAILED,
    READY,
    RUNNING,
    STOPPED,
    Session,
    SweepFolder,
)
from training.sweep.cells.screen import Screen

_PAUSE = 0.3
"""Seconds between looks at processes, locks and signals."""

_LINES_OF_A_FAILURE = 12

# Becomes a command that is asked to stop once the process that began it is gone, however it went:
# a killed sweep leaves nothing behind that goes on for days. The wish outlives the change of
# program.
_TIED = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(128 + signal.SIGTERM)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


# What TensorFlow reads, for threads of an operation and operations at once, and numpy.
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")


class Outcome(NamedTuple):
    """What came of the cells that were asked for.

    Attributes:
        failed: cells whose command failed, by name.
        left: others that are not done, since they need those.
    """

    failed: list[str]
    left: list[str]


class _Work(NamedTuple):
    """A cell that this process has in work.

    Attributes:
        name: the cell's.
        process: its command.
        session: what is noted of it.
        lock: the cell's; the command has inherited it.
    """

    name: str
    process: subprocess.Popen
    session: Session
    lock: IO[bytes]


def run_cells(
    sweep: SweepFolder, cells: list[Cell], *, processes: int = 1, signals: StopSignals
) -> Outcome:
    """Does the cells that are not done, in their order as far as what they need allows.

    Other processes may do the same at the same time: a cell that one has in work is left to it,
    and its result is waited for.

    Args:
        sweep: the sweep.
        cells: of the sweep, with what they need.
        processes: how many this process has in work at once.
        signals: what comes is handed on to the commands, which save and end.

    Raises:
        Interrupted: a signal came; every command has ended.
    """
    began = time.time()
    screen = Screen(sweep, cells)
    works: list[_Work] = []
    given_up: set[str] = set()
    try:
        while signals.received is None:
            for work in [w for w in works if w.process.poll() is not None]:
                works.remove(work)
                if not _end(sweep, work, screen):
                    given_up.add(work.name)
            left = [cell.name for cell in cells if not sweep.done(cell.name)]
            states = {name: sweep.state(name) for name in left}
            for name, state in states.items():
                # Another process, begun together with this one, need not fail twice either.
                if state.name == FAILED and sweep.ended(name) >= began:
                    given_up.add(name)
            ready = [
                name
                for name, state in states.items()
                if state.name in (READY, STOPPED, FAILED) and name not in given_up
            ]
            for name in ready[: processes - len(works)]:
                begun = _begin(sweep, name, processes, screen)
                if begun is not None:
                    works.append(begun)
            if not works and not ready and RUNNING not in {s.name for s in states.values()}:
                break
            screen.update()
            time.sleep(_PAUSE)
    finally:
        _stop(sweep, works, signals.received or signal.SIGTERM, screen)
    signals.check()
    failed = [name for name, state in states.items() if state.name == FAILED or name in given_up]
    return Outcome(failed, [name for name in states if name not in failed])


def _share(processes: int) -> dict[str, str]:
    """The environment of one of several processes: it has its share of the cores, unless the
    variables are set: two on two cores make more steps with a thread each than with two each."""
    if processes == 1:
        return dict(os.environ)
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    return dict.fromkeys(_THREADS, threads) | os.environ


def _begin(sweep: SweepFolder, name: str, processes: int, screen: Screen) -> _Work | None:
    """Begins a cell, or goes on with it; None where another process has it or has done it."""
    lock = sweep.claim(name)
    if lock is None:
        return None
    if sweep.done(name):
        lock.close()
        return None
    again = bool(sweep.sessions(name))
    words = [sys.executable, *sweep.words(name), *plugins.flags()]
    session = Session(words, time.time())
    with sweep.log(name).open("ab") as log:
        # Before the log is written to, whose date tells when a killed command was last heard of.
        sweep.note(name, session, begins=True)
        log.write(f"{COMMAND}{shlex.join(words)}\n".encode(errors="surrogateescape"))
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-c", _TIED, str(os.getpid()), *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_share(processes),
            # Ctrl-C reaches a terminal's whole foreground, and a second one ends the saving.
            start_new_session=True,
            # The lock is held until the command has ended, whatever becomes of this process.
            pass_fds=[lock.fileno()],
        )
    screen.event(f"{name}: {'goes on' if again else 'begins'}; log: {shown(sweep.log(name))}")
    return _Work(name, process, session, lock)


def _end(sweep: SweepFolder, work: _Work, screen: Screen) -> bool:
    """Notes how a command ended, and says it. Whether the cell is done."""
    code = work.process.wait()
    session = work.session._replace(ended=time.time(), code=code)
    sweep.note(work.name, session, begins=False)
    work.lock.close()
    state = sweep.state(work.name)
    if sweep.done(work.name):
        screen.event(f"{work.name}: done in {duration(state.seconds)}")
        return True
    screen.event(f"{work.name}: {state.name}")
    if state.name == FAILED:
        lines = sweep.last_lines(work.name, _LINES_OF_A_FAILURE)
        screen.event("\n".join([*(f"  | {line}" for line in lines), f"  {state.reason}"]))
    return False


def _stop(sweep: SweepFolder, works: list[_Work], signum: int, screen: Screen) -> None:
    """Hands a signal on to the commands and waits until they have saved and ended."""
    if works:
        screen.event(f"stopping {', '.join(work.name for work in works)}")
    for work in works:
        work.process.send_signal(signum)
    for work in works:
        _end(sweep, work, screen)
