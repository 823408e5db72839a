"""What a section of an evaluation is, and the registry of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tf_avae.registry import Registry

NO_TASKS = "there is no label that a head can be fitted to and measured by"

NO_GRADIENTS = (
    "no gradients, which attacks follow: its robustness is not known; evaluate what it was made of"
)


class Piece(NamedTuple):
    """A piece of a section's work that a process can do alone.

    Attributes:
        work: its key in the planned work.
        do: makes parts of it and keeps them; the section finds them.
    """

    work: tuple
    do: Callable[[], object]


@dataclass(frozen=True)
class Section:
    """One thing that is measured.

    Attributes:
        name: its key in the result.
        summary: for `--help` and the docs.
        measure: an `EvaluatedEncoder` to JSON values.
        lacks: what the encoder lacks for it, in words; None if nothing.
        of_tasks: whether it looks through heads, so that there must be a label to measure.
        by_gradients: whether it attacks along gradients of the encoder, so that it must have them.
        pieces: an `EvaluatedEncoder` to the work of which it consists that can be done elsewhere;
            None if none can.
    """

    name: str
    summary: str
    measure: Callable[[Any], dict[str, Any]]
    lacks: Callable[[Any], str | None] = lambda evaluated: None
    of_tasks: bool = False
    by_gradients: bool = False
    pieces: Callable[[Any], list[Piece]] | None = None

    def cannot(self, evaluated: Any) -> str | None:
        """Why it cannot be measured; None if it can."""
        if self.of_tasks and not evaluated.tasks:
            return NO_TASKS
        if self.by_gradients and not evaluated.encoder.gradients:
            return NO_GRADIENTS
        return self.lacks(evaluated)


SECTIONS: Registry[Section] = Registry("section", row_type=Section)
"""The sections, in the order of a result. `tf_avae.evaluation.sections` registers those that are
here: they read settings, and settings name them."""
