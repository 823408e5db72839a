"""What bounds of an encoder cost beside a forward pass through it.

`python -m benchmarks.bounds [--arch conv ...]` makes, of random images, the embeddings, boxes that
hold the embeddings of all images near them, and what a linear head of ten classes says of those, in
turn, in compiled functions; the time does not depend on the weights, so they are the initial ones.
Prints a Markdown table of ratios to the forward pass, and by how much the memory of a process grows
over five times as many images, batch by batch; `--json FILE` keeps what it was made from,
`--from FILE` makes it again.
"""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import pairing
from benchmarks.counts import SHAPES
from tf_avae.backend import keras, tf
from tf_avae.bounds import Bounds, ball, lead
from tf_avae.console.commands import Parser, run_command
from tf_avae.evaluation.proofs import ALL_LAYERS
from tf_avae.networks import ARCHITECTURES
from tf_avae.types import Images, Tensor
from training.rates import Steps, paired_rates

_IMAGES, _BATCH, _CLASSES, _EPSILON = 1_000, 100, 10, 0.1
_ROUNDS, _SECONDS = 5, 2.0
_FORWARD = "forward pass"


def cases(arch: str) -> dict[str, Callable[[Images], Tensor]]:
    """What is timed, by name: functions of a batch of images."""
    encoder = ARCHITECTURES[arch].encoder(SHAPES[arch], 64)
    embedding = encoder.output["embedding"]
    boxes = Bounds(keras.Model(encoder.inputs, {"embedding": embedding}))
    logits = keras.layers.Dense(_CLASSES, dtype="float32", name="logits")(embedding)
    headed = Bounds(keras.Model(encoder.inputs, logits))
    labels = tf.zeros([_BATCH], tf.int32)

    def box(images: Images, outward: bool) -> Tensor:
        found = boxes(ball(images, _EPSILON, outward=outward), outward=outward)["embedding"]
        return found.lower + found.upper

    def proof(images: Images, relaxed: int) -> Tensor:
        return lead(headed, ball(images, _EPSILON), labels, _CLASSES, relaxed=relaxed)

    found: dict[str, Callable[[Images], Tensor]] = {
        _FORWARD: lambda x: encoder(x, training=False)["embedding"],
        "boxes": lambda x: box(x, outward=False),
        "boxes, outward": lambda x: box(x, outward=True),
        "head, interval": lambda x: proof(x, 0),
        "head, crown": lambda x: proof(x, ALL_LAYERS),
    }
    spec = tf.TensorSpec([_BATCH, *SHAPES[arch]], tf.float32)
    return {name: tf.function(of, input_signature=[spec]) for name, of in found.items()}


def measure(arch: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Rates, in passes over all images a second, and how much memory grows, in bytes, by case."""
    drawn = np.random.default_rng(0).uniform(size=(_IMAGES, *SHAPES[arch]))
    batches = [tf.constant(part, tf.float32) for part in np.split(drawn, _IMAGES // _BATCH)]

    def passes(function: Callable[[Images], Tensor]) -> Steps:
        def run(count: int) -> int:
            for _ in range(count):
                for images in batches:
                    function(images).numpy()
            return count

        return run

    timed = {name: passes(of) for name, of in cases(arch).items()}
    grown = {}
    for name, run in timed.items():
        run(1)
        before = pairing.resident(os.getpid())["now"]
        run(5)
        grown[name] = pairing.resident(os.getpid())["now"] - before
    rates = paired_rates(timed, rounds=rounds, seconds=seconds)
    return {"arch": arch, "rates": rates, "grown": grown}


def markdown(results: dict[str, Any]) -> str:
    """A row for each architecture, a column for each case."""
    names = [name for name in results["archs"][0]["rates"] if name != _FORWARD]
    rows = []
    for found in results["archs"]:
        over = (pairing.shown(pairing.ratios(found["rates"], _FORWARD, name)) for name in names)
        most = max(found["grown"].values())
        rows.append([f"`{found['arch']}`", *over, pairing.megabytes(most)])
    return pairing.rows_of(["time over a forward pass", *names, "memory grew by, MB"], rows)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = Parser(prog="python -m benchmarks.bounds", description=(__doc__ or "").split("\n")[0])
    archs = ["mlp", "shallow", "wide", "conv"]
    parser.add_argument("--arch", nargs="+", choices=list(SHAPES), default=archs)
    pairing.add_options(parser, _ROUNDS, _SECONDS)
    return run_command(lambda: parser, argv, _main)


def _main(given: argparse.Namespace) -> int:
    pairing.check_options(given)

    def measured() -> dict[str, Any]:
        return {
            "images": _IMAGES, "batch": _BATCH, "epsilon": _EPSILON, "device": pairing.device(),
            "archs": [measure(arch, given.rounds, given.seconds) for arch in given.arch],
        }  # fmt: skip

    return pairing.report(given, measured, markdown)


if __name__ == "__main__":
    sys.exit(main())
