"""Images per second of the input pipelines, what training takes of them, and whether memory grows.

`python -m benchmarks.data` times each pipeline in turn with the training that reads it, that of the
fastest objective on the data set's architecture, in processes of their own; the faces of celeb_a
and the pictures of image_folder are drawn first. Beside it: the memory of the pipeline's process
after some batches, and after ten times as many more.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pairing, train
from benchmarks.pairing import Peer, Worker, Workers
from tf_avae.config import Config, check
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import note
from tf_avae.datasets import open_data
from tf_avae.datasets.drawn_faces.archive import draw_celeb_a
from tf_avae.errors import InputError
from tf_avae.runs.plan import resolve
from training.rates import paired_rates

PIPELINE = Peer("pipeline", "this project's input", "benchmarks.data", None, ())

_DATASETS = ("color_mnist", "image_folder", "celeb_a")
_READER = "vae"  # of the objectives that read data, the one with the fewest multiply-adds
_SIDE = 32  # of pictures in a folder
_CACHE = "TF_AVAE_CACHE"


# ---------------------------------------------------------------------- a process


def prepare(settings: dict[str, Any]) -> dict[str, Callable[[int], np.ndarray]]:
    """The case "pipeline": so many batches of an endless stream."""
    config = Config.from_dict(settings["config"])
    stream = iter(open_data(config).train(config.batch_size, seed=0))

    def run(steps: int) -> np.ndarray:
        for _ in range(steps):
            images, _ = next(stream)
        return images.numpy()

    return {"pipeline": run}


about = train.about


# ---------------------------------------------------------------------- all of them


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All data sets, one after the other, each paired with its reader."""
    with tempfile.TemporaryDirectory() as name, _cache(Path(name) / "cache"):
        draw_celeb_a(Path(name) / "celeb_a", given.images)
        with zipfile.ZipFile(next((Path(name) / "celeb_a").glob("*.zip"))) as archive:
            archive.extractall(Path(name) / "image_folder")
        rows = [_measured(dataset, Path(name), given) for dataset in given.dataset]
    keep = ("batch_size", "images", "batches", "rounds", "seconds")
    return {
        "settings": {name: getattr(given, name) for name in keep},
        "device": pairing.device(),
        "rows": rows,
    }


@contextlib.contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """Keeps decoded pictures in a folder, here and in processes started inside."""
    before = os.environ.get(_CACHE)
    os.environ[_CACHE] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(_CACHE)
        if before is not None:
            os.environ[_CACHE] = before


def _measured(dataset: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    place: dict[str, Any] = {} if dataset == "color_mnist" else {"data_dir": str(folder / dataset)}
    size: dict[str, Any] = {"image_size": _SIDE} if dataset == "image_folder" else {}
    config = resolve(
        Config(algo=_READER, dataset=dataset, batch_size=given.batch_size, **place, **size)
    )
    open_data(config)  # decodes files once for both
    settings = {"config": config.to_dict(), "batches": None}
    with Workers(pairing.ROOT) as workers:
        workers.start(PIPELINE.name, PIPELINE, settings)
        workers.start(_READER, train.OURS, settings)
        note(f"starting {dataset}")
        ready = workers.ready(need=lambda name: True)
        timed = {
            PIPELINE.name: ready[PIPELINE.name].steps(PIPELINE.name),
            _READER: ready[_READER].steps(_READER, train.at_once(config)),
        }
        memory = _growth(ready[PIPELINE.name], given.batches)
        rates = paired_rates(
            timed, rounds=given.rounds, seconds=given.seconds,
            progress=lambda done: note(f"round {done + 1} of {given.rounds}"),
        )  # fmt: skip
        return {
            "dataset": dataset,
            "arch": config.arch,
            "images_per_second": statistics.median(rates[PIPELINE.name]) * given.batch_size,
            "over_training": pairing.ratios(rates, PIPELINE.name, _READER),
            **memory,
            "peak_bytes": ready[PIPELINE.name].peak(),
        }


def _growth(worker: Worker, batches: int) -> dict[str, int]:
    """The memory of a pipeline after some batches, and after ten times as many more."""
    run = worker.steps(PIPELINE.name)
    run(batches)
    before = worker.now()
    run(10 * batches)
    return {"bytes_before": before, "bytes_after": worker.now()}


# ---------------------------------------------------------------------- the table


def markdown(found: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    batches = found["settings"]["batches"]
    heads = ("data set", "images/s", f"over `{_READER}` training on it",
             f"MB after {batches:,} batches", f"and {10 * batches:,} more", "peak MB")  # fmt: skip
    rows = [
        [
            f"`{row['dataset']}`, `{row['arch']}`", f"{row['images_per_second']:,.0f}",
            pairing.shown(row["over_training"]), pairing.megabytes(row["bytes_before"]),
            pairing.megabytes(row["bytes_after"]), pairing.megabytes(row["peak_bytes"]),
        ]
        for row in found["rows"]
    ]  # fmt: skip
    about = (
        f"Batches of {found['settings']['batch_size']}; {found['device']}; "
        f"rounds: {found['settings']['rounds']}."
    )
    return f"{about}\n\n{pairing.rows_of(heads, rows)}"


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = Parser(prog="python -m benchmarks.data", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dataset", nargs="+", default=_DATASETS, choices=_DATASETS, help="[all]")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="[64]")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="to draw [1000]")
    parser.add_argument(
        "--batches", type=int, default=200, metavar="N", help="before memory is looked at [200]"
    )
    pairing.add_options(parser, 3, 2.0)
    return run_command(
        lambda: parser, argv, lambda given: pairing.report(given, lambda: _checked(given), markdown)
    )


def _checked(given: argparse.Namespace) -> dict[str, Any]:
    pairing.check_options(given)
    check(batch_size=given.batch_size)
    if given.batches < 1:
        raise InputError(f"batches is {given.batches}; it must be at least 1")
    return measure(given)


if __name__ == "__main__":
    sys.exit(main())
