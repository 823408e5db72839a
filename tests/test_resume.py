"""A killed and resumed run ends as an uninterrupted one does, to the bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tf_avae import checkpoints
from tf_avae.objectives import OBJECTIVES

ROOT = Path(__file__).parent.parent
# Intervals that divide neither one another nor the steps; a short attack.
OPTIONS = [
    *("--steps", "60", "--pretrain-steps", "40", "--batch-size", "16", "--latent-dim", "8"),
    *("--pgd-steps", "3", "--log-every", "7", "--checkpoint-every", "10", "--eval-every", "25"),
    *("--eval-images", "300", "--steps-per-execution", "1"),
]


def fit(*arguments, program=("-m", "training.fit"), check=True, **environment):
    done = subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def final_state(run):
    newest = max((run / "checkpoints").iterdir())
    return checkpoints.load(newest)


def assert_same(one, other):
    a, b = final_state(one), final_state(other)
    assert a.meta == b.meta
    assert a.arrays.keys() == b.arrays.keys()
    assert any(name.startswith("optimizer") for name in a.arrays)
    for name in a.arrays:
        np.testing.assert_array_equal(a.arrays[name], b.arrays[name], err_msg=name)
    for file in ("metrics.jsonl", "result.json"):
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


@pytest.mark.parametrize(
    ("algo", "kill_at", "more"),
    [
        ("se_avae", "0:37", ""),
        pytest.param("avae_ss", "0:23", "", marks=pytest.mark.long),
        ("avae_ss", "0:40", ""),  # between the stages
        ("avae_ss", "1:37", ""),
        ("vae", "0:60", ""),  # between training and results
        ("avae", "0:37", "--arch conv --precision mixed_float16"),
        # Ten steps at a time, the last time five.
        ("avae", "0:37", "--log-every 10 --eval-every 20 --steps-per-execution 10 --steps 65"),
        *[
            pytest.param(
                algo, "0:37", f"--arch {arch} --precision {precision}", marks=pytest.mark.long
            )
            for algo in OBJECTIVES
            for arch in ("mlp", "conv", "linear")
            for precision in ("float32", "mixed_bfloat16", "mixed_float16")
        ],
    ],
)
def test_killed_and_resumed_run_is_the_uninterrupted_run(tmp_path, algo, kill_at, more):
    options = ["--algo", algo, *OPTIONS, *more.split()]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    with ThreadPoolExecutor() as pool:  # both at once, since starting up takes longest
        uninterrupted = pool.submit(fit, *options, "--run-dir", straight)
        done = fit(
            *options, "--run-dir", killed,
            program=("tests/killed_fit.py",), check=False, KILL_AT=kill_at,
        )  # fmt: skip
        uninterrupted.result()
    assert done.returncode == -signal.SIGKILL
    assert not (killed / "result.json").exists()
    resumed = fit("--run-dir", killed, "--resume")
    assert "going on with" in resumed.stdout
    assert_same(straight, killed)


def test_damaged_checkpoint_is_passed_over_and_said(tmp_path):
    options = ["--algo", "vae", *OPTIONS]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    fit(*options, "--run-dir", straight)
    fit(
        *options, "--run-dir", killed,
        program=("tests/killed_fit.py",), check=False, KILL_AT="0:45",
    )  # fmt: skip
    newest = max((killed / "checkpoints").iterdir())
    assert "000000040" in newest.name
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    resumed = fit("--run-dir", killed, "--resume")
    assert f"{newest.name} is cut short or altered" in resumed.stdout
    assert "going on with vae after step 30" in resumed.stdout
    assert_same(straight, killed)


@pytest.mark.parametrize("folder", ["kept", "gone"])
def test_a_run_that_lost_its_checkpoints_is_not_begun_again(tmp_path, folder):
    run = tmp_path / "run"
    fit(
        "--algo", "vae", *OPTIONS, "--run-dir", run,
        program=("tests/killed_fit.py",), check=False, KILL_AT="0:45",
    )  # fmt: skip
    before = (run / "metrics.jsonl").read_bytes()
    shutil.rmtree(run / "checkpoints")
    if folder == "kept":
        (run / "checkpoints").mkdir()
    done = fit("--run-dir", run, "--resume", check=False)
    assert done.returncode == 2
    assert "has metrics but no checkpoint" in done.stderr and "Traceback" not in done.stderr
    assert (run / "metrics.jsonl").read_bytes() == before


def test_one_altered_byte_makes_a_checkpoint_bad(tmp_path):
    path = tmp_path / "c.npz"
    checkpoints.save(path, {"a": np.arange(1000.0)}, {"step": 1})
    content = path.read_bytes()
    for position in range(0, len(content), 37):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        with pytest.raises(checkpoints.DamagedCheckpoint):
            checkpoints.load(path)
    path.write_bytes(content)
    np.testing.assert_array_equal(checkpoints.load(path).arrays["a"], np.arange(1000.0))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_says_how_to_go_on_and_loses_nothing(tmp_path, signum):
    options = ["--algo", "avae", *OPTIONS, "--checkpoint-every", "1000"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    fit(*options, "--run-dir", straight)
    process = subprocess.Popen(
        [sys.executable, "-c", SIGNAL_AT_20.format(signum=int(signum)), *options,
         "--run-dir", str(stopped)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    out, err = process.communicate(timeout=300)
    assert process.returncode == 128 + signum, err
    assert f"python -m training.fit --run-dir {stopped} --resume" in out
    assert "Traceback" not in err
    assert final_state(stopped).meta["step"] == 20
    rows = [json.loads(line) for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [7, 14]
    fit("--run-dir", stopped, "--resume")
    assert_same(straight, stopped)


# The signal is real; only the moment is arranged.
SIGNAL_AT_20 = """
import os, sys
from training import fit, session
record = session.Recorder.on_train_batch_end
def on_train_batch_end(self, batch, logs=None):
    if self._step() == 20:
        os.kill(os.getpid(), {signum})
    record(self, batch, logs)
session.Recorder.on_train_batch_end = on_train_batch_end
sys.exit(fit.main())
"""


def test_resuming_a_complete_run_changes_nothing(tmp_path):
    run = tmp_path / "run"
    fit("--algo", "vae", *OPTIONS, "--run-dir", run)
    before = (run / "model.keras").read_bytes()
    done = fit("--run-dir", run, "--resume")
    assert "this run is complete" in done.stdout
    assert (run / "model.keras").read_bytes() == before


def test_a_run_outlives_the_reader_of_its_output(tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "training.fit", "--algo", "vae", *OPTIONS, "--run-dir", str(run)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    complaint = process.stderr.read()
    process.wait(timeout=300)
    assert process.returncode == 0, complaint
    assert b"Error" not in complaint
    assert (run / "result.json").exists()
