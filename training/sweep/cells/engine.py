"""Does the cells of a sweep, several at once, wherever they are placed."""

import signal
import time
from typing import NamedTuple

from tf_avae.console.progress import duration
from tf_avae.files import shown
from training.signals import StopSignals
from training.sweep.cells.declaration import Cell
from training.sweep.cells.folder import FAILED, READY, RUNNING, STOPPED, SweepFolder
from training.sweep.cells.places import Begun, Place
from training.sweep.cells.screen import Screen
from training.sweep.cells.work import PAUSE

_LINES_OF_A_FAILURE = 12


class Outcome(NamedTuple):
    """What came of the cells that were asked for.

    Attributes:
        failed: cells whose command failed, by name.
        left: others that are not done, since they need those.
    """

    failed: list[str]
    left: list[str]


def run_cells(
    sweep: SweepFolder, cells: list[Cell], *, place: Place, signals: StopSignals
) -> Outcome:
    """Does the cells that are not done, in their order as far as what they need allows.

    Other processes may do the same at the same time: a cell that one has in work is left to it,
    and its result is waited for.

    Args:
        sweep: the sweep.
        cells: of the sweep, with what they need.
        place: where their commands run.
        signals: what comes is handed on to the commands, which save and end.

    Raises:
        Interrupted: a signal came; every command has ended.
    """
    began = time.time()
    screen = Screen(sweep, cells)
    works: dict[str, Begun] = {}
    given_up: set[str] = set()
    try:
        while signals.received is None:
            for name in [name for name, work in works.items() if work.over()]:
                if not _end(sweep, name, works.pop(name), screen):
                    given_up.add(name)
            left = [cell.name for cell in cells if not sweep.done(cell.name)]
            states = {name: sweep.state(name) for name in left}
            for name, state in states.items():
                # Another process, begun together with this one, need not fail twice either.
                if state.name == FAILED and sweep.ended(name) >= began:
                    given_up.add(name)
            ready = [
                name
                for name, state in states.items()
                if state.name in (READY, STOPPED, FAILED) and name not in {*given_up, *works}
            ]
            for name in ready[: place.at_once - len(works)]:
                again = bool(sweep.sessions(name))
                begun = place.begin(sweep, name)
                if begun is not None:
                    works[name] = begun
                    how = "is queued" if place.queues else "goes on" if again else "begins"
                    screen.event(f"{name}: {how}; log: {shown(sweep.log(name))}")
            if not works and not ready and RUNNING not in {s.name for s in states.values()}:
                break
            screen.update()
            time.sleep(PAUSE)
    finally:
        _stop(sweep, works, signals.received or signal.SIGTERM, screen)
    signals.check()
    failed = [name for name, state in states.items() if state.name == FAILED or name in given_up]
    return Outcome(failed, [name for name in states if name not in failed])


def _end(sweep: SweepFolder, name: str, work: Begun, screen: Screen) -> bool:
    """Says how work ended. Whether the cell is done, or another process's."""
    said = work.end()
    state = sweep.state(name)
    if sweep.done(name):
        screen.event(f"{name}: done in {duration(state.seconds)}")
        return True
    screen.event(f"{name}: {state.name}" + (f": {said}" if said else ""))
    if state.name == FAILED:
        lines = sweep.last_lines(name, _LINES_OF_A_FAILURE)
        screen.event("\n".join([*(f"  | {line}" for line in lines), f"  {state.reason}"]))
    return state.name == RUNNING


def _stop(sweep: SweepFolder, works: dict[str, Begun], signum: int, screen: Screen) -> None:
    """Hands a signal on to the commands and waits until they have saved and ended."""
    if works:
        screen.event(f"stopping {', '.join(works)}")
    for work in works.values():
        work.stop(signum)
    for name, work in works.items():
        _end(sweep, name, work, screen)
