"""Our attacks beside the original AutoAttack: on the same network, probe and images, one by one.

In two environments, because the other library wants PyTorch, and `make bench-peers` makes one
without TensorFlow:

    python -m benchmarks.cross_check export RUN --epsilon 0.1 --budget strong --to cross.npz
    .venv-bench/bin/python -m benchmarks.cross_check attack cross.npz --json cross.json
    python -m benchmarks.cross_check judge cross.attacked.npz

The first attacks the first test images of ColorMNIST through a probe with our budgets, and writes
network, images and outcomes. The second rebuilds the network in PyTorch, attacks the same images
with another library's AutoAttack (see benchmarks/peers/autoattack.py), says which images either
side breaks that the other does not, and writes the attacked images beside the file. The third
classifies these with the encoder itself.
"""

import argparse
import json
import platform
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairing import add_files, rows_of
from benchmarks.peers.batches import inside
from tf_avae.config import read_json
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import answer, note
from tf_avae.errors import InputError, NotInstalled
from tf_avae.files import replacing, write_json
from tf_avae.provenance import session, source_commit
from tf_avae.records import damage_told

_BATCH = 250


# ---------------------------------------------------------------------- ours


def _export(given: argparse.Namespace) -> int:
    from benchmarks.evaluation import probed
    from benchmarks.network_file import arrays_of
    from tf_avae.attacks import BALLS
    from tf_avae.evaluation import BUDGETS, worst_case
    from tf_avae.evaluation.batches import in_batches
    from tf_avae.evaluation.robustness import check_epsilon
    from tf_avae.provenance import provenance
    from tf_avae.saved.encoders import locate
    from tf_avae.saved.layers import keras_encoder

    if given.to.suffix != ".npz" or not given.to.parent.is_dir():
        raise InputError(f"--to is {given.to}; give a name that ends in .npz, in a folder there is")
    began, budgets = session(), [BUDGETS[name] for name in given.budget]
    check_epsilon(given.epsilon, BALLS["linf"])
    network = keras_encoder(given.run)
    classify, probe, images, labels = probed(given.run, given.task, given.images, head=given.head)
    arrays = {"images": images, "labels": labels, **arrays_of(network, probe)}
    arrays["logits"] = in_batches(classify, images, batch_size=_BATCH)
    ours = {}
    for budget in budgets:
        start = time.perf_counter()
        found = worst_case(
            classify, images, labels, epsilon=given.epsilon, budget=budget, seed=given.seed,
            progress=lambda at: note(f"{at.trial}: {at.unbroken:,} of {len(images):,} unbroken"),
        )  # fmt: skip
        seconds = time.perf_counter() - start
        arrays[f"survived.{budget.name}"] = found.survived
        share = float(found.survived.mean())
        ours[budget.name] = {"accuracy": share, "trials": list(found.trials), "seconds": seconds}
        answer(f"{budget.name:12} {100 * share:6.2f} %  {seconds:7.1f} s")
    notes = {
        "encoder": Path(given.run).name,
        "sha256": locate(given.run)[1],
        **{name: getattr(given, name) for name in ("task", "head", "epsilon", "images", "seed")},
        "clean": float(np.mean(arrays["logits"].argmax(1) == labels)),
        "ours": ours,
        "exported": began | provenance(),
    }
    _write(given.to, {**arrays, "run": np.array(given.run), "notes": np.array(json.dumps(notes))})
    return 0


# ---------------------------------------------------------------------- theirs


def _attack(given: argparse.Namespace) -> int:
    if bool(given.file) == bool(given.source):
        raise InputError("give what `export` wrote, such as cross.npz, or --from FILE")
    if given.source:
        found = read_json(given.source)
        with damage_told(given.source, "attack again"):
            answer(markdown(found))
        return 0
    import torch

    from benchmarks.peers import autoattack, torch_network

    if given.threads < 1 or given.batch_size < 1:
        raise InputError(
            f"threads is {given.threads} and batch_size {given.batch_size}; they must be at least 1"
        )
    torch.set_num_threads(given.threads)
    began, rows = session(), []
    for path in given.file:
        arrays, notes = _read(path)
        try:
            kept = torch_network.load(str(path))
        except ValueError as error:
            raise InputError(f"{path} cannot be rebuilt: {error}") from error
        note(f"{path}: logits differ by {kept.difference:.1e}")
        broken_by, points = np.full(len(kept.labels), -1), kept.images.copy()
        attempts: list[Any] = []
        for made in autoattack.standard(
            kept, notes["epsilon"], seed=given.seed, batch_size=given.batch_size
        ):
            at = made.attacked[made.breaks]
            broken_by[at], points[at] = len(attempts), made.points[made.breaks]
            attempts.append(made)
            note(f"{made.name}: broke {len(at)} of {len(made.attacked)} in {made.seconds:.1f} s")
        stands = (kept.logits.argmax(1) == kept.labels) & (broken_by < 0)
        rows.append({
            **notes,
            "logits_difference": kept.difference,
            "logits_largest": float(np.abs(kept.logits).max()),
            "theirs": {
                "accuracy": float(stands.mean()),
                "attacks": [
                    {"name": a.name, "settings": a.settings, "attacked": len(a.attacked),
                     "broken": int(a.breaks.sum()), "outside": a.outside, "seconds": a.seconds}
                    for a in attempts
                ],
                "suspect": bool(autoattack.suspect(attempts, len(stands))),
                "outcomes": broken_by.tolist(),
            },
            "compared": {
                name: compared(arrays[f"survived.{name}"], stands) for name in notes["ours"]
            },
        })  # fmt: skip
        shown = {"points": points.transpose(0, 2, 3, 1), "broken_by": broken_by}
        _write(path.with_suffix(".attacked.npz"), {**arrays, **shown})
    about = {
        "library": autoattack.about(), "python": platform.python_version(), **began,
        "commit": source_commit(), "seed": given.seed, "batch_size": given.batch_size,
    }  # fmt: skip
    found = {"encoders": rows, "attacked": about}
    if given.json:
        write_json(given.json, found)
    answer(markdown(found))
    return 0


def compared(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """What each side breaks that the other does not.

    Args:
        ours, theirs: whether each image is right as it is and under all attacks of a side, bool
            [N]: of the same images.

    Returns:
        "union", the accuracy under the attacks of both; "points", how far the accuracy under ours
        is above it, in percentage points, and "their_points"; positions of the images that one side
        alone breaks.
    """
    union = ours & theirs
    return {
        "union": float(union.mean()),
        "points": 100 * float(ours.mean() - union.mean()),
        "their_points": 100 * float(theirs.mean() - union.mean()),
        "ours_alone": np.flatnonzero(~ours & theirs).tolist(),
        "theirs_alone": np.flatnonzero(ours & ~theirs).tolist(),
    }


def markdown(found: Mapping[str, Any]) -> str:
    """What was found, as Markdown: a table an encoder, then the images on which sides differ."""
    heads = ("percent right", "ours", "AutoAttack", "both", "ours above both", "broken by ours "
             "alone", "by AutoAttack alone", "seconds: ours", "AutoAttack")  # fmt: skip
    parts = []
    for row in found["encoders"]:
        theirs = row["theirs"]
        seconds = sum(a["seconds"] for a in theirs["attacks"])
        lines, alone = [], []
        for name, differ in row["compared"].items():
            ours = row["ours"][name]
            shares = (ours["accuracy"], theirs["accuracy"], differ["union"])
            lines.append([
                f"`{name}`", *(f"{100 * share:.1f}" for share in shares), f"{differ['points']:.1f}",
                str(len(differ["ours_alone"])), str(len(differ["theirs_alone"])),
                f"{ours['seconds']:.0f}", f"{seconds:.0f}",
            ])  # fmt: skip
            alone += [
                f"`{name}`: {side} alone broke images {', '.join(map(str, differ[key]))}."
                for side, key in (("ours", "ours_alone"), ("AutoAttack", "theirs_alone"))
                if differ[key]
            ]
        each = ", ".join(
            f"{a['name']} {a['broken']} of {a['attacked']}"
            + (f" ({a['outside']} outside)" if a["outside"] else "")
            for a in theirs["attacks"]
        )
        parts += [
            f"`{row['encoder']}`, {row['task']}, {row['head']}; ε {row['epsilon']:g}; "
            f"{row['images']} images, {100 * row['clean']:.1f} % right without an attack; logits "
            f"of {row['logits_largest']:.3g} differ by {row['logits_difference']:.1e}.",
            rows_of(heads, lines),
            f"AutoAttack broke: {each}."
            + (" Unreliable by its own rule: Square found more." if theirs["suspect"] else ""),
            *alone,
        ]
    return "\n\n".join([*parts, f"{found['attacked']['library']}."])


# ---------------------------------------------------------------------- the judgement


def _judge(given: argparse.Namespace) -> int:
    from benchmarks.network_file import probe_of
    from tf_avae.evaluation.batches import in_batches
    from tf_avae.saved.encoders import locate, open_encoder

    began, rows = session(), []
    for path in given.file:
        arrays, notes = _read(path)
        if "points" not in arrays:
            raise InputError(f"{path} holds no attacked images; give what `attack` wrote")
        run = given.run or str(arrays["run"])
        if locate(run)[1] != notes["sha256"]:
            raise InputError(f"{run} is not the encoder that {path} was made of; name it by --run")
        encoder, probe = open_encoder(run), probe_of(arrays)
        logits = in_batches(
            lambda x, e=encoder, p=probe: p(e.embed(x)), arrays["points"], batch_size=_BATCH
        )
        broken = arrays["broken_by"] >= 0
        holds = (logits.argmax(1) != arrays["labels"]) & inside(
            arrays["points"], arrays["images"], notes["epsilon"]
        )
        rows.append({
            "file": path.name, "encoder": notes["encoder"], "broken": int(broken.sum()),
            "hold": int(np.sum(broken & holds)),
            "fail": np.flatnonzero(broken & ~holds).tolist(),
        })  # fmt: skip
        answer(f"{path}: {rows[-1]['broken']} images broken, {rows[-1]['hold']} of them here too")
        if rows[-1]["fail"]:
            note(f"not here: images {', '.join(map(str, rows[-1]['fail']))}")
    if given.json:
        write_json(given.json, {"judged": rows, **began, "commit": source_commit()})
    return int(any(row["fail"] for row in rows))


# ---------------------------------------------------------------------- files and command line


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    with replacing(path) as draft:
        np.savez(draft, **arrays)


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and notes of a file that `export` or `attack` wrote.

    Raises:
        InputError: it is no such file.
    """
    try:
        with np.load(path) as file:
            arrays = dict(file)
        return arrays, json.loads(str(arrays["notes"]))
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not what `export` writes; export it again") from error


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks.cross_check", description=(__doc__ or "").split("\n")[0]
    )
    halves = parser.add_subparsers(required=True, metavar="COMMAND")
    export = halves.add_parser("export", help="attack with our budgets, and write a file")
    export.add_argument("run", help="a run, a SavedModel, a Keras model or colormnist-robust")
    export.add_argument("--task", default="digit", metavar="LABEL", help="[digit]")
    export.add_argument("--head", default="linear", metavar="HEAD", help="[linear]")
    export.add_argument("--epsilon", type=float, default=0.1, metavar="X", help="[0.1]")
    export.add_argument("--budget", nargs="+", default=["strong"], metavar="NAME", help="[strong]")
    export.add_argument("--images", type=int, default=500, metavar="N", help="the first N [500]")
    export.add_argument("--seed", type=int, default=0, metavar="N", help="of our attacks [0]")
    export.add_argument("--to", type=Path, required=True, metavar="FILE", help="such as cross.npz")
    export.set_defaults(run_half=_export)
    theirs = halves.add_parser("attack", help="attack what was exported with AutoAttack")
    theirs.add_argument("file", type=Path, nargs="*", metavar="FILE", help="what export wrote")
    theirs.add_argument("--threads", type=int, default=2, metavar="N", help="of PyTorch [2]")
    theirs.add_argument(
        "--batch-size", type=int, default=_BATCH, metavar="N", help=f"[{_BATCH}, as the original]"
    )
    theirs.add_argument("--seed", type=int, default=0, metavar="N", help="of each attack [0]")
    add_files(theirs)
    theirs.set_defaults(run_half=_attack)
    judge = halves.add_parser("judge", help="classify attacked images with the encoder itself")
    judge.add_argument("file", type=Path, nargs="+", metavar="FILE", help="what attack wrote")
    judge.add_argument("--run", metavar="RUN", help="where the encoder is now [where it was]")
    judge.add_argument("--json", type=Path, metavar="FILE", help="where to keep the counts")
    judge.set_defaults(run_half=_judge)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(_parser, argv, _run)


def _run(given: argparse.Namespace) -> int:
    try:
        return given.run_half(given)
    except NotInstalled:
        raise
    except ModuleNotFoundError as error:
        raise NotInstalled(
            f"{error.name} is not installed here; export and judge run in the project's "
            "environment, attack in that of `make bench-peers` (.venv-bench/bin/python)"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
