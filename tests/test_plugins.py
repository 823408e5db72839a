"""Rows of a user's own, as the page on plugins shows them; and the front door."""

import dataclasses
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

import tf_avae
from serving.client import EmbeddingClient
from tests.in_process import run_module
from tests.serving_process import ROOT, Server
from tf_avae import plugins
from tf_avae.__main__ import COMMANDS
from tf_avae.errors import InputError
from tf_avae.evaluation import CHECKS, DISTANCES, PROOFS
from tf_avae.registry import Registry
from tf_avae.runs.run import Run, load_trained
from training import session

PAGE = (ROOT / "docs/plugins.md").read_text()
(FILE,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FIT, EVALUATE, EXPORT, SERVE = (
    shlex.split(line)[1:]
    for line in re.search(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1].splitlines()
)
SHORT = (
    "--steps 6 --batch-size 8 --log-every 2 --checkpoint-every 2 --eval-every 6 --eval-images 50 "
    "--pictures-every 6"
).split()
BRIEF = "--images 20 --head linear --section probes robustness".split()
REGISTRIES = (tf_avae.OBJECTIVES, tf_avae.ARCHITECTURES, tf_avae.DATASETS)


def forget(name):
    """As in a process that has not imported the plugin."""
    for rows in REGISTRIES:
        for row in [row for row, plugin in rows._plugins.items() if plugin == name]:
            del rows._rows[row], rows._plugins[row]
    plugins._loaded.pop(name, None)
    sys.modules.pop(name, None)
    plugins._named[:] = [words for words in plugins._named if name not in words]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands of the page have run, in their order."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "my_rows.py").write_text(FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        for words in ([*FIT, *SHORT], [*EVALUATE, *BRIEF], EXPORT):
            code, _, complaint = run_module("tf_avae", *words)
            assert code == 0, complaint
        yield folder
        forget("my_rows")


def test_the_objective_is_trained_and_saved(folder):
    model = load_trained(folder / "runs/stripes")
    assert (model.objective.name, model.architecture.name) == ("beta_vae", "small")
    assert int(model.step.numpy()) == 6
    images = next(iter(tf_avae.DATASETS["stripes"].open().held_out(20)))[0]
    terms = model.terms(images, seed=[0, 1])
    np.testing.assert_allclose(terms["bound"], terms["reconstruction"] - 4 * terms["kl"], rtol=1e-6)
    q = model.encode(images)
    kl = 0.5 * np.sum(q.variance + q.mean**2 - 1 - np.log(q.variance), axis=1)
    np.testing.assert_allclose(terms["kl"], kl, rtol=1e-4)


def test_it_stops_and_resumes_to_the_bit(folder, monkeypatch):
    monkeypatch.chdir(folder)
    record = session.Recorder.on_train_batch_end

    def stopped(self, batch, logs=None):
        if int(self.model.step.numpy()) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        record(self, batch, logs)

    monkeypatch.setattr(session.Recorder, "on_train_batch_end", stopped)
    words = [*FIT, *SHORT, "--run-dir", "runs/stopped"]
    code, said, _ = run_module("tf_avae", *words)
    assert code == 143 and "--plugin=" in said.rpartition("To go on: ")[2]
    monkeypatch.setattr(session.Recorder, "on_train_batch_end", record)
    assert run_module("tf_avae", *words, "--resume")[0] == 0
    whole, resumed = (load_trained(folder / "runs" / name) for name in ("stripes", "stopped"))
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    metrics = [folder / "runs" / name / "metrics.jsonl" for name in ("stripes", "stopped")]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()


def test_a_run_notes_its_plugins(folder):
    digest = hashlib.sha256(FILE.encode()).hexdigest()
    (noted,) = Run.open(folder / "runs/stripes").provenance()["sessions"]
    assert noted["plugins"] == {"my_rows": digest}
    assert load_trained(folder / "runs/stripes").get_config()["plugins"] == ["my_rows"]


def test_the_export_is_served_and_opened_without_the_plugin(folder, tmp_path):
    images = next(iter(tf_avae.DATASETS["stripes"].open().held_out(5)))[0].numpy()
    expected = load_trained(folder / "runs/stripes")(images)["embedding"].numpy()
    forget("my_rows")
    try:
        loaded = tf_avae.load_encoder(folder / "models/stripes")
        np.testing.assert_allclose(loaded(images)["embedding"], expected, rtol=1e-5, atol=1e-6)
        with (
            Server(tmp_path, *SERVE[1:], folder=folder) as server,
            EmbeddingClient(server.grpc, model="stripes") as client,
        ):
            found = client.embed(images)
        np.testing.assert_allclose(found.embedding, expected, rtol=1e-5, atol=1e-6)
    finally:
        plugins.load(str(folder / "my_rows.py"))


def test_what_was_made_with_a_plugin_names_it(folder, monkeypatch):
    monkeypatch.chdir(folder)
    forget("my_rows")
    try:
        doors = (
            lambda: load_trained("runs/stripes"),
            lambda: Run.open("runs/stripes"),
            lambda: tf_avae.load_encoder("runs/stripes"),
            lambda: keras.saving.load_model("runs/stripes/model.keras"),
        )
        options = ("--config=runs/stripes/config.json", "--run-dir=runs/new")
        for words in (options, ("--algo=avae", "--init-from=runs/stripes", "--run-dir=runs/new")):
            code, _, complaint = run_module("training.fit", *words)
            assert code == 2 and "--plugin my_rows" in complaint, words
        for door in doors:
            with pytest.raises(InputError, match=r"'beta_vae'.*--plugin my_rows"):
                door()
        for words in (
            ["fit", *FIT[3:], "--resume"],
            ["evaluate", "runs/stripes"],
            EXPORT[:1] + EXPORT[3:],
        ):
            code, _, complaint = run_module("tf_avae", *words)
            assert code == 2 and "--plugin my_rows" in complaint, words
        code, _, complaint = run_module("tf_avae", "evaluate", "models/stripes")
        assert code == 2 and "'stripes'" in complaint and "--plugin my_rows" in complaint
    finally:
        plugins.load(str(folder / "my_rows.py"))


def test_installed_distributions_announce_plugins(tmp_path, monkeypatch):
    (tmp_path / "announced.py").write_text(
        "import tf_avae, dataclasses\n"
        "row = dataclasses.replace(tf_avae.OBJECTIVES['vae'], name='announced')\n"
        "tf_avae.OBJECTIVES.register(row)\n"
    )
    metadata = tmp_path / "announced-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: announced\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[tf_avae.plugins]\nany = announced\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert "announced" not in tf_avae.OBJECTIVES
        assert tf_avae.OBJECTIVES["announced"].terms == tf_avae.OBJECTIVES["vae"].terms
        assert "announced" in plugins.loaded()
        assert "announced" in run_module("training.fit", "--help")[1]
    finally:
        forget("announced")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "broken.py is not there"),
        ("1 / 0", r"ZeroDivisionError: division by zero \(broken.py, line 1\)"),
        ("import tf_avae\ntf_avae.OBJECTIVES.register(3)", "TypeError: 3 is no Objective"),
        ("import tf_avae\ntf_avae.OBJECTIVES.register(tf_avae.OBJECTIVES['se'])",
         "ValueError: objective 'se' is there already"),
    ],
)  # fmt: skip
def test_a_plugin_that_fails_is_an_error_in_a_line(text, words, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "broken.py"
    if text:
        file.write_text(text)
    sys.modules.pop("broken", None)
    code, _, complaint = run_module("training.fit", "--algo", "vae", "--plugin", file)
    assert code == 2 and complaint.count("\n") == 1
    assert re.search(words, complaint), complaint
    assert "broken" not in plugins.loaded()


def test_two_files_of_one_name_are_refused(folder, tmp_path):
    (tmp_path / "my_rows.py").write_text("")
    words = ("--plugin", folder / "my_rows.py", "--plugin", tmp_path / "my_rows.py")
    code, _, complaint = run_module("training.fit", "--algo", "vae", *words)
    assert code == 2 and "another module 'my_rows'; rename my_rows.py" in complaint


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nope.py", "plugin nope.py is not there"),
        ("", "plugin '' is no module"),
        (".", "plugin '.' is no module"),
        ("a/b", "plugin 'a/b' is no module"),
        ("empty", "'empty' is a folder without __init__.py"),
    ],
)
def test_what_is_no_plugin_is_named(given, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "empty").mkdir()
    code, _, complaint = run_module("training.fit", "--algo", "vae", f"--plugin={given}")
    assert code == 2 and words in complaint and complaint.count("\n") == 1


def test_a_plugin_that_changed_is_noted(folder):
    digest = plugins.loaded()["my_rows"]
    assert plugins.changed({"my_rows": digest, "other": "0"}) == []
    assert plugins.changed({"my_rows": "0"}) == ["my_rows"]


def test_a_refused_save_leaves_the_file_that_was_there(tmp_path):
    how = {"architecture": "mlp", "image_shape": (4, 4, 1), "latent_dim": 2}
    tf_avae.AVAE(objective="vae", **how).save(tmp_path / "model.keras")
    before = (tmp_path / "model.keras").read_bytes()
    mine = dataclasses.replace(tf_avae.OBJECTIVES["vae"], name="mine")
    with pytest.raises(InputError, match="not registered"):
        tf_avae.AVAE(objective=mine, **how).save(tmp_path / "model.keras")
    assert (tmp_path / "model.keras").read_bytes() == before


def test_threads_may_import_keras_meanwhile(tmp_path):
    code = """
import threading, time
thread = threading.Thread(target=lambda: __import__("keras"))
thread.start()
time.sleep(0.5)
import tf_avae
thread.join()
import keras
assert keras.saving.get_registered_object("tf_avae>AVAE") is tf_avae.AVAE
assert tf_avae.evaluation.worst_case and tf_avae.attacks.margin and tf_avae.theory
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_file_called_like_a_module_is_refused(tmp_path):
    (tmp_path / "json.py").write_text("")
    code, _, complaint = run_module(
        "training.fit", "--algo", "vae", "--plugin", tmp_path / "json.py"
    )
    assert code == 2 and "another module 'json'; rename json.py" in complaint


@pytest.mark.parametrize(
    "rows",
    [*REGISTRIES, tf_avae.COUPLINGS, tf_avae.BALLS, tf_avae.HEADS, tf_avae.BUDGETS,
     tf_avae.SECTIONS, tf_avae.STARTS, tf_avae.SCHEDULES, CHECKS, DISTANCES, PROOFS],
    ids=lambda rows: rows.kind,
)  # fmt: skip
def test_every_registry_takes_rows(rows):
    """On a copy: a registry has no way to lose a row."""
    copy = Registry(rows.kind, *rows.values())
    first = next(iter(copy.values()))
    row = copy.register(dataclasses.replace(first, name="mine"))
    assert copy["mine"] is row and list(copy)[-1] == "mine"
    assert copy.plugin("mine") == __name__ and copy.plugin(first.name) is None
    with pytest.raises(ValueError, match="'mine' is there already"):
        copy.register(row)
    for name in ("", "a/b", "../x", "-x", "a\n", "a ", "a" * 65, None, 3):
        with pytest.raises(ValueError, match="a name has at most 64"):
            copy.register(dataclasses.replace(first, name=name))
    plugins._loaded.pop(__name__)


def test_the_front_door(monkeypatch):
    code, said, _ = run_module("tf_avae", "--help")
    assert code == 0 and all(f"  {name} " in said for name in COMMANDS)
    assert run_module("tf_avae")[1] == said
    assert run_module("tf_avae", "--version")[1] == f"tf-avae {tf_avae.__version__}\n"
    code, _, complaint = run_module("tf_avae", "evalate")
    assert code == 2 and "did you mean 'evaluate'" in complaint
    for name in COMMANDS:
        code, said, _ = run_module("tf_avae", name, "--help")
        assert code == 0, name
    code, _, complaint = run_module("tf_avae", "fit", "--algo", "vay")
    assert code == 2 and "vay" in complaint and complaint.count("\n") == 1
