"""Draws an archive in CelebA's format: `python -m training.draw_faces DIR`."""

import argparse
import io
import sys

import numpy as np

from tf_avae.config import check
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import say
from tf_avae.datasets.celeb_a.dataset import open_celeb_a
from tf_avae.datasets.drawn_faces.archive import draw_celeb_a
from tf_avae.files import absolute, shown, write_bytes
from tf_avae.plots import new_figure, rendered, title

_COLUMNS, _ROWS = 6, 3  # of tasks on the sheet
_INCHES, _DPI = 1.75, 100  # of a pair of faces, about twice their size
_COLORS = 256
_LOOKED_AT = 1000  # faces, at most: each class of each task is among them


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m training.draw_faces",
        description="Draws faces whose attributes can be seen, in CelebA's official files, for "
        "trying --dataset celeb_a without the photographs.",
    )
    made.add_argument("folder", metavar="DIR", help="where to write the three files")
    made.add_argument("--images", type=int, default=600, metavar="N", help="how many [600]")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="decides everything [0]")
    made.add_argument(
        "--sheet", metavar="FILE", help="a PNG of faces with and without what each task asks for"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(parser, argv, _draw)


def _draw(arguments: argparse.Namespace) -> int:
    check(seed=arguments.seed)
    folder = absolute(arguments.folder)
    draw_celeb_a(folder, arguments.images, arguments.seed)
    say(f"drawn: {arguments.images:,} faces in {shown(folder)}")
    if arguments.sheet:
        path = absolute(arguments.sheet)
        write_bytes(path, sheet(str(folder)))
        say(f"sheet: {shown(path)}")
    return 0


def sheet(folder: str) -> bytes:
    """A PNG with two faces of an archive for each task, as models see them: one of class 1, one of
    class 0."""
    from PIL import Image

    data = open_celeb_a(folder)
    images, labels = next(iter(data.train_images(min(data.train_size, _LOOKED_AT))))
    figure = new_figure(_COLUMNS * _INCHES, _ROWS * (_INCHES / 2 + 0.25), _DPI)
    panels = figure.subplots(_ROWS, _COLUMNS).flat
    for number, (axes, task) in enumerate(zip(panels, data.tasks, strict=False)):
        # Of each class one, and for each task other ones as long as there are any.
        classes = [np.flatnonzero(labels[task] == present) for present in (1, 0)]
        pair = [found[number % len(found)] for found in classes]
        axes.imshow(np.concatenate(images.numpy()[pair], axis=1))
        title(axes, f"{task}: {' | '.join(reversed(data.class_names[task]))}")
    for axes in figure.axes:
        axes.set_axis_off()
    # A palette suffices for drawings, and makes a small file.
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(rendered(figure, "png"))) as opened:
        picture = opened.convert("RGB")
    palette = picture.quantize(_COLORS, kmeans=2)
    picture.quantize(_COLORS, palette=palette).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
