"""What a sweep shows while it runs: how many cells are done, what each says, how much is left."""

import re
import shutil
import sys
import time
from typing import NamedTuple

from tf_avae.console.printing import say
from tf_avae.console.progress import StatusLine, duration
from training.sweep.cells.declaration import Cell, Measured
from training.sweep.cells.folder import DONE, RUNNING, State, SweepFolder

_TIME_LEFT = re.compile(r"(?:steps/s\s+|  )((?:\d+:)?\d+:\d\d) left(?: at most|  )")
"""How `training.fit` and `training.evaluate` word it, unlike the reading of data before."""


class Estimate(NamedTuple):
    """How long the rest of a sweep takes.

    Attributes:
        seconds: of each cell that is not done and can be told, by name.
        unknown: the others: nothing of their kind has been measured.
    """

    seconds: dict[str, float]
    unknown: list[str]

    def words(self, at_once: int) -> str:
        """The whole in words, with so many cells in work at once, each as fast as one alone."""
        if self.unknown and not self.seconds:
            return "time left not yet known"
        longest = max(self.seconds.values(), default=0.0)
        total = duration(max(longest, sum(self.seconds.values()) / at_once))
        if self.unknown:
            return f"{total} left, and {len(self.unknown)} cells not yet measured"
        return f"about {total} left"


def estimate(sweep: SweepFolder, cells: list[Cell], states: dict[str, State]) -> Estimate:
    """How long cells that are not done take: as they say themselves, or else at the rate of what
    has been measured of their kind, of those whose options differ from theirs in the fewest
    places.

    Args:
        sweep: the sweep.
        cells: those asked for.
        states: of all cells of the sweep.
    """
    said = {
        name: _seconds(words[1])
        for name, state in states.items()
        if state.name == RUNNING and (words := _TIME_LEFT.search(state.reason))
    }
    measured: list[Measured] = []
    for cell in sweep.declaration.cells:
        name, state = cell.name, states[cell.name]
        if state.name == DONE or name in said:
            seconds = state.seconds + said.get(name, 0.0)
            measured.append(Measured(cell.kind, cell.options, seconds, cell.cost))
        if state.name == DONE:
            measured += sweep.told(name)
    found: dict[str, float] = {}
    unknown = []
    for cell in cells:
        state, rate = states[cell.name], _rate(cell, measured)
        if state.name == DONE:
            continue
        if cell.name in said:
            found[cell.name] = said[cell.name]
        elif rate:
            found[cell.name] = max(0.0, cell.cost * rate - state.seconds)
        else:
            unknown.append(cell.name)
    return Estimate(found, unknown)


def _rate(cell: Cell, measured: list[Measured]) -> float:
    """Seconds per unit of cost of what is most like a cell; 0 where nothing is."""
    alike: dict[int, list[Measured]] = {}
    for one in measured:
        if one.kind == cell.kind and one.seconds and one.cost:
            keys = {*cell.options, *one.options}
            apart = sum(cell.options.get(key) != one.options.get(key) for key in keys)
            alike.setdefault(apart, []).append(one)
    if not alike:
        return 0.0
    nearest = alike[min(alike)]
    return sum(one.seconds for one in nearest) / sum(one.cost for one in nearest)


def _seconds(words: str) -> float:
    """What `duration` was given."""
    total = 0
    for part in words.split(":"):
        total = 60 * total + int(part)
    return float(total)


class Screen:
    """Lines for events, and one line that says where the sweep is.

    On a terminal that line is rewritten; in a log it is added every ten seconds.

    Args:
        sweep: the sweep.
        cells: those asked for.
    """

    def __init__(self, sweep: SweepFolder, cells: list[Cell]):
        self._sweep, self._cells = sweep, cells
        self._line = StatusLine(say, sys.stdout, 0.5)
        self._shown = time.monotonic()

    def event(self, line: str) -> None:
        """A line that stays."""
        self._line.show(line, stays=True)

    def update(self) -> None:
        """Shows where the sweep is, if it is time to."""
        now = time.monotonic()
        if now - self._shown < self._line.pause:
            return
        self._shown = now
        line = self.line()
        if self._line.terminal:
            line = line[: shutil.get_terminal_size().columns - 1]
        self._line.show(line)

    def line(self) -> str:
        """Where the sweep is: cells done, time left, and the last line of each in work."""
        states = {c.name: self._sweep.state(c.name) for c in self._sweep.declaration.cells}
        running = [c.name for c in self._cells if states[c.name].name == RUNNING]
        done = sum(states[cell.name].name == DONE for cell in self._cells)
        left = estimate(self._sweep, self._cells, states)
        said = [f"{name}: {states[name].reason}" for name in running]
        lead = f"{done} of {len(self._cells)} done, {left.words(max(1, len(running)))}"
        return " | ".join([lead, *said])
