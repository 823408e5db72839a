"""What the local server does with requests, beside the same images through the SavedModel in
process.

`python -m benchmarks.serving models/encoder` starts two servers, one that merges requests (by
serving/configs/batching.txt) and one that does not, and drives them over loopback from this
process. All cases are timed in turn, several rounds, so that a machine's moods cancel in ratios.
`--soak 300` asks for five minutes while versions are swapped every 20 seconds, and counts failures.
`--beside` measures how long good requests wait beside bad ones.
"""

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2

from benchmarks import beside
from benchmarks.pairing import megabytes, ratios, resident, shown
from serving.client import EmbeddingClient
from tf_avae.backend import tf
from tf_avae.config import read_json
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import answer, note
from tf_avae.errors import InputError
from tf_avae.files import absolute, write_json
from tf_avae.graphs.saved_models import SavedModel
from tf_avae.provenance import provenance
from tf_avae.records import damage_told

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_BATCHING = Path(__file__).parent.parent / "serving/configs/batching.txt"
_MERGING = ("--enable_batching", f"--batching_parameters_file={_BATCHING}")
_REQUEST = 32  # images in a large request
_SWAP = 20.0  # seconds between versions in the soak


@dataclass(frozen=True)
class Case:
    """A load.

    Attributes:
        server: "merged" or "alone".
        images: in a request.
        concurrency: requests under way at once.
    """

    server: str
    images: int
    concurrency: int

    @property
    def name(self) -> str:
        return f"{self.server}, {self.images} x {self.concurrency}"


LARGE = [Case("merged", _REQUEST, concurrency) for concurrency in (1, 2, 4, 8)]
SINGLE = [Case("merged", 1, concurrency) for concurrency in (1, 8, 32, 128)]
CASES = [*LARGE, *SINGLE, Case("merged", 8, 8), Case("alone", 1, 32), Case("alone", _REQUEST, 4)]


@dataclass
class Outcome:
    """What a load met with.

    Attributes:
        seconds: how long it took.
        latencies: of the requests that were answered, in seconds.
        failures: code and text to number.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failures: Counter = field(default_factory=Counter)


def drive(channel: grpc.Channel, body: bytes, concurrency: int, seconds: float) -> Outcome:
    """Keeps so many requests under way for a time; each answer makes the next request."""
    call = channel.unary_unary(_PREDICT)
    outcome, done = Outcome(), threading.Semaphore(0)
    start = time.perf_counter()

    def ask() -> None:
        begun = time.perf_counter()
        if begun - start >= seconds:
            done.release()
            return

        def answered(future: Any) -> None:
            error = future.exception()
            if error is None:
                outcome.latencies.append(time.perf_counter() - begun)
            else:
                outcome.failures[f"{error.code().name}: {error.details()}"] += 1
            ask()

        call.future(body, timeout=60).add_done_callback(answered)

    for _ in range(concurrency):
        ask()
    for _ in range(concurrency):
        done.acquire()
    outcome.seconds = time.perf_counter() - start
    return outcome


def body_of(model: str, images: np.ndarray) -> bytes:
    """A request, serialised once: what the driver does between requests counts as the server's."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(images))
    return request.SerializeToString()


@contextlib.contextmanager
def serving(base: Path, *flags: str) -> Iterator[tuple[grpc.Channel, int]]:
    """A server in a process of its own, on a free port of loopback, and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.server", f"--port={port}", f"--model_name={base.name}",
         f"--model_base_path={base}", *flags],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"127.0.0.1:{port}"
    try:
        with EmbeddingClient(address, base.name) as client:
            client.wait_until_ready(120)
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(address, options=options) as channel:
            yield channel, process.pid
    finally:
        process.terminate()
        process.wait()


def in_process(saved: SavedModel, images: np.ndarray, seconds: float) -> float:
    """Images per second through the SavedModel here, arrays in and arrays out."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        found = saved.call("serving_default", image=tf.constant(images))
        for value in found.values():
            value.numpy()
        count += len(images)
    return count / (time.perf_counter() - start)


def measure(base: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """All cases, round by round."""
    saved = SavedModel(base)
    shape = saved.inputs("serving_default")["image"].shape[1:]
    sizes = {case.images for case in CASES}
    images = np.random.default_rng(0).uniform(size=(max(sizes), *shape)).astype(np.float32)
    bodies = {size: body_of(base.name, images[:size]) for size in sizes}
    rates: dict[str, list[float]] = {}
    outcomes: dict[str, list[Outcome]] = {case.name: [] for case in CASES}
    with serving(base, *_MERGING) as merged, serving(base) as alone:
        channels = {"merged": merged[0], "alone": alone[0]}
        for number in range(-1, rounds):  # the first warms up and is not counted
            for size in (1, _REQUEST):
                rate = in_process(saved, images[:size], seconds if number >= 0 else 0.2)
                rates.setdefault(f"in process, {size}", []).append(rate)
            for case in CASES:
                channel, length = channels[case.server], seconds if number >= 0 else 0.2
                found = drive(channel, bodies[case.images], case.concurrency, length)
                outcomes[case.name].append(found)
                rate = len(found.latencies) * case.images / found.seconds
                rates.setdefault(case.name, []).append(rate)
            note(f"round {number + 1} of {rounds}")
        processes = {"merged": merged[1], "alone": alone[1], "in process": os.getpid()}
        peaks = {name: resident(process)["peak"] for name, process in processes.items()}
    rates = {name: values[1:] for name, values in rates.items()}
    rows = [_row(case, rates, outcomes[case.name][1:]) for case in CASES]
    best = max(LARGE, key=lambda case: np.median(rates[case.name]))
    return {
        "in_process": {
            str(size): float(np.median(rates[f"in process, {size}"])) for size in (1, _REQUEST)
        },
        "rows": rows,
        "peak_bytes": peaks,
        "large_over_in_process": ratios(rates, best.name, f"in process, {_REQUEST}"),
        "merged_over_alone": ratios(rates, Case("merged", 1, 32).name, Case("alone", 1, 32).name),
    }


def _row(case: Case, rates: dict[str, list[float]], outcomes: list[Outcome]) -> dict[str, Any]:
    latencies = np.concatenate([outcome.latencies for outcome in outcomes]) * 1e3
    quantiles = np.percentile(latencies, [50, 95, 99])
    return {
        "server": case.server,
        "images": case.images,
        "concurrency": case.concurrency,
        "images_per_second": float(np.median(rates[case.name])),
        "over_in_process": ratios(rates, case.name, f"in process, {_REQUEST}")["value"],
        **{f"p{p}_ms": float(q) for p, q in zip((50, 95, 99), quantiles, strict=True)},
        "failures": dict(sum((outcome.failures for outcome in outcomes), Counter())),
    }


def soak(base: Path, seconds: float) -> dict[str, Any]:
    """Load while a new version appears every 20 seconds, and the one before the last goes."""
    saved = SavedModel(base)
    newest = saved.path
    shape = saved.inputs("serving_default")["image"].shape[1:]
    images = np.random.default_rng(0).uniform(size=(_REQUEST, *shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / base.name
        shutil.copytree(newest, copy / "1")
        with serving(copy, *_MERGING) as (channel, _):
            loads = [(images[:1], 16), (images, 2)]
            outcomes: list[Outcome] = []
            threads = [
                threading.Thread(
                    target=lambda x=x, c=c: outcomes.append(
                        drive(channel, body_of(base.name, x), c, seconds)
                    )
                )
                for x, c in loads
            ]
            for thread in threads:
                thread.start()
            start, number = time.monotonic(), 1
            while time.monotonic() - start + _SWAP < seconds:
                time.sleep(_SWAP)
                number += 1
                shutil.copytree(newest, copy / ".tmp")
                (copy / ".tmp").rename(copy / str(number))
                if number > 2:
                    shutil.rmtree(copy / str(number - 2))
                note(f"version {number}, {time.monotonic() - start:.0f} s")
            for thread in threads:
                thread.join()
    latencies = np.concatenate([outcome.latencies for outcome in outcomes]) * 1e3
    failures = sum((outcome.failures for outcome in outcomes), Counter())
    return {
        "seconds": seconds, "swaps": number - 1, "answered": len(latencies),
        "failed": sum(failures.values()), "failures": dict(failures),
        "p99_ms": float(np.percentile(latencies, 99)), "longest_ms": float(latencies.max()),
    }  # fmt: skip


def beside_bad(base: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Good requests beside bad ones; see `benchmarks.beside`."""
    shape = SavedModel(base).inputs("serving_default")["image"].shape[1:]
    images = np.random.default_rng(0).uniform(size=(beside.MANY, *shape)).astype(np.float32)
    body = body_of(base.name, images[:1])
    return {"beside": beside.measure(base, images, body, rounds, seconds)}


def table(found: dict[str, Any]) -> str:
    """The figures, for a person."""
    lines = [f"in process: {found['in_process'][str(_REQUEST)]:,.0f} images/s by {_REQUEST}, "
             f"{found['in_process']['1']:,.0f} by 1",
             f"{'requests':10} {'images':>6} {'at once':>7} {'images/s':>9} {'of process':>10} "
             f"{'p50 ms':>7} {'p95':>7} {'p99':>7}  failed"]  # fmt: skip
    lines += [
        f"{row['server']:10} {row['images']:6} {row['concurrency']:7} "
        f"{row['images_per_second']:9,.0f} {row['over_in_process']:10.2f} {row['p50_ms']:7.1f} "
        f"{row['p95_ms']:7.1f} {row['p99_ms']:7.1f}  {sum(row['failures'].values())}"
        for row in found["rows"]
    ]
    for text, key in (
        (f"requests of {_REQUEST}, best concurrency, over in process", "large_over_in_process"),
        ("single images, 32 at once, merged over alone", "merged_over_alone"),
    ):
        lines.append(f"{text}: {shown(found[key])}")
    peaks = (f"{name} {megabytes(size)} MB" for name, size in found["peak_bytes"].items())
    return "\n".join([*lines, f"peak memory of the processes: {', '.join(peaks)}"])


def markdown(found: dict[str, Any]) -> str:
    """The same as a Markdown table."""
    if "beside" in found:
        return beside.markdown(found["beside"])
    heads = ("requests", "images", "at once", "images/s", "over in process", "p50 ms", "p95 ms",
             "p99 ms")  # fmt: skip
    alone = f"{found['in_process'][str(_REQUEST)]:,.0f}"
    lines = [
        "| " + " | ".join(heads) + " |",
        "|---|" + "---:|" * (len(heads) - 1),
        f"| in process | {_REQUEST} | 1 | {alone} | 1 | | | |",
    ]
    lines += [
        f"| {row['server']} | {row['images']} | {row['concurrency']} | "
        f"{row['images_per_second']:,.0f} | {row['over_in_process']:.2f} | {row['p50_ms']:.1f} | "
        f"{row['p95_ms']:.1f} | {row['p99_ms']:.1f} |"
        for row in found["rows"]
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Prints a table, and writes it as JSON where asked."""
    parser = Parser(prog="python -m benchmarks.serving", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", help="an exported model's folder: models/encoder")
    parser.add_argument("--from", dest="source", type=Path, help="a kept file, as Markdown")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per case and round")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="only this, for so long")
    parser.add_argument("--beside", action="store_true", help="only good requests beside bad ones")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return run_command(lambda: parser, argv, _main)


def _main(given: argparse.Namespace) -> int:
    if given.source:
        kept = read_json(given.source)
        with damage_told(given.source, "measure again"):
            answer(markdown(kept))
        return 0
    if not given.model:
        raise InputError("no model is given; export one: python -m serving.export RUN --to DIR")
    base = absolute(given.model)
    if given.beside:
        found = beside_bad(base, given.rounds, given.seconds)
        print(markdown(found))
    elif given.soak:
        found = soak(base, given.soak)
        answer(f"{found['answered']:,} answered, {found['failed']} failed, {found['swaps']} swaps, "
              f"{given.soak:.0f} s; p99 {found['p99_ms']:.1f} ms, longest "
              f"{found['longest_ms']:.0f} ms")  # fmt: skip
        for failure, count in found["failures"].items():
            answer(f"  {count} x {failure}")
    else:
        found = measure(base, given.rounds, given.seconds)
        answer(table(found))
    if given.json:
        write_json(given.json, found | provenance())
    return 0


if __name__ == "__main__":
    sys.exit(main())
