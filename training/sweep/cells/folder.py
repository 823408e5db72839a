"""A sweep's folder: its declaration, a folder for each cell, and how far each of them is.

Everything is read from files, so that several processes may work in the folder and any of them
may be killed: a cell is done when its result is there, and in work while its lock is held.
"""

import fcntl
import json
import re
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, NamedTuple

from tf_avae.config import read_json
from tf_avae.errors import InputError
from tf_avae.files import absolute, clear_drafts, exclusive, shown, write_json
from tf_avae.records import NUMBER, damage_told, read_record
from training.sweep.cells.declaration import KINDS, OPTIONS, Cell, Declaration, Measured, difference

DONE, RUNNING, READY, STOPPED, FAILED, WAITING = (
    "done", "running", "ready", "stopped", "failed", "waiting",
)  # fmt: skip

_TAIL_BYTES = 16_384

_DECLARED = {
    "sweep": str,
    "settings": dict,
    "cells": {str: {"name": str, "kind": str, "options": dict, "needs": [str], "cost": NUMBER}},
}
_NULL = type(None)
_SESSIONS = {
    "sessions": [
        {"command": [str], "started": NUMBER, "ended": (*NUMBER, _NULL), "code": (int, _NULL)}
    ]
}


class State(NamedTuple):
    """How far a cell is.

    Attributes:
        name: one of the words above.
        reason: what it waits for, or how it ended; empty where there is nothing to say.
        seconds: time spent on it so far, by all commands together.
    """

    name: str
    reason: str
    seconds: float


class Session(NamedTuple):
    """A command that worked on a cell.

    Attributes:
        command: its words.
        started: seconds since 1970.
        ended: the same; None where nobody saw it end.
        code: its exit code, negative for the signal that killed it.
    """

    command: list[str]
    started: float
    ended: float | None = None
    code: int | None = None


class SweepFolder:
    """A folder with a sweep.

    Attributes:
        path: the folder.
        declaration: what it consists of.
        cells: its cells by name.
    """

    def __init__(self, path: Path, declaration: Declaration):
        self.path = path
        self.declaration = declaration
        self.cells = {cell.name: cell for cell in declaration.cells}

    @classmethod
    def open(cls, path: str | Path) -> "SweepFolder":
        """The sweep in a folder, as it was declared.

        Raises:
            InputError: there is none, or it is damaged.
        """
        path = absolute(path)
        file = path / "sweep.json"
        if not file.is_file():
            raise InputError(f"{path} holds no sweep: it has no sweep.json")
        remedy = "begin another sweep"
        with damage_told(file, remedy):
            return cls(path, Declaration.from_dict(read_record(file, _DECLARED, remedy)))

    @classmethod
    def create(cls, path: str | Path, declaration: Declaration) -> "SweepFolder":
        """The sweep in a folder, declared there unless it already is.

        Raises:
            InputError: the folder holds another sweep, or something else, or cannot be written.
        """
        sweep = cls.planned(path, declaration)
        try:
            sweep.path.mkdir(parents=True, exist_ok=True)
            with sweep.locked():
                cls.planned(path, declaration)  # another process may have been faster
                clear_drafts(sweep.path, ".json", ".md", ".png", ".svg")
                if not (sweep.path / "sweep.json").exists():
                    write_json(sweep.path / "sweep.json", declaration.to_dict())
                for name, cell in sweep.cells.items():
                    options = sweep.folder(name) / OPTIONS
                    if not options.exists():
                        options.parent.mkdir(parents=True, exist_ok=True)
                        write_json(options, cell.options)
        except OSError as error:
            raise InputError(
                f"cannot write the sweep's folder {sweep.path}: {error.strerror or error}; "
                "give another --out"
            ) from error
        return sweep

    @classmethod
    def planned(cls, path: str | Path, declaration: Declaration) -> "SweepFolder":
        """The sweep that `create` would make or find; writes nothing.

        Raises:
            InputError: the folder holds another sweep, or something else.
        """
        path = absolute(path)
        if (path / "sweep.json").is_file():
            recorded = read_json(path / "sweep.json")
            declared = json.loads(json.dumps(declaration.to_dict()))
            found = difference(declared, recorded)
            if found:
                raise InputError(
                    f"{path} holds another sweep: here {found}; give the options it was begun "
                    "with to go on with it, or another --out"
                )
        elif path.exists() and not (path.is_dir() and all(map(_beside, path.iterdir()))):
            raise InputError(f"{path} is there and holds no sweep; give another --out")
        return cls(path, declaration)

    def locked(self) -> AbstractContextManager[None]:
        """Keeps other processes from whatever is done to the folder as a whole."""
        return exclusive(self.path / LOCK)

    # ------------------------------------------------------------------ cells

    def folder(self, name: str) -> Path:
        """The folder of a cell."""
        return self.path / "cells" / name

    def log(self, name: str) -> Path:
        """What the commands of a cell printed."""
        return self.folder(name) / "log"

    def output(self, name: str) -> Path:
        """What a cell makes."""
        return self._made(name, KINDS[self.cells[name].kind].output)

    def result(self, name: str) -> Path:
        """The file that is there once a cell is done."""
        return self._made(name, KINDS[self.cells[name].kind].result)

    def _made(self, name: str, file: str | None) -> Path:
        return self.folder(name) / (file or self.cells[name].options["path"])

    def done(self, name: str) -> bool:
        """Whether a cell is done: what its command writes whole or not at all is there."""
        result = self.result(name)
        if KINDS[self.cells[name].kind].words is None:
            return result.exists()
        return result.is_file() and result.stat().st_size > 0

    def told(self, name: str) -> list[Measured]:
        """The times that a finished cell measured of other cells' work."""
        cell = self.cells[name]
        return KINDS[cell.kind].tells(cell, self.folder(name))

    def words(self, name: str) -> list[str]:
        """The arguments of Python that begin a cell or go on with it.

        Paths are as short as they can be from the current folder: results keep the command.
        """
        cell = self.cells[name]
        words = KINDS[cell.kind].words
        assert words is not None
        needs = [Path(shown(self.output(need))) for need in cell.needs]
        return words(cell, Path(shown(self.folder(name))), needs)

    def with_needs(self, names: list[str]) -> list[Cell]:
        """Cells and all that they need, in the sweep's order."""
        wanted = set(names)
        for cell in reversed(self.declaration.cells):
            if cell.name in wanted:
                wanted |= set(cell.needs)
        return [cell for cell in self.declaration.cells if cell.name in wanted]

    def claim(self, name: str) -> IO[bytes] | None:
        """The lock of a cell, held until it is closed here and in the processes that inherited
        it; None where another process has it."""
        lock = (self.folder(name) / LOCK).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return lock

    # ------------------------------------------------------------------ how far they are

    def state(self, name: str) -> State:
        """How far a cell is."""
        cell = self.cells[name]
        sessions = self.sessions(name)
        seconds = self._seconds(name, sessions)
        if self.done(name):
            return State(DONE, "", seconds)
        if KINDS[cell.kind].words is None:
            return State(WAITING, f"for {self.output(name)}, which is not there", 0.0)
        if self._in_work(name):
            return State(RUNNING, self.last_line(name) or "starting", seconds)
        for need in cell.needs:
            if not self.done(need):
                return State(WAITING, f"for {need} ({self.state(need).name})", seconds)
        if not sessions:
            return State(READY, "", seconds)
        last = sessions[-1]
        if last.code is None or last.code in STOPPED_CODES:
            return State(STOPPED, "", seconds)
        said = self.last_line(name)
        return State(FAILED, _ending(last.code) + (f": {said}" if said else ""), seconds)

    def _in_work(self, name: str) -> bool:
        try:
            with (self.folder(name) / LOCK).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def sessions(self, name: str) -> list[Session]:
        """The commands that worked on a cell, in order."""
        path = self.folder(name) / "sessions.json"
        if not path.exists():
            return []
        kept = read_record(path, _SESSIONS, "take it away: the times that it holds are lost")
        return [Session(*(one[key] for key in Session._fields)) for one in kept["sessions"]]

    def ended(self, name: str) -> float:
        """When the last command ended that worked on a cell, in seconds since 1970; 0 where none
        did, or nobody saw it end."""
        sessions = self.sessions(name)
        return (sessions[-1].ended or 0.0) if sessions else 0.0

    def note(self, name: str, session: Session, begins: bool) -> None:
        """Notes a command that begins, or replaces the note of the last one; the caller has the
        cell's lock."""
        sessions = self.sessions(name)
        if not begins:
            sessions = sessions[:-1]
        elif sessions and sessions[-1].ended is None:
            sessions[-1] = sessions[-1]._replace(ended=self._written(name))
        values: list[dict[str, Any]] = [s._asdict() for s in [*sessions, session]]
        write_json(self.folder(name) / "sessions.json", {"sessions": values})

    def _seconds(self, name: str, sessions: list[Session]) -> float:
        total = 0.0
        for session in sessions:
            ended = session.ended
            if ended is None:
                ended = time.time() if self._in_work(name) else self._written(name)
            total += max(0.0, ended - session.started)
        return total

    def _written(self, name: str) -> float:
        """When a command was last heard of that was killed with the process that watched it."""
        return self.log(name).stat().st_mtime

    def last_lines(self, name: str, count: int) -> list[str]:
        """The last lines that a cell's last command printed, oldest first."""
        try:
            with self.log(name).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
                tail = file.read().decode(errors="replace")
        except FileNotFoundError:
            return []
        lines = [line.rstrip() for line in re.split(r"[\r\n]+", tail)]
        before = max((n for n, line in enumerate(lines, 1) if line.startswith(COMMAND)), default=0)
        return [line for line in lines[before:] if line][-count:]

    def last_line(self, name: str) -> str:
        """The last line that a cell's last command printed; empty where there is none."""
        return "".join(self.last_lines(name, 1))


LOCK = ".lock"

COMMAND = "$ "
"""What begins the line of a log that has the command that wrote the lines below."""

STOPPED_CODES = (130, 143, -2, -15)
"""Exit codes of commands that were asked to stop by SIGINT or SIGTERM; negative where that came
before they took notice of signals."""


KNOWN = "known"
"""The folder of a sweep that holds what other sweeps have measured; it may be there first."""


def _beside(path: Path) -> bool:
    """The lock, what is left of a file that was being written, or results of other sweeps."""
    return path.name.startswith(".") or path.name == KNOWN


def _ending(code: int) -> str:
    if code < 0:
        return f"killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    return f"exit code {code}" if code else "ended well, without its result"
