"""`python -m training.sweep colormnist`: its page, its picture, and what the docs say of them."""

import itertools
import json
import re

import numpy as np
import pytest
import scipy.stats
from sweep_results import TASKS
from test_resume import ROOT
from test_table3 import tables

from tests.colormnist.made_up import (
    BESIDE,
    CHECKS,
    HEADS,
    LABELS,
    NATS,
    PARTS,
    RADII,
    SEEDS,
    THROUGH,
    accuracy_name,
    collected,
    created,
    declare,
    figure,
    finish_all,
    of_seeds,
    seeds_of,
    shown,
)
from training.sweep.cells.folder import SweepFolder
from training.sweep.colormnist import chart as colormnist_chart
from training.sweep.colormnist import page as colormnist_page
from training.sweep.colormnist.grids import GRIDS, PAPER

RESULTS = ROOT / "docs" / "results"


def test_the_page_shows_the_figures(sweep):
    values = collected(sweep)
    page = colormnist_page.page(values)
    short, *accuracies = tables(page)
    *accuracies, beside, robust, both, alone, nominal, consistent, times, made = accuracies
    notes = dict(re.findall(r"^- \[(\d)\] (.*)$", page, re.M))
    assert list(notes.values()) == [
        "avae_ss-s1-paper is waiting for avae_ss-s1 (ready)",
        "se_avae-s2-strong is ready",
        "avae_ss-s1-strong is waiting for avae_ss-s1 (ready)",
    ]
    where = [(t, h, b) for t in TASKS for h in HEADS for b in THROUGH if h in THROUGH[b]]
    titles = [f"{t.title()}, {h} head, `{b}`" for t, h, b in where]
    titles = ["In short", *titles, "Beside them"]
    assert re.findall("^## (.*)$", page, re.M)[: len(titles)] == titles
    columns = [
        *(("digit", "linear", e) for e in (0, *RADII) if e in (0, 0.05, 0.1)),
        *(("color", "linear", e) for e in (0, *RADII) if e in (0, 0.1)),
        *(("digit", "margin", e) for e in (0, *RADII) if e in (0, 0.1)),
    ]
    assert short[0] == ["", *(f"{t}, {h}, {f'ε {e:g}' if e else 'nominal'}" for t, h, e in columns)]
    for model, row in zip(PAPER, short[1:], strict=True):
        names = [accuracy_name(task, head, "paper", e) for task, head, e in columns]
        cells = [shown(of_seeds(model, n, seeds_of(model, n))) for n in names]
        assert row == [LABELS[model], *cells]
    for task, head, budget in where:
        table = accuracies.pop(0)
        radii = (0.0, *RADII) if budget == "paper" else RADII
        assert table[0] == ["", *(f"ε {e:g}" if e else "nominal" for e in radii)]
        note = {"paper": {"avae_ss": " – [1]"},
                "strong": {"avae_ss": " – [3]", "se_avae": " – [2]"}}[budget]  # fmt: skip
        assert [row[0] for row in table[1:]] == [f"{LABELS[m]}{note.get(m, '')}" for m in PAPER]
        for model, row in zip(PAPER, table[1:], strict=True):
            names = [accuracy_name(task, head, budget, e) for e in radii]
            assert row[1:] == [shown(of_seeds(model, n, seeds_of(model, n))) for n in names]
        if not PARTS[budget]:
            continue
        lines = list(itertools.product(PAPER, RADII))
        table = accuracies.pop(0)
        assert table[0] == ["after", *PARTS[budget], "all"]
        for (model, e), row in zip(lines, table[1:], strict=True):
            names = [accuracy_name(task, head, budget, e, a) for a in (*PARTS[budget], None)]
            cells = [shown(of_seeds(model, n, seeds_of(model, n))) for n in names]
            assert row == [f"{LABELS[model]}, ε {e:g}", *cells]
    assert not accuracies
    assert beside[0] == ["", *(f"{n}, nats" if n in NATS else n for n in BESIDE)]
    for model, row in zip(PAPER, beside[1:], strict=True):
        for name, cell in zip(BESIDE, row[1:], strict=True):
            mine = of_seeds(model, name, seeds_of(model, name))
            assert cell == shown(
                mine, digits=1 if np.mean(mine) >= 10 else 2 if np.mean(mine) >= 0.1 else 3
            )

    def difference(algo, baseline, name, digits, better=1):
        seeds = sorted({*seeds_of(algo, name)} & {*seeds_of(baseline, name)})
        mine, base = (of_seeds(model, name, seeds) for model in (algo, baseline))
        clear = scipy.stats.ttest_rel(mine, base).pvalue < 0.05
        apart = np.subtract(mine, base)
        word = ("for" if apart.mean() * better > 0 else "against") if clear else "open"
        return f"{shown(apart, digits, sign='+')} {word}"

    against_vae = [(m, "vae") for m in ("avae", "se", "se_avae", "avae_ss")]
    words = set()
    for table, pairs in ((robust, [("avae", "vae")]), (alone, [("avae_ss", "vae")]),
                         (both, [("se_avae", "se"), ("se_avae", "avae")])):  # fmt: skip
        assert table[0] == ["", *(f"ε {e:g}" for e in RADII)]
        leads = [
            (*of, h) for of in itertools.product(pairs, THROUGH, TASKS) for h in THROUGH[of[1]]
        ]
        for (pair, budget, task, head), row in zip(leads, table[1:], strict=True):
            assert row[0] == f"{' − '.join(pair)}, {task}, {head}, `{budget}`"
            names = [accuracy_name(task, head, budget, epsilon) for epsilon in RADII]
            assert row[1:] == [difference(*pair, name, 1) for name in names]
            words |= {cell.split()[-1] for cell in row[1:]}
    assert len(words) > 1  # else the figures decide nothing here
    assert nominal[1:] == [
        [f"{' − '.join(pair)}, {task}, {head}, `paper`",
         difference(*pair, f"{task}, {head}, nominal", 1)]
        for pair, task, head in itertools.product(against_vae, TASKS, HEADS)
    ]  # fmt: skip
    assert consistent[1:] == [
        [" − ".join(pair), difference(*pair, "inconsistency W2²", 2, better=-1)]
        for pair in against_vae
    ]
    assert times[2] == ["avae", "3.00", "2.00–4.00"] and times[3] == ["se", "5.00", "5.00–5.00"]
    listed = {row[0]: row[1:] for row in made[1:]}
    assert list(listed) == [f"{m}-s{s}" for m in PAPER for s in range(SEEDS)]
    assert listed["avae_ss-s1"] == ["–", "– [1]", "– [3]"]
    assert listed["se_avae-s2"] == ["–", "–", "– [2]"]
    for words in ("mean over 3 seeds", "`strong` (1,000 images", "on the first 300 test images",
                  "`margin` (logistic", "heads but the first on 1,000 of them at most",
                  "colormnist.png", "color_mnist; a b"):  # fmt: skip
        assert words in page
    # Neither obs_var, which se has another of, nor pgd_steps, which vae does not read, is missing.
    (options,) = re.findall("^Options of all .*: (.*)[.]$", page, re.M)
    common = GRIDS["objectives"].common
    assert set(options.split(", ")) == {
        f"{name} {value}" for name, value in common.items() if name != "eval_every"
    }


def test_an_option_given_for_all_is_not_said_to_be_an_objectives_own(tmp_path):
    sweep = created(tmp_path / "s", "--algo", "vae", "se", "--obs-var", 0.3, "--budget", "paper")
    finish_all(sweep)
    page = colormnist_page.page(collected(sweep))
    assert "v 0.02" not in page and "obs_var 0.3" in page
    assert [row[0] for row in tables(page)[0][1:]] == ["vae", "se"]


def test_the_page_of_one_seed_has_no_intervals_and_says_which_images(tmp_path):
    sweep = created(tmp_path / "s", "--grid", "settings", "--algo", "vae", "avae_ss")
    finish_all(sweep)
    page = colormnist_page.page(collected(sweep))
    assert "of one seed, so without an interval" in page and "±" not in page.split("## Do the")[0]
    assert "on the first 500 validation images" in page
    _, digit, _, _, beside, *_ = tables(page)
    rows = {row[0]: row[1:] for row in digit}
    assert rows[""] == ["nominal", *(f"ε {e:g}" for e in GRIDS["settings"].radii)]
    names = [accuracy_name("digit", "margin", "paper", e) for e in (0, *GRIDS["settings"].radii)]
    for words, model in (
        ("vae", "vae"), ("vae, v 0.02", "vae-obs_var0.02"),
        ("vae, learning rate 0.0003", "vae-learning_rate0.0003"), ("vae, D 16", "vae-latent_dim16"),
        ("avae_ss, w 0", "avae_ss-reconstruction_weight0"),
    ):  # fmt: skip
        assert rows[words] == [shown(of_seeds(model, name, [0])) for name in names]
    # What the grid does not measure has no column.
    assert beside[0][1:] == [f"{n}, nats" if n in NATS else n for n in BESIDE
                             if n not in ("log p(x) at least", CHECKS)]  # fmt: skip
    assert "time is" not in page and "timing is ready" in page


def test_curves_show_the_means_and_their_intervals(sweep):
    panels = colormnist_chart.chart(collected(sweep)).axes
    where = list(itertools.product(HEADS, TASKS))
    assert [axes.get_title(loc="left") for axes in panels] == [f"{t}, {h} head" for h, t in where]
    for (head, task), axes in zip(where, panels, strict=True):
        assert [line.get_label() for line in axes.get_lines()] == list(LABELS.values())
        for model, line, band in zip(LABELS, axes.get_lines(), axes.collections, strict=True):
            at = (0.0, *RADII)
            assert tuple(line.get_xdata()) == at
            ys = band.get_paths()[0].vertices
            for epsilon, y in zip(at, line.get_ydata(), strict=True):
                name = accuracy_name(task, head, "paper", epsilon)
                mine = of_seeds(model, name, seeds_of(model, name))
                assert y == pytest.approx(np.mean(mine))
                ends = scipy.stats.ttest_1samp(mine, 0.0).confidence_interval(0.95)
                here = ys[np.isclose(ys[:, 0], epsilon), 1]
                assert (here.min(), here.max()) == pytest.approx(tuple(ends))


def test_dots_show_each_model_in_its_row(tmp_path):
    sweep = created(tmp_path / "s", "--grid", "settings", "--algo", "vae", "se")
    finish_all(sweep)
    sweep.result("se-rho0.9-s0-paper").unlink()
    panels = colormnist_chart.chart(collected(sweep)).axes
    names = [row["name"] for row in sweep.declaration.settings["models"]]
    order = [n for algo in ("vae", "se") for n in names if n.split("-")[0] == algo]
    labels = [tick.get_text() for tick in panels[0].get_yticklabels()]
    assert labels[:2] == ["vae", "v 0.02"] and "starts from vae" in labels
    assert len(labels) == len(order)
    heights = dict(zip(order, panels[0].get_yticks(), strict=True))
    assert len(set(heights.values())) == len(order)
    radii = (0.0, *GRIDS["settings"].radii)
    for (task, head), axes in zip(itertools.product(TASKS, HEADS), panels, strict=True):
        assert axes.get_title(loc="left") == f"{task}, {head} head"
        dots = [(x[0], y[0]) for x, y in (line.get_data() for line in axes.get_lines())
                if len(x) == 1]  # fmt: skip
        expected = [
            (figure(model, 0, accuracy_name(task, head, "paper", epsilon)), y)
            for model, y in heights.items()
            if model != "se-rho0.9"
            for epsilon in radii
        ]
        np.testing.assert_allclose(sorted(dots), sorted(expected))
        through = [line.get_data() for line in axes.get_lines() if len(line.get_xdata()) == 2]
        assert sorted(x[0] for x, _ in through) == pytest.approx(sorted(
            figure(algo, 0, accuracy_name(task, head, "paper", e)) for algo in ("vae", "se")
            for e in radii
        ))  # fmt: skip


@pytest.mark.parametrize("grid", [p.parent.name for p in RESULTS.glob("*/colormnist.json")])
def test_the_page_of_the_docs_is_that_of_the_kept_figures(grid):
    values = json.loads((RESULTS / grid / "colormnist.json").read_text())
    assert values["settings"]["grid"] == grid
    page = (RESULTS / grid / "colormnist.md").read_text()
    assert page == colormnist_page.page(values)
    missing = [t["name"] for m in values["models"].values() for t in m["trainings"] if t["missing"]]
    assert missing == []


def test_the_results_say_what_the_grid_found():
    """The tables are those of the page, and no figure in the text is another than the page's."""
    values = json.loads((RESULTS / "objectives" / "colormnist.json").read_text())
    results = (ROOT / "docs" / "results.md").read_text()
    section = results.split("## The five objectives")[1].split("\n## ")[0]
    assert colormnist_page.in_short(values) in section
    for claim in values["claims"]:
        found = colormnist_page.verdict(claim)
        assert f"### {claim['title']}\n\n**{found}**" in section
    page = (RESULTS / "objectives" / "colormnist.md").read_text()
    said = re.findall(r"[+-]?\d+\.\d+ ± \d+\.\d+", section)
    assert len(said) > 10
    there = {*re.findall(r"\d+\.\d+", page)}
    assert there.issuperset(re.findall(r"\d+\.\d+", section))
    for interval in said:
        assert interval in page


def test_the_results_say_what_was_found_on_the_convolutional_network():
    values = json.loads((RESULTS / "conv" / "colormnist.json").read_text())
    results = (ROOT / "docs" / "results.md").read_text()
    section = results.split("## The convolutional network")[1].split("\n## ")[0]
    assert colormnist_page.in_short(values) in section
    page = (RESULTS / "conv" / "colormnist.md").read_text()
    # The standard error of a half of 200 in percent, and a default.
    others = {"3.5", "0.975"}
    assert {*re.findall(r"\d+\.\d+", page)} | others >= {*re.findall(r"\d+\.\d+", section)}


@pytest.mark.parametrize("grid", ["objectives", "conv", "beyond"])
def test_a_legend_is_no_wider_than_its_picture(tmp_path, grid):
    sweep = created(tmp_path / "s", "--grid", grid, "--seeds", 1)
    finish_all(sweep)
    figure = colormnist_chart.chart(collected(sweep))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("grid", "heading"),
    [
        ("worst-case", "## Which settings matter"),
        ("beyond", "## As much compute for each"),
        ("recipes", "## Which choices of the training matter"),
    ],
)
def test_beyond_the_paper_says_what_was_found(grid, heading):
    section = (ROOT / "docs" / "beyond.md").read_text().split(heading)[1].split("\n## ")[0]
    page = (RESULTS / grid / "colormnist.md").read_text()
    assert (
        f"results/{grid}/colormnist.png" in section and f"results/{grid}/colormnist.md" in section
    )
    said = {*re.findall(r"\d+\.\d+", section)}
    assert len(said) > 10
    assert {*re.findall(r"\d+\.\d+", page)} >= said
    if grid == "beyond":
        values = json.loads((RESULTS / grid / "colormnist.json").read_text())
        assert colormnist_page.in_short(values) in section
        choosing, beyond = ((ROOT / "docs" / f"{p}.md").read_text() for p in ("choosing", "beyond"))
        short = choosing.split("With as much compute for each")[1].split("\n")[0]
        aims = beyond.split("## How far")[1].split("\n## ")[0]
        for told in (short, aims):
            assert {*re.findall(r"\d+\.\d+", page)} >= {*re.findall(r"\d+\.\d+", told)}


def test_what_is_verified_stands_beside_what_attacks_leave(tmp_path):
    sweep = created(tmp_path / "s", "--grid", "worst-case", "--algo", "certified_elbo")
    finish_all(sweep)
    values = collected(sweep)
    page = colormnist_page.page(values)
    assert re.findall("^## (.*)$", page, re.M)[0] == "Digit, linear head, `strong`"
    heading, *rows = tables(page)[0]
    radii = GRIDS["worst-case"].radii
    columns = [f"ε {e:g}{proof}" for e in radii for proof in ("", ", verified (crown)")]
    assert heading == ["", "nominal", *columns]
    names = [
        accuracy_name("digit", "linear", "strong", 0),
        *(
            f"digit, linear, {how}, ε {e:g}"
            for e in radii
            for how in ("strong", "verified by crown")
        ),
    ]
    assert len(rows) == len(values["models"])
    for model, row in zip(values["models"], rows, strict=True):
        assert row[1:] == [f"{figure(model, 0, name):.1f}" for name in names]
    assert "hollow marks: verified" in page
    assert "heads but the first" not in page  # it has one
    colormnist_chart.chart(values)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_page_of_nothing_yet(tmp_path, grid):
    sweep = SweepFolder(tmp_path / "s", declare(tmp_path / "s", "--grid", grid))
    values = collected(sweep)
    page = colormnist_page.page(values)
    assert page.startswith(f"# {GRIDS[grid].title}\n")
    first, budget = next(iter(values["models"])), values["settings"]["budgets"][0]
    waiting = f"{first}-s0-{budget} is waiting for {first}-s0 (ready)"
    assert "timing is ready" in page and waiting in page
    assert "Do the paper's claims" not in page
    assert values["measures"] == [] and values["data"] is None
    colormnist_chart.chart(values)
