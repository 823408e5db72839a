"""How time and memory grow with the work.

`python -m benchmarks.growth` attacks the encoder that ships and trains the MLP with one number of
the work doubled at a time, each case in a process of its own, all of them in each round. It prints
a Markdown table: the time over that of the first case of its axis, the median of the rounds with
the least and the most, and the most memory that the process held. `--json FILE` keeps what the
table was made from, `--from FILE` makes it again.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import pairing
from tf_avae.backend import tf
from tf_avae.config import Config
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import answer, note
from tf_avae.datasets import DATASETS
from tf_avae.errors import InputError
from tf_avae.evaluation.budgets import Budget
from tf_avae.evaluation.robustness import worst_case
from tf_avae.evaluation.trial_graphs import Headed, TrialGraphs
from tf_avae.evaluation.trials import pgd_trial
from tf_avae.probes import fit_linear
from tf_avae.registry import Registry
from tf_avae.runs.plan import build_model, resolve
from tf_avae.saved.encoders import open_encoder
from training.rates import fit_steps

_ENCODER = "colormnist-robust"
_STEPS = 60  # of a training


@dataclass(frozen=True)
class Axis:
    """One number of the work.

    Attributes:
        name: the row's name.
        summary: the work, for the table.
        values: of that number, the first one to compare with.
        work: the number to something that does the work and can be timed.
    """

    name: str
    summary: str
    values: tuple[Any, ...]
    work: Callable[[Any], Callable[[], object]]


def _attack(
    images: int = 250, epsilon: float = 0.1, restarts: int = 1, batch: int = 250
) -> Callable[[], object]:
    """An attack on the digits of the encoder that ships, traced once before."""
    data, encoder = DATASETS["color_mnist"].open(), open_encoder(_ENCODER)
    train, labels = next(iter(data.train_images(2_000)))
    head = fit_linear(np.asarray(encoder.embed(train)), labels["digit"].numpy()).probe
    test, truth = next(iter(data.held_out(images)))
    graphs, classify = TrialGraphs(), Headed(encoder.embed, head)

    def attack(count: int = images) -> object:
        return worst_case(
            classify, test.numpy()[:count], truth["digit"].numpy()[:count], epsilon=epsilon,
            budget=Budget("growth", "", (pgd_trial(20, restarts),)), batch_size=batch,
            graphs=graphs,
        )  # fmt: skip

    attack(batch)
    return attack


def _training(latent_dim: int = 64, batch_size: int = 64) -> Callable[[], object]:
    """Steps of the MLP's `avae`."""
    data = DATASETS["color_mnist"].open()
    config = resolve(Config(algo="avae", latent_dim=latent_dim, batch_size=batch_size))
    steps = fit_steps(build_model(config, data.image_shape), data.train(batch_size, seed=0))
    return lambda: steps(_STEPS)


def _command(*words: str) -> Callable[[], object]:
    """A command from its start to its end; "{}" in a word is an empty folder."""

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            made = [sys.executable, "-m", *(word.replace("{}", folder) for word in words)]
            done = subprocess.run(made, cwd=pairing.ROOT, capture_output=True, encoding="utf-8")
        if done.returncode:
            raise InputError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr}")

    return run


_EVALUATE = (
    "training.evaluate", _ENCODER, "--task", "digit", "--head", "linear", "--section",
    "robustness", "--budget", "strong", "--epsilon", "0.1", "--images", "200", "--batch-size", "50",
    "--out", "{}/e",
)  # fmt: skip

AXES: Registry[Axis] = Registry(
    "axis",
    Axis("images", "PGD-20 on images", (250, 500, 1_000), lambda n: _attack(images=n)),
    Axis("batch", "PGD-20 on 500 images, in batches of", (500, 250, 125),
         lambda n: _attack(images=500, batch=n)),
    Axis("epsilon", "PGD-20 on 250 images, 4 starts, at ε", (0.05, 0.1, 0.2),
         lambda e: _attack(epsilon=e, restarts=4)),
    Axis("restarts", "PGD-20 on 250 images, from starts", (1, 2, 4),
         lambda n: _attack(restarts=n)),
    Axis("latents", "60 steps of `avae`, D", (64, 128, 256), lambda n: _training(latent_dim=n)),
    Axis("training-batch", "60 steps of `avae`, batches of", (64, 128, 256),
         lambda n: _training(batch_size=n)),
    Axis("replicas", "200 steps of `avae`, the whole command, on devices of the CPU", (1, 2),
         lambda n: _command("training.fit", "--algo", "avae", "--steps", "200", "--eval-images",
                            "100", "--strategy", "mirrored", "--virtual-devices", str(n),
                            "--run-dir", "{}/run")),
    Axis("shards", "`strong` on 200 images, the whole command, in shards", (1, 2),
         lambda n: _command(*_EVALUATE, "--shards", str(n))),
)  # fmt: skip


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All cases, in turn in each round."""
    if given.rounds < 1:
        raise InputError(f"rounds is {given.rounds}; it must be at least 1")
    cases = [(AXES[name], place) for name in given.axis for place in range(len(AXES[name].values))]
    rows = [
        {"axis": axis.name, "value": axis.values[place], "seconds": [], "megabytes": []}
        for axis, place in cases
    ]
    for number in range(given.rounds):
        for row, (axis, place) in zip(rows, cases, strict=True):
            note(f"round {number + 1}: {axis.summary} {axis.values[place]}")
            words = [sys.executable, "-m", "benchmarks.growth", "--case", axis.name, str(place)]
            done = subprocess.run(words, cwd=pairing.ROOT, stdout=subprocess.PIPE, encoding="utf-8")
            if done.returncode:
                raise InputError(f"{axis.name} {axis.values[place]} ended with {done.returncode}")
            found = json.loads(done.stdout.splitlines()[-1])
            for key, value in found.items():
                row[key].append(value)
    return {"rows": rows, "rounds": given.rounds, "device": pairing.device()}


def _case(name: str, place: str) -> int:
    """Does one case and prints its figures."""
    axis = AXES[name]
    work = axis.work(axis.values[int(place)])
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    most = max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024
    answer(json.dumps({"seconds": seconds, "megabytes": most}))
    return 0


def markdown(found: dict[str, Any]) -> str:
    """A row for each case."""
    first = {row["axis"]: row["seconds"] for row in reversed(found["rows"])}
    lines = []
    for row in found["rows"]:
        ratios = np.divide(row["seconds"], first[row["axis"]])
        over = {"value": np.median(ratios), "low": ratios.min(), "high": ratios.max()}
        what = f"{AXES[row['axis']].summary} {row['value']:,}"
        lines.append([what, pairing.shown(over), f"{np.median(row['megabytes']):,.0f}"])
    head = f"{found['device']}; rounds: {found['rounds']}."
    return f"{head}\n\n{pairing.rows_of(['work', 'time over the first', 'peak MB'], lines)}"


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    summary = (__doc__ or "").split("\n")[0]
    parser = Parser(prog="python -m benchmarks.growth", description=summary)
    parser.add_argument("--axis", nargs="+", choices=list(AXES), default=list(AXES), help="[all]")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="[3]")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    pairing.add_files(parser)

    def run(given: argparse.Namespace) -> int:
        if given.case:
            tf.config.experimental.enable_op_determinism()
            return _case(*given.case)
        return pairing.report(given, lambda: measure(given), markdown)

    return run_command(lambda: parser, argv, run)


if __name__ == "__main__":
    sys.exit(main())
