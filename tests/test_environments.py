"""Commands print, write and end well whatever the process around them, and leave it as it was."""

import argparse
import ast
import asyncio
import importlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.python.framework import config as framework
from test_resume import OPTIONS

from tf_avae.console.commands import Parser, exit_code, handling, run_command
from tf_avae.console.printing import answer, note, say
from training.signals import StopSignals, deterministic

ROOT = Path(__file__).parent.parent
COMMANDS = [
    *("training.fit", "training.evaluate", "training.classify", "training.draw_faces"),
    *("training.sweep.__main__", "training.sweep.timing", "training.theory.__main__"),
    *("training.demo.__main__", "training.leaderboard.__main__"),
    *("serving.export", "serving.server.__main__", "serving.client.__main__"),
    *(f"benchmarks.{path.stem}" for path in sorted((ROOT / "benchmarks").glob("*.py"))
      if "\ndef main(" in path.read_text(encoding="utf-8")),
]  # fmt: skip


def stream(encoding, errors="strict"):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)


def printed(on):
    on.flush()
    return on.buffer.getvalue()


def state():
    """What a command must leave as it was."""
    signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    of_tensorflow = [framework.is_op_determinism_enabled(), tf.get_logger().level]
    return [*signals, *of_tensorflow, sys.stdout, sys.stderr, dict(os.environ), Path.cwd()]


def in_thread(work):
    """What a call gives in a thread."""
    found = []

    def call():
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return found[0]


def in_event_loop(work):
    """What a call gives where an event loop is running, as in a notebook."""

    async def call():
        return work()

    return asyncio.run(call())


def called(command, *words):
    """The exit code of a command, `--help`'s too."""
    try:
        return importlib.import_module(command).main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code or 0


# ---------------------------------------------------------------------- streams


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_whatever_the_encoding(command, monkeypatch):
    found = {}
    for encoding in ("utf-8", "ascii", "latin-1", "cp1252", "utf-16"):
        monkeypatch.setattr(sys, "stdout", stream(encoding))
        assert called(command, "--help") == 0
        found[encoding] = printed(sys.stdout)
    text = found["utf-8"].decode()
    assert text.startswith("usage: ")
    for encoding, content in found.items():
        escaped = text.encode(encoding, "backslashreplace").decode(encoding)
        assert content.decode(encoding) == escaped
    for other in (None, io.StringIO()):
        monkeypatch.setattr(sys, "stdout", other)
        assert called(command, "--help") == 0
    assert other.getvalue() == text
    assert in_thread(lambda: called(command, "--help")) == 0


def test_characters_that_an_encoding_lacks_are_escaped(monkeypatch):
    for print_, name in ((say, "stdout"), (answer, "stdout"), (note, "stderr")):
        for errors, text, expected in (
            ("strict", "é ε \udcff", b"\xe9 \\u03b5 \\udcff"),
            ("surrogateescape", "é ε \udcff", b"\xe9 \\u03b5 \\udcff"),
            # What a stream can write by itself is left to it: the bytes of a file's name.
            ("surrogateescape", "é \udcff", b"\xe9 \xff"),
            ("ignore", "é ε", b"\xe9 "),
        ):
            monkeypatch.setattr(sys, name, stream("latin-1", errors))
            print_(text, end="!")
            assert printed(getattr(sys, name)) == expected + b"!"
            assert getattr(sys, name).errors == errors


class Full(io.RawIOBase):
    """A disk without space, or a pipe that nobody reads."""

    def __init__(self, error):
        self.error = error

    def writable(self):
        return True

    def write(self, content):
        raise self.error


@pytest.mark.parametrize(
    ("error", "code"), [(OSError(28, "No space left on device"), 2), (BrokenPipeError(32, "x"), 0)]
)
def test_output_that_cannot_be_written(monkeypatch, capsys, error, code):
    """What a command has made is there all the same; what it was asked to print is not."""

    def full():
        return io.TextIOWrapper(io.BufferedWriter(Full(error)), write_through=True)

    monkeypatch.setattr(sys, "stdout", full())
    assert exit_code(lambda: say("done") or 0) == 0
    assert exit_code(lambda: answer("a table") or 0) == code
    for command in ("training.fit", "serving.client.__main__"):
        monkeypatch.setattr(sys, "stdout", full())
        assert called(command, "--help") == code
    said = capsys.readouterr().err
    assert ("standard output: No space left" in said) == bool(code) and "Traceback" not in said
    monkeypatch.setattr(sys, "stderr", full())
    note("nobody hears")


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("to", ["pipe", "full"])
def test_a_process_ends_as_its_output_says(client, to):
    """`| head`, and a full disk: Python itself would end with 120."""
    words = (
        ["-m", "serving.client", "--help"]
        if client
        else [
            "-c",
            "import runpy; say = runpy.run_path('tf_avae/console/printing.py')['say']; "
            "say('x' * 20_000); say('y')",
        ]  # without TensorFlow
    )
    if to == "pipe":
        read, out = os.pipe()
        os.close(read)
    else:
        out = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run([sys.executable, *words], stdout=out, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(out)
    assert done.returncode == (2 if client and to == "full" else 0), done.stderr
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    assert (b"No space left" in done.stderr) == (to == "full")


# ---------------------------------------------------------------------- the process


def test_signals_and_determinism_are_as_they_were():
    before = state()
    with deterministic(), StopSignals() as signals:
        assert framework.is_op_determinism_enabled()
        assert in_thread(lambda: _nested()) is None  # which neither sees signals nor ends the other
        assert framework.is_op_determinism_enabled()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
    assert state() == before
    with pytest.raises(ZeroDivisionError), handling({signal.SIGTERM: print}):
        assert signal.getsignal(signal.SIGTERM) is print
        1 / 0  # noqa: B018
    assert state() == before


def _nested():
    with deterministic(), StopSignals() as signals:
        signals.check()


def test_the_command_is_recorded_as_it_was_given_from_python():
    from tf_avae.console.commands import words

    parser, found = Parser(prog="python -m training.fit"), []
    parser.add_argument("--steps")

    def command(given: argparse.Namespace) -> int:
        found.append(words())
        return 0

    assert in_thread(lambda: run_command(lambda: parser, ["--steps", "3"], command)) == 0
    assert run_command(lambda: parser, [], command) == 0
    program = ["python", "-m", "training.fit"]
    assert found == [[*program, "--steps", "3"], program]
    assert "training.fit" not in words()


@pytest.fixture(scope="module")
def run(tmp_path_factory, few_digits):
    """A run by a thread, whose output is ASCII; what was printed."""
    folder = tmp_path_factory.mktemp("ε")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream("ascii"))
        before = state()
        words = ("--algo", "vae", *OPTIONS, "--data-dir", few_digits, "--run-dir", folder / "a run")
        code = in_thread(lambda: called("training.fit", *words))
        assert state() == before
        return folder / "a run", code, printed(sys.stdout).decode("ascii")


def test_training_in_a_thread(run):
    path, code, text = run
    assert code == 0, text
    assert json.loads((path / "result.json").read_text(encoding="utf-8"))["images"] == 120
    assert r"\u03b50/a run/pictures" in text
    session = json.loads((path / "provenance.json").read_text(encoding="utf-8"))["sessions"][0]
    assert session["command"].startswith("python -m training.fit --algo vae")


@pytest.mark.parametrize("where", [in_thread, in_event_loop])
def test_exports_and_evaluations_in_threads_and_notebooks(run, tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", stream("ascii"))
    before = state()
    name = "a 'model"
    assert where(lambda: called("serving.export", run[0], "--to", name, "--batch-sizes", 1)) == 0
    short = ("--section", "probes", "--head", "linear", "--task", "color", "--images", 20)
    words = (f"ε={run[0]}", *short, "--free-images", 20, "--out", "here")
    assert where(lambda: called("training.evaluate", *words)) == 0
    assert state() == before
    text = printed(sys.stdout).decode("ascii")
    assert r"--model_base_path=a '\"'\"'model'" not in text  # whole words are quoted
    assert """'--model_base_path=a '"'"'model'""" in text and """'--model=a '"'"'model'""" in text
    assert json.loads(Path("here/results.json").read_bytes())["encoders"][0]["name"] == "ε"
    assert "ε" in Path("here/report.html").read_bytes().decode()


@pytest.fixture
def small_disk():
    """Files of this process cannot grow beyond 100 kB for as long as the test runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_with_the_file_and_leaves_nothing_behind(
    run, tmp_path, monkeypatch, capsys, request
):
    monkeypatch.chdir(tmp_path)
    left = shutil.copytree(run[0], tmp_path / "left", ignore=ignored)
    request.getfixturevalue("small_disk")
    for words, named in (
        (("serving.export", run[0], "--to", "models/encoder"), "models/encoder: File too large"),
        (("training.fit", "--run-dir", left, "--resume"), "left/model.keras: File too large"),
        (
            ("training.fit", "--algo", "vae", "--steps", 1, "--run-dir", "new/run"),
            "new/run/checkpoints/0-vae-000000000.ckpt: File too large",
        ),
    ):
        assert called(*words) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("error: cannot use ") and named in said, said
    assert not (tmp_path / "models").exists()
    assert not list(tmp_path.rglob(".tmp-*"))


def ignored(folder, names):
    """What a run had not written that was killed before its results."""
    return {"result.json", "model.keras", "encoder.keras"} & set(names)


def test_an_export_ends_well_once_it_is_published(run, tmp_path, monkeypatch, capsys):
    error = OSError(28, "No space left on device")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Full(error), write_through=True))
    (tmp_path / "encoder" / ".tmp-killed").mkdir(parents=True)
    assert called("serving.export", run[0], "--to", tmp_path / "encoder", "--batch-sizes", 1) == 0
    assert [path.name for path in (tmp_path / "encoder").iterdir()] == ["1"]
    assert "standard output cannot be written: No space left" in capsys.readouterr().err


def test_what_is_published_names_nobody(run, tmp_path, monkeypatch):
    """Neither folders above, nor what was typed as a secret, also in sessions of older runs."""
    path = shutil.copytree(run[0], tmp_path / "alice" / "run")
    notes = json.loads((path / "provenance.json").read_bytes())
    notes["sessions"][0]["command"] = (
        "python -m training.fit --data-dir /home/alice/faces --api-key=k3y --password pa55 "
        "--config 'https://alice:pa55@host/c.json?sig=k3y' SECRET=k3y"
    )
    (path / "provenance.json").write_text(json.dumps(notes))
    monkeypatch.chdir(tmp_path / "alice")
    assert called("serving.export", path, "--to", tmp_path / "m", "--batch-sizes", 1) == 0
    text = (tmp_path / "m/1/assets.extra/provenance.json").read_text(encoding="utf-8")
    for word in ("alice", "pa55", "k3y", str(tmp_path), '"/', " /", "=/"):
        assert word not in text, word
    found = json.loads(text)
    assert found["trained"]["sessions"][0]["command"] == (
        "python -m training.fit --data-dir .../faces '--api-key=***' --password '***' "
        "--config 'https://***@host/c.json?***' 'SECRET=***'"
    )
    assert found["exported"]["command"].startswith("python -m serving.export run --to .../m")
    assert found["config"]["data_dir"].startswith(".../")
    short = ("--section", "probes", "--images", 20, "--free-images", 20, "--out", tmp_path / "e")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert called("training.evaluate", tmp_path / "m", *short) == 2
    assert "give the folder with --data-dir" in sys.stderr.getvalue()


def test_the_server_stops_in_a_notebook_and_says_what_is_wrong_in_a_thread(capsys, monkeypatch):
    """A signal in a notebook, whose event loop is running, stops the server."""
    server = importlib.import_module("serving.server.listening")
    serve = server._serve

    async def interrupted(given, offer):
        asyncio.get_running_loop().call_later(0.3, os.kill, os.getpid(), signal.SIGINT)
        return await serve(given, offer)

    before = state()
    words = ("--port=0", "--rest_api_port=0", "--grpc_socket_path=/tmp/none/x")
    for where in (in_thread, in_event_loop):
        assert where(lambda: called("serving.server.__main__", *words)) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and "Traceback" not in said
    assert state()[:-4] == before[:-4]
    monkeypatch.setattr(server, "_serve", interrupted)
    with tempfile.TemporaryDirectory() as short:  # socket paths have at most 107 bytes
        words = ("--demo", "--port=0", f"--grpc_socket_path={short}/s")
        assert in_event_loop(lambda: called("serving.server.__main__", *words)) == 0
    assert state()[:-4] == before[:-4]


# ---------------------------------------------------------------------- files

_OPENS = {"open", "read_text", "write_text", "fdopen", "NamedTemporaryFile", "TextIOWrapper"}


def texts_without_encoding(path):
    """Calls that open text in whatever encoding the locale has."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        given = {word.arg for word in node.keywords}
        words = [a.value for a in (*node.args, *(k.value for k in node.keywords))
                 if isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip
        binary = any("b" in word and set(word) <= set("rwaxb+") for word in words)
        modes = any(word and set(word) <= set("rwaxt+") for word in words)
        helper = isinstance(node.func, ast.Name) and name != "open"  # `files.write_text`
        opens = name in _OPENS and not helper and (name != "open" or modes)
        texts = [
            k for k in node.keywords if k.arg == "text" and getattr(k.value, "value", 0) is True
        ]
        if (opens and not binary and "encoding" not in given) or texts:
            yield f"{path.name}:{node.lineno}"


def test_text_files_are_utf8_whatever_the_locale(tmp_path):
    paths = [p for part in ("tf_avae", "training", "serving", "benchmarks")
             for p in (ROOT / part).rglob("*.py")]  # fmt: skip
    assert [where for path in paths for where in texts_without_encoding(path)] == []
    file = tmp_path / "f.py"
    file.write_text("p.read_text()\nopen('x', 'w')\np.open('rb')\nrun(text=True)\nRun.open(p)\n")
    assert list(texts_without_encoding(file)) == ["f.py:1", "f.py:2", "f.py:4"]
