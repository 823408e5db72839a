"""Known results: what another sweep of a grid on ColorMNIST has measured."""

import json
import re

import pytest
from sweep_results import write
from test_table3 import printed

from tests.colormnist.made_up import BOUND, RADII, RATES, collected, created, finish, finish_all
from tf_avae.errors import InputError
from training.sweep.colormnist import page as colormnist_page

WORDS = ("--algo", "vae", "avae", "--seeds", 2, "--radii", *RADII)
STRONG = "digit, linear, strong, ε 0.1"


def put(sweep, values, name="other.json"):
    """Known results in a sweep's folder."""
    path = sweep.path / "known" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def without(sweep, *cells):
    """What a sweep has collected without some cells, or all under a budget."""
    ends = tuple(f"-{cell}" for cell in cells)
    for cell in sweep.cells:
        if f"-{cell}".endswith(ends):
            sweep.result(cell).unlink()
    return collected(sweep)


def whole(path, *more, words=WORDS, **of):
    """A sweep that has everything."""
    sweep = created(path, *words, *more)
    finish_all(sweep, **of)
    rates = {row["name"]: RATES[row["name"]] for row in sweep.declaration.settings["models"]}
    write(sweep, "timing", {"rates": rates, "provenance": {"commit": "c-timing"}})
    return sweep


def figures(values):
    """All that is measured, without which of it is from elsewhere."""
    time = {key: value for key, value in values["time"].items() if key != "elsewhere"}
    return {key: values[key] for key in ("measures", "claims", "data")} | {"time": time} | {
        name: [model["over_seeds"], *({**t, "elsewhere": None} for t in model["trainings"])]
        for name, model in values["models"].items()
    }  # fmt: skip


def elsewhere(values):
    return {t["name"]: t.get("elsewhere", []) for m in values["models"].values()
            for t in m["trainings"]}  # fmt: skip


def test_a_sweep_that_has_nothing_shows_what_is_known(tmp_path):
    expected = collected(whole(tmp_path / "whole"))
    (tmp_path / "s" / "known").mkdir(parents=True)  # may be there before the sweep
    sweep = created(tmp_path / "s", *WORDS)
    put(sweep, expected)
    found = collected(sweep)
    assert figures(found) == figures(expected)
    page = colormnist_page.page(found)
    for budget in ("paper", "strong"):
        names = "vae-s0, vae-s1, avae-s0, avae-s1"
        assert f"- measured by another sweep, under `{budget}`, commit c-{budget}: {names}" in page
    assert "- timed by another sweep, commit c-timing" in page
    assert "What is missing" not in page and "another sweep" not in colormnist_page.page(expected)
    # What became known from elsewhere once still says so where it is known again.
    third = created(tmp_path / "t", *WORDS)
    put(third, found)
    assert collected(third)["models"] == found["models"]


def test_parts_of_several_sweeps_make_the_whole(tmp_path):
    expected = collected(whole(tmp_path / "whole"))
    sweep = whole(tmp_path / "s")
    without(sweep, "paper", "timing")
    put(sweep, without(whole(tmp_path / "a"), "avae-s0-paper", "strong"), "a.json")
    assert [t["missing"] is None for t in collected(sweep)["models"]["avae"]["trainings"]] == [
        False, True,
    ]  # fmt: skip
    put(sweep, without(whole(tmp_path / "b"), "vae-s0-paper", "vae-s1-paper", "strong"), "b.json")
    found = collected(sweep)
    assert figures(found) == figures(expected)
    assert elsewhere(found) == {key: ["paper"] for key in elsewhere(found)}


def test_other_seeds_and_objectives_of_the_same_grid_are_joined(tmp_path):
    words = ("--radii", *RADII, "--algo", "avae", "se", "--seeds", 1)
    sweep = created(tmp_path / "s", *WORDS)
    put(sweep, collected(whole(tmp_path / "whole", words=words)))
    found = collected(sweep)
    assert elsewhere(found) == {
        "vae-s0": [], "vae-s1": [], "avae-s0": ["paper", "strong"], "avae-s1": [],
    }  # fmt: skip
    # The times are of other models; of those that have two, one seed alone says nothing.
    assert found["time"]["missing"] and "timed by" not in colormnist_page.page(found)
    assert not any(claim["rows"] for claim in found["claims"])


def test_only_what_a_budget_measured_comes_from_it(tmp_path):
    """A file with more budgets than a sweep has leaves nothing else in what that writes."""
    rich = collected(whole(tmp_path / "rich", of=lambda *_: 7.0))
    words = (*WORDS, "--budget", "paper")
    sweep = created(tmp_path / "poor", *words)
    put(sweep, rich)
    poor = collected(sweep)
    assert elsewhere(poor) == {key: ["paper"] for key in elsewhere(poor)}
    names = {name for m in poor["models"].values() for t in m["trainings"] for name in t["figures"]}
    assert names and not any("strong" in name for name in names)
    third = created(tmp_path / "t", *WORDS)
    put(third, poor)
    assert STRONG not in collected(third)["models"]["vae"]["over_seeds"]


def test_a_sweeps_own_figures_come_first_and_other_models_are_refused(tmp_path):
    sweep = whole(tmp_path / "s")
    own = collected(sweep)
    put(sweep, collected(whole(tmp_path / "whole", of=lambda *_: 7.0, sha256="cd")))
    # What is of others is refused where it is needed, and only there.
    assert collected(sweep) == own
    sweep.result("avae-s1-strong").unlink()
    with pytest.raises(InputError, match=r"of its avae-s1, SHA-256 of the weights: cd, here ab"):
        collected(sweep)
    # A run without an evaluation has no checksum yet.
    sweep.result("avae-s1-paper").unlink()
    with pytest.raises(InputError, match=rf"of its avae-s1, {re.escape(BOUND)}: 7.0, here "):
        collected(sweep)
    put(sweep, collected(whole(tmp_path / "more", checksum="c")))
    finish(sweep, "avae", 1)
    sweep.result("avae-s1-strong").unlink()
    with pytest.raises(InputError, match=r"of its avae-s1, data: .*'c'.*, here .*'b'"):
        collected(sweep)


def test_what_does_not_fit_is_refused_before_any_work(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = collected(whole(tmp_path / "whole"))
    sweep = created(tmp_path / "s", *WORDS)
    before = sorted(tmp_path.rglob("*"))
    words = ["colormnist", "--out", "s", *WORDS, "--only", "timing"]
    paper, vae = values["evaluation"]["paper"], values["models"]["vae"]
    config = vae["config"] | {"steps": 7}
    for content, expected in (
        ({"settings": {}}, "holds no results of a grid on ColorMNIST, it has no evaluation, me"),
        ({key: [] for key in values}, "is damaged"),
        (
            values | {"settings": values["settings"] | {"grid": "conv"}},
            "here the grid is 'objectives' (was 'conv')",
        ),
        (
            values | {"evaluation": {"paper": paper | {"epsilon": [0.3]}, "strong": {}}},
            "here paper.epsilon is [0.05, 0.1] (was [0.3])",
        ),
        (values | {"models": {"vae": vae | {"config": config}}}, "here vae.steps is 20000 (was 7)"),
    ):
        path = put(sweep, content)
        complaint = printed(capsys, *words, code=2)
        assert expected in complaint and "known/other.json" in complaint
        assert "ake the file away" in complaint
        path.unlink()
    path.parent.rmdir()
    assert sorted(tmp_path.rglob("*")) == before
    # Where the command's options are others than the sweep's, these are named, not the file.
    put(sweep, values)
    assert "holds another sweep" in printed(capsys, *words, "--steps", 9, code=2)
    # Another place of the data is no other config.
    moved = {**vae, "config": vae["config"] | {"data_dir": "there"}}
    put(sweep, values | {"models": values["models"] | {"vae": moved}})
    assert elsewhere(collected(sweep))["vae-s0"] == ["paper", "strong"]
