"""A killed and resumed run ends as an uninterrupted one does, to the bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from tests.in_process import run_module
from tf_avae.files import drafting, replacing
from tf_avae.objectives import OBJECTIVES
from tf_avae.runs import checkpoints
from training import session

ROOT = Path(__file__).parent.parent
# Intervals that divide neither one another nor the steps; a short attack.
OPTIONS = [
    *("--steps", "60", "--pretrain-steps", "40", "--batch-size", "16", "--latent-dim", "8"),
    *("--pgd-steps", "3", "--log-every", "7", "--checkpoint-every", "10", "--eval-every", "25"),
    *("--eval-images", "300", "--steps-per-execution", "1"),
]


def fit(*arguments, check=True):
    """The command in this process."""
    code, out, err = run_module("training.fit", *arguments)
    assert not check or code == 0, err
    return SimpleNamespace(returncode=code, stdout=out, stderr=err)


def killed_fit(at, *arguments):
    """The command in a process of its own, killed in the middle of STAGE:STEP."""
    done = subprocess.run(
        [sys.executable, "tests/killed_fit.py", *map(str, arguments)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "KILL_AT": at},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


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
    ("algo", "kills", "more"),
    [
        # Between the stages, in the second of them, between training and results.
        ("avae_ss", ("0:40", "1:37", "1:60"), "--ema-momentum 0.9"),
        # Ten steps at a time, the last time five; with a scale of the loss that changes.
        pytest.param(
            "avae", ("0:17",),
            "--precision mixed_float16 --log-every 10 --eval-every 20 --steps-per-execution 10 "
            "--steps 25 --ema-momentum 0.9 --learning-rate-warmup 5 --learning-rate-decay cosine "
            "--augment flip crop colour",
            marks=pytest.mark.long,
        ),
        pytest.param("avae", ("0:17",), "--jit on --steps 25", marks=pytest.mark.long),
        *[
            pytest.param(
                algo, ("0:37",), f"--arch {arch} --precision {precision}", marks=pytest.mark.long
            )
            for algo in OBJECTIVES
            for arch in ("mlp", "conv", "linear")
            for precision in ("float32", "mixed_bfloat16", "mixed_float16")
        ],
    ],
)  # fmt: skip
def test_killed_and_resumed_run_is_the_uninterrupted_run(tmp_path, algo, kills, more):
    options = ["--algo", algo, *OPTIONS, *more.split()]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    fit(*options, "--run-dir", straight)
    for at in kills:
        killed_fit(at, *options, "--run-dir", killed)
        assert not (killed / "result.json").exists()
        options = ["--resume"]
    assert "going on with" in fit("--run-dir", killed, "--resume").stdout
    assert_same(straight, killed)
    for file in ("model.keras", "encoder.keras"):
        mine, others = (keras.saving.load_model(run / file) for run in (straight, killed))
        for a, b in zip(mine.get_weights(), others.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing interrupted."""
    path = tmp_path_factory.mktemp("straight") / "run"
    fit("--algo", "vae", *OPTIONS, "--run-dir", path)
    return path


@pytest.fixture(scope="module")
def one_killed(tmp_path_factory):
    path = tmp_path_factory.mktemp("killed") / "run"
    killed_fit("0:45", "--algo", "vae", *OPTIONS, "--run-dir", path)
    return path


@pytest.fixture
def killed(one_killed, tmp_path):
    """A run of the same options, killed after its checkpoint at step 40."""
    return shutil.copytree(one_killed, tmp_path / "run")


def test_damaged_checkpoint_is_passed_over_and_said(straight, killed):
    newest = max((killed / "checkpoints").iterdir())
    assert "000000040" in newest.name
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    resumed = fit("--run-dir", killed, "--resume")
    assert f"{newest.name} is cut short or altered" in resumed.stdout
    assert "going on with vae after step 30" in resumed.stdout
    assert_same(straight, killed)


@pytest.mark.parametrize("folder", ["kept", "gone"])
def test_a_run_that_lost_its_checkpoints_is_not_begun_again(killed, folder):
    before = (killed / "metrics.jsonl").read_bytes()
    shutil.rmtree(killed / "checkpoints")
    if folder == "kept":
        (killed / "checkpoints").mkdir()
    done = fit("--run-dir", killed, "--resume", check=False)
    assert done.returncode == 2
    assert "has metrics but no checkpoint" in done.stderr and "Traceback" not in done.stderr
    assert (killed / "metrics.jsonl").read_bytes() == before


def metrics(change):
    """Damage to metrics.jsonl: its content before the newest checkpoint to another."""

    def damage(run):
        path = run / "metrics.jsonl"
        found = change(path.read_bytes())
        path.unlink() if found is None else path.write_bytes(found)

    return damage


def written(name, content):
    """Damage to a run: a file of another content, or a folder in its place."""

    def damage(run):
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.mkdir() if content is None else path.write_text(content)

    return damage


def provenance(**values):
    def damage(run):
        path = run / "provenance.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (metrics(lambda b: b[: b.index(b"\n") + 1]), ["metrics.jsonl is damaged: it has", "bytes"]),
        (metrics(lambda b: b""), ["metrics.jsonl is damaged: it has 0 of the"]),
        (metrics(lambda b: None), ["metrics.jsonl is damaged: it has 0 of the", "--init-from"]),
        (metrics(lambda b: b.replace(b"7", b"8", 1)), ["metrics.jsonl is damaged: its first"]),
        (metrics(lambda b: b" " + b), ["metrics.jsonl is damaged: its first", "put the file back"]),
        (written("metrics.jsonl", None), ["metrics.jsonl", "Is a directory"]),
        (written("result.json", ""), ["result.json is not JSON", "take it away"]),
        (written("result.json", None), ["cannot read", "result.json", "take it away"]),
        (written("result.json", "{}"), ["result.json is damaged: it has no held_out"]),
        (
            written("result.json", '{"held_out": {"bound": null}}'),
            ["held_out.bound is null; it must be an integer or a number", "take it away"],
        ),
        (written("tensorboard", "mine"), ["tensorboard is a file", "take it away"]),
        (written("pictures", "mine"), ["pictures is a file", "take it away"]),
        (provenance(sessions=None), ["provenance.json is damaged: sessions is null; it must be a"]),
        (provenance(sessions=[3]), ["provenance.json is damaged: sessions[0] is an integer"]),
        (provenance(data=[]), ["provenance.json is damaged: data is a list; it must be an object"]),
        (provenance(data={"a": 1}), ["provenance.json is damaged: data.a is an integer"]),
        (provenance(data={}), ["t10k-images-idx3-ubyte: not what this run was trained on"]),
        (written("provenance.json", "[]"), ["provenance.json holds a list", "put it back"]),
        (written("config.json", '{"algo": 3}'), ["algo is 3; it must be of type str"]),
    ],
)
def test_a_damaged_run_is_refused_in_a_line_and_left_as_it_is(killed, damage, words):
    damage(killed)
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    done = fit("--run-dir", killed, "--resume", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    for path, content in before.items():
        if path.name not in ("provenance.json", ".lock"):  # the command may have been noted
            assert path.read_bytes() == content, path


def test_checkpoints_from_before_metrics_had_a_digest_still_resume(straight, killed):
    for path in (killed / "checkpoints").iterdir():
        kept = checkpoints.load(path)
        del kept.meta["metrics_sha256"]
        checkpoints.save(path, *kept)
    fit("--run-dir", killed, "--resume")
    assert_same(straight, killed)


def test_resuming_clears_what_a_killed_process_left_and_nothing_else(straight, killed):
    stale = [killed / name for name in (".tmp-x.json", "checkpoints/.tmp-x.ckpt",
                                        "pictures/.tmp-abcdefgh.png")]  # fmt: skip
    others = [killed / name for name in (".tmp-mine", "models/encoder/.tmp-x/variables/data",
                                         "checkpoints/.tmp-x.npy", ".tmp-y/a.json")]  # fmt: skip
    for path in (*stale, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    with replacing(killed / "checkpoints" / "of another.ckpt") as live, drafting(killed) as folder:
        live.write_bytes(b"half")
        fit("--run-dir", killed, "--resume")
        assert live.exists() and folder.exists()
    assert [path.exists() for path in stale] == [False] * len(stale)
    assert [path.exists() for path in others] == [True] * len(others)
    assert not live.exists() and not folder.exists()
    (killed / "checkpoints" / "of another.ckpt").unlink()
    assert_same(straight, killed)


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


def test_signal_saves_says_how_to_go_on_and_loses_nothing(tmp_path, straight, monkeypatch):
    """The signals are real; only the moments are arranged: one stops the run that the other did."""
    stopped = tmp_path / "stopped"
    record, at = session.Recorder.on_train_batch_end, {20: signal.SIGINT, 34: signal.SIGTERM}

    def on_train_batch_end(self, batch, logs=None):
        if self._step() in at:
            os.kill(os.getpid(), at[self._step()])
        record(self, batch, logs)

    monkeypatch.setattr(session.Recorder, "on_train_batch_end", on_train_batch_end)
    words = ["--algo", "vae", *OPTIONS, "--checkpoint-every", "1000"]
    for step, signum in at.items():
        done = fit(*words, "--run-dir", stopped, check=False)
        assert done.returncode == 128 + signum, done.stderr
        assert f"python -m training.fit --run-dir {stopped} --resume" in done.stdout
        assert final_state(stopped).meta["step"] == step
        lines = (stopped / "metrics.jsonl").read_text().splitlines()
        rows = [row for row in map(json.loads, lines) if row["split"] == "train"]
        assert [row["step"] for row in rows] == list(range(7, step + 1, 7))
        words = ["--resume"]
    monkeypatch.undo()
    fit("--run-dir", stopped, "--resume")
    assert_same(straight, stopped)


def test_resuming_a_complete_run_changes_nothing(straight):
    before = (straight / "model.keras").read_bytes()
    assert "this run is complete" in fit("--run-dir", straight, "--resume").stdout
    assert (straight / "model.keras").read_bytes() == before


@pytest.mark.long
def test_a_run_outlives_the_reader_of_its_output(tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "training.fit", "--algo", "vae", *OPTIONS, "--run-dir", str(run)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    process.stdout = None  # or communicate would read it
    _, complaint = process.communicate(timeout=240)
    assert process.returncode == 0, complaint
    assert b"Error" not in complaint
    assert (run / "result.json").exists()
