"""The errors that a user of the package is meant to see, and the messages of others."""

from collections.abc import Iterable


class InputError(ValueError):
    """A value that cannot be used. The message names the value, the limit and the remedy."""


class NotInstalled(InputError, ModuleNotFoundError):
    """Something that the work needs is not installed. The message names the remedy."""


class TrainingDiverged(RuntimeError):
    """A term of the bound stopped being a finite number."""


class ProofContradicted(RuntimeError):
    """An attack broke what bounds had proved to be safe: one of the two is wrong."""


def reason(error: Exception) -> str:
    """The line of an error's message that gives the reason: inside a graph, it is the last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if lines[0].startswith("in user code") else lines[0]


def first_few(values: Iterable[object], most: int = 10, separator: str = ", ") -> str:
    """Values in a message: the first of them, and how many more there are."""
    words = list(map(str, values))
    more = f" and {len(words) - most:,} more" if len(words) > most else ""
    return separator.join(words[:most]) + more
