"""PGD on a classifier: images per second of ours and of other libraries', and how much each breaks.

`python -m benchmarks.attack --against` trains an encoder for a few hundred steps (or takes a run),
fits a linear probe of digits, and attacks the first test images through both: PGD from one start,
and the worst case over the paper's ten. All have the same weights, images, radius, steps and step
length, and are timed in turn, several rounds, each in a process of its own. What an attack returns
is classified here, so the accuracy beside each rate is measured in one way. `--strong` also times
the budget `strong` on the images of the worst case, and what it was before.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pairing
from benchmarks.budgets import BEFORE
from benchmarks.evaluation import probed
from benchmarks.network_file import arrays_of, probe_of
from benchmarks.pairing import Left, Peer, Worker, Workers
from benchmarks.peers.batches import inside, over
from tf_avae.attacks import BALLS
from tf_avae.backend import keras, tf
from tf_avae.config import Config, check
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import note
from tf_avae.datasets import DATASETS
from tf_avae.errors import InputError
from tf_avae.evaluation import BUDGETS, Budget, worst_case
from tf_avae.evaluation.batches import compiled, image_spec, in_batches, seed_spec
from tf_avae.evaluation.trial_graphs import Headed, TrialGraphs
from tf_avae.evaluation.trials import Examples, Setting, pgd_trial
from tf_avae.registry import Registry
from tf_avae.runs.plan import build_model, resolve
from tf_avae.runs.run import load_trained
from tf_avae.saved.encoders import open_encoder
from tf_avae.types import Images, Tensor
from training.rates import Steps, paired_rates

_ARCHS = ("mlp", "conv")
OURS = Peer("ours", "this project", "benchmarks.attack", None, _ARCHS)
PEERS: Registry[Peer] = Registry(
    "peer",
    Peer("art", "Adversarial Robustness Toolbox, PyTorch", "peers.art_attack", ".venv-bench",
         _ARCHS),
    Peer("torchattacks", "torchattacks, PyTorch", "peers.torchattacks_attack", ".venv-bench",
         _ARCHS),
    Peer("foolbox", "foolbox, PyTorch", "peers.foolbox_attack", ".venv-bench", _ARCHS),
)  # fmt: skip

_WORST, _STRONG = "worst_case", "strong"
_SEARCHES = {_WORST: BUDGETS["paper"], _STRONG: BUDGETS["strong"], BEFORE.name: BEFORE}
"""Cases that are whole budgets, on the images that are right without an attack."""

_RESTARTING = (OURS.name, "art")  # that have it
_IMAGES, _TASK = 500, "digit"
_PROBE_BATCHES = 10
_STEPS, _RESTARTS = 40, 10  # of the budget `paper`


# ---------------------------------------------------------------------- a process


def prepare(settings: dict[str, Any]) -> dict[str, Callable[[int], np.ndarray]]:
    """A case for each batch size, "worst_case", which is the budget `paper`, and other budgets."""
    tf.config.experimental.enable_op_determinism()  # as training.evaluate
    kept = np.load(settings["network"])
    encoder, probe = open_encoder(settings["encoder"]), probe_of(kept)
    epsilon, classify = settings["epsilon"], Headed(encoder.embed, probe)
    images, labels = kept["images"], kept["labels"].astype(np.int32)
    on, trial = Setting(classify, epsilon, BALLS["linf"]), pgd_trial(settings["pgd_steps"])

    @compiled(image_spec(images.shape[1:]), tf.TensorSpec([None], tf.int32), seed_spec())
    def search(x: Images, y: Tensor, seed: Tensor) -> Images:
        examples = Examples(x, y, x, tf.constant(0), seed)
        return trial.search(on, trial.target(on, examples), examples)

    number = itertools.count()

    def attack(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return search(tf.constant(x), tf.constant(y), tf.constant([0, next(number)])).numpy()

    cases = {str(size): over(images, labels, size, attack) for size in settings["batch_sizes"]}
    if settings["worst_case"]:
        right = np.load(settings["worst_case"])
        graphs = TrialGraphs()

        def whole(budget: Budget) -> Callable[[int], np.ndarray]:
            return lambda steps: worst_case(
                classify, right["images"], right["labels"], epsilon=epsilon, budget=budget,
                seed=next(number), graphs=graphs,
            ).attacked  # fmt: skip

        cases |= {name: whole(_SEARCHES[name]) for name in settings["searches"]}
    return cases


def about() -> str:
    """Version and device."""
    return f"tensorflow {tf.__version__}, {pairing.device()}"


# ---------------------------------------------------------------------- all of them


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All attackers, round by round."""
    with tempfile.TemporaryDirectory() as name, Workers(given.environments) as workers:
        folder = Path(name)
        encoder, path = _encoder(given, folder)
        classify, probe, images, labels = probed(path, _TASK, _IMAGES, _PROBE_BATCHES)
        logits = in_batches(classify, images, batch_size=_IMAGES)
        arrays: dict[str, Any] = arrays_of(encoder, probe)
        right = logits.argmax(1) == labels
        among = np.flatnonzero(right)[: given.worst_case_images]
        kept = {"one": np.arange(len(images))} | dict.fromkeys(_SEARCHES, among)
        for file in ("one", _WORST):
            index = kept[file]
            of = {"images": images, "labels": labels, "logits": logits}
            np.savez(folder / f"{file}.npz", **arrays | {n: a[index] for n, a in of.items()})
        settings = {
            "network": str(folder / "one.npz"), "encoder": str(path),
            "worst_case": str(folder / f"{_WORST}.npz") if len(among) else None,
            "epsilon": given.epsilon, "pgd_steps": _STEPS, "restarts": _RESTARTS,
            "step_size": 2.5 * given.epsilon / _STEPS, "batch_sizes": given.batch_size,
            "searches": list(_SEARCHES) if given.strong else [_WORST],
        }  # fmt: skip
        attackers = {OURS.name: OURS} | {n: PEERS[n] for n in given.against}
        for attacker, peer in attackers.items():
            workers.start(attacker, peer, settings)
        ready = workers.ready(need=lambda attacker: attacker == OURS.name)

        def accuracy(found: np.ndarray, index: np.ndarray) -> float:
            return _accuracy(classify, images[index], labels[index], found, given.epsilon)

        timed: dict[str, Steps] = {}
        accuracies: dict[str, float] = {}
        for attacker, worker in ready.items():
            note(f"attacking once: {attacker}")
            try:
                found = {
                    case: accuracy(_once(worker, case), kept.get(case, kept["one"]))
                    for case in worker.cases
                }
            except Left as why:
                workers.left[attacker] = str(why)
                continue
            accuracies |= {_key(attacker, case): value for case, value in found.items()}
            timed |= {_key(attacker, case): worker.steps(case) for case in worker.cases}
        rates = paired_rates(
            timed, rounds=given.rounds, seconds=given.seconds,
            progress=lambda done: note(f"round {done + 1} of {given.rounds}"),
        )  # fmt: skip
        # A case, who attacks, and the case of ours that it is compared with.
        asked = [(n, a, n) for n, a in itertools.product(map(str, given.batch_size), attackers)]
        if len(among):
            restarting = [attacker for attacker in attackers if attacker in _RESTARTING]
            asked += [(_WORST, attacker, _WORST) for attacker in restarting]
            if given.strong:
                asked += [(name, OURS.name, _STRONG) for name in (_STRONG, BEFORE.name)]
                asked += [(_WORST, attacker, _STRONG) for attacker in restarting]
        rows = []
        for case, attacker, over in asked:
            row: dict[str, Any] = {"attacker": attacker, "case": case}
            if over == _STRONG:
                row["beside"] = _STRONG
            key = _key(attacker, case)
            if key in rates:
                per_step = len(among) if case in _SEARCHES else int(case)
                row |= {
                    "images_per_second": statistics.median(rates[key]) * per_step,
                    "ours_over_it": pairing.ratios(rates, _key(OURS.name, over), key),
                    "accuracy": accuracies[key],
                    "peak_bytes": ready[attacker].peak(),
                }
            else:
                row["left"] = workers.left[attacker]
            rows.append(row)
        return {
            "settings": _settings(given) | {"worst_case_images": len(among)},
            "device": pairing.device(),
            "about": workers.about,
            "clean": float(right.mean()),
            "rows": rows,
        }


def _key(attacker: str, case: str) -> str:
    return f"{attacker} {case}"


def _settings(given: argparse.Namespace) -> dict[str, Any]:
    keep = ("arch", "batch_size", "epsilon", "rounds", "seconds", "against")
    return {name: getattr(given, name) for name in keep} | {
        "run": None if given.run is None else Path(given.run).name,
        "pgd_steps": _STEPS, "restarts": _RESTARTS, "images": _IMAGES,
    }  # fmt: skip


def _encoder(given: argparse.Namespace, folder: Path) -> tuple[keras.Model, Path]:
    """The encoder that is attacked, and where it is saved."""
    if given.run:
        model = load_trained(given.run)
        if model.architecture.name not in _ARCHS:
            raise InputError(
                f"{given.run} is of architecture {model.architecture.name}; give one of: "
                f"{', '.join(_ARCHS)}"
            )
        given.arch = model.architecture.name
    else:
        note(f"training {given.arch} for {given.steps:,} steps")
        data = DATASETS["color_mnist"].open()
        config = Config(algo="vae", arch=given.arch, obs_var=0.1, learning_rate=1e-3)
        model = build_model(resolve(config), data.image_shape)
        model.fit(data.train(64, seed=0).take(given.steps), shuffle=False, verbose=0)
    path = folder / "encoder.keras"
    model.encoder.save(path)
    return model.encoder, path


def _once(worker: Worker, case: str) -> np.ndarray:
    """What an attacker makes of all images, in its own layout."""
    worker.steps(case)(1 if case in _SEARCHES else -(-_IMAGES // int(case)))
    return worker.result()


def _accuracy(
    classify: Callable, images: np.ndarray, labels: np.ndarray, found: np.ndarray, epsilon: float
) -> float:
    """The share that is right under attack.

    Raises:
        Left: the attack left the ball or the range of pixels.
    """
    if found.shape != images.shape:  # channels first, as PyTorch has them
        found = found.transpose(0, 2, 3, 1)
    if not inside(found, images, epsilon).all():
        raise Left(f"leaves the ball: {np.abs(found - images).max():.4g} of {epsilon:g}")
    logits = in_batches(classify, found, batch_size=len(found))
    return float(np.mean(logits.argmax(1) == labels))


# ---------------------------------------------------------------------- the tables


def markdown(found: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    settings = found["settings"]
    network = settings["run"] or f"`{settings['arch']}`, briefly trained"
    parts = [
        f"{network}; ε {settings['epsilon']:g}, {settings['pgd_steps']} steps; {found['device']}; "
        f"rounds: {settings['rounds']}. Right of {settings['images']} images without an attack: "
        f"{100 * found['clean']:.1f} %.",
        _table(found, "PGD, one start, in batches of", lambda row: row["case"] not in _SEARCHES),
    ]
    if settings["worst_case_images"]:
        what = f"{settings['restarts']} starts, {settings['worst_case_images']} right images"
        parts.append(_table(found, what, lambda row: row["case"] == _WORST and "beside" not in row))
    if any("beside" in row for row in found["rows"]):
        what = f"{settings['worst_case_images']} right images, beside `strong`"
        parts.append(_table(found, what, lambda row: "beside" in row))
    parts.append("; ".join(f"{name}: {what}" for name, what in found["about"].items()) + ".")
    return "\n\n".join(parts)


def _table(found: dict[str, Any], what: str, wanted: Callable[[dict[str, Any]], bool]) -> str:
    rows = [
        [_named(row), row["left"], "", "", ""]
        if "left" in row
        else [
            _named(row), f"{row['images_per_second']:,.1f}", pairing.shown(row["ours_over_it"]),
            f"{100 * row['accuracy']:.1f}", pairing.megabytes(row["peak_bytes"]),
        ]
        for row in found["rows"]
        if wanted(row)
    ]  # fmt: skip
    return pairing.rows_of((what, "images/s", "ours over it", "right, %", "peak MB"), rows)


def _named(row: dict[str, Any]) -> str:
    if "beside" in row:
        case = "PGD" if row["case"] == _WORST else row["case"]
        return f"{row['attacker']}: {case}"
    return row["attacker"] if row["case"] == _WORST else f"{row['case']}: {row['attacker']}"


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = Parser(prog="python -m benchmarks.attack", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", nargs="?", help="whose encoder [trained here]")
    parser.add_argument(
        "--strong", action="store_true", help="time the budget strong and what it was before too"
    )
    parser.add_argument("--arch", default="mlp", choices=_ARCHS, help="without a run [mlp]")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="of training [300]")
    parser.add_argument("--epsilon", type=float, default=0.02, metavar="X", help="[0.02]")
    parser.add_argument(
        "--batch-size", type=int, nargs="+", default=[64, _IMAGES], metavar="N", help="[64 500]"
    )
    parser.add_argument(
        "--worst-case-images", type=int, default=100, metavar="N",
        help="to attack from ten starts; 0 leaves that out [100]",
    )  # fmt: skip
    pairing.add_options(parser, 3, 2.0, PEERS)
    return run_command(
        lambda: parser, argv, lambda given: pairing.report(given, lambda: _checked(given), markdown)
    )


def _checked(given: argparse.Namespace) -> dict[str, Any]:
    pairing.check_options(given)
    check(steps=given.steps)
    if not 0 < given.epsilon <= 1:
        raise InputError(f"epsilon is {given.epsilon:g}; it must be above 0 and at most 1")
    for size in given.batch_size:
        if not 1 <= size <= _IMAGES:
            raise InputError(f"batch_size is {size}; it must be from 1 to {_IMAGES}, all images")
    if not 0 <= given.worst_case_images <= _IMAGES:
        raise InputError(
            f"worst_case_images is {given.worst_case_images}; it must be from 0 to {_IMAGES}"
        )
    given.against = pairing.asked(given.against, PEERS)
    return measure(given)


if __name__ == "__main__":
    sys.exit(main())
