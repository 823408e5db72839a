"""How the figures of the theory pages look, and how they are kept."""

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tf_avae.files import write_bytes

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
"""Of the palette of Okabe and Ito, which readers with any colour vision tell apart; lines differ
in their dashes or markers too."""

_DPI = 110


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def title(axes: Axes, text: str) -> None:
    """A panel's title, on the left."""
    axes.set_title(text, fontsize=9.5, loc="left")


def tidy(axes: Axes, x: str, y: str) -> None:
    """Labels, and no frame where it says nothing."""
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Writes name.png and name.svg; the same figure gives the same bytes."""
    for suffix in ("png", "svg"):
        buffer = io.BytesIO()
        metadata = {"Date": None} if suffix == "svg" else None
        with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            figure.savefig(buffer, format=suffix, metadata=metadata)
        write_bytes(folder / f"{name}.{suffix}", buffer.getvalue())
