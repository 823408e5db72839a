"""Our bounds beside auto_LiRPA's: of the same network and images, number by number.

    python -m benchmarks.bounds_check export ENCODER --epsilon 0.1 --images 20 --to bounds.npz
    .venv-bench/bin/python -m benchmarks.bounds_check compare bounds.npz

The first writes network, images and our bounds. The second rebuilds the network in PyTorch, in the
environment of `make bench-peers` with auto_LiRPA beside (docs/dependencies.md says how), and exits
with 1 where the bounds differ. ENCODER may be `tiny`: a small network with weights of a seed, whose
bounds tests/data/bounds.json keeps.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cross_check import check_target, read, run_half, write
from tf_avae.backend import keras
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import answer
from tf_avae.errors import InputError
from tf_avae.files import write_json
from tf_avae.provenance import session, source_commit

_CLASSES = 10
_ALLOWED = 1e-5
"""How far bounds may differ, as a share of the largest."""


def tiny() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """A network with all kinds of layers that are compared, images and a head, of one seed."""
    layers, rng = keras.layers, np.random.default_rng(13)
    images = keras.Input((6, 6, 2), dtype="float32")
    x = layers.Conv2D(3, 3, strides=2, padding="same", use_bias=False, dtype="float32")(images)
    x = layers.ReLU(dtype="float32")(layers.BatchNormalization(dtype="float32")(x))
    x = layers.Flatten(dtype="float32")(x)
    x = layers.Dense(8, activation="relu", dtype="float32")(x)
    model = keras.Model(images, {"embedding": layers.Dense(2, dtype="float32")(x)})
    for weight in model.weights:
        value = rng.normal(0, 0.4, weight.shape)
        weight.assign(rng.uniform(0.5, 2, weight.shape) if "variance" in weight.path else value)
    head = rng.normal(size=(2, 3)).astype(np.float32)
    return model, rng.uniform(size=(3, 6, 6, 2)).astype(np.float32), head


def bounds_of(
    network: keras.Model, images: np.ndarray, head: np.ndarray, epsilon: float
) -> dict[str, np.ndarray]:
    """Our bounds of an embedding and of linear functions of it.

    Args:
        network: with an output "embedding", [B, D].
        images: [B, H, W, C] in [0, 1].
        head: [D, K].
        epsilon: radius of the L-infinity ball.

    Returns:
        "lower" and "upper", [B, D], of intervals; least values of the head, [B, K]: "folded" into
        the last layer, and "crown_ibp", by linear relaxations back to the input.
    """
    from tf_avae.bounds import Bounds, ball

    bounds, box = Bounds(network), ball(images, epsilon)
    embedding = bounds(box)["embedding"]
    found = {"lower": embedding.lower, "upper": embedding.upper}
    for name, relaxed in (("folded", 0), ("crown_ibp", 10**6)):
        found[name] = bounds.least(box, head.T, relaxed=relaxed)
    return {name: value.numpy() for name, value in found.items()}


def _export(given: argparse.Namespace) -> int:
    from benchmarks.network_file import arrays_of
    from tf_avae.datasets import DATASETS
    from tf_avae.probes import Probe
    from tf_avae.saved.layers import keras_encoder

    check_target(given.to)
    if given.run == "tiny":
        network, images, head = tiny()
    else:
        network, rng = keras_encoder(given.run), np.random.default_rng(0)
        data = DATASETS["color_mnist"].open()
        if not 1 <= given.images <= data.held_out_size:
            raise InputError(f"images is {given.images}; it must be 1 to {data.held_out_size:,}")
        images = next(iter(data.held_out(given.images)))[0].numpy()
        head = rng.normal(size=(network.output["embedding"].shape[-1], _CLASSES))
        head = head.astype(np.float32)
    embedding = network(images, training=False)["embedding"].numpy()
    nothing = np.zeros(len(head), np.float32), np.ones(len(head), np.float32)
    probe = Probe(*nothing, ((head, np.zeros(head.shape[1], np.float32)),))
    ours = bounds_of(network, images, head, given.epsilon)
    notes = {"encoder": Path(given.run).name, "epsilon": given.epsilon, "images": len(images)}
    write(given.to, {
        **arrays_of(network, probe), "images": images, "labels": np.zeros(len(images), int),
        "logits": embedding @ head, "head": head, "notes": np.array(json.dumps(notes)),
        **{f"ours.{name}": value for name, value in ours.items()},
    })  # fmt: skip
    answer(f"{given.to}: bounds of {len(images)} images in balls of {given.epsilon:g}")
    return 0


def _compare(given: argparse.Namespace) -> int:
    from benchmarks.peers import auto_lirpa, torch_network

    began = session()
    arrays, notes = read(given.file)
    theirs = auto_lirpa.bounds(
        torch_network.load(str(given.file)), arrays["head"], notes["epsilon"]
    )
    apart = {}
    for name, value in theirs.items():
        ours, largest = arrays[f"ours.{name}"], float(np.abs(value).max())
        apart[name] = float(np.abs(ours - value).max()) / largest
        answer(f"{name:10} of {largest:9.3g} differ by {apart[name]:.1e} of that")
    answer(f"{auto_lirpa.about()}.")
    if given.json:
        write_json(given.json, {
            **notes, "bounds": {n: value.astype(float).tolist() for n, value in theirs.items()},
            "library": auto_lirpa.about(), **began, "commit": source_commit(),
        })  # fmt: skip
    return int(not max(apart.values()) <= _ALLOWED)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks.bounds_check", description=(__doc__ or "").split("\n")[0]
    )
    halves: Any = parser.add_subparsers(required=True, metavar="COMMAND")
    export = halves.add_parser("export", help="compute our bounds, and write a file")
    export.add_argument("run", help="a run, a SavedModel, a Keras model, colormnist-robust or tiny")
    export.add_argument("--epsilon", type=float, default=0.1, metavar="X", help="[0.1]")
    export.add_argument("--images", type=int, default=20, metavar="N", help="the first N [20]")
    export.add_argument("--to", type=Path, required=True, metavar="FILE", help="such as bounds.npz")
    export.set_defaults(run_half=_export)
    theirs = halves.add_parser("compare", help="compute auto_LiRPA's of what was exported")
    theirs.add_argument("file", type=Path, metavar="FILE", help="what export wrote")
    theirs.add_argument("--json", type=Path, metavar="FILE", help="where to keep its bounds")
    theirs.set_defaults(run_half=_compare)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(_parser, argv, run_half)


if __name__ == "__main__":
    sys.exit(main())
