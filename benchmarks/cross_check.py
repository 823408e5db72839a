"""Our attacks against another library's, on the same network, probe and images.

In two environments, because the other library wants PyTorch:

    python -m benchmarks.cross_check export RUN --epsilon 0.02 --to cross.npz
    python benchmarks/cross_check.py attack cross.npz

The first, in the project's environment, attacks the first images of ColorMNIST through a linear
probe of an MLP encoder with the budgets paper and strong, and writes weights, images and outcomes.
The second needs numpy, torch, adversarial-robustness-toolbox and packaging. It rebuilds the
network in PyTorch, attacks it with that library's PGD, Auto-PGD on both losses and Square, and
prints on which images the two disagree.
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
    from tf_avae.evaluation import BUDGETS, worst_case
    from tf_avae.runs import load_trained

    classify, probe, images, labels = probed(run, task, count)
    encoder = load_trained(run).encoder
    layers = [layer.get_weights() for layer in encoder.layers if layer.name != "variance"]
    arrays: dict[str, Any] = {"images": images, "labels": labels, "epsilon": epsilon}
    arrays |= {"mean": probe.mean, "scale": probe.scale}
    arrays["logits"] = classify(tf.constant(images)).numpy()
    dense = [weights for weights in layers if weights] + [list(probe.layers[0])]
    for number, (kernel, bias) in enumerate(dense):
        arrays |= {f"kernel{number}": kernel, f"bias{number}": bias}
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
    import torch
    from art.attacks.evasion import (
        AutoProjectedGradientDescent,
        ProjectedGradientDescent,
        SquareAttack,
    )
    from art.estimators.classification import PyTorchClassifier

    kept = np.load(path)
    epsilon, labels = float(kept["epsilon"]), kept["labels"]
    images = kept["images"].transpose(0, 3, 1, 2).copy()
    count = sum(name.startswith("kernel") for name in kept.files)
    dense = [
        tuple(torch.tensor(kept[f"{part}{n}"]) for part in ("kernel", "bias")) for n in range(count)
    ]
    mean, scale = torch.tensor(kept["mean"]), torch.tensor(kept["scale"])

    class Network(torch.nn.Module):
        """Encoder, standardisation and probe."""

        def forward(self, x: Any) -> Any:
            x = x.permute(0, 2, 3, 1).reshape(len(x), -1)
            for number, (kernel, bias) in enumerate(dense[:-1]):
                x = (torch.relu(x) if number else x) @ kernel + bias
            return ((x - mean) / scale) @ dense[-1][0] + dense[-1][1]

    network = Network().eval()
    difference = np.abs(network(torch.tensor(images)).detach().numpy() - kept["logits"]).max()
    print(f"logits differ by {difference:.1e}")
    classifier = PyTorchClassifier(
        network, torch.nn.CrossEntropyLoss(), images.shape[1:], int(kept["logits"].shape[1]),
        clip_values=(0, 1),
    )  # fmt: skip
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
    stands = kept["logits"].argmax(1) == labels
    for name, search in searches.items():
        start = time.perf_counter()
        left = np.flatnonzero(stands)
        found = search.generate(images[left], labels[left])
        assert np.abs(found - images[left]).max() <= epsilon + 1e-6
        stands[left] = classifier.predict(found).argmax(1) == labels[left]
        print(f"{name:12} {100 * stands.mean():6.2f} %  {time.perf_counter() - start:6.1f} s")
    for name in ("paper", "strong"):
        ours = kept[name]
        print(
            f"{name}: broken by them alone {np.sum(ours & ~stands)}, by us alone "
            f"{np.sum(stands & ~ours)}, of {len(labels)}"
        )


def main() -> int:
    """Runs one of the two halves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    halves = parser.add_subparsers(dest="half", required=True)
    ours = halves.add_parser("export")
    ours.add_argument("run", help="a run of the mlp architecture")
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
