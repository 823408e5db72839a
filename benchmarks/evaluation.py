"""How much `worst_case` saves over the naive loop, for the same worst-case accuracy.

`python -m benchmarks.evaluation RUN` attacks the first images through a linear probe with the
paper's PGD (40 steps, 10 restarts) in three ways, in turn in one process: `worst_case`; every
restart on every image in a compiled graph; and the same without a compiled graph, on fewer images.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tf_avae.attacks import cross_entropy, margin, pgd
from tf_avae.backend import tf
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import answer
from tf_avae.datasets import DATASETS
from tf_avae.errors import InputError
from tf_avae.evaluation import BUDGETS, worst_case
from tf_avae.evaluation.batches import in_batches
from tf_avae.evaluation.trial_graphs import Headed
from tf_avae.files import write_json
from tf_avae.probes import HEADS
from tf_avae.provenance import provenance
from tf_avae.saved.encoders import open_encoder

_STEPS, _RESTARTS, _BATCH = 40, 10, 500

Way = Callable[[int, float], float]
"""(number of images, radius) to worst-case accuracy."""


def naive(
    classify: Callable, images: np.ndarray, labels: np.ndarray, epsilon: float, compiled: bool
) -> float:
    """Worst-case accuracy: every restart on every image."""

    def attack(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        def loss(candidate: tf.Tensor) -> tuple:
            logits = classify(candidate)
            return cross_entropy(logits, y), margin(logits, y)

        return classify(pgd(loss, x, epsilon=epsilon, steps=_STEPS, seed=seed))

    run = tf.function(attack) if compiled else attack
    stands = np.ones(len(images), bool)
    for restart in range(_RESTARTS):
        logits = in_batches(run, images, labels, batch_size=_BATCH, seed=restart)
        stands &= logits.argmax(1) == labels
    return float(stands.mean())


def probed(
    run: str | Path, task: str, count: int, training: int | None = None, head: str = "linear",
    trust: bool = False,
) -> tuple:  # fmt: skip
    """The classifier of a task over an encoder, its probe, and the first test images with their
    labels: columns of the logits.

    Args:
        run: what `open_encoder` opens.
        task: a label of ColorMNIST.
        count: of test images.
        training: batches of 500 training images to fit the probe on; all unless given.
        head: a row of `HEADS`.
        trust: as `open_encoder`.

    Raises:
        InputError: there is no such encoder, task or head, or not as many test images.
    """
    fit = HEADS[head].fit
    data = DATASETS["color_mnist"].open()
    known = data.train_images(1).element_spec[1]
    if task not in known:
        raise InputError(f"task is {task!r}; choose one of: {', '.join(sorted(known))}")
    if not 1 <= count <= data.held_out_size:
        raise InputError(f"images is {count}; it must be from 1 to {data.held_out_size:,}")
    encoder = open_encoder(run, trust=trust)
    labelled = data.train_images(500).take(training or -1)
    train = [(encoder.embed(x).numpy(), y[task].numpy()) for x, y in labelled]
    embeddings, classes = zip(*train, strict=True)
    probe = fit(np.concatenate(embeddings), np.concatenate(classes), 0).probe
    images, labels = next(iter(data.held_out(count)))

    return Headed(encoder.embed, probe), probe, images.numpy(), probe.columns(labels[task].numpy())


def main(argv: list[str] | None = None) -> int:
    """Prints a table, and writes it as JSON where asked."""
    parser = Parser(
        prog="python -m benchmarks.evaluation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("run", help="a run, a SavedModel or a Keras model")
    parser.add_argument("--task", default="digit")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--eager-images", type=int, default=500)
    parser.add_argument("--epsilon", type=float, nargs="+", default=[0.02, 0.1])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return run_command(lambda: parser, argv, _measure)


def _measure(arguments: argparse.Namespace) -> int:
    classify, _, images, labels = probed(arguments.run, arguments.task, arguments.images)

    def ours(count: int, epsilon: float) -> float:
        found = worst_case(
            classify, images[:count], labels[:count], epsilon=epsilon, budget=BUDGETS["paper"],
            batch_size=_BATCH,
        )  # fmt: skip
        return float(found.survived.mean())

    ways: dict[str, tuple[int, Way]] = {
        "worst_case": (len(images), ours),
        "naive, compiled": (
            len(images), lambda n, e: naive(classify, images[:n], labels[:n], e, compiled=True),
        ),
        "naive, eager": (
            arguments.eager_images,
            lambda n, e: naive(classify, images[:n], labels[:n], e, compiled=False),
        ),
    }  # fmt: skip
    rows = [
        {"epsilon": epsilon, "way": name, **_timed(way, count, epsilon)}
        for epsilon in arguments.epsilon
        for name, (count, way) in ways.items()
    ]
    answer(f"{'ε':>5}  {'':16} {'images':>7} {'accuracy %':>11} {'ms/image':>9} {'ratio':>7}")
    for row in rows:
        base = next(r for r in rows if r["epsilon"] == row["epsilon"])
        ratio = row["milliseconds_per_image"] / base["milliseconds_per_image"]
        answer(
            f"{row['epsilon']:5g}  {row['way']:16} {row['images']:7,} "
            f"{100 * row['accuracy']:11.2f} {row['milliseconds_per_image']:9.2f} {ratio:7.1f}"
        )
    if arguments.json:
        write_json(arguments.json, {"rows": rows, **provenance()})
    return 0


def _timed(way: Way, count: int, epsilon: float) -> dict[str, Any]:
    start = time.perf_counter()
    accuracy = way(count, epsilon)
    seconds = time.perf_counter() - start
    return {"images": count, "accuracy": accuracy, "milliseconds_per_image": 1e3 * seconds / count}


if __name__ == "__main__":
    sys.exit(main())
