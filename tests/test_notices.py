"""TensorFlow's start-up notices are held back, and nothing else is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tf_avae.backend import without_notices

ROOT = Path(__file__).parent.parent
NOTICE = "I0000 00:00:1796046861.738586   10009 port.cc:153] oneDNN custom operations are on."
LEVEL = "TF_CPP_MIN_LOG_LEVEL"


@pytest.fixture(autouse=True)
def level(monkeypatch):
    monkeypatch.setenv(LEVEL, "2")


def tell(*lines):
    for line in lines:
        os.write(2, line.encode() + b"\n")


def test_notices_are_left_out_and_what_others_write_is_shown(capfd):
    with without_notices():
        tell(NOTICE, "mine")
        with without_notices():
            tell("mine too", NOTICE)
    tell("after")
    assert capfd.readouterr().err == "mine\nmine too\nafter\n"


def test_a_block_that_fails_shows_all(capfd):
    with pytest.raises(ImportError), without_notices():
        tell(NOTICE)
        raise ImportError
    assert capfd.readouterr().err == f"{NOTICE}\n"


def test_blocks_of_two_threads_may_end_in_any_order(capfd):
    first, second = without_notices(), without_notices()
    for step in (first.__enter__, second.__enter__):
        step()
    for ended in (first, second):
        ended.__exit__(None, None, None)
    tell("after")
    assert capfd.readouterr().err == "after\n"


def test_a_level_that_was_set_is_kept(capfd, monkeypatch):
    monkeypatch.setenv(LEVEL, "0")
    with without_notices():
        tell(NOTICE)
    assert capfd.readouterr().err == f"{NOTICE}\n"


def test_a_program_that_imports_the_package_first_is_quiet():
    """Whichever library it imports next."""
    environment = {name: value for name, value in os.environ.items() if name != LEVEL}
    code = "import tf_avae, tensorflow; tensorflow.zeros(2); import keras"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
