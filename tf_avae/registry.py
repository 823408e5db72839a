"""Named rows: the one way a name on a command line becomes an object."""

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from tf_avae import plugins
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
    """An ordered mapping from names to rows, to which rows can be added and none taken away.

    Args:
        kind: what a row is called in an error message, for example "objective".
        rows: the rows, in the order in which they are shown to a user.
        row_type: what rows are, where there is none to begin with.

    Raises:
        InputError: from a look-up, for a name that is not there.
        ValueError: two rows have the same name.
    """

    def __init__(self, kind: str, *rows: Row, row_type: type[Row] | None = None):
        self.kind = kind
        self._row_type: Any = row_type or type(rows[0])
        self._rows: dict[str, Row] = {}
        self._plugins: dict[str, str] = {}
        for row in rows:
            self.register(row)

    def register(self, row: Row) -> Row:
        """Adds a row, which it returns. A plugin (`tf_avae.plugins`) calls this.

        Raises:
            TypeError: it is no such row.
            ValueError: there is a row of that name, or a file cannot have it.
        """
        if not isinstance(row, self._row_type):
            raise TypeError(f"{row!r} is no {self._row_type.__name__}: no {self.kind} can be so")
        if not (isinstance(row.name, str) and re.fullmatch(r"\w([\w .-]{0,62}[\w.-])?", row.name)):
            raise ValueError(
                f"{self.kind} is called {row.name!r}; a name has at most 64 letters, digits, '_', "
                "'-', '.' and spaces within, and begins with a letter or a digit: it names files"
            )
        if row.name in self._rows:
            raise ValueError(f"{self.kind} {row.name!r} is there already; give another name")
        plugin = plugins.note(sys._getframe(1).f_globals["__name__"])
        if plugin:
            self._plugins[row.name] = plugin
        self._rows[row.name] = row
        return row

    def plugin(self, name: str) -> str | None:
        """The plugin that registered a row; None for rows of this package."""
        return self._plugins.get(name)

    def __getitem__(self, name: str) -> Row:
        return self.find(name)

    def find(self, name: str, made_with: Iterable[str] = ()) -> Row:
        """The row of a name.

        Args:
            name: the row's.
            made_with: the plugins that what names it was made with.

        Raises:
            InputError: there is none; the error names the plugins that are not loaded.
        """
        if name not in self._rows:
            plugins.load_installed()
        if name not in self._rows:
            error = unknown(self.kind, name, list(self._rows))
            raise InputError(f"{error}{plugins.remedy(made_with)}")
        return self._rows[name]

    def row(self, given: Row | str) -> Row:
        """What is given, where it is a row (of these or of one's own), or the row of that name.

        Raises:
            InputError: it is neither.
        """
        if isinstance(given, str):
            return self[given]
        if not isinstance(given, self._row_type):
            raise unknown(self.kind, given, list(self._rows))
        return given

    def name(self, row: Row) -> str:
        """The name that `row` finds this row by, for a file.

        Raises:
            InputError: none does.
        """
        if self._rows.get(row.name) != row:
            raise InputError(
                f"{self.kind} {row.name!r} is not registered, and a file or a copy only names it; "
                "register it first, as by OBJECTIVES.register(row), and where it is loaded too"
            )
        return row.name

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
