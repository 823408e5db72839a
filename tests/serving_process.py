"""A server in a process of its own, for the tests that need a real one."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Each call through a channel with these options ends within a minute, whatever the server does.
DEADLINE = [
    ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "timeout": "60s"}]}))
]


def free_ports(count):
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Server:
    """`python -m serving.server` with these flags on free ports; ends with the `with` block.

    Args:
        logs: where its log goes.
        flags: of the server.
        folder: it is started in.

    Attributes:
        grpc, rest: addresses.
        log: what it has said, a file.
    """

    def __init__(self, logs, *flags, folder=ROOT):
        port, rest_port = free_ports(2)
        self.grpc, self.rest = f"127.0.0.1:{port}", f"127.0.0.1:{rest_port}"
        self.log = Path(logs) / f"server-{port}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serving.server", *map(str, flags), f"--port={port}",
                 f"--rest_api_port={rest_port}"],
                cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=log, stderr=log,
            )  # fmt: skip
        self.wait_for(" ready$")

    def wait_for(self, pattern, seconds=90):
        """Waits until the log has a line like this."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.log.read_text(), re.MULTILINE):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def stop(self, number=signal.SIGTERM):
        """Ends it; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)


def http(address, path, body=None, method=None, headers=None):
    """Status and body of an HTTP request."""
    data = body.encode() if isinstance(body, str) else body
    request = urllib.request.Request(f"http://{address}{path}", data, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
