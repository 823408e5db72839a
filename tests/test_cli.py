"""`python -m training.fit`: bad input costs one line and nothing else."""

import json
import os

import numpy as np
import pytest
from test_resume import OPTIONS

from tf_avae.config import Config
from tf_avae.datasets import DATASETS
from tf_avae.objectives import OBJECTIVES
from tf_avae.runs.plan import Stage, build_model, resolve
from tf_avae.runs.run import Run
from training import fit


def run_fit(capsys, *arguments):
    """Exit code, what was printed, what was complained."""
    try:
        code = fit.main([str(word) for word in arguments])
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def assert_refused(capsys, words, *arguments):
    code, _, complaint = run_fit(capsys, *arguments)
    assert code == 2
    assert complaint.startswith("error: ") and complaint.count("\n") == 1
    assert "Traceback" not in complaint
    for word in words:
        assert word in complaint


@pytest.fixture
def old_run(tmp_path):
    """A run on the MLP after a few steps: config, provenance and one checkpoint."""
    config = resolve(Config(algo="vae", steps=30, latent_dim=8))
    data = DATASETS[config.dataset].open()
    run = Run.create(tmp_path / "old", config, data.checksums)
    run.save_checkpoint(Stage(0, "vae", 30), build_model(config, data.image_shape))
    run._lock.close()
    return run.path


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", ["algo is not given", "vae, avae, se, se_avae, avae_ss"]),
        ("--algo avea", ["unknown objective 'avea'", "did you mean 'avae'", "se_avae"]),
        ("--algo vae --arch vgg", ["unknown architecture 'vgg'", "mlp, conv"]),
        ("--algo vae --dataset cifar", ["unknown data set 'cifar'", "color_mnist"]),
        ("--algo vae --coupling exact", ["unknown coupling 'exact'", "analytic, sampled"]),
        ("--algo se --pgd-norm l1", ["unknown norm 'l1'", "linf, l2"]),
        ("--algo vae --precision double", ["unknown precision 'double'", "mixed_bfloat16"]),
        ("--algo avae --rho 1", ["rho is 1", "at least 0 and below 1"]),
        ("--algo avae --rho -0.1", ["rho is -0.1", "at least 0"]),
        ("--algo se_avae --rho-se 1.5", ["rho_se is 1.5", "below 1"]),
        ("--algo se --epsilon -1", ["epsilon is -1", "at least 0"]),
        ("--algo se --pgd-steps 0", ["pgd_steps is 0", "at least 1"]),
        ("--algo se --pgd-step-size 0", ["pgd_step_size is 0", "above 0"]),
        ("--algo vae --steps 0", ["steps is 0", "at least 1"]),
        ("--algo vae --steps ten", ["--steps", "'ten'"]),
        ("--algo vae --batch-size 0", ["batch_size is 0", "at least 1"]),
        ("--algo vae --learning-rate 0", ["learning_rate is 0", "above 0"]),
        ("--algo vae --learning-rate nan", ["learning_rate is nan"]),
        ("--algo vae --obs-var 0", ["obs_var is 0", "above 0"]),
        ("--algo vae --latent-dim 0", ["latent_dim is 0", "at least 1"]),
        ("--algo vae --seed -1", ["seed is -1", "at least 0"]),
        ("--algo vae --validation 60000", ["validation is 60000", "60000 training images"]),
        ("--algo vae --arch celeba", ["'celeba' does not fit images of 28x28", "multiples of 16"]),
        ("--algo vae --data-dir /nowhere", ["/nowhere is not a folder", "idx files"]),
        ("--algo vae --init-from /nowhere", ["/nowhere holds no run"]),
        ("--algo vae --config /nowhere.json", ["cannot read /nowhere.json"]),
        ("--algo vae --stepz 4", ["--stepz", "--help"]),
        ("--algo vae --steps-per-execution 7", ["steps_per_execution is 7", "divisors of"]),
        ("--algo se --pgd-start mixed --pgd-norm l2", ["start 'mixed' is for the norm linf", "l2"]),
        ("--algo se --pgd-start image", ["start 'image'", "has no gradient", "another start"]),
        ("--algo se --steps 20 --epsilon-warmup 21", ["epsilon_warmup is 21 and steps is 20"]),
        (
            "--algo vae --steps 20 --learning-rate-warmup 20",
            ["learning_rate_warmup is 20 and the steps of vae are 20"],
        ),
        (
            "--algo avae_ss --steps 20 --pretrain-steps 9 --learning-rate-warmup 10",
            ["learning_rate_warmup is 10 and the steps of vae are 9"],
        ),
    ],
)
def test_bad_option_is_named_and_nothing_is_written(capsys, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, words, *options.split())
    assert list(tmp_path.iterdir()) == []


def test_bad_config_files(capsys, tmp_path):
    def written(text):
        path = tmp_path / "c.json"
        path.write_text(text)
        return path

    for text, words in (
        ("{", ["c.json is not JSON"]),
        ("[1]", ["holds a list", "JSON object"]),
        ("[" * 100_000, ["c.json is not JSON"]),
        ('{"algo": "vae", "steps": 1' + "0" * 5000 + "}", ["c.json is not JSON"]),
        ('{"algo": "vae", "rho": 1' + "0" * 400 + "}", ["it must be a floating-point number"]),
        ('{"algo": "vae", "stepz": 3}', ["unknown config key 'stepz'", "did you mean 'steps'"]),
        ('{"algo": "vae", "steps": "3"}', ["steps is '3'", "type int"]),
    ):
        assert_refused(capsys, words, "--config", written(text), "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_existing_directory_is_left_alone(capsys, tmp_path, old_run):
    before = content(old_run)
    assert_refused(
        capsys, ["exists", "--resume", "--run-dir"], "--algo", "vae", "--run-dir", old_run
    )
    assert content(old_run) == before
    (tmp_path / "file").write_text("mine")
    assert_refused(capsys, ["exists"], "--algo", "vae", "--run-dir", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_resume_says_which_keys_differ(capsys, old_run):
    before = content(old_run)
    assert_refused(
        capsys,
        ["rho 0.5 (was 0.975)", "steps 40 (was 30)", "give another --run-dir"],
        "--resume", "--run-dir", old_run, "--steps", 40, "--rho", 0.5,
    )  # fmt: skip
    assert content(old_run) == before


def test_resume_needs_a_run(capsys, tmp_path):
    assert_refused(capsys, ["holds no run"], "--resume", "--run-dir", tmp_path / "nowhere")
    assert_refused(capsys, ["algo is not given"], "--resume")


def test_resume_refuses_other_data(capsys, old_run):
    notes = json.loads((old_run / "provenance.json").read_text())
    notes["data"]["train-images-idx3-ubyte"] = "0" * 32
    (old_run / "provenance.json").write_text(json.dumps(notes))
    words = ["train-images-idx3-ubyte: not what this run was trained on"]
    assert_refused(capsys, words, "--resume", "--run-dir", old_run)


def test_resume_refuses_when_no_checkpoint_is_whole(capsys, old_run):
    for path in (old_run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    words = ["no checkpoint of", "cut short or altered", "start a new run"]
    assert_refused(capsys, words, "--resume", "--run-dir", old_run)


def test_two_processes_cannot_share_a_run(capsys, old_run):
    other = Run.open(old_run)
    other.lock()
    assert_refused(capsys, ["another process is training"], "--resume", "--run-dir", old_run)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--arch conv --latent-dim 8", ["architecture mlp, this run asks for conv"]),
        ("", ["latent dimension 8, this run asks for 64"]),
    ],
)
def test_init_from_another_model_is_refused(capsys, tmp_path, old_run, options, words):
    assert_refused(
        capsys, words, "--algo", "avae_ss", "--init-from", old_run,
        "--run-dir", tmp_path / "new", *options.split(),
    )  # fmt: skip
    assert not (tmp_path / "new").exists()


def test_init_from_a_run_without_weights_is_refused(capsys, tmp_path, old_run):
    for path in (old_run / "checkpoints").iterdir():
        path.unlink()
    words = ["has no weights yet"]
    new = tmp_path / "new"
    assert_refused(capsys, words, "--algo", "vae", "--init-from", old_run, "--run-dir", new)


@pytest.mark.parametrize("kind", ["below a file", "read-only"])
def test_a_directory_that_cannot_be_written_is_named(capsys, tmp_path, kind):
    if kind == "below a file":
        (tmp_path / "file").touch()
        target = tmp_path / "file" / "run"
    else:
        if os.geteuid() == 0:  # whom permissions do not stop; /proc does
            target = "/proc/run"
        else:
            tmp_path.chmod(0o500)
            target = tmp_path / "run"
    assert_refused(capsys, ["cannot write the run directory"], "--algo", "vae", "--run-dir", target)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--run-dir", "~nosuchuser/x"], ["'~nosuchuser/x' cannot be a path"]),
        (["--run-dir", "x" * 300], ["cannot use", "File name too long"]),
        (["--data-dir", "x" * 300], ["cannot use", "File name too long"]),
        (["--init-from", "~nosuchuser/x"], ["cannot be a path"]),
        (["--data-dir", ""], ["data_dir is empty"]),
        (["--init-from", ""], ["init_from is empty"]),
        (["--steps", "1" + "0" * 400], ["steps is 1000", "below 536870912"]),
        (["--batch-size", "10000000000000"], ["batch_size is 10000000000000", "below"]),
        (["--epsilon", "1e39"], ["epsilon is 1e+39", "below 1e+06"]),
    ],
)
def test_hostile_values_are_named(capsys, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, words, "--algo", "vae", *options)
    assert list(tmp_path.iterdir()) == []


def test_damaged_run_files_are_named(capsys, tmp_path, old_run):
    (old_run / "model.keras").write_bytes(b"half a model")
    words = ["model.keras is damaged"]
    assert_refused(
        capsys, words, "--algo", "vae", "--init-from", old_run, "--run-dir", tmp_path / "new"
    )
    (old_run / "provenance.json").write_text("{}")
    assert_refused(capsys, ["provenance.json is damaged"], "--resume", "--run-dir", old_run)


def test_damaged_data_files_are_named(capsys, tmp_path):
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(b"\0\0\x08\x03")
    assert_refused(
        capsys, ["is not an idx file"], "--algo", "vae", "--data-dir", tmp_path,
        "--run-dir", tmp_path / "run",
    )  # fmt: skip


def test_help_names_every_objective_default_and_source(capsys):
    code, text, _ = run_fit(capsys, "--help")
    assert code == 0
    flat = " ".join(text.split())
    for name, row in OBJECTIVES.items():
        assert f"- {name}: {row.summary}" in flat
    assert "latent dimensions D [64; authors' code]" in flat
    assert "optimiser steps [102000; authors' code]" in flat
    assert "iterations of PGD [the architecture's: 20, celeba and resnet 5; App. F]" in flat


def test_not_a_number_stops_the_run_and_keeps_the_last_good_checkpoint(capsys, tmp_path):
    """A learning rate far too large; the weights blow up within a few steps."""
    run = tmp_path / "run"
    code, _, complaint = run_fit(
        capsys, "--algo", "avae", *OPTIONS, "--checkpoint-every", 1, "--learning-rate", 1e6,
        "--run-dir", run,
    )  # fmt: skip
    assert code == 1
    assert "Traceback" not in complaint
    assert "stopped: step " in complaint and "not finite; the last good checkpoint" in complaint
    # Of an objective that reads rho, and neither epsilon nor a weight.
    assert "A smaller --learning-rate or --rho, a larger --obs-var, or --precision" in complaint
    newest = max((run / "checkpoints").iterdir())
    assert str(newest) in complaint
    step = int(complaint.split("step ")[1].split(" ")[0])
    assert f"{step - 1:09d}" in newest.name
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["bound"]) for row in rows)


def test_a_run_that_diverges_in_its_last_step_is_not_complete(capsys, tmp_path):
    run = tmp_path / "run"
    code, _, complaint = run_fit(
        capsys, "--algo", "avae", *OPTIONS, "--steps", 1, "--learning-rate", 1e6, "--run-dir", run
    )
    assert code == 1 and "Traceback" not in complaint
    assert "not finite; the last good checkpoint" in complaint
    assert not (run / "result.json").exists()
    assert "000000000" in max((run / "checkpoints").iterdir()).name
