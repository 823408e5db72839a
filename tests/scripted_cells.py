"""Cells that cost nothing: a script that counts, for tests of where and how cells are done."""

import time
from pathlib import Path

from training.signals import Interrupted
from training.sweep.cells.declaration import Cell, Declaration, Kind

# Counts its starts and its steps in files; ends after so many steps; a signal ends it at a step.
SCRIPT = r"""
import os, pathlib, signal, sys, time
folder, steps, pause, code, *needs = sys.argv[1:]
folder = pathlib.Path(folder)
stopped = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda got, frame: stopped.append((got, time.monotonic())))
for need in needs:
    assert (pathlib.Path(need) / "result").exists(), need
with (folder / "starts").open("a") as file:
    file.write(f"{os.getpid()} {time.time()}\n")
# A line for each step, written at once: whenever it is killed, a step was made or was not.
made = os.open(folder / "steps", os.O_RDWR | os.O_CREAT | os.O_APPEND)
for step in range(os.read(made, 1 << 20).count(b"\n"), int(steps)):
    time.sleep(float(pause))
    os.write(made, f"{step}\n".encode())
    print(f"step {step + 1}/{steps}  0:{int(steps) - step - 1:02d} left", flush=True)
    if stopped:
        time.sleep(0.4)  # a second signal would end the saving, unless it came with the first
        again = any(at > stopped[0][1] + 0.25 for _, at in stopped)
        print("ended at once" if again else "saved", flush=True)
        sys.exit(128 + stopped[0][0])
    if (folder.parent / "enough").exists():  # whatever a busy machine took until here
        break
if int(code):
    print("went wrong", file=sys.stderr)
    sys.exit(int(code))
(folder / "result").write_text(str(time.time()))
"""


def _words(cell, path, needs):
    o = {"steps": 1, "pause": 0.0, "code": 0} | cell.options
    return ["-c", SCRIPT, *map(str, (path, o["steps"], o["pause"], o["code"], *needs))]


SCRIPTED = Kind("script", "counts", output=".", result="result", words=_words)


def script(name, *needs, **options):
    return Cell(name, "script", options, needs)


def declared(*made, **settings):
    return Declaration("scripts", settings, made)


class Signals:
    """As `StopSignals`, from inside."""

    received = None

    def check(self):
        if self.received:
            raise Interrupted(self.received)


def starts(sweep, name):
    path = sweep.folder(name) / "starts"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(what, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def steps(sweep, name):
    """The numbers of the steps that were made, in their order."""
    path = sweep.folder(name) / "steps"
    return list(map(int, path.read_text().split())) if path.exists() else []


def count(sweep, name):
    return len(steps(sweep, name))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
