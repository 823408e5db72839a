"""How figures look, and how they become bytes: charts, and sheets of images."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_avae.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:  # matplotlib is imported when something is drawn
    Axes = Figure = Any

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
SKY, GOLD = "#56B4E9", "#E69F00"
"""Of the palette of Okabe and Ito, which readers with any colour vision tell apart; lines differ
in their dashes or markers too."""

_DPI = 110
_SHEET_DPI = 150
_INCHES_PER_IMAGE = 0.62
_LABEL_INCHES = 1.75
_LEGEND_INCHES, _INCHES_PER_LETTER = 0.7, 0.06  # of an entry of 8 points: its mark, and its label


def new_figure(width: float, height: float, dpi: int = _DPI) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: neither as mathematics nor, in a legend, not at all."""
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def title(axes: Axes, text: str) -> None:
    """A panel's title, on the left."""
    axes.set_title(plain(text), fontsize=9.5, loc="left")


def tidy(axes: Axes, x: str, y: str) -> None:
    """Labels, and no frame where it says nothing."""
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure, columns: int, **options: Any) -> None:
    """One legend for all panels, under them, with each label once, in at most so many columns, and
    no more than the figure is wide."""
    shown: dict[str, Any] = {}
    for panel in figure.axes:
        handles, labels = panel.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    if shown:
        width = _LEGEND_INCHES + max(map(len, shown)) * _INCHES_PER_LETTER
        columns = max(1, min(columns, len(shown), int(figure.get_figwidth() / width)))
        figure.legend(handles=list(shown.values()), labels=list(shown), ncols=columns,
                      loc="outside lower center", fontsize=8, frameon=False,
                      **options)  # fmt: skip


def rendered(figure: Figure, suffix: str, name: str = "") -> bytes:
    """The figure as a file of type "png" or "svg"; the same figure gives the same bytes.

    Args:
        name: salt of the identifiers inside an SVG, for pages that hold several.
    """
    import matplotlib as mpl

    buffer = io.BytesIO()
    metadata = {"Date": None} if suffix == "svg" else None
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format=suffix, metadata=metadata)
    return buffer.getvalue()


def save(figure: Figure, folder: Path, name: str) -> None:
    """Writes name.png and name.svg."""
    for suffix in ("png", "svg"):
        write_bytes(folder / f"{name}.{suffix}", rendered(figure, suffix, name))


def sheet(
    rows: dict[str, np.ndarray],
    heading: str,
    words: Mapping[str, Sequence[tuple[str, bool]]] | None = None,
) -> bytes:
    """A PNG with one named row of images per entry.

    Args:
        rows: name to images [N, H, W, C] in [0, 1] (clipped), C being 1 or 3; all of one shape.
        heading: what the picture shows.
        words: by the name of a row, what stands in the corner of each of its images, and whether
            that is right; what is wrong is red.
    """
    tiles = [np.clip(np.asarray(images), 0.0, 1.0) for images in rows.values()]
    count, height, width, channels = tiles[0].shape
    gap = max(1, height // 14)
    canvas = np.ones((len(tiles) * (height + gap) - gap, count * (width + gap) - gap, channels))
    for r, images in enumerate(tiles):
        for c, image in enumerate(images):
            top, left = r * (height + gap), c * (width + gap)
            canvas[top : top + height, left : left + width] = image
    figure = new_figure(
        _LABEL_INCHES + count * _INCHES_PER_IMAGE,
        0.45 + len(tiles) * _INCHES_PER_IMAGE * height / width,
        _SHEET_DPI,
    )
    axes = figure.add_subplot()
    picture = canvas[..., 0] if channels == 1 else canvas
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([r * (height + gap) + (height - 1) / 2 for r in range(len(tiles))], list(rows))
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.set_title(plain(heading), fontsize=10, loc="left")
    for r, name in enumerate(rows):
        for c, (word, right) in enumerate((words or {}).get(name, ())):
            axes.text(c * (width + gap) + 0.5, r * (height + gap), plain(word), color="white",
                      fontsize=7.5, weight="bold", va="top",
                      bbox={"color": "black" if right else "#C00000", "pad": 0.8})  # fmt: skip
    return rendered(figure, "png")


def stacked(images: Sequence[np.ndarray]) -> bytes:
    """A PNG of images under one another, a pixel a pixel, with clear gaps and no words.

    Args:
        images: [H, W, C] in [0, 1] (clipped), C being 1 or 3; all of one shape.
    """
    from PIL import Image

    height, width, _ = images[0].shape
    gap = max(1, height // 14)
    canvas = np.zeros((len(images) * (height + gap) - gap, width, 4), np.uint8)
    for number, image in enumerate(images):
        tile = canvas[number * (height + gap) :][:height]
        tile[..., :3] = np.round(255 * np.clip(image, 0.0, 1.0))
        tile[..., 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG")
    return buffer.getvalue()


def scaled_change(change: np.ndarray) -> np.ndarray:
    """Changes of images as images: grey where there is none, the largest at black or white."""
    change = np.asarray(change)
    return 0.5 + 0.5 * change / max(np.abs(change).max(), 1e-6)
