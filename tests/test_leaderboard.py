"""`python -m training.leaderboard`: evaluations as one table, by rules of admission."""

import copy
import json
import re
import shlex

import numpy as np
import pytest
import scipy

from tests.test_help import called
from tests.test_readme import ROOT, blocks
from tf_avae.config import Config
from tf_avae.evaluation import BUDGETS, CHECKS
from tf_avae.evaluation.statistics import proportion
from tf_avae.evaluation.trials import Extent
from training.leaderboard.__main__ import main
from training.leaderboard.rules import IMAGES, RULES

MADE = len(CHECKS)  # in the L-infinity ball that is all
PAGE = ROOT / "docs" / "leaderboard.md"


def shares(outcomes):
    letters = np.array(list(outcomes))
    return {"nominal": proportion(letters != "x"), "accuracy": proportion(letters == ".")}


def results(
    name="a", *, sha=None, seed=0, left=600, count=IMAGES, tasks=("digit",), epsilon=0.1,
    budget="strong", config=True, **options,
):  # fmt: skip
    """A small results.json of one encoder, of which `left` images stay correct under attack."""
    outcomes = "." * left + "0" * (900 * count // 1000 - left) + "x" * (count // 10)
    trials = [search.name for search in BUDGETS[budget].plan(Extent(10, 3), "linf")]
    nominal = proportion(np.arange(10_000) < 9000)
    record = {
        "name": name,
        "sha256": sha or f"{name}{seed}" * 8,
        "step": 5,
        "probes": {task: {"classes": 10, "linear": {"nominal": nominal}} for task in tasks},
        "robustness": {"rows": [
            {"task": task, "head": "linear", "epsilon": epsilon, "trials": trials,
             "outcomes": outcomes, **shares(outcomes)}
            for task in tasks
        ]},
        "checks": {"groups": [
            {"task": task, "head": "linear",
             "checks": [{"name": c, "passed": True, "found": "as it must"} for c in CHECKS]}
            for task in tasks
        ]},
        "latents": {"active_units": 7, "latents": 8},
    }  # fmt: skip
    if config:
        record["config"] = Config(algo="se", seed=seed, **options).to_dict()
    return {
        "settings": {"budget": budget, "norm": "linf", "free_images": 256},
        "data": {
            "name": "made",
            "validation": 0,
            "checksums": {"m": "1"},
            "test_images": 10_000,
            "image_shape": [28, 28, 3],
        },
        "encoders": [record],
        "provenance": {"commit": "c0ffee"},
    }


@pytest.fixture
def board(tmp_path, monkeypatch, capsys):
    """Runs the command on results, written as 0.json, 1.json ...; words stand before files that
    follow. Gives the values of --json, or what is complained of."""
    monkeypatch.chdir(tmp_path)

    def run(*given, options=()):
        words, prefix = [], ""
        for number, one in enumerate(given):
            if isinstance(one, str):
                prefix = one
                continue
            (tmp_path / f"{number}.json").write_text(json.dumps(one))
            words.append(f"{prefix}{number}.json")
        code = main([*words, "--json", "out.json", "--page", "out.md", *options])
        said = capsys.readouterr()
        if code:
            assert code == 2 and said.out == "" and said.err.count("\n") == 1
            return said.err
        return json.loads((tmp_path / "out.json").read_text())

    return run


def changed(of, **where):
    """Results with values put at dotted places."""
    made = copy.deepcopy(of)
    for place, value in where.items():
        *way, last = (int(w) if w.isdigit() else w for w in place.split("__"))
        at = made
        for step in way:
            at = at[step]
        if value is None:
            del at[last]
        else:
            at[last] = value
    return made


ROW = "encoders__0__robustness__rows__0"
CHECK = "encoders__0__checks__groups__0__checks"
FREE = f"{CHECK}__{[*CHECKS].index('gradient-free')}"
FALLS = f"{CHECK}__{[*CHECKS].index('falls')}"
BREAKS = {
    "budget": (results(budget="paper"), "paper"),
    "searches": (
        changed(results(), **{f"{ROW}__trials": ["pgd-40/0"]}), "digit at ε 0.1 differs in"
    ),
    "images": (results(left=300, count=500), "digit at ε 0.1: 500"),
    "complete": (results(epsilon=0.2), "no digit at ε 0.1"),
    "checked": (changed(results(), **{FREE: None}), "not made of digit: gradient-free"),
    "sound": (
        changed(results(), **{f"{FALLS}__passed": False, f"{FALLS}__found": "it | rises"}),
        "digit: falls (it | rises)",
    ),
}  # fmt: skip


def test_each_rule_admits_and_refuses(board, tmp_path):
    """A file that meets all rules, and for each rule one that meets all others."""
    assert BREAKS.keys() == RULES.keys()
    for rule, (other, word) in BREAKS.items():
        other["encoders"][0] |= {"name": "b", "sha256": "b" * 64}
        found = board(results(), "b=", other, options=["--epsilon", "0.1"])
        assert [entry["name"] for entry in found["admitted"]] == ["a"]
        (out,) = found["not_admitted"]
        ((reason, said),) = {(r["rule"], r["found"]) for r in out["reasons"]}
        assert (out["name"], reason) == ("b", rule) and said.startswith(word)
        page = (tmp_path / "out.md").read_text()
        assert f"**{rule}**: {said}".replace("|", r"\|") in page
        for row in RULES.values():
            assert re.search(f"`{row.name}` +\\| +{re.escape(row.must)} \\| +{row.why} ", page)


def test_fewer_images_are_enough_where_there_are_no_more(board):
    few = changed(results(left=300, count=500), data__measured={"digit": 500})
    assert board(few)["admitted"]
    # As far as the rule of 1,000 says: half as many, and chance moves a half by four points.
    half = proportion(np.arange(IMAGES // 2) < IMAGES // 4)
    assert round(100 * (half["high"] - half["value"])) == 4


def test_entries_are_sorted_and_keep_their_figures(board, tmp_path):
    both = changed(results("low", left=100), encoders__0__latents=None)
    both["encoders"].append(results("high", left=800, obs_var=0.1)["encoders"][0])
    found = board(both, results("middle", left=500, obs_var=0.2))
    assert [entry["name"] for entry in found["admitted"]] == ["high", "middle", "low"]
    figures = found["admitted"][0]["figures"][0]
    interval = scipy.stats.binomtest(800, 1000).proportion_ci(method="wilson")
    assert figures["robust"]["0.1"] == {
        "over": "images", "value": 0.8, "low": interval.low, "high": interval.high, "count": 1000
    }  # fmt: skip
    low, high = 100 * interval.low, 100 * interval.high
    page = (tmp_path / "out.md").read_text()
    cells = f"80.0 [{low:.1f}, {high:.1f}] | 1,000 | 1 seed ⚠ | {MADE} of {MADE} | 7 of 8 |"
    assert cells in re.sub(" +", " ", page)
    again = board(both, results("middle", left=500, obs_var=0.2))
    assert again == found and (tmp_path / "out.md").read_text() == page


def test_seeds_of_a_training_are_one_entry(board, tmp_path):
    left = [500, 620, 560]
    found = board(*(results(f"s{s}", seed=s, left=n) for s, n in enumerate(left)))
    (entry,) = found["admitted"]
    assert (entry["name"], entry["seeds_told"]) == ("s0, s1, s2", False)
    values = np.array(left) / 1000
    low, high = scipy.stats.t.interval(0.95, 2, values.mean(), scipy.stats.sem(values))
    estimate = entry["figures"][0]["robust"]["0.1"]
    assert estimate["over"] == "seeds" and estimate["count"] == 3
    np.testing.assert_allclose([estimate["low"], estimate["high"]], [low, high], rtol=1e-12)
    cell = f"56.0 ± {100 * (high - low) / 2:.1f} | 1,000 | 3 seeds | {3 * MADE} of {3 * MADE}"
    assert cell in re.sub(" +", " ", (tmp_path / "out.md").read_text())
    # One that a rule refuses takes the others with it.
    found = board(results("s0"), results("s1", seed=1, count=500, left=300))
    assert found["not_admitted"][0]["reasons"] == [
        {"rule": "images", "found": "s1: digit at ε 0.1: 500"}
    ]


def test_files_without_a_config_are_told_to_be_seeds(board, tmp_path):
    first, second = (results("e", sha=sha * 64, config=False) for sha in "ab")
    assert "two entries are called 'e' (0.json; 1.json)" in board(first, second)
    (entry,) = board("mine=", first, second)["admitted"]
    assert entry["name"] == "mine" and entry["seeds_told"] and len(entry["trainings"]) == 2
    assert "differ in their seed alone: mine." in (tmp_path / "out.md").read_text()


def test_checks_on_a_handful_of_images_are_none(board):
    found = board(changed(results(), settings__free_images=10))
    (reason,) = found["not_admitted"][0]["reasons"]
    assert (reason["rule"], reason["found"]) == ("checked", "on 10 images")


def test_files_of_one_encoder_are_joined(board):
    digit, color = (results(sha="a" * 64, tasks=(task,)) for task in ("digit", "color"))
    (entry,) = board(digit, color)["admitted"]
    (training,) = entry["trainings"]
    assert [of["file"] for of in training["files"]] == ["0.json", "1.json"]
    assert entry["checks"] == f"{2 * MADE} of {2 * MADE}"
    assert [figures["task"] for figures in entry["figures"]] == ["digit", "color"]


GOOD = results()
OTHER = results("b", seed=1)
ROWS = GOOD["encoders"][0]["robustness"]["rows"]


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ((GOOD, GOOD), (), "0.json and 1.json both measure digit at ε 0.1 of the same weights"),
        (("x=", GOOD, "y=", results(tasks=("color",))), (), "are given different names"),
        ((GOOD, results(sha="b" * 64)), (), "both of the training with seed 0, with other weights"),
        (("x=", GOOD, results("b", seed=1, obs_var=0.1)), (), "called 'x', differ in obs_var"),
        ((GOOD, changed(OTHER, data__checksums={"m": "2"})), (), "differ in checksums, so"),
        ((GOOD, changed(OTHER, data__test_images=9)), (), "differ in test_images, so"),
        ((GOOD, changed(OTHER, settings__norm="l2")), (), "differ in norm, so"),
        ((GOOD, results("b", seed=1, tasks=("color",))), (), "no task is one of all encoders"),
        ((GOOD, results("b", seed=1, epsilon=0.2)), (), "no epsilon is one of all encoders (a has"),
        ((GOOD,), ("--head", "mlp"), "give --head: linear"),
        ((GOOD,), ("--task", "digits"), "unknown task 'digits' (did you mean 'digit'?)"),
        ((GOOD,), ("--epsilon", "0.1", "0.1"), "name each once"),
        ((GOOD,), ("--json", "0.json"), "--json is 0.json, which is one of the files read"),
        ((changed(GOOD, encoders__0__sha256=None),), (), "encoders[0] has no sha256; give the"),
        ((changed(GOOD, encoders__0__robustness=None),), (), "encoders[0] has no robustness"),
        ((changed(GOOD, **{f"{ROW}__outcomes": None}),), (), "rows[0] has no outcomes; give the"),
        ((changed(GOOD, **{f"{ROW}__accuracy__value": 0.9}),), (), "is 0.9 of 1,000, and the out"),
        ((changed(GOOD, encoders__0__probes__digit__linear=None),), (), "KeyError('linear')"),
        ((changed(GOOD, encoders__0__robustness__rows=2 * ROWS),), (), "has digit at ε 0.1 twice"),
        ((changed(GOOD, **{f"{ROW}__epsilon": -1.0}),), (), "epsilon of digit is -1"),
        ((changed(GOOD, **{f"{ROW}__outcomes": "é."}),), (), "are not all known: 'é'"),
        ((changed(GOOD, **{f"{ROW}__outcomes": "Z."}),), (), "are not all known: 'Z'"),
        ((changed(GOOD, **{f"{ROW}__outcomes": ""}),), (), "outcomes of digit at ε 0.1 are none"),
        ((changed(GOOD, settings__norm="l7"),), (), "settings.norm is 'l7'"),
        ((changed(GOOD, encoders__0__step=float("nan")),), (), "step is a number; it must be"),
        ((changed(GOOD, encoders__0__latents__active_units=float("nan")),), (), "not JSON compli"),
        ((changed(GOOD, provenance__commit=None),), (), "provenance has no commit; give the"),
        (({"encoders": []},), (), "0.json is damaged: it has no settings; give the results.json"),
    ],
)  # fmt: skip
def test_what_makes_no_table_is_refused(board, tmp_path, given, options, words):
    assert words in board(*given, options=options)
    assert not (tmp_path / "out.md").exists()
    assert all("encoders" in file.read_text() for file in tmp_path.iterdir())


def test_words_of_others_are_shown_as_they_are(board, tmp_path):
    board(results("<b>|`x`\x1b[31m"))
    assert r"\<b\>\|\`x\` \[31m" in (tmp_path / "out.md").read_text()


def test_the_page_is_what_its_command_makes_of_the_kept_files(tmp_path):
    """Without TensorFlow: it only reads."""
    page = PAGE.read_text()
    (command,) = blocks("sh", page)
    _, _, module, *words = shlex.split(command)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "results").symlink_to(ROOT / "docs" / "results")
    done, imported = called(module, *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "docs" / "leaderboard.md").read_text() == page
    assert done.stdout.partition("\npage: ")[0] in page
    assert "scipy" in imported and not imported & {"tensorflow", "keras", "sklearn", "matplotlib"}
