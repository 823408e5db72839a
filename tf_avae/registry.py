"""Named rows: the one way a name on a command line becomes an object."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from tf_avae.errors import InputError


class Named(Protocol):
    """Anything with a name can be a row."""

    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=Named)


def unknown(kind: str, name: object, known: list[str]) -> InputError:
    """The error for a name that is not in a list of names."""
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return InputError(f"unknown {kind} {name!r}{hint}; choose one of: {', '.join(known)}")


class Registry(Mapping[str, Row], Generic[Row]):
    """An ordered, read-only mapping from names to rows.

    Args:
        kind: what a row is called in an error message, for example "objective".
        rows: the rows, in the order in which they are shown to a user.

    Raises:
        InputError: from a look-up, for a name that is not there.
        ValueError: two rows have the same name.
    """

    def __init__(self, kind: str, *rows: Row):
        self.kind = kind
        self._rows = {row.name: row for row in rows}
        if len(self._rows) != len(rows):
            raise ValueError(f"two rows of the {kind} registry have the same name")

    def __getitem__(self, name: str) -> Row:
        if name not in self._rows:
            raise unknown(self.kind, name, list(self._rows))
        return self._rows[name]

    def row(self, given: Row | str) -> Row:
        """What is given, where it is a row (of these or of one's own), or the row of that name.

        Raises:
            InputError: it is neither.
        """
        if isinstance(given, str):
            return self[given]
        if not isinstance(given, type(next(iter(self._rows.values())))):
            raise unknown(self.kind, given, list(self._rows))
        return given

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
