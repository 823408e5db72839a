"""What it saves to leave out of an encoder's graph what the embedding does not need.

`python -m benchmarks.frozen models/encoder [models/conv ...]` times the embedding of a batch, and
its gradient with respect to the images, through the whole signature and through the embedding
alone, in turn, in compiled functions. Prints a Markdown table; `--json FILE` keeps what it was made
from, `--from FILE` makes it again.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pairing
from tf_avae.backend import tf
from tf_avae.console.commands import Parser, run_command
from tf_avae.errors import InputError
from tf_avae.graphs.saved_models import SavedModel
from tf_avae.saved.frozen import load_encoder
from tf_avae.types import Images, Tensor
from training.rates import Steps, paired_rates, time_factor

_IMAGES, _ROUNDS, _SECONDS = 64, 7, 1.0
_WHOLE, _ALONE = "signature", "embedding alone"


def measure(path: str) -> dict[str, Any]:
    """Ratios of times, the whole signature's over the embedding's, by what is computed."""
    saved, layer = SavedModel(path), load_encoder(path, outputs=("embedding",))
    shape = (_IMAGES, *saved.inputs("serving_default")["image"].shape[1:])
    images = tf.constant(np.random.default_rng(0).uniform(size=shape).astype(np.float32))
    embeds: dict[str, Callable[[Images], Tensor]] = {
        _WHOLE: lambda x: saved.call("serving_default", image=x)["embedding"],
        _ALONE: lambda x: layer(x)["embedding"],
    }
    return {
        "model": Path(path).name,
        "forward": _ratio({name: tf.function(embed) for name, embed in embeds.items()}, images),
        "gradient": _ratio({n: tf.function(_gradient(e)) for n, e in embeds.items()}, images),
    }


def _gradient(embed: Callable[[Images], Tensor]) -> Callable[[Images], Tensor]:
    def gradient(x: Images) -> Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(tf.square(embed(x)))
        return tape.gradient(total, x)

    return gradient


def _ratio(functions: dict[str, Callable[[Images], Tensor]], images: Images) -> dict[str, float]:
    def calls(function: Callable[[Images], Tensor]) -> Steps:
        def run(count: int) -> int:
            for _ in range(count):
                function(images).numpy()
            return count

        return run

    timed = {name: calls(function) for name, function in functions.items()}
    return time_factor(paired_rates(timed, rounds=_ROUNDS, seconds=_SECONDS), _WHOLE, _ALONE)


def markdown(results: dict[str, Any]) -> str:
    """A row for each model."""
    lines = ["| encoder | embeddings | their gradient |", "|---|---:|---:|"]
    for row in results["models"]:
        cells = (
            f"{row[what]['value']:.1f} ({row[what]['low']:.1f} to {row[what]['high']:.1f})"
            for what in ("forward", "gradient")
        )
        lines.append(f"| `{row['model']}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = Parser(prog="python -m benchmarks.frozen", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="*", metavar="PATH", help="exported models")
    pairing.add_files(parser)
    return run_command(lambda: parser, argv, _main)


def _main(given: argparse.Namespace) -> int:
    if bool(given.model) == bool(given.source):
        raise InputError("give exported models, such as models/encoder, or --from FILE")

    def measured() -> dict[str, Any]:
        return {"models": [measure(path) for path in given.model], "images": _IMAGES}

    return pairing.report(given, measured, markdown)


if __name__ == "__main__":
    sys.exit(main())
