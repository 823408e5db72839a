"""The page, drawn by Gradio: nothing of it comes from elsewhere, and it tells nobody of itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tf_avae.datasets.color_mnist.dataset import COLORS
from tf_avae.datasets.color_mnist.idx import Split
from tf_avae.errors import InputError
from tf_avae.evaluation.markup import picture, safe
from tf_avae.plots import scaled_change, stacked
from training.demo.digits import coloured, drawn, picked
from training.demo.readers import (
    AIMS,
    ATTACKED,
    FIRST,
    MOST,
    STARTS,
    STEP,
    STEPS,
    Reader,
    Seen,
    View,
)

if TYPE_CHECKING:
    import fastapi

_TITLE = "One attack, two encoders"

_FIRST_DIGIT, _FIRST_EPSILON = 7, 0.1

_PICKED, _DRAWN = "picked", "drawn"

_CANVAS, _BRUSH = 280, 22
_NARROW = 280  # pixels: of two columns that would be narrower, one goes under the other
_MOST_BYTES = "1mb"
_MOST_PIXELS = 4_000_000  # of a drawing; Pillow refuses images of twice as many
_MOST_WAITING = 20  # questions that wait for an answer
_LOOPBACK = ["127.0.0.1", "localhost"]
_ANY = "0.0.0.0"
_KEPT_SECONDS = 600  # of drawings that browsers have sent

_EXPLAINED = f"""
Two encoders look at the same small image, and a linear head on each says which digit it is, and
which colour. The attack knows encoder and head. It may change each pixel value by at most ε (values
go from 0 to 1), and follows the gradient to where the head says another digit: {STEPS} steps (PGD)
from each of {STARTS} random points.
"""

_MEANT = """
- **Changed**: the search found an image within ε of which the head says another digit. It is shown.
- **Not changed**: this search found none. Another may: what survives attacks is an upper bound.
- **Proven**: bounds (CROWN) of encoder and head show that of no image within ε, found or not, the
  head says another digit. No attack can change it. That the digit is right, it does not say.
- **The change** is scaled: grey where there is none, and the largest is black or white.
- **The target** is a digit that the head shall say, or none: then any other will do. A longer
  search, the budget `strong`, takes some ten seconds.
"""


def answer(
    readers: Sequence[Reader], gray: np.ndarray, colour: str, epsilon: float, aim: str
) -> str:
    """What the page shows of an attack, HTML.

    Args:
        readers: what is attacked.
        gray: grey levels uint8 [28, 28].
        colour: a row of `COLORS`.
        epsilon, aim: those of `Reader.look`.

    Raises:
        InputError: as `coloured` and `Reader.look`.
    """
    image = coloured(gray, colour)
    sections = [_section(reader.look(image, epsilon, aim)) for reader in readers]
    return f'<div class="seen">{"".join(sections)}</div>'


def _section(seen: Seen) -> str:
    before, after = seen.before, seen.after
    change = scaled_change(after.image - before.image)
    shown: tuple[tuple[np.ndarray, list[str]], ...] = (
        (before.image, ["as it is", *_said(before)]),
        (after.image, ["attacked", *_said(after)]),
        (change, ["the change, scaled"]),
        (before.decoded, ["decoded, as it is"]),
        (after.decoded, ["decoded, attacked"]),
    )
    pictures = "".join(
        picture(stacked([image]), "png", f"{seen.name}: {words[0]}", *words)
        for image, words in shown
    )
    kind, verdict = _verdict(seen)
    radius = (
        f"Proven up to ε {seen.radius:g}{' or more' if seen.radius >= MOST else ''}."
        if seen.radius > 0
        else f"Nothing is proven, not even at ε {STEP:g}."
    )
    return (
        f'<section><h3>{safe(seen.name)}</h3><p><span class="verdict {kind}">{safe(verdict)}</span>'
        f' {safe(radius)}</p><div class="pictures">{pictures}</div></section>'
    )


def _said(view: View) -> list[str]:
    return [
        f"{'colour' if task == 'color' else task} {reading.name}: {reading.probability:.1%}"
        for task, reading in view.readings.items()
    ]


def _verdict(seen: Seen) -> tuple[str, str]:
    """The verdict's class of CSS, and its words."""
    said, now = (view.readings[ATTACKED].name for view in (seen.before, seen.after))
    if not seen.epsilon:
        return "stands", f"ε is 0, so nothing changes: {said}"
    if seen.changed:
        return "changed", f"Changed: {said} to {now}"
    if seen.proven:
        return "proven", f"Proven at ε {seen.epsilon:g}: stays {said}"
    return "stands", f"Not changed by this search: {said}"


def page(readers: Sequence[Reader], split: Split) -> Any:
    """The page, Gradio's `Blocks`.

    Args:
        readers: what is attacked, from left to right.
        split: the digits to pick from.
    """
    import gradio as gr

    def answered(source: str, digit: int, number: int, sketch: dict | None, *rest: Any) -> str:
        try:
            gray = picked(split, digit, number) if source == _PICKED else drawn(_ink(sketch))
            return answer(readers, gray, *rest)
        except InputError as error:
            return f'<p class="refused" role="alert">{safe(error)}</p>'

    with gr.Blocks(
        title=_TITLE, analytics_enabled=False, delete_cache=(_KEPT_SECONDS, _KEPT_SECONDS)
    ) as made:
        source, number = gr.State(_PICKED), gr.State(0)
        gr.Markdown(f"# {_TITLE}\n{_EXPLAINED}", elem_classes="explained")
        with gr.Row():
            with gr.Column(scale=2, min_width=_NARROW):
                with gr.Tabs():
                    with gr.Tab("Pick") as pick:
                        digit = gr.Radio(list(range(10)), value=_FIRST_DIGIT, label="digit")
                        another = gr.Button("another image of it", size="sm")
                    with gr.Tab("Draw") as draw:
                        # On a ground the pen writes at once; without, it has to be chosen first.
                        sketch = gr.Sketchpad(
                            np.full((_CANVAS, _CANVAS, 3), 255, np.uint8),
                            label="one digit, large", canvas_size=(_CANVAS, _CANVAS),
                            fixed_canvas=True, layers=False, transforms=(), buttons=[],
                            brush=gr.Brush(_BRUSH, ["#000000"], "#000000", "fixed"),
                        )  # fmt: skip
                colour = gr.Radio(list(COLORS), value=COLORS[-1], label="colour")
            # Beside what it changes, on a narrow screen too.
            with gr.Column(scale=5, min_width=_NARROW):
                with gr.Row():
                    epsilon = gr.Slider(
                        0, MOST, value=_FIRST_EPSILON, step=STEP, label="ε", min_width=_NARROW
                    )
                    aim = gr.Dropdown(
                        list(AIMS), value=FIRST, label="the attack's target", min_width=_NARROW
                    )
                seen = gr.HTML()
        gr.Markdown(_MEANT, elem_classes="explained")
        given = [source, digit, number, sketch, colour, epsilon, aim]
        another.click(lambda n: n + 1, number, number, queue=False, **_QUIET)
        for tab, name in ((pick, _PICKED), (draw, _DRAWN)):
            tab.select(lambda name=name: name, None, source, queue=False, **_QUIET)
        asks = [made.load, sketch.input, *(of.change for of in given if of is not sketch)]
        gr.on(asks, answered, given, seen, trigger_mode="always_last", **_QUIET)
    return made


_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def _ink(sketch: dict | None) -> np.ndarray | None:
    """Where a sketch was drawn on, [H, W] uint8: what of its layers is not transparent."""
    layers = [np.asarray(layer)[..., 3] for layer in (sketch or {}).get("layers") or []]
    return np.max(layers, axis=0) if layers else None


def application(made: Any, host: str = _ANY) -> fastapi.FastAPI:
    """The page as an application of the web.

    Args:
        made: from `page`.
        host: where it listens; of one that is this machine alone, requests for another are refused.
    """
    import fastapi
    import gradio as gr
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    # Without, Gradio takes any path of this machine that a request names for an upload.
    made.has_launched = True
    made.queue(api_open=False, max_size=_MOST_WAITING, default_concurrency_limit=1)
    Image.MAX_IMAGE_PIXELS = _MOST_PIXELS

    system = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    text, code = ([gr.themes.Font(name) for name in names] for names in system)
    # Its own pages would take scripts from elsewhere.
    app = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    if host in _LOOPBACK:
        # A page of elsewhere could have its own name lead here.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK)
    return gr.mount_gradio_app(
        app, made, "/", show_error=False, theme=gr.themes.Default(font=text, font_mono=code),
        css_paths=[Path(__file__).parent / "page.css"], footer_links=[], run_history=False,
        ssr_mode=False, mcp_server=False, enable_monitoring=False, pwa=False,
        max_file_size=_MOST_BYTES,
    )  # fmt: skip
