"""Tables and lines for a terminal that show names, paths and messages as the text that they are.

rich reads "[red]" in a string as a style and lets escape sequences through to the terminal. Here a
string is never more than text; what is to have a style is made by `styled`.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text


def printable(text: object, keep: str = "\n") -> str:
    """`text` with each character that a terminal may act on, but for those of `keep`, as its
    escape in Python."""
    return "".join(
        char
        if char.isprintable() or char in keep
        else char.encode("unicode_escape", "surrogatepass").decode()
        for char in str(text)
    )


def styled(text: object, style: str = "") -> Text:
    """`text` on one line in a style of rich's, such as "red"."""
    return Text(printable(text, keep=""), style)


class PlainTable(Table):
    """A table whose title and cells are text; a cell may have several lines."""

    def __init__(self, title: str | None = None, **options: Any) -> None:
        shown = None if title is None else styled(title, "table.title")
        super().__init__(title=shown, **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*map(_as_text, cells), **options)


class PlainConsole(Console):
    """A console that prints strings as text."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*map(_as_text, objects), **{"highlight": False, **options})


def _as_text(shown: Any) -> Any:
    return Text(printable(shown)) if isinstance(shown, str) else shown
