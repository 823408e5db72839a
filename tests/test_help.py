"""`--help` of every command is there without the libraries that the work needs."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import startup
from tests.test_readme import ROOT
from tf_avae.errors import InputError

HEAVY = {
    *("tensorflow", "keras", "sklearn", "matplotlib", "tensorflow_datasets"),
    *("apache_beam", "gradio"),
}
ASK = """
import atexit, runpy, sys
def tell():
    found = {name.partition(".")[0] for name in sys.modules}
    print("imported:", *sorted(found), file=sys.stderr)
atexit.register(tell)
runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
"""


def called(module, *words, folder=ROOT):
    """`python -m MODULE WORDS` in a folder, and the names of all that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", ASK.replace("MODULE", repr(module)), *words],
        capture_output=True, text=True, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done, set(done.stderr.rpartition("imported:")[2].split())


def test_all_commands_are_asked():
    """Those of the two folders that have a line for `python -m`; cells of sweeps aside."""
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for folder in ("training", "serving")
        for path in (ROOT / folder).rglob("*.py")
        if "\ndef main(argv" in path.read_text() or path.name == "__main__.py"
    }
    assert found - {"training.sweep.timing"} == set(startup.COMMANDS)


@pytest.mark.parametrize("module", startup.COMMANDS)
def test_help_needs_no_heavy_library(module):
    done, imported = called(module, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m {module} ") and len(done.stdout) > 300
    assert "argparse" in imported and not imported & HEAVY


@pytest.mark.parametrize(("last", "code"), [(0.9, 0), (1.2, 1)])
def test_the_benchmark_says_which_take_too_long(tmp_path, capsys, last, code):
    """By the median of the rounds: a moment's mood is none."""
    path = tmp_path / "kept.json"
    seconds = {"Python alone": [0.01] * 3, "training.fit": [0.5, 9.0, last]}
    kept = {"seconds": seconds, "first": {}, "rounds": 3, "device": "a machine"}
    path.write_text(json.dumps(kept))
    assert startup.main(["--from", str(path)]) == code
    row = f"| `training.fit` | {last:.2f} (0.50 to 9.00) |"
    assert row in capsys.readouterr().out.splitlines()
    path.write_text("{}")
    assert startup.main(["--from", str(path)]) == 2
    assert startup.main(["--rounds", "0"]) == 2
    assert "rounds is 0" in capsys.readouterr().err


def test_processor_time_is_that_of_the_process_asked():
    code = "import os, time; "
    code += "[None for _ in iter(lambda: time.process_time() < 0.3, False)]"
    assert 0.3 < startup._seconds(["-c", code]) < 3
    code += "\nprint('it begins', flush=True)\ntime.sleep(60)"
    assert 0.2 < startup._until(["-c", code], "begins") < 3
    with pytest.raises(InputError, match="ended without 'begins'"):
        startup._until(["-c", "print(1)"], "begins")


def test_commands_import_keras_without_what_they_do_not_use_of_it():
    """It is there for who asks for it later; in a user's own program Keras finds it."""
    code = """
import sys
from tf_avae import backend
backend.for_a_command = {}
backend.keras.layers, backend.tfp.distributions
print("sklearn" in sys.modules, "matplotlib" in sys.modules)
import sklearn.linear_model, matplotlib.figure
print("tensorflow_probability.python.layers" in sys.modules)
"""
    for lean, lines in ((True, ["False False", "False"]), (False, ["True True", "False"])):
        done = subprocess.run(
            [sys.executable, "-c", code.format(lean)], capture_output=True, text=True, timeout=120
        )
        assert done.stdout.splitlines() == lines, done.stderr
