"""Pieces of a page of HTML: words, tables, pictures."""

import base64
import html
from typing import Any

from tf_avae.evaluation.table import Cell
from tf_avae.plots import Figure, rendered


def safe(words: Any) -> str:
    """Words, escaped."""
    return html.escape(str(words))


def cell(shown: Cell | str) -> str:
    """A cell of a table, with its interval and what stands beside."""
    if isinstance(shown, str):
        return f"<td>{safe(shown)}</td>"
    interval = f" <small>[{safe(shown.interval)}]</small>" if shown.interval else ""
    beside = f" / {safe(shown.beside)}" if shown.beside else ""
    return f"<td>{safe(shown.text)}{interval}{beside}</td>"


def row(*cells: Cell | str) -> str:
    """A row of a table."""
    return f"<tr>{''.join(map(cell, cells))}</tr>"


def table(heads: list[str], rows: list[str], kind: str = "") -> str:
    """A table of rows, HTML, in a box of its own that scrolls where it is too wide."""
    head = "".join(f'<th scope="col">{safe(word)}</th>' for word in heads)
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def details(summary: str, content: str, *, opened: bool = False) -> str:
    """Content, HTML, that is folded under a line."""
    start = "<details open>" if opened else "<details>"
    return f"{start}<summary>{safe(summary)}</summary>{content}</details>"


def picture(content: bytes, kind: str, alt: str, *caption: str) -> str:
    """An image with lines beneath it."""
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    below = "<br>".join(map(safe, caption))
    return (
        f'<figure><img src="{source}" alt="{safe(alt)}"><figcaption>{below}</figcaption></figure>'
    )


def charts(captioned: list[tuple[Figure, str]]) -> str:
    """Charts beside one another, each with its caption."""
    shown = [
        picture(rendered(figure, "svg", caption), "svg+xml", caption, caption)
        for figure, caption in captioned
    ]
    return f'<div class="charts">{"".join(shown)}</div>'
