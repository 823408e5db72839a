"""Known results: what another sweep of a grid on ColorMNIST has measured."""

import json

import pytest
from sweep_results import write
from test_table3 import printed

from tests.colormnist.made_up import RADII, RATES, collected, created, finish, finish_all
from tf_avae.errors import InputError
from training.sweep import colormnist_page

WORDS = ("--algo", "vae", "avae", "--seeds", 2, "--radii", *RADII)


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


def whole(tmp_path, name="whole"):
    sweep = created(tmp_path / name, *WORDS)
    finish_all(sweep)
    write(sweep, "timing", {"rates": {"vae": RATES["vae"]}, "provenance": {"commit": "c0ffee"}})
    return sweep


def figures(values):
    """All that is measured, without where it comes from."""
    kept = ("figures", "not_measured", "missing", "sha256", "data", "seconds")
    return {key: values[key] for key in ("measures", "claims", "time", "data")} | {
        name: [model["over_seeds"], *({k: t[k] for k in kept} for t in model["trainings"])]
        for name, model in values["models"].items()
    }


def test_a_sweep_that_has_nothing_shows_what_is_known(tmp_path):
    expected = collected(whole(tmp_path))
    sweep = created(tmp_path / "s", *WORDS)
    put(sweep, expected)
    found = collected(sweep)
    assert figures(found) == figures(expected)
    page = colormnist_page.page(found)
    for budget in ("paper", "strong"):
        names = "vae-s0, vae-s1, avae-s0, avae-s1"
        assert f"- measured by another sweep, under `{budget}` at commit c0ffee: {names}" in page
    assert "What is missing" not in page and "another sweep" not in colormnist_page.page(expected)
    # What became known from elsewhere once still says so where it is known again.
    third = created(tmp_path / "t", *WORDS)
    put(third, found)
    assert collected(third)["models"] == found["models"]


def test_parts_of_several_sweeps_make_the_whole(tmp_path):
    expected = collected(whole(tmp_path))
    sweep = whole(tmp_path, "s")
    without(sweep, "paper", "timing")
    put(sweep, without(whole(tmp_path, "a"), "avae-s0-paper", "strong"), "a.json")
    assert [t["missing"] is None for t in collected(sweep)["models"]["avae"]["trainings"]] == [
        False, True,
    ]  # fmt: skip
    put(sweep, without(whole(tmp_path, "b"), "vae-s0-paper", "vae-s1-paper", "strong"), "b.json")
    found = collected(sweep)
    assert figures(found) == figures(expected)
    for model in found["models"].values():
        assert [list(t["elsewhere"]) for t in model["trainings"]] == [["paper"], ["paper"]]


def test_a_sweeps_own_figures_come_first(tmp_path):
    sweep = whole(tmp_path, "s")
    own = collected(sweep)
    other = whole(tmp_path)
    for model in ("vae", "avae"):
        for seed in range(2):
            finish(other, model, seed, of=lambda *_: 7.0, sha256="cd")
    put(sweep, collected(other))
    # Other weights are refused where their figures are needed, and only there.
    assert collected(sweep) == own
    sweep.result("avae-s1-strong").unlink()
    with pytest.raises(InputError, match=r"weights of its avae-s1 are others \(SHA-256 cd, here a"):
        collected(sweep)


def test_what_does_not_fit_is_refused_before_any_work(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = collected(whole(tmp_path))
    sweep = created(tmp_path / "s", *WORDS)
    before = sorted(tmp_path.rglob("*"))
    words = ["colormnist", "--out", "s", *WORDS, "--only", "timing"]
    for content, expected in (
        ({"settings": {}}, "holds no results of a grid on ColorMNIST, it has no evaluation, me"),
        (values | {"settings": values["settings"] | {"grid": "conv"}}, "of the grid conv, this of"),
        (
            values | {"evaluation": {"paper": values["evaluation"]["paper"] | {"epsilon": [0.3]}}},
            "under paper it was evaluated with",
        ),
    ):
        path = put(sweep, content)
        complaint = printed(capsys, *words, code=2)
        assert expected in complaint and "known/other.json" in complaint
        assert "take the file away" in complaint
        path.unlink()
    path.parent.rmdir()
    assert sorted(tmp_path.rglob("*")) == before
    config = values["models"]["vae"]["config"] | {"steps": 7}
    values["models"]["vae"]["config"] = config
    put(sweep, values)
    with pytest.raises(InputError, match="its vae has another config"):
        collected(sweep)
