"""A cell in work: its command as a process, noted in the folder, which holds the cell's lock."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO

from training.sweep.cells.folder import COMMAND, Session, SweepFolder

PAUSE = 0.3
"""Seconds between looks at processes, locks and signals."""

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


class Work:
    """A cell that a process of this one works on.

    Args:
        sweep: the sweep.
        name: the cell's.
        process: its command.
        session: what is noted of it.
        lock: the cell's; the command has inherited it.
    """

    def __init__(
        self,
        sweep: SweepFolder,
        name: str,
        process: subprocess.Popen,
        session: Session,
        lock: IO[bytes],
    ):
        self._sweep, self._name, self._process = sweep, name, process
        self._session, self._lock = session, lock

    def over(self) -> bool:
        """Whether the command has ended."""
        return self._process.poll() is not None

    def stop(self, signum: int) -> None:
        """Hands a signal on to the command, which saves and ends."""
        self._process.send_signal(signum)

    def end(self) -> str:
        """Waits for the command and notes how it ended; "": all that there is to say is noted."""
        code = self._process.wait()
        session = self._session._replace(ended=time.time(), code=code)
        self._sweep.note(self._name, session, begins=False)
        self._lock.close()
        return ""


def begin(
    sweep: SweepFolder,
    name: str,
    *,
    threads: int | None,
    flags: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> Work | None:
    """Begins a cell, or goes on with it; None where another process has it or has done it.

    Args:
        sweep: the sweep.
        name: the cell's.
        threads: of the command, unless variables of the environment say how many; None for as
            many as there are cores.
        flags: of the command, beside the cell's own.
        environment: variables of the command, beside those of this process.
    """
    lock = sweep.claim(name)
    if lock is None:
        return None
    if sweep.done(name):
        lock.close()
        return None
    words = [sys.executable, *sweep.words(name), *flags]
    session = Session(words, time.time())
    limits = dict.fromkeys(_THREADS, str(threads)) if threads else {}
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
            env=limits | os.environ | dict(environment or {}),
            # Ctrl-C reaches a terminal's whole foreground, and a second one ends the saving.
            start_new_session=True,
            # The lock is held until the command has ended, whatever becomes of this process.
            pass_fds=[lock.fileno()],
        )
    return Work(sweep, name, process, session, lock)
