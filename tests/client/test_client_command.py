"""`python -m serving.client`."""

import itertools
import re
import signal
import threading
import types

import numpy as np
import pytest

from serving.client import EmbeddingClient
from serving.client.__main__ import main
from tests.client.predictable import AVAILABLE, END, LOADING


def run(capsys, *arguments):
    """Exit code, what was printed, what was complained."""
    try:
        code = main([str(word) for word in arguments])
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_embeds_files_to_a_file(capsys, server, files, tmp_path):
    embed = ("embed", *files, "--address", server.address, "--batch-size", 2, "--out")
    code, text, complaint = run(capsys, *embed, tmp_path / "a.npy")
    assert code == 0 and not complaint
    assert "7 images, 4 dimensions, encoder version 3\n" in text
    assert "inconsistency: median 40, max 70; the largest:\n" in text
    assert re.findall(r"  (\d+)  .*/(\d)\.png", text) == [("70", "7"), ("60", "6"), ("50", "5")]
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy")[:, 0], range(1, 8))
    assert run(capsys, *embed, tmp_path / "a.npz")[0] == 0
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert found["embedding"].shape == found["variance"].shape == (7, 4)
        np.testing.assert_array_equal(found["inconsistency"], range(10, 80, 10))
        assert found["version"] == 3
        assert found["paths"].tolist() == [str(file) for file in files]


def test_certifies_files_to_a_file(capsys, server, files, tmp_path):
    certify = ("certify", *files, "--address", server.address, "--epsilon", 0.25, "--out")
    code, text, complaint = run(capsys, *certify, tmp_path / "a.npz")
    assert code == 0 and not complaint
    assert "7 images, 4 dimensions, encoder version 3\n" in text
    assert "mean width within 0.25: median 0.5, max 0.5\n" in text
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["lower"], found["embedding"] - 0.25)
        np.testing.assert_array_equal(found["upper"], found["embedding"] + 0.25)
        np.testing.assert_array_equal(found["embedding"][:, 0], range(1, 8))
        assert found["version"] == 3 and found["epsilon"] == 0.25
        assert found["paths"].tolist() == [str(file) for file in files]
        ends = [found["lower"], found["upper"]]
    assert run(capsys, *certify, tmp_path / "a.npy")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), ends)


def test_embeds_the_images_of_a_folder(capsys, server, files, tmp_path):
    files[0].with_name("notes.txt").write_text("no image")
    out = tmp_path / "out" / "a.npy"
    out.parent.mkdir()
    assert run(capsys, "embed", tmp_path, "--address", server.address, "--out", out)[0] == 0
    np.testing.assert_array_equal(np.load(out)[:, 0], range(1, 8))
    code, _, complaint = run(capsys, "embed", out.parent, "--out", out)
    assert code == 2 and "holds no file that ends with one of .png, .jpg, .jpeg" in complaint


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("", 2, ["COMMAND", "--help"]),
        ("embed 1.png", 2, ["--out"]),
        ("embed 1.png --out a.txt", 2, ["a.txt", ".npy or .npz"]),
        ("embed 1.png --out no/a.npy", 2, ["no/a.npy", "no folder"]),
        ("embed 1.png --out folder.npy", 2, ["folder.npy", "cannot be written"]),
        ("embed 9.png --out a.npy", 2, ["9.png: No such file"]),
        ("embed 1.png bad.png --out a.npy", 2, ["bad.png: ", "Unknown format. [[{{node x}}]]"]),
        ("embed 1.png --out a.npy --batch-size 0", 2, ["batch_size is 0"]),
        ("embed 1.png --out a.npy --model other", 2, ["NOT_FOUND", "other"]),
        ("embed 1.png --out a.npy --version 9", 2, ["NOT_FOUND"]),
        ("embed 1.png --out a.npy --version x", 2, ["--version", "'x'"]),
        ("embed 1.png --out a.npy --version 3 --label y", 2, ["leave one out"]),
        ("embed 1.png --out a.npy --label y", 2, ["Unrecognized servable version label: y"]),
        ("embed 1.png --out a.npy --tls-ca no.pem", 2, ["tls_ca no.pem", "No such file"]),
        ("certify 1.png --out a.npz", 2, ["--epsilon"]),
        ("certify 1.png --out a.npz --epsilon -1", 2, ["epsilon is -1", "at least 0"]),
        ("certify 1.png bad.png --out a.npz --epsilon 1", 2, ["bad.png: ", "Unknown format."]),
        ("status --address localhost:1", 1, ["UNAVAILABLE", "localhost:1"]),
        ("status --model other", 2, ["NOT_FOUND"]),
        ("status --version 8 --wait 0.1", 1, ["not ready after 0.1 s"]),
        ("metadata --label y", 2, ["Unrecognized"]),
    ],
)
def test_errors_are_one_line(capsys, server, files, monkeypatch, arguments, code, words):
    monkeypatch.chdir(files[0].parent)
    files[0].with_name("bad.png").write_bytes(b"bad")
    files[0].with_name("folder.npy").mkdir()
    before = sorted(files[0].parent.iterdir())
    words_given = arguments.split()
    if words_given and "--address" not in words_given:
        words_given += ["--address", server.address]
    found, text, complaint = run(capsys, *words_given)
    assert found == code and not text
    assert complaint.startswith("error: ") and complaint.count("\n") == 1
    for word in words:
        assert word in complaint
    assert sorted(files[0].parent.iterdir()) == before


def test_shows_what_is_served(capsys, server):
    server.states = [(3, AVAILABLE, ""), (4, END, "no assets")]
    address = ("--address", server.address)
    assert run(capsys, "status", *address, "--wait", 5) == (
        0,
        "version 4 END: no assets\nversion 3 AVAILABLE\n",
        "",
    )
    code, text, _ = run(capsys, "metadata", *address)
    assert code == 0
    assert text.startswith("encoder version 3\nembed_bytes\n  in   image_bytes: string []\n")
    assert "serving_default\n  in   image: float32 [N, 12, 12, 3]\n" in text
    assert "__saved_model_init_op" not in text
    server.states = [(3, LOADING, "")]
    assert run(capsys, "status", *address)[:2] == (1, "version 3 LOADING\n")


@pytest.fixture
def default_sigint():
    """Python's own handler, also where this was started with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c(capsys, server, files, tmp_path, default_sigint, monkeypatch):
    release, begun_in = threading.Event(), []
    method = EmbeddingClient._method

    def noted(self, ask):
        begun_in.append(threading.current_thread())
        return method(self, ask)

    monkeypatch.setattr(EmbeddingClient, "_method", noted)

    def interrupt(count):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        release.wait(1)  # a signal that comes just before a wait is seen after it

    server.before = interrupt
    out = tmp_path / "a.npy"
    code, _, complaint = run(capsys, "embed", files[0], "--address", server.address, "--out", out)
    assert (code, complaint) == (130, "\nstopped\n")
    assert not out.exists()
    release.set()
    # Where the signal interrupts that in the main thread, the channel never closes.
    assert begun_in and threading.main_thread() not in begun_in


def test_says_how_far_it_is(capsys, server, files, tmp_path, monkeypatch):
    now = itertools.count(0, 10)  # a look at the clock when it begins, and one a request
    clock = types.SimpleNamespace(monotonic=lambda: next(now))
    monkeypatch.setattr("tf_avae.console.progress.time", clock)
    words = ("--address", server.address, "--batch-size", 2, "--concurrency", 1)
    code, _, complaint = run(capsys, "embed", *files, *words, "--out", tmp_path / "a.npy")
    assert code == 0
    assert re.findall(r"embedding (\d)/7  ", complaint) == ["2", "4", "6", "7"]
    assert complaint.splitlines()[1] == "embedding 4/7  0.2/s  0:15 left"
