"""The engine of `python -m training.sweep`, on commands that cost nothing."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from scripted_cells import (
    SCRIPTED,
    Signals,
    alive,
    count,
    declared,
    script,
    starts,
    wait_for,
)

from tf_avae.config import Config
from tf_avae.errors import InputError
from tf_avae.registry import Registry
from training.signals import Interrupted, StopSignals
from training.sweep import pages
from training.sweep.cells import declaration as cells
from training.sweep.cells import engine, folder
from training.sweep.cells.declaration import Cell, Kind, difference, flags
from training.sweep.cells.folder import State, SweepFolder
from training.sweep.cells.places import Here
from training.sweep.cells.screen import Estimate, estimate


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """A kind of cell that costs nothing."""
    kinds = Registry("kind of cell", *cells.KINDS.values(), SCRIPTED)
    monkeypatch.setattr(folder, "KINDS", kinds)


def run(sweep, **how):
    how = {"signals": Signals(), "place": Here(how.pop("processes", 1))} | how
    return engine.run_cells(sweep, list(sweep.declaration.cells), **how)


def result_time(sweep, name):
    return float(sweep.result(name).read_text())


# ---------------------------------------------------------------------- the engine


def test_cells_are_done_once_after_what_they_need(tmp_path, capsys):
    made = (script("a", steps=3), script("b"), script("c", "a", "b"), script("d", "c"))
    sweep = SweepFolder.create(tmp_path / "s", declared(*made))
    assert [sweep.state(name).name for name in "abcd"] == ["ready", "ready", "waiting", "waiting"]
    assert run(sweep, processes=2) == ([], [])
    for cell in made:
        assert sweep.state(cell.name).name == "done" and len(starts(sweep, cell.name)) == 1
        for need in cell.needs:  # the scripts look for it too
            begun = float(starts(sweep, cell.name)[0].split()[1])
            assert result_time(sweep, need) <= begun
    printed = capsys.readouterr().out
    assert "a: begins; log: " in printed and "d: done in 0:0" in printed
    before = {path: path.stat().st_mtime_ns for path in sweep.path.rglob("*") if path.is_file()}
    assert run(sweep) == ([], [])
    assert {p: p.stat().st_mtime_ns for p in sweep.path.rglob("*") if p.is_file()} == before


def test_a_failing_cell_is_reported_and_others_go_on(tmp_path, capsys):
    made = (script("bad", code=3), script("after", "bad"), script("good"))
    sweep = SweepFolder.create(tmp_path / "s", declared(*made))
    assert run(sweep) == (["bad"], ["after"])
    assert (
        sweep.state("good").name == "done"
        and sweep.state("bad").reason == "exit code 3: went wrong"
    )
    assert sweep.state("after").reason == "for bad (failed)"
    printed = capsys.readouterr().out
    assert "bad: failed\n  | " in printed and "  | went wrong\n  exit code 3" in printed
    # Another command tries it again, once.
    assert run(sweep) == (["bad"], ["after"])
    assert len(starts(sweep, "bad")) == 2 and len(starts(sweep, "good")) == 1


def test_a_command_that_ends_well_without_its_result_has_failed(tmp_path, monkeypatch):
    lazy = Kind("script", "", SCRIPTED.output, SCRIPTED.result, lambda *_: ["-c", "pass"])
    monkeypatch.setattr(folder, "KINDS", Registry("kind of cell", lazy))
    sweep = SweepFolder.create(tmp_path / "s", declared(script("a")))
    assert run(sweep) == (["a"], [])
    assert sweep.state("a").reason.startswith("ended well, without its result")


def test_two_processes_at_once_do_each_cell_once(tmp_path):
    made = [
        script(f"c{n}", *([f"c{n - 3}"] if n > 2 else []), steps=2, pause=0.1) for n in range(8)
    ]
    sweep = SweepFolder.create(tmp_path / "s", declared(*made))
    outcomes = []
    # Locks are those of open files: two of one process are as those of two processes.
    workers = [
        threading.Thread(target=lambda: outcomes.append(run(SweepFolder.open(sweep.path))))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert outcomes == [([], [])] * 3
    assert [len(starts(sweep, cell.name)) for cell in made] == [1] * 8


def command_line(path, out):
    """What the command does around the engine, in a process group of its own."""
    os.setsid()
    for _ in range(8):  # TensorFlow has as many and more
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    with out.open("w") as file:
        os.dup2(file.fileno(), 1)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        try:
            with StopSignals() as signals:
                run(SweepFolder.open(path), processes=2, signals=signals)
        except Interrupted as stop:
            os._exit(128 + stop.signum)
        os._exit(0)


def test_signals_that_come_together_are_one(capfd):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def send():  # as Linux does where a parent with five threads dies
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.005)

    sender = threading.Thread(target=send)
    with StopSignals() as signals:
        sender.start()
        wait_for(lambda: signals.received is not None)
        sender.join(timeout=60)
        with pytest.raises(Interrupted, match="SIGTERM"):
            signals.check()
        assert "once more to stop at once" in capfd.readouterr().err
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_or_killed_sweep_leaves_no_process_and_goes_on(tmp_path, signum):
    made = (script("a", steps=400, pause=0.05), script("b", steps=400, pause=0.05))
    sweep = SweepFolder.create(tmp_path / "s", declared(*made))
    # Forked, since a process that starts anew imports TensorFlow first.
    process = multiprocessing.get_context("fork").Process(
        target=command_line, args=(sweep.path, tmp_path / "out")
    )
    process.start()
    wait_for(lambda: count(sweep, "a") > 2 and count(sweep, "b") > 2)
    if signum == signal.SIGINT:
        os.killpg(process.pid, signum)  # as Ctrl-C on a terminal
    else:
        process.kill()
    process.join(timeout=60)
    free = []
    wait_for(lambda: free.append(sweep.claim("a")) or free[-1])
    assert sweep.last_line("a") == "saved"  # until then the command had the lock
    free[-1].close()
    pids = [int(starts(sweep, name)[0].split()[0]) for name in "ab"]
    if signum == signal.SIGINT:
        assert process.exitcode == 130
        assert "stopping a, b" in (tmp_path / "out").read_text() and not any(map(alive, pids))
    wait_for(lambda: not any(map(alive, pids)))
    for name in "ab":
        assert sweep.state(name).name == "stopped" and sweep.last_line(name) == "saved"
        assert 0 < sweep.state(name).seconds < 60
        assert 2 < count(sweep, name) < 400
        (sweep.folder(name) / "steps").write_text("0\n" * 398)  # not to wait for it
        # The command that was killed was last heard of an hour ago.
        sessions = sweep.folder(name) / "sessions.json"
        values = json.loads(sessions.read_text())
        for session in values["sessions"]:
            session["started"] -= 3600
            session["ended"] = session["ended"] and session["ended"] - 3600
        sessions.write_text(json.dumps(values))
        then = time.time() - 3600
        os.utime(sweep.log(name), (then, then))
    assert run(sweep, processes=2) == ([], [])
    assert [len(starts(sweep, name)) for name in "ab"] == [2, 2]
    assert "step 399/400" in sweep.log("a").read_text()
    assert 0 < sweep.state("a").seconds < 120  # the hour is not among them


def test_a_signal_is_handed_on_and_nothing_more_is_begun(tmp_path):
    made = (script("a", steps=400, pause=0.05), script("b"))
    sweep = SweepFolder.create(tmp_path / "s", declared(*made))
    signals = Signals()

    def stop():
        wait_for(lambda: count(sweep, "a") > 2)
        signals.received = signal.SIGTERM

    threading.Thread(target=stop).start()
    with pytest.raises(Interrupted):
        run(sweep, signals=signals)
    assert sweep.sessions("a")[-1].code == 143
    assert sweep.state("a").name == "stopped" and starts(sweep, "b") == []


def test_a_cell_in_work_is_left_to_who_has_it_even_if_that_process_is_gone(tmp_path):
    """The command itself holds the lock."""
    sweep = SweepFolder.create(tmp_path / "s", declared(script("a", steps=10, pause=0.05)))
    lock = sweep.claim("a")
    words = [sys.executable, *sweep.words("a")]
    with subprocess.Popen(words, pass_fds=[lock.fileno()]):
        lock.close()
        assert sweep.claim("a") is None and sweep.state("a").name == "running"
        assert run(sweep) == ([], [])
    assert len(starts(sweep, "a")) == 1


# ---------------------------------------------------------------------- the folder


def test_another_declaration_is_refused_and_the_difference_named(tmp_path):
    path = tmp_path / "s"
    SweepFolder.create(path, declared(script("a", steps=3), script("b", "a"), scale="mini"))
    SweepFolder.create(path, declared(script("a", steps=3), script("b", "a"), scale="mini"))
    for other, words in (
        (declared(script("a", steps=4), script("b", "a"), scale="mini"),
         r"holds another sweep: here cells\.a\.options\.steps is 4 \(was 3\)"),
        (declared(script("a", steps=3), scale="mini"), r"cells\.b is gone"),
        (declared(script("a", steps=3), script("b"), scale="mini"), r"cells\.b\.needs is \[\]"),
        (declared(script("a", steps=3), script("b", "a"), scale="paper"), "settings.scale is 'pap"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            SweepFolder.create(path, other)
    assert SweepFolder.open(path).declaration.cells[1] == script("b", "a")


def test_bad_folders_are_named_and_left_as_they_are(tmp_path):
    with pytest.raises(InputError, match="holds no sweep"):
        SweepFolder.open(tmp_path)
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InputError, match="is there and holds no sweep; give another --out"):
        SweepFolder.create(tmp_path, declared(script("a")))
    with pytest.raises(InputError, match="cannot write the sweep's folder"):
        SweepFolder.create(tmp_path / "mine" / "sweep", declared(script("a")))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for content in ("{}", '{"sweep": "s", "settings": {}, "cells": {"a": {"nam": 1}}}', "half {"):
        (damaged / "sweep.json").write_text(content)
        with pytest.raises(InputError, match=r"sweep\.json is (damaged|not JSON)"):
            SweepFolder.open(damaged)


def test_damaged_files_of_a_sweep_are_told_in_words(tmp_path):
    sweep = SweepFolder.create(tmp_path / "s", declared(script("a")))
    good = (sweep.path / "sweep.json").read_text()
    for content, words in (
        ("", "sweep.json is not JSON"),
        ('{"sweep": 3, "settings": {}, "cells": {}}', "sweep is an integer; it must be a string"),
        (good.replace('"needs": []', '"needs": 4'), "cells.a.needs is an integer"),
        (good.replace('"options": {}', '"options": []'), "cells.a.options is a list"),
        (good.replace('"cost"', '"price"'), "cells.a has no cost"),
    ):
        assert content != good
        (sweep.path / "sweep.json").write_text(content)
        with pytest.raises(InputError, match=words):
            SweepFolder.open(sweep.path)
    for content, words in (
        ("{}", "sessions.json is damaged: it has no sessions"),
        ('{"sessions": [{}]}', r"sessions\[0\] has no command"),
        ('{"sessions": null}', "sessions is null; it must be a list"),
    ):
        (sweep.folder("a") / "sessions.json").write_text(content)
        with pytest.raises(InputError, match=words):
            sweep.state("a")


@pytest.mark.parametrize("kind", ["empty", "folder"])
def test_an_empty_result_or_a_folder_of_its_name_is_none(tmp_path, kind):
    sweep = SweepFolder.create(tmp_path / "s", declared(script("a")))
    result = sweep.result("a")
    result.mkdir() if kind == "folder" else result.touch()
    assert not sweep.done("a") and sweep.state("a").name == "ready"


def test_difference_and_flags():
    assert difference({"a": {"b": [1]}}, {"a": {"b": [1]}}) is None
    assert difference({"a": {"b": [1]}}, {"a": {"b": [2]}}) == "a.b is [1] (was [2])"
    words = flags({"obs_var": 0.1, "task": ["Hat", "Black Hair"], "fid": None, "trust": True})
    assert words == ["--obs-var=0.1", "--task", "Hat", "Black Hair", "--trust"]
    with pytest.raises(ValueError, match="before what it needs"):
        declared(script("b", "a"), script("a"))


def test_a_run_that_was_begun_is_gone_on_with(tmp_path):
    cell = cells.fit_cell("a", Config(algo="avae_ss"), init_from="vae")
    begins = cells.KINDS["fit"].words(cell, tmp_path, [tmp_path / "vae"])
    assert begins[2:] == [
        f"--run-dir={tmp_path}/run", f"--config={tmp_path}/options.json",
        f"--init-from={tmp_path}/vae",
    ]  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    goes_on = cells.KINDS["fit"].words(cell, tmp_path, [tmp_path / "vae"])
    assert goes_on == [*begins[:3], "--resume"]


def test_the_time_left_is_what_commands_say_or_what_their_kind_took(tmp_path):
    made = [
        Cell("a", "script", {}, cost=2.0), Cell("b", "script", {}, cost=3.0),
        Cell("c", "script", {}, cost=5.0), Cell("d", "taken", {"path": "x"}),
    ]  # fmt: skip
    sweep = SweepFolder(tmp_path, declared(*made))
    states = {
        "a": State("done", "", 20.0), "b": State("running", "step 3/4  1:00:07 left  kl 3", 5.0),
        "c": State("stopped", "", 15.0), "d": State("ready", "", 0.0),
    }  # fmt: skip
    found = estimate(sweep, made, states)
    # In all 20 and 5 + 3607 seconds for costs of 2 and 3.
    assert found.seconds == {"b": 3607.0, "c": 3617.0} and found.unknown == ["d"]
    # One cell is not done by two processes.
    assert found.words(1) == "2:00:24 left, and 1 cells not yet measured"
    assert found.words(2) == "1:00:17 left, and 1 cells not yet measured"
    assert Estimate({"e": 30.0, "f": 30.0, "g": 40.0}, []).words(2) == "about 0:50 left"


def test_the_time_left_is_that_of_what_is_most_alike(tmp_path):
    options = [{"algo": a, "seed": s} for a in ("vae", "se") for s in (0, 1)]
    made = [Cell(f"{o['algo']}{o['seed']}", "script", o, cost=2.0) for o in options]
    sweep = SweepFolder(tmp_path, declared(*made))
    states = {
        "vae0": State("done", "", 10.0), "vae1": State("ready", "", 0.0),
        # What a command says, with the time it took so far, tells of others too.
        "se0": State("running", "step 3/4  10:00 left  kl 3", 100.0),
        "se1": State("ready", "", 0.0),
    }  # fmt: skip
    assert estimate(sweep, made, states).seconds == {"vae1": 10.0, "se0": 600.0, "se1": 700.0}


def test_a_config_older_than_an_option_has_its_default():
    old = {"algo": "vae", "steps": 2}
    assert difference({**old, "split_seed": 0}, old) is None
    assert difference({**old, "split_seed": 1}, old) == "split_seed is new"
    assert difference(old, {**old, "gone": 1}) == "gone is gone"
    new = Config(algo="vae", latent_dim=3).to_dict()
    older = {name: value for name, value in new.items() if name != "split_seed"}
    assert pages.shared_options([new, older]) == pages.shared_options([new, new])
    assert "latent_dim 3" in pages.shared_options([older, new])
