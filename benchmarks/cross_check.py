"""Our attacks against another library's, on the same network, probe and images.

In two environments, because the other library wants PyTorch:

    python -m benchmarks.cross_check export RUN --epsilon 0.02 --to cross.npz
    python benchmarks/cross_check.py attack cross.npz

The first, in the project's environment, attacks the first images of ColorMNIST through a linear
probe of an encoder with the budgets paper and strong, and writes weights, images and outcomes. The
second, in that of `make bench-peers`, rebuilds the network in PyTorch, attacks it with that
library's PGD, Auto-PGD on both losses and Square, and prints on which images the two disagree.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

_RESTARTS = 5


def export(run: str, task: str, epsilon: float, count: int, to: Path) -> None:
    """Writes weights, images, and what our budgets leave standing."""
    import tensorflow as tf

    from benchmarks.evaluation import probed
    from benchmarks.network_file import arrays_of
    from tf_avae.evaluation import BUDGETS, worst_case
    from tf_avae.runs.run import load_trained

    classify, probe, images, labels = probed(run, task, count)
    arrays: dict[str, Any] = {"images": images, "labels": labels, "epsilon": epsilon}
    arrays["logits"] = classify(tf.constant(images)).numpy()
    arrays |= arrays_of(load_trained(run).encoder, probe)
    for name in ("paper", "strong"):
        start = time.perf_counter()
        found = worst_case(classify, images, labels, epsilon=epsilon, budget=BUDGETS[name])
        print(
            f"{name:12} {100 * found.survived.mean():6.2f} %  {time.perf_counter() - start:6.1f} s"
        )
        arrays[name] = found.survived
    np.savez(to, **arrays)


def attack(path: Path) -> None:
    """Attacks with the other library and compares image by image."""
    from art.attacks.evasion import (
        AutoProjectedGradientDescent,
        ProjectedGradientDescent,
        SquareAttack,
    )
    from peers.art_attack import classifier as rebuilt
    from peers.torch_network import load

    kept, arrays = load(str(path)), np.load(path)
    epsilon, images, labels = float(arrays["epsilon"]), kept.images, kept.labels
    print(f"logits differ by {kept.difference:.1e}")
    classifier = rebuilt(kept)
    how = {"norm": np.inf, "eps": epsilon, "batch_size": 500, "verbose": False}
    auto = {**how, "eps_step": 2 * epsilon, "max_iter": 100, "nb_random_init": _RESTARTS}
    searches = {
        "pgd": ProjectedGradientDescent(
            classifier, **how, eps_step=2.5 * epsilon / 40, max_iter=40, num_random_init=_RESTARTS
        ),
        "apgd-ce": AutoProjectedGradientDescent(classifier, **auto, loss_type="cross_entropy"),
        "apgd-dlr": AutoProjectedGradientDescent(
            classifier, **auto, loss_type="difference_logits_ratio"
        ),
        "square": SquareAttack(classifier, **how, max_iter=2000),
    }
    stands = kept.logits.argmax(1) == labels
    for name, search in searches.items():
        start = time.perf_counter()
        left = np.flatnonzero(stands)
        found = search.generate(images[left], labels[left])
        assert np.abs(found - images[left]).max() <= epsilon + 1e-6
        stands[left] = classifier.predict(found).argmax(1) == labels[left]
        print(f"{name:12} {100 * stands.mean():6.2f} %  {time.perf_counter() - start:6.1f} s")
    for name in ("paper", "strong"):
        ours = arrays[name]
        print(
            f"{name}: broken by them alone {np.sum(ours & ~stands)}, by us alone "
            f"{np.sum(stands & ~ours)}, of {len(labels)}"
        )


def main() -> int:
    """Runs one of the two halves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    halves = parser.add_subparsers(dest="half", required=True)
    ours = halves.add_parser("export")
    ours.add_argument("run", help="a run of the mlp or conv architecture")
    ours.add_argument("--task", default="digit")
    ours.add_argument("--epsilon", type=float, default=0.02)
    ours.add_argument("--images", type=int, default=500)
    ours.add_argument("--to", type=Path, required=True)
    theirs = halves.add_parser("attack")
    theirs.add_argument("file", type=Path)
    given = parser.parse_args()
    if given.half == "export":
        export(given.run, given.task, given.epsilon, given.images, given.to)
    else:
        attack(given.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
