"""`python -m training.sweep colormnist --grid precision`: differences, seed by seed."""

import itertools
import re

import numpy as np
import pytest
import scipy.stats
from sweep_results import TASKS, write
from test_resume import ROOT
from test_table3 import printed, tables

from tests.colormnist.made_up import RATES, collected, created, declare, finish_all, shown
from tf_avae.config import Config
from training.sweep.cells.folder import State, SweepFolder
from training.sweep.cells.screen import estimate
from training.sweep.colormnist import page as colormnist_page
from training.sweep.colormnist.grids import GRIDS

GRID = GRIDS["precision"]
ALGOS, SEEDS = ("vae", "se_avae"), range(3)
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
NAMES = [
    *(f"{t}, linear, {at}" for t in TASKS
      for at in ("nominal", "paper, ε 0.02", "paper, ε 0.05", "paper, ε 0.1")),
    "bound, held out", "its rise in the last fifth", "inconsistency W2²",
]  # fmt: skip
APART = ("se_avae-precisionmixed_float16", NAMES[1])
"""The one figure that differs by more than seeds do."""


def model(algo, precision):
    return algo if precision == "float32" else f"{algo}-precision{precision}"


MODELS = [model(*of) for of in itertools.product(ALGOS, PRECISIONS)]
RATES_OF = dict(zip(MODELS, (
    RATES["vae"], [20.0, 30.0, 30.0], [5.0, 5.0, 10.0],
    [1.0, 2.0, 4.0], [1.0, 1.0, 1.0], [2.0, 4.0, 8.0],
), strict=True))  # fmt: skip


def figure(which, seed, name):
    """The seeds scatter in common, and in each model so much apart that it means nothing."""
    if name not in NAMES:
        return 1.0
    common = np.random.default_rng([seed, NAMES.index(name)]).normal(50, 3)
    algo = which.partition("-")[0]
    own = np.random.default_rng([NAMES.index(name), ALGOS.index(algo)]).permutation(3)
    turn = MODELS.index(which) % 3  # differences from float32: a small one, and -1, 0 and 1
    return common + (own[seed] - 0.9) * turn * 0.3 + 5.0 * ((which, name) == APART)


def difference(which, name):
    base = which.partition("-")[0]
    return np.array([figure(which, s, name) - figure(base, s, name) for s in SEEDS])


@pytest.fixture
def sweep(tmp_path):
    sweep = created(tmp_path / "s", "--grid", "precision", "--algo", *ALGOS)
    finish_all(sweep, figure)
    write(sweep, "timing", {"rates": RATES_OF, "provenance": {}})
    return sweep


def test_models_are_the_same_but_for_precision_and_all_are_timed(sweep):
    configs = {cell.name: cell.options for cell in sweep.declaration.cells if cell.kind == "fit"}
    assert sorted(configs) == sorted(f"{m}-s{s}" for s in SEEDS for m in MODELS)
    for (algo, precision), seed in itertools.product(itertools.product(ALGOS, PRECISIONS), SEEDS):
        mine = Config.from_dict(configs[f"{model(algo, precision)}-s{seed}"])
        differs = mine.differences(Config.from_dict(configs[f"{algo}-s0"]))
        there = {"precision": precision != "float32", "seed": seed != 0}
        assert differs.keys() == {name for name, is_there in there.items() if is_there}
        assert mine.precision == precision and mine.steps == GRID.common["steps"]
    timed = sweep.cells["timing"].options["configs"]
    assert {name: c["precision"] for name, c in timed.items()} == dict(
        zip(MODELS, PRECISIONS * 2, strict=True)
    )


def test_the_page_says_which_differences_are_more_than_chance(sweep):
    page = colormnist_page.page(collected(sweep))
    title, section = re.search(r"^## (Differences.*?)\n(.*?)\n## ", page, re.M | re.S).groups()
    assert title == "Differences from the objective's own"
    (rows,) = tables(section)
    variants = [name for name in MODELS if "-" in name]
    assert rows[0] == ["", *(name.replace("-precision", ", ") for name in variants)]
    assert [row[0].removesuffix(", %").removesuffix(", nats") for row in rows[1:]] == NAMES
    halves = []
    for name, row in zip(NAMES, rows[1:], strict=True):
        for which, cell in zip(variants, row[1:], strict=True):
            apart = difference(which, name)
            result = scipy.stats.ttest_1samp(apart, 0.0)
            assert (result.pvalue < 0.05) == ((which, name) == APART)
            mark = "*" if (which, name) == APART else ""
            assert cell == shown(apart, 2, sign="+") + mark
            if "linear" in name:
                halves.append(result.confidence_interval(0.95).high - apart.mean())
    count = len(NAMES) * len(variants)
    assert f"reaches: 1 of {count}, where chance alone makes about {count / 20:.1f}." in section
    assert f"reach up to ± {max(halves):.1f} points" in section
    for words in ("mean over 3 seeds", "on the first 1,000 test images", "arch mlp", "steps 2000"):
        assert words in page


def test_a_step_is_timed_beside_that_in_float32(sweep):
    page = colormnist_page.page(collected(sweep))
    found = dict(re.findall(r"(\S+-precision\w+) (\S+ \(.*?\))", page.split("own model: ")[-1]))
    assert found == {
        "vae-precisionmixed_bfloat16": "0.67 (0.50–1.00)",
        "vae-precisionmixed_float16": "3.00 (2.00–4.00)",
        "se_avae-precisionmixed_bfloat16": "2.00 (1.00–4.00)",
        "se_avae-precisionmixed_float16": "0.50 (0.50–0.50)",
    }


def test_one_seed_tells_no_difference_from_chance(tmp_path):
    words = ("--grid", "precision", "--algo", "vae", "--seeds", 1)
    sweep = created(tmp_path / "s", *words)
    finish_all(sweep, figure)
    values = collected(sweep)
    assert any(values["models"]["vae-precisionmixed_float16"]["difference"].values())
    assert "## Differences" not in colormnist_page.page(values)


def test_the_docs_say_what_the_code_does():
    text = (ROOT / "docs" / "precision.md").read_text()
    for words in (
        f"seeds {', '.join(map(str, range(GRID.seeds)))} ",
        f"default {', '.join(map(str, GRID.radii))}", f"default {GRID.attacks[0].images:,}",
        f"`--steps` is {GRID.common['steps']:,} here", *(f"`{name}`" for name in PRECISIONS),
    ):  # fmt: skip
        assert words in text
    # Half an interval in standard deviations, with three seeds and with five.
    three, five = (scipy.stats.t.ppf(0.975, n - 1) / np.sqrt(n) for n in (3, 5))
    assert f"{three:.1f} standard deviations" in text and five == pytest.approx(three / 2, rel=0.01)


# ---------------------------------------------------------------------- time left


def test_time_left_is_told_by_the_timing_before_anything_is_trained(tmp_path):
    words = ("--grid", "precision", "--algo", *ALGOS, "--steps", 600)
    sweep = SweepFolder(tmp_path / "s", declare(tmp_path / "s", *words))
    states = {name: State("ready", "", 0.0) for name in sweep.cells}
    cells = list(sweep.declaration.cells)
    assert not estimate(sweep, cells, states).seconds
    write(sweep, "timing", {"rates": RATES_OF})
    states["timing"] = State("done", "", 50.0)
    left = estimate(sweep, cells, states)
    for seed in SEEDS:  # 600 steps at the median rate
        assert left.seconds[f"vae-s{seed}"] == pytest.approx(600 / 20)
        assert left.seconds[f"vae-precisionmixed_float16-s{seed}"] == pytest.approx(600 / 5)
    assert "vae-s0-paper" in left.unknown
    # What a training itself took counts more than another's.
    states["se_avae-precisionmixed_float16-s1"] = State("done", "", 777.0)
    left = estimate(sweep, cells, states)
    assert left.seconds["se_avae-precisionmixed_float16-s2"] == pytest.approx(777.0, rel=0.01)


def test_the_time_left_is_that_of_so_many_processes(capsys, tmp_path):
    options = ("--grid", "precision", "--algo", *ALGOS, "--steps", 600)
    words = ["colormnist", *options, "--out", tmp_path / "s", "--dry-run", "--only",
             "vae-s0", "vae-s1", "vae-s2"]  # fmt: skip
    assert "time left not yet known" in printed(capsys, *words)
    write(created(tmp_path / "s", *options), "timing", {"rates": RATES_OF})
    for processes, left in ((1, "1:30"), (2, "0:45"), (3, "0:30"), (9, "0:30")):
        listed = printed(capsys, *words, "--processes", processes)
        assert f"0 of 3 cells done, about {left} left" in listed
