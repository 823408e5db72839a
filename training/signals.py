"""Signals that ask work to stop, and work that gives the same numbers each time."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from tf_avae.backend import private, tf
from tf_avae.console.commands import handling


class Interrupted(Exception):
    """The user, or the system, asked the run to stop; its state is saved.

    Attributes:
        signum: the signal.
    """

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


_ONE_WISH = 0.25
"""Seconds for which signals are the same wish as the one before: Linux tells of a dead parent
once for every thread that it had, within milliseconds."""


class StopSignals:
    """Notes the first SIGINT or SIGTERM of a block, so that the step can be finished; a second one
    is left to the system, unless it comes with the first. Afterwards the handlers are restored.

    A thread receives no signals; there a block runs to its end.

    Attributes:
        received: the signal.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers = contextlib.ExitStack()

    def __enter__(self) -> "StopSignals":
        self._handlers.enter_context(handling(dict.fromkeys(_STOP, self._note)))
        return self

    def __exit__(self, *error: object) -> None:
        self._handlers.close()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        ours = [number for number in _STOP if signal.getsignal(number) == self._note]
        for number in ours:
            signal.signal(number, signal.SIG_IGN)
        # Not print: the signal may have come in the middle of one.
        with contextlib.suppress(OSError):
            os.write(2, b"\nfinishing the step and saving; once more to stop at once\n")
        time.sleep(_ONE_WISH)
        for number in ours:
            signal.signal(number, signal.SIG_DFL)

    def check(self) -> None:
        """Raises `Interrupted` after a signal."""
        if self.received is not None:
            raise Interrupted(self.received)


_STOP = (signal.SIGINT, signal.SIGTERM)

_lock = threading.Lock()
_before: list[bool] = []
"""Whether ops were deterministic before each block that is under way."""


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Makes ops that could differ from run to run raise within the block, or take their
    reproducible form. It holds for the whole process, so until the last of several blocks ends."""
    with _lock:
        _before.append(private.is_op_determinism_enabled())
        tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        with _lock:
            first = _before[0]
            _before.pop()
            if not _before and not first:
                private.disable_op_determinism()
