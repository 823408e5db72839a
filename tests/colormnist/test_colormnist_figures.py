"""`python -m training.sweep colormnist`: figures over seeds, and what they say of the claims."""

import itertools

import numpy as np
import pytest
import scipy.stats
from sweep_results import TASKS, write

from tests.colormnist.made_up import (
    BESIDE,
    BOUND,
    CHECKS,
    HEADS,
    NATS,
    PARTS,
    RADII,
    RISE,
    SEEDS,
    THROUGH,
    accuracy_name,
    collected,
    created,
    finish_all,
    of_seeds,
    seeds_of,
    write_rows,
)
from training.sweep.colormnist import page as colormnist_page
from training.sweep.colormnist.grids import PAPER


def test_figures_over_seeds_are_those_of_the_results(sweep):
    values = collected(sweep)
    accuracies = [
        accuracy_name(task, head, budget, epsilon, after)
        for budget in ("paper", "strong")
        for task, head in itertools.product(TASKS, THROUGH[budget])
        for epsilon in (0.0, *RADII)
        if epsilon or budget == "paper"
        for after in ((*PARTS[budget], None) if epsilon else (None,))
    ]
    found = {measure["name"]: measure["unit"] for measure in values["measures"]}
    units = {name: "nats" if name in NATS else "" for name in BESIDE}
    assert found == dict.fromkeys(accuracies, "%") | units
    assert list(values["models"]) == list(PAPER)
    for name, measured in itertools.product(PAPER, found):
        seeds = seeds_of(name, measured)
        mine = of_seeds(name, measured, seeds)
        estimate = values["models"][name]["over_seeds"][measured]
        expected = scipy.stats.ttest_1samp(mine, 0.0).confidence_interval(0.95)
        assert estimate["value"] == pytest.approx(np.mean(mine))
        assert (estimate["low"], estimate["high"]) == pytest.approx(tuple(expected))
        assert estimate["count"] == len(seeds)
    assert values["time"]["baseline"] == "vae"
    assert values["time"]["factors"]["avae"] == {"value": 3.0, "low": 2.0, "high": 4.0}


def test_differences_from_an_objectives_own_model_are_scipys(tmp_path):
    sweep = created(tmp_path / "s", "--grid", "settings", "--algo", "vae", "--seeds", SEEDS)
    finish_all(sweep)
    found = collected(sweep)["models"]
    assert found["vae"]["difference"] == {} and len(found) > 5
    for name in found.keys() - {"vae"}:
        for measured, estimate in found[name]["difference"].items():
            result = scipy.stats.ttest_rel(of_seeds(name, measured), of_seeds("vae", measured))
            expected = tuple(result.confidence_interval(0.95))
            assert (estimate["low"], estimate["high"]) == pytest.approx(expected)
        assert found[name]["difference"].keys() == found[name]["over_seeds"].keys()


def test_the_rise_is_that_of_the_held_out_bound_since_a_fifth_before_the_end(tmp_path):
    sweep = created(tmp_path / "s", "--algo", "avae_ss", "--seeds", 1)

    def rise(*rows):
        write(sweep, "avae_ss-s0", {"held_out": {"bound": 123.0}})
        write_rows(sweep, "avae_ss-s0", rows)
        (training,) = collected(sweep)["models"]["avae_ss"]["trainings"]
        assert training["figures"][BOUND] == 123.0
        return training["figures"][RISE]

    vae = [("vae", "held_out", 50, -70.0), ("vae", "held_out", 100, -60.0)]
    ss = [("avae_ss", "held_out", step, bound) for step, bound in
          ((20, -50.0), (79, -40.0), (80, -37.0), (81, -31.0), (100, -30.0))]  # fmt: skip
    train = ("avae_ss", "train", 80, 9.0)
    assert rise(*vae, *ss[:3], train, *ss[3:]) == pytest.approx(7.0)
    # A fifth is one to the step, and the bound of the stage before is another one.
    assert rise(*ss[:2], *ss[3:], ("avae_ss", "train", 80, 9.0)) is None
    assert rise(*vae, *ss[3:]) is None
    assert RISE not in collected(sweep)["models"]["avae_ss"]["over_seeds"]
    assert rise() is None


def judged(path, by, *words, seeds=SEEDS):
    """Verdicts and claims where each model is better by so much in a figure.

    Differences are `by` and, seed by seed, a little less, nothing or more.
    """
    sweep = created(path, "--radii", *RADII, "--seeds", seeds, *words)

    def of(model, seed, name):
        if name == CHECKS:
            return 1
        return 50.0 + seed + 0.1 * PAPER.index(model) * (seed - 1) + by(model, name)

    finish_all(sweep, of)
    values = collected(sweep)
    return [colormnist_page.verdict(claim) for claim in values["claims"]], values


BETTER = {"vae": 0.0, "avae": 5.0, "se": 5.0, "se_avae": 10.0, "avae_ss": 5.0}
NOMINAL = 2 * len(HEADS)
"""Tasks, heads."""
ATTACKED = 2 * sum(map(len, THROUGH.values())) * len(RADII)
"""Tasks, heads of the budgets, radii."""


def kind(name):
    if name.startswith("inconsistency"):
        return "inconsistency"
    return "nominal" if "nominal" in name else "attacked" if "ε" in name else "other"


def test_the_verdicts_where_all_is_better_and_where_all_is_worse(tmp_path):
    signs = {"attacked": 1.0, "nominal": 0.0, "inconsistency": -1.0, "other": 0.0}
    said, values = judged(tmp_path / "a", lambda model, name: signs[kind(name)] * BETTER[model])
    assert said == [
        f"It holds: of {ATTACKED} differences {ATTACKED} for.",
        f"It holds: of {2 * ATTACKED} differences {2 * ATTACKED} for.",
        f"It holds: of {ATTACKED} differences {ATTACKED} for.",
        f"No loss seen: of {4 * NOMINAL} differences {4 * NOMINAL} open.",
        "It holds: of 4 differences 4 for.",
    ]
    page = colormnist_page.page(values)
    assert [line.strip("*") for line in page.splitlines() if line.startswith("**")] == said
    worse, _ = judged(
        tmp_path / "b", lambda model, name: (signs[kind(name)] or 1.0) * -BETTER[model]
    )
    assert worse == [
        f"It does not hold: of {ATTACKED} differences {ATTACKED} against.",
        f"It does not hold: of {2 * ATTACKED} differences {2 * ATTACKED} against.",
        f"It does not hold: of {ATTACKED} differences {ATTACKED} against.",
        f"Not in every case: of {4 * NOMINAL} differences {4 * NOMINAL} against.",
        "It does not hold: of 4 differences 4 against.",
    ]


def test_the_verdicts_where_figures_disagree(tmp_path):
    def by(model, name):
        sign = {"attacked": 1.0, "nominal": 1.0, "inconsistency": -1.0, "other": 0.0}[kind(name)]
        if model == "avae" and name.startswith("color"):
            return -sign * BETTER[model]  # worse than vae in one task
        if model == "avae_ss":
            return sign * 5.0 * (name == "digit, linear, strong, ε 0.1")
        return sign * BETTER[model]

    said, values = judged(tmp_path / "s", by)
    assert said == [
        f"It depends: of {ATTACKED} differences {ATTACKED // 2} for, {ATTACKED // 2} against.",
        f"It holds: of {2 * ATTACKED} differences {2 * ATTACKED} for.",
        f"It holds where the figures decide: of {ATTACKED} differences 1 for, {ATTACKED - 1} open.",
        "Not in every case: of 16 differences 10 for, 2 against, 4 open.",
        "It holds where the figures decide: of 4 differences 3 for, 1 open.",
    ]
    (row,) = [row for row in values["claims"][2]["rows"] if row["word"] == "for"]
    assert row["measure"]["name"] == "digit, linear, strong, ε 0.1"
    assert row["difference"]["value"] > 0
    assert [(r["algo"], r["measure"]["task"], r["measure"]["head"])
            for r in values["claims"][3]["rows"] if r["word"] == "against"] == [
        ("avae", "color", head) for head in HEADS
    ]  # fmt: skip


def test_claims_are_of_objectives_that_are_there_and_open_without_an_interval(tmp_path):
    def by(model, name):
        return BETTER[model]

    words = ["--algo", "vae", "avae", "--budget", "paper"]
    said, values = judged(tmp_path / "s", by, *words, seeds=1)
    assert said[0] == "Not decided: of 8 differences 8 open."
    assert [len(claim["rows"]) for claim in values["claims"]] == [8, 0, 0, 4, 1]
    assert "claims" not in colormnist_page.page(values)
    _, values = judged(tmp_path / "u", by, *words, seeds=2)
    page = colormnist_page.page(values)
    assert values["claims"][0]["title"] in page and values["claims"][1]["title"] not in page
    said, values = judged(tmp_path / "t", by, "--algo", "se", "--budget", "paper")
    assert not any(claim["rows"] for claim in values["claims"])
    assert "claims" not in colormnist_page.page(values)
