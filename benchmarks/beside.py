"""How long good requests wait at the local server beside bad ones: a case of `benchmarks.serving`.

For each load a server of its own is started. Four clients ask it for good things, one request
after another, first by themselves and then beside the load: one image over gRPC, and one, 200 and
400 over REST. Then the load's clients go away, and the server is told to stop.
"""

import contextlib
import gzip
import http.client
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.pairing import megabytes, rows_of

MANY = 200  # images of a large good request
GOOD = "good requests"  # the load that others are compared with
_PAUSE = 0.05  # seconds between the requests of a client
_LONGEST = 120.0  # seconds that are waited for an answer, and for the server's end
_JSON = {"Content-Type": "application/json"}
_GZIP = _JSON | {"Content-Encoding": "gzip"}


@dataclass(frozen=True)
class Load:
    """Requests that are made as often as they are answered.

    Attributes:
        name: what they are.
        body: of each.
        headers: of each.
        clients: that ask at once.
    """

    name: str
    body: bytes
    headers: dict[str, str]
    clients: int


def loads(images: np.ndarray) -> list[Load]:
    """The loads: good requests first, then bad ones.

    Args:
        images: float32 [MANY, H, W, C].
    """
    good = rows(images)
    cut = rows(np.tile(images, (7, 1, 1, 1)))[: 2**24]
    numbers = b"0.5," * (15 * 2**20) + b"0.5]}"
    return [
        Load(GOOD, good, _JSON, 8),
        Load("2.4 MB of numbers in one flat list", rows(images.ravel()), _JSON, 8),
        Load("16 MB of JSON that ends in an error", cut, _JSON, 4),
        Load("60 MB of numbers in 58 KB, as rows",
             gzip.compress(b'{"instances": [' + numbers), _GZIP, 2),
        Load("60 MB of numbers in 58 KB, as a column",
             gzip.compress(b'{"inputs": [' + numbers), _GZIP, 2),
        Load("1 GiB of blanks in 1 MB", _blanks(2**30), _GZIP, 4),
    ]  # fmt: skip


def rows(values: np.ndarray) -> bytes:
    """A body with so many examples, its numbers as short as people write them."""
    return json.dumps({"instances": values.astype(float).round(2).tolist()}).encode()


def _blanks(size: int) -> bytes:
    """So many blanks as one gzip member of about a thousandth."""
    machine, step = zlib.compressobj(wbits=31), b" " * 2**20
    return b"".join([*(machine.compress(step) for _ in range(size // 2**20)), machine.flush()])


@dataclass
class Client:
    """Asks one request after another.

    Attributes:
        ask: makes a request; raises what is wrong with the answer.
        waits: seconds that each took.
        failures: what is wrong to number.
    """

    ask: Callable[[], None]
    waits: list[float] = field(default_factory=list)
    failures: Counter = field(default_factory=Counter)

    def run(self, stop: threading.Event) -> None:
        """Asks until it is told to stop, at least once."""
        while True:
            start = time.perf_counter()
            try:
                self.ask()
            except Exception as error:
                self.failures[f"{type(error).__name__}: {error}"[:200]] += 1
            self.waits.append(time.perf_counter() - start)
            if stop.wait(_PAUSE):
                return


class Server:
    """A server in a process of its own.

    Args:
        base: the model's folder.
    """

    def __init__(self, base: Path):
        with socket.socket() as one, socket.socket() as other:
            for free in (one, other):
                free.bind(("127.0.0.1", 0))
            self.port, self.rest_port = one.getsockname()[1], other.getsockname()[1]
        self.model = base.name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving.server", f"--port={self.port}",
             f"--rest_api_port={self.rest_port}", f"--model_name={base.name}",
             f"--model_base_path={base}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._sample = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0

    def post(self, body: bytes, headers: dict[str, str], opened: Callable[[Any], None]) -> None:
        """A prediction over REST.

        Raises:
            ValueError: another status than 200.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=_LONGEST)
        opened(connection)
        try:
            connection.request("POST", f"/v1/models/{self.model}:predict", body, headers)
            reply = connection.getresponse()
            text = reply.read()
        finally:
            connection.close()
        if reply.status != 200:
            raise ValueError(f"{reply.status} {text[:100]!r}")

    def ready(self) -> None:
        """Waits until it serves."""
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=5)
                connection.request("GET", f"/v1/models/{self.model}")
                if b"AVAILABLE" in connection.getresponse().read():
                    self._sample.start()
                    return
            time.sleep(0.1)

    def memory(self) -> int:
        """Bytes of the process and of those that it started."""
        return sum(_resident(pid) for pid in (self.process.pid, *_children(self.process.pid)))

    def stop(self) -> float:
        """Tells it to stop; seconds until it has ended."""
        start = time.perf_counter()
        self.process.terminate()
        try:
            self.process.wait(_LONGEST)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return time.perf_counter() - start

    def _watch(self) -> None:
        while self.process.poll() is None:
            self.peak = max(self.peak, self.memory())
            time.sleep(0.05)


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # it has ended
        return 0
    return pages * 4096


def _children(pid: int) -> list[int]:
    """The processes that one started; not those that still share its memory as they start."""
    own, found = Path(f"/proc/{pid}/cmdline"), []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text(encoding="ascii").split()):
                if Path(f"/proc/{child}/cmdline").read_bytes() != own.read_bytes():
                    found.append(child)
    return found


def measure(
    base: Path, images: np.ndarray, body: bytes, rounds: int, seconds: float
) -> dict[str, Any]:
    """Each load in turn, round by round.

    Args:
        base: the model's folder.
        images: float32 [MANY, H, W, C].
        body: a gRPC request for one image, serialised.
        rounds: how often.
        seconds: of each load.
    """
    found: dict[str, dict[str, Any]] = {}
    for number in range(rounds):
        for load in loads(images):
            one = _one(base, images, body, load, seconds)
            row = found.setdefault(load.name, {"answers": {}, "waits": {}, "alone": {}})
            for key in ("waits", "alone"):
                for client, waits in one[key].items():
                    row[key].setdefault(client, []).append(waits)
            for key in ("growth_bytes", "stop_seconds"):
                row[key] = max(row.get(key, 0), one[key])
            row["answers"] = dict(Counter(row["answers"]) + one["answers"])
            row["failures"] = dict(Counter(row.get("failures", {})) + one["failures"])
            print(f"round {number + 1} of {rounds}: {load.name}", file=sys.stderr, flush=True)
    return {"rows": [_row(name, row, found[GOOD]) for name, row in found.items()]}


def _one(base: Path, images: np.ndarray, body: bytes, load: Load, seconds: float) -> dict[str, Any]:
    server = Server(base)
    one, many, most = (rows(part) for part in (images[:1], images, np.tile(images, (2, 1, 1, 1))))
    options = [("grpc.max_receive_message_length", -1)]
    try:
        server.ready()
        with grpc.insecure_channel(f"127.0.0.1:{server.port}", options) as channel:
            call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            asks: dict[str, Callable[[], None]] = {
                "gRPC, 1 image": lambda: call(body, timeout=_LONGEST),
                "REST, 1 image": lambda: server.post(one, _JSON, lambda _: None),
                f"REST, {MANY} images": lambda: server.post(many, _JSON, lambda _: None),
                f"REST, {2 * MANY} images": lambda: server.post(most, _JSON, lambda _: None),
            }
            _together({name: Client(ask) for name, ask in asks.items()}, 1.0)  # warms up
            alone = {name: Client(ask) for name, ask in asks.items()}
            _together(alone, seconds / 2)
            before = server.memory()
            server.peak = before
            beside = {name: Client(ask) for name, ask in asks.items()}
            answers = _loaded(server, load, lambda: _together(beside, seconds))
            growth = server.peak - before
        return {
            "alone": {name: client.waits for name, client in alone.items()},
            "waits": {name: client.waits for name, client in beside.items()},
            "failures": sum((client.failures for client in beside.values()), Counter()),
            "answers": answers,
            "growth_bytes": growth,
            "stop_seconds": server.stop(),
        }
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def _together(clients: dict[str, Client], seconds: float) -> None:
    """Lets clients ask at once for a time."""
    stop = threading.Event()
    threads = [threading.Thread(target=client.run, args=[stop]) for client in clients.values()]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()


def _loaded(server: Server, load: Load, work: Callable[[], None]) -> Counter:
    """Works while a load's clients ask; what they were answered. They go away in the end."""
    stop, answers = threading.Event(), Counter[str]()
    connections: dict[int, http.client.HTTPConnection] = {}

    def ask(number: int) -> None:
        while not stop.is_set():
            try:
                server.post(
                    load.body, load.headers, lambda made: connections.update({number: made})
                )
                answers["200"] += 1
            except ValueError as error:
                answers[str(error)[:3]] += 1
            except (OSError, http.client.HTTPException) as error:
                if not stop.is_set():
                    answers[type(error).__name__] += 1

    threads = [threading.Thread(target=ask, args=[n]) for n in range(load.clients)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    work()
    stop.set()
    for connection in list(connections.values()):
        if connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    return answers


def _row(name: str, row: dict[str, Any], good: dict[str, Any]) -> dict[str, Any]:
    """The figures of a load; waits are means, since a wait that is long counts as it lasts."""

    def means(rounds: list[list[float]]) -> list[float]:
        return [statistics.fmean(waits) for waits in rounds]

    clients = {}
    for client, waits in row["waits"].items():
        ratios = [
            mine / theirs
            for mine, theirs in zip(means(waits), means(good["waits"][client]), strict=True)
        ]
        clients[client] = {
            "alone_ms": 1e3 * statistics.median(means(row["alone"][client])),
            "mean_ms": 1e3 * statistics.median(means(waits)),
            "longest_ms": 1e3 * max(map(max, waits)),
            "over_good": statistics.median(ratios),
        }
    return {
        "load": name,
        "clients": clients,
        "growth_bytes": row["growth_bytes"],
        "stop_seconds": row["stop_seconds"],
        "answers": row["answers"],
        "failures": row["failures"],
    }


def markdown(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    heads = ["beside", "client", "alone, ms", "mean, ms", "longest, ms", "over good",
             "memory, MB", "stop, s"]  # fmt: skip
    lines = []
    for row in found["rows"]:
        for number, (client, figures) in enumerate(row["clients"].items()):
            whole = ["", "", ""] if number else [
                row["load"], megabytes(row["growth_bytes"]), f"{row['stop_seconds']:.1f}",
            ]  # fmt: skip
            lines.append([
                whole[0], client, f"{figures['alone_ms']:,.0f}", f"{figures['mean_ms']:,.0f}",
                f"{figures['longest_ms']:,.0f}", f"{figures['over_good']:.2f}", *whole[1:],
            ])  # fmt: skip
    return rows_of(heads, lines)
