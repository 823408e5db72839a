"""The progress of long work: how much is done, how fast, and how much time is left."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from tf_avae.console.printing import note


def duration(seconds: float) -> str:
    """Seconds as minutes and seconds, with hours where there are any."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class StatusLine:
    """A line of progress: rewritten on a terminal, added to anything else.

    Args:
        write: shows a text and what ends it.
        stream: where that goes.
        pause: seconds between two of them on a terminal.

    Attributes:
        terminal: whether it is one.
        pause: seconds between two of them; ten in a log.
    """

    def __init__(self, write: Callable[[str, str], None], stream: TextIO | None, pause: float):
        self._write = write
        self.terminal = stream is not None and stream.isatty()
        self.pause = pause if self.terminal else 10.0

    def show(self, text: str, stays: bool = False) -> None:
        """Shows the line; one that stays is not written over."""
        lead = "\r\x1b[2K" if self.terminal else ""
        self._write(lead + text, "\n" if stays or not self.terminal else "")


class Counter:
    """The progress of work on a number of items.

    On a terminal one line is rewritten five times a second; in a log a line is added every ten
    seconds. Work that is over sooner shows none.

    Args:
        what: the work, as the line's first words.
        total: number of items; None where it is not known beforehand.
    """

    def __init__(self, what: str, total: int | None):
        self.what = what
        self.total = total
        self._line = StatusLine(note, sys.stderr, 0.2)
        self._start = self._shown = time.monotonic()

    def update(self, done: int) -> None:
        """Shows the line if it is time to.

        Args:
            done: number of items that are finished.
        """
        now = time.monotonic()
        ended = done == self.total and self._shown > self._start
        if now - self._shown < self._line.pause and not ended:
            return
        self._shown = now
        rate = done / (now - self._start)
        if self.total is None:
            self._line.show(f"{self.what} {done:,}  {rate:,.1f}/s")
            return
        left = f"  {duration((self.total - done) / rate)} left" if done else ""
        self._line.show(f"{self.what} {done:,}/{self.total:,}  {rate:,.1f}/s{left}", ended)
