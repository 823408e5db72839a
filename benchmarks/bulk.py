"""What embedding through a Beam pipeline costs, over the same files through the SavedModel in
process.

`python -m benchmarks.bulk models/encoder` writes ColorMNIST's held-out images as PNG files and
embeds them by Beam's direct runner, with one worker and with two, and by a plain loop, all by
batches of 64. Each case has a process of its own; they are asked in turn, several rounds. Rates are
from the first batch to the end, reading and (of Beam) writing included; what comes before, of which
most is loading, has a column. Prints a Markdown table; `--json FILE` keeps what it was made from,
`--from FILE` makes it again.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import pairing
from serving import bulk
from tf_avae.backend import tf
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import note
from tf_avae.datasets import DATASETS
from tf_avae.errors import InputError
from tf_avae.files import absolute, shown
from tf_avae.graphs.saved_models import SavedModel
from training.rates import spread

_PROG = "python -m benchmarks.bulk"
_BATCH = 64
_PATIENCE = 300.0  # seconds for a case in a round


class Timing(NamedTuple):
    """What a case took.

    Attributes:
        rate: images per second, from the first batch to the end.
        before: seconds until the first batch was through.
    """

    rate: float
    before: float


def plain(model: str, pictures: Path) -> Timing:
    """Files through the SavedModel in a loop."""
    from serving.bulk import encoder

    start, saved, passed = time.perf_counter(), SavedModel(model), []
    paths = sorted(pictures.iterdir())
    for first in range(0, len(paths), _BATCH):
        encoder.embed(saved, [path.read_bytes() for path in paths[first : first + _BATCH]])
        passed.append(time.perf_counter())
    return _timing(start, passed[0], len(paths))


def by_beam(*words: str) -> Callable[[str, Path], Timing]:
    """Files through a pipeline on the direct runner, with these options of Beam."""

    def embed(model: str, pictures: Path) -> Timing:
        from serving.bulk import job

        passed: list[float] = []
        with tempfile.TemporaryDirectory() as output:
            asked = job.Job(model, f"{pictures}/*", output, batch_size=_BATCH)
            start = time.perf_counter()
            made = job.run(
                asked,
                job.pipeline_options(list(words), _PROG),
                lambda count: passed.append(time.perf_counter()),
            )
            return _timing(start, passed[0], made["embedded"])

    return embed


def _timing(start: float, first: float, images: int) -> Timing:
    return Timing((images - _BATCH) / (time.perf_counter() - first), first - start)


IN_PROCESS = "SavedModel in process"
CASES: dict[str, Callable[[str, Path], Timing]] = {
    IN_PROCESS: plain,
    "Beam, one worker": by_beam(),
    "Beam, two threads": by_beam("--direct_running_mode=multi_threading", "--direct_num_workers=2"),
}


def measure(model: str, images: int, rounds: int) -> dict[str, Any]:
    """All cases, round by round."""
    with tempfile.TemporaryDirectory() as folder, _workers(model, Path(folder)) as workers:
        _draw(Path(folder), images)
        timings: dict[str, list[Timing]] = {name: [] for name in CASES}
        for number in range(-1, rounds):  # the first warms up and is not counted
            for name, (worker, _) in workers.items():
                timing = _ask(worker)
                if number >= 0:
                    timings[name].append(timing)
            note(f"round {number + 1} of {rounds}")
        peaks = {name: pairing.resident(process)["peak"] for name, (_, process) in workers.items()}
    rates = {name: [timing.rate for timing in found] for name, found in timings.items()}
    rows = [
        {
            "case": name,
            "images_per_second": spread(rates[name]),
            "over_in_process": pairing.ratios(rates, name, IN_PROCESS),
            "seconds_before": spread([timing.before for timing in found]),
            "peak_bytes": peaks[name],
        }
        for name, found in timings.items()
    ]
    return {
        "model": shown(Path(model)),
        "images": images,
        "rounds": rounds,
        "device": pairing.device(),
        "rows": rows,
    }


def _draw(folder: Path, images: int) -> None:
    data = DATASETS["color_mnist"].open()
    batches = data.held_out(images).take(1)
    for held_out, _ in batches.as_numpy_iterator():
        for number, image in enumerate(tf.image.convert_image_dtype(held_out, tf.uint8)):
            (folder / f"{number:05d}.png").write_bytes(tf.io.encode_png(image).numpy())


@contextmanager
def _workers(model: str, pictures: Path) -> Iterator[dict[str, tuple[Connection, int]]]:
    """A process for each case, so that each has a peak of its own: how to ask it, and its id."""
    context = multiprocessing.get_context("spawn")
    workers, processes = {}, []
    try:
        for name in CASES:
            asked, end = context.Pipe()
            process = context.Process(target=_work, args=(name, model, pictures, end), daemon=True)
            process.start()
            processes.append(process)
            assert process.pid is not None
            workers[name] = asked, process.pid
        yield workers
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(name: str, model: str, pictures: Path, asked: Connection) -> None:
    while True:
        asked.recv()
        asked.send(CASES[name](model, pictures))


def _ask(worker: Connection) -> Timing:
    worker.send("again")
    if not worker.poll(_PATIENCE):
        raise InputError(f"a case took more than {_PATIENCE:.0f} s; give fewer --images")
    return worker.recv()


def markdown(results: dict[str, Any]) -> str:
    """A row for each case."""
    lines = [
        f"| {results['images']:,} images | images/s | over in process | seconds before | "
        "peak RSS, MiB |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in results["rows"]:
        lines.append(
            f"| {row['case']} | {row['images_per_second']['value']:,.0f} | "
            f"{pairing.shown(row['over_in_process'])} | {row['seconds_before']['value']:.1f} | "
            f"{row['peak_bytes'] / 2**20:,.0f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = Parser(prog=_PROG, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", metavar="PATH", help="an exported model")
    parser.add_argument("--images", type=int, default=2000, metavar="N", help="128 to 10000 [2000]")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="at least 1 [5]")
    pairing.add_files(parser)
    return run_command(lambda: parser, argv, _main)


def _main(given: argparse.Namespace) -> int:
    if bool(given.model) == bool(given.source):
        raise InputError("give an exported model, such as models/encoder, or --from FILE")
    return pairing.report(given, lambda: _checked(given), markdown)


def _checked(given: argparse.Namespace) -> dict[str, Any]:
    if not 2 * _BATCH <= given.images <= 10_000:
        raise InputError(f"images are {given.images}; they must be 128 to 10000")
    if given.rounds < 1:
        raise InputError(f"rounds are {given.rounds}; they must be at least 1")
    bulk.check_installed()
    from serving.bulk import encoder

    encoder.check(SavedModel(given.model))
    return measure(str(absolute(given.model)), given.images, given.rounds)


if __name__ == "__main__":
    sys.exit(main())
