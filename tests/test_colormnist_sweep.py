"""`python -m training.sweep colormnist`: its grids, cells, figures, claims, page and picture."""

import functools
import itertools
import json
import re
import zlib

import numpy as np
import pytest
import scipy.stats
from sweep_results import TASKS, evaluation, write
from test_resume import ROOT
from test_table3 import printed, tables

from tf_avae.config import Config, read_json
from tf_avae.objectives import OBJECTIVES
from tf_avae.runs import resolve
from training import evaluate, fit
from training.sweep import __main__ as command
from training.sweep import colormnist, colormnist_chart, colormnist_figures, colormnist_page, timing
from training.sweep.folder import SweepFolder
from training.sweep.grids import GRIDS, models

RESULTS = ROOT / "docs" / "results"
RADII, SEEDS = (0.05, 0.1), 3
HEADS = ("linear", "margin")
THROUGH = {"paper": HEADS, "strong": HEADS[:1]}
BOUND, RISE, CHECKS = "bound, held out", "its rise in the last fifth", "honesty checks failed"
BESIDE = [
    "MSE: ‖x − g(μ(x))‖²", BOUND, RISE, "log p(x) at least", "inconsistency W2²", "active units",
    "effective dimension", CHECKS,
]  # fmt: skip
NATS = (BOUND, RISE, "log p(x) at least")
LABELS = {m: m for m in OBJECTIVES} | {"se": "se, v 0.02"}
RATES = {"vae": [10.0, 20.0, 30.0], "avae": [5.0, 5.0, 10.0], "se": [2.0, 4.0, 6.0],
         "se_avae": [1.0, 2.0, 3.0], "avae_ss": [10.0, 10.0, 10.0]}  # fmt: skip


def declare(path, *words):
    arguments = command.parser().parse_args(["colormnist", *map(str, words)])
    return colormnist.declare(arguments, path)


def created(path, *words):
    return SweepFolder.create(path, declare(path, *words))


def accuracy_name(task, head, budget, epsilon):
    return f"{task}, {head}, {f'{budget}, ε {epsilon:g}' if epsilon else 'nominal'}"


def figure(model, seed, name):
    """A made-up figure; what seeds have in common is larger than what they have not."""
    common = np.random.default_rng([seed, zlib.crc32(name.encode())])
    own = np.random.default_rng([seed, zlib.crc32(f"{model} {name}".encode())])
    if name == CHECKS:
        return int(own.integers(1, 7))
    size = 0.1 if name in BESIDE[::2] else 1.0
    return size * (common.normal(50, 3) + own.normal(0, 0.5) + zlib.crc32(model.encode()) % 3)


def of_seeds(model, name, seeds=range(SEEDS), of=figure):
    return [of(model, seed, name) for seed in seeds]


def shown(values, digits=1, sign=""):
    """A mean and half of its interval, as SciPy has it; no interval of one alone."""
    mean = np.mean(values)
    if len(values) == 1:
        return f"{mean:{sign}.{digits}f}"
    half = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95).high - mean
    return f"{mean:{sign}.{digits}f} ± {half:.{digits}f}"


def write_rows(sweep, training, rows):
    """metrics.jsonl, of (stage, split, step, bound)."""
    keys = ("stage", "split", "step", "bound")
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    path = sweep.result(training).parent / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def finish(sweep, model, seed, of=figure):
    """What `training.fit` and `training.evaluate` write, as far as the figures need it."""
    training, found = f"{model}-s{seed}", functools.partial(of, model, seed)
    write(sweep, training, {"held_out": {"bound": found(BOUND)}})
    rows = [("held_out", 8, -9.0), ("held_out", 10, found(RISE) - 9.0)]
    write_rows(sweep, training, [(model, *row) for row in rows])
    failed = found(CHECKS)
    sections = {
        "consistency": {"inconsistency": {"value": found("inconsistency W2²")}},
        "reconstruction": {"mean_code": {"sum": {"value": found("MSE: ‖x − g(μ(x))‖²")}}},
        "likelihood": {"importance_weighted": {"value": found("log p(x) at least")}},
        "latents": {
            "active_units": found("active units"),
            "effective_dimension": found("effective dimension"),
        },
        "checks": {"groups": [
            {"checks": [{"passed": False}]},
            {"checks": [{"passed": n >= failed} for n in range(1, 9)]},
        ]},
    }  # fmt: skip
    for budget in sweep.declaration.settings["budgets"]:
        options = sweep.cells[f"{training}-{budget}"].options
        results = evaluation(
            sweep.cells[training].options,
            options["epsilon"],
            lambda task, head, epsilon, budget=budget: found(
                accuracy_name(task, head, budget, epsilon)
            ),
            heads=options["head"],
            nominal="probes" in options["section"],
            **{name: sections[name] for name in options["section"] if name in sections},
        )
        write(sweep, f"{training}-{budget}", results)


def finish_all(sweep, of=figure):
    settings = sweep.declaration.settings
    for row, seed in itertools.product(settings["models"], range(settings["seeds"])):
        finish(sweep, row["name"], seed, of)


def collected(sweep):
    return json.loads(json.dumps(colormnist_figures.collect(sweep), allow_nan=False))


@pytest.fixture
def sweep(tmp_path):
    """The five objectives; one model is not there with seed 1, one not attacked with seed 2."""
    sweep = created(tmp_path / "s", "--radii", *RADII, "--images", 300)
    finish_all(sweep)
    for cell in ("avae_ss-s1", "avae_ss-s1-paper", "avae_ss-s1-strong", "se_avae-s2-strong"):
        sweep.result(cell).unlink()
    write(sweep, "timing", {"rates": RATES, "provenance": {"commit": "c0ffee"}})
    return sweep


def seeds_of(model, name):
    """The seeds that a figure of that sweep is there of."""
    missing = {"avae_ss": 1, "se_avae": 2 if ", strong" in name else None}.get(model)
    return [seed for seed in range(SEEDS) if seed != missing]


# ---------------------------------------------------------------------- cells


@pytest.mark.parametrize("grid", GRIDS)
def test_cells_are_commands_that_the_others_understand(tmp_path, grid):
    algos = ("vae", "se", "avae_ss")
    words = ["--grid", grid, "--seeds", 2, "--learning-rate", 5e-4, "--algo", *algos]
    sweep = created(tmp_path / "s", *words)
    row, rows = GRIDS[grid], sweep.declaration.settings["models"]
    starts = {f"{m['name']}-s{s}": m["starts_from"] and f"{m['starts_from']}-s{s}"
              for m in rows for s in range(2)}  # fmt: skip
    measured = []
    for cell in sweep.declaration.cells:
        module, *words = sweep.words(cell.name)[1:]
        if cell.kind == "fit":
            assert module == "training.fit"
            arguments = fit.parser().parse_args(words)
            config = resolve(Config.from_dict(read_json(arguments.config)))
            assert config.to_dict() == cell.options and cell.name.endswith(f"-s{config.seed}")
            assert (config.dataset, config.learning_rate) == ("color_mnist", 5e-4)
            assert config.steps == row.common["steps"] and config.arch == row.common["arch"]
            assert config.validation == row.common.get("validation", 0)
            source = starts.pop(cell.name)
            assert cell.needs == ((source,) if source else ())
            if source:
                assert arguments.init_from == str(sweep.output(source))
                assert sweep.cells[source].options["seed"] == config.seed
                assert sweep.cells[source].options["algo"] == "vae"
            else:
                assert "init_from" not in arguments
        elif cell.kind == "evaluate":
            assert module == "training.evaluate"
            arguments = evaluate.parser().parse_args(words)
            (training,) = cell.needs
            assert cell.name == f"{training}-{arguments.budget}"
            assert arguments.encoder == [f"{training}={sweep.output(training)}"]
            (attacks,) = [a for a in row.attacks if a.budget == arguments.budget]
            assert tuple(arguments.epsilon) == (attacks.radii or row.radii)
            assert tuple(arguments.head) == THROUGH[arguments.budget]
            assert arguments.images == attacks.images
            # Otherwise images held out in training would be evaluated on as training images.
            assert arguments.validation == row.common.get("validation", 0)
            first = attacks == row.attacks[0]
            assert tuple(arguments.section) == (row.sections if first else ("robustness",))
            measured.append(cell.name)
        else:
            assert module == "training.sweep.timing"
            configs = read_json(timing.parser().parse_args(words).options)["configs"]
            assert [config["algo"] for config in configs.values()] == list(algos)
    assert starts == {}
    assert sorted(measured) == sorted(
        f"{m['name']}-s{s}-{b}" for m in rows for s in range(2) for b, *_ in row.attacks
    )


def test_flags_of_axes_are_those_of_the_models(tmp_path):
    words = ["--arch", "mlp", "conv", "--rho", 0.9, 0.975, "--rho-se", 0.95, "--epsilon", 0.1, 0.2]
    axes = {"arch": ("mlp", "conv"), "rho": (0.9, 0.975), "epsilon": (0.1, 0.2)}
    found = declare(tmp_path / "s", *words, "--latent-dim", 8)
    # An axis of one value is what all have: no model differs by it.
    expected = models(GRIDS["objectives"], {"latent_dim": 8, "rho_se": 0.95}, axes)
    assert [row["name"] for row in found.settings["models"]] == [model.name for model in expected]
    configs = {cell.name: cell.options for cell in found.cells if cell.kind == "fit"}
    for model, seed in itertools.product(expected, range(SEEDS)):
        assert configs.pop(f"{model.name}-s{seed}") == model.config.to_dict() | {"seed": seed}
    assert configs == {}


def test_budgets_images_and_radii_of_the_evaluations(tmp_path):
    def of(*words):
        found = declare(tmp_path / "s", "--seeds", 1, "--algo", "vae", *words)
        cells = [cell for cell in found.cells if cell.kind == "evaluate"]
        assert [cell.name for cell in cells] == [f"vae-s0-{c.options['budget']}" for c in cells]
        assert found.settings["budgets"] == [cell.options["budget"] for cell in cells]
        return [(c.options["budget"], c.options.get("images"), c.options["section"]) for c in cells]

    every, attacks = GRIDS["objectives"].sections, ("robustness",)
    assert of() == [("paper", None, every), ("strong", 1000, attacks)]
    assert of("--images", 300) == [("paper", 300, every), ("strong", 300, attacks)]
    assert of("--images", 5000) == [("paper", 5000, every), ("strong", 1000, attacks)]
    assert of("--budget", "strong", "paper") == [("strong", 1000, every), ("paper", None, attacks)]
    assert of("--budget", "smoke") == [("smoke", 200, every)]
    assert of("--budget", "strong") == [("strong", 1000, every)]

    def radii(*words):
        cells = [c for c in declare(tmp_path / "s", *words).cells if c.kind == "evaluate"]
        return {cell.options["budget"]: cell.options["epsilon"] for cell in cells}

    every = GRIDS["objectives"].radii
    assert radii() == {"paper": every, "strong": (0.1, 0.2, 0.3)}
    assert radii("--radii", 0.2, 0.01) == {"paper": (0.2, 0.01), "strong": (0.2, 0.01)}
    assert radii("--budget", "smoke") == {"smoke": every}


# ---------------------------------------------------------------------- figures


def test_figures_over_seeds_are_those_of_the_results(sweep):
    values = collected(sweep)
    accuracies = [
        accuracy_name(task, head, budget, epsilon)
        for budget in ("paper", "strong")
        for task, head in itertools.product(TASKS, THROUGH[budget])
        for epsilon in (0.0, *RADII)
        if epsilon or budget == "paper"
    ]
    found = {measure["name"]: measure["unit"] for measure in values["measures"]}
    units = {name: "nats" if name in NATS else "" for name in BESIDE}
    assert found == dict.fromkeys(accuracies, "%") | units
    assert list(values["models"]) == list(OBJECTIVES)
    for name, measured in itertools.product(OBJECTIVES, found):
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


# ---------------------------------------------------------------------- claims


def judged(path, by, *words, seeds=SEEDS):
    """Verdicts and claims where each model is better by so much in a figure.

    Differences are `by` and, seed by seed, a little less, nothing or more.
    """
    sweep = created(path, "--radii", *RADII, "--seeds", seeds, *words)

    def of(model, seed, name):
        if name == CHECKS:
            return 1
        return 50.0 + seed + 0.1 * list(OBJECTIVES).index(model) * (seed - 1) + by(model, name)

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


# ---------------------------------------------------------------------- page and picture


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
    for model, row in zip(OBJECTIVES, short[1:], strict=True):
        names = [accuracy_name(task, head, "paper", e) for task, head, e in columns]
        cells = [shown(of_seeds(model, n, seeds_of(model, n))) for n in names]
        assert row == [LABELS[model], *cells]
    for (task, head, budget), table in zip(where, accuracies, strict=True):
        radii = (0.0, *RADII) if budget == "paper" else RADII
        assert table[0] == ["", *(f"ε {e:g}" if e else "nominal" for e in radii)]
        note = {"paper": {"avae_ss": " – [1]"},
                "strong": {"avae_ss": " – [3]", "se_avae": " – [2]"}}[budget]  # fmt: skip
        assert [row[0] for row in table[1:]] == [
            f"{LABELS[m]}{note.get(m, '')}" for m in OBJECTIVES
        ]
        for model, row in zip(OBJECTIVES, table[1:], strict=True):
            names = [accuracy_name(task, head, budget, e) for e in radii]
            assert row[1:] == [shown(of_seeds(model, n, seeds_of(model, n))) for n in names]
    assert beside[0] == ["", *(f"{n}, nats" if n in NATS else n for n in BESIDE)]
    for model, row in zip(OBJECTIVES, beside[1:], strict=True):
        for name, cell in zip(BESIDE, row[1:], strict=True):
            mine = of_seeds(model, name, seeds_of(model, name))
            assert cell == shown(mine, digits=1 if np.mean(mine) >= 10 else 2)

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
    assert list(listed) == [f"{m}-s{s}" for m in OBJECTIVES for s in range(SEEDS)]
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


def test_the_readme_and_the_results_say_what_the_grid_found():
    """The tables are those of the page, and no interval in the text is another than the page's."""
    values = json.loads((RESULTS / "objectives" / "colormnist.json").read_text())
    assert colormnist_page.in_short(values) in (ROOT / "README.md").read_text()
    results = (ROOT / "docs" / "results.md").read_text()
    section = results.split("## The five objectives")[1].split("\n## ")[0]
    for claim in values["claims"]:
        found = colormnist_page.verdict(claim)
        assert f"### {claim['title']}\n\n**{found}**" in section
    page = (RESULTS / "objectives" / "colormnist.md").read_text()
    said = re.findall(r"[+-]?\d+\.\d+ ± \d+\.\d+", section)
    assert len(said) > 10
    for interval in said:
        assert interval in page


@pytest.mark.parametrize("grid", GRIDS)
def test_a_page_of_nothing_yet(tmp_path, grid):
    sweep = SweepFolder(tmp_path / "s", declare(tmp_path / "s", "--grid", grid))
    values = collected(sweep)
    page = colormnist_page.page(values)
    assert page.startswith(f"# {GRIDS[grid].title}\n")
    assert "timing is ready" in page and "vae-s0-paper is waiting for vae-s0 (ready)" in page
    assert "Do the paper's claims" not in page
    assert values["measures"] == [] and values["data"] is None
    colormnist_chart.chart(values)


# ---------------------------------------------------------------------- the command line


def test_the_command_lists_prints_and_writes(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = printed(capsys, "colormnist", "--algo", "vae", "--dry-run")
    assert "sweeps/colormnist-objectives: 0 of 10 cells done" in listed
    assert list(tmp_path.iterdir()) == []
    words = ["colormnist", "--algo", "vae", "--seeds", 1, "--budget", "paper", "--out", "s"]
    sweep = created(tmp_path / "s", *words[1:])
    finish_all(sweep)
    write(sweep, "timing", {"rates": {"vae": RATES["vae"]}, "provenance": {}})
    out = printed(capsys, *words)  # all is done, so nothing is trained
    page = (sweep.path / "colormnist.md").read_text()
    values = json.loads((sweep.path / "colormnist.json").read_text())
    assert page == colormnist_page.page(values) and page in out
    assert (sweep.path / "colormnist.png").read_bytes().startswith(b"\x89PNG")
    assert tables(printed(capsys, "colormnist", "--out", "s", "--table")) == tables(page)
    complaint = printed(capsys, *words, "--rho", 0.9, "--steps", 7, code=2)
    assert "holds another sweep: here cells." in complaint


def test_bad_input_is_one_line_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, expected in (
        (["--grid", "objective"], ["unknown grid 'objective'", "did you mean 'objectives'"]),
        (["--seeds", "0"], ["seeds is 0", "at least 1"]),
        (["--seeds", "x"], ["--seeds"]),
        (["--algo", "vea"], ["unknown objective 'vea'", "did you mean 'vae'"]),
        (["--algo", "vae", "vae"], ["vae is given twice"]),
        (["--rho", "0.9", "0.90"], ["0.9 is given twice"]),
        (["--budget", "paper", "paper"], ["paper is given twice"]),
        (["--budget", "huge"], ["unknown budget 'huge'"]),
        (["--arch", "cnn"], ["unknown architecture 'cnn'"]),
        (["--arch", "mlp", "celeba"], ["28"]),
        (["--rho", "0.9", "1"], ["rho is 1", "below 1"]),
        (["--rho-se", "-0.1"], ["rho_se is -0.1"]),
        (["--epsilon", "nan"], ["epsilon is nan"]),
        (["--coupling", "both"], ["unknown coupling 'both'"]),
        (["--obs-var", "0"], ["obs_var is 0"]),
        (["--steps", "0"], ["steps is 0"]),
        (["--radii", "-1"], ["-1"]),
        (["--radii", "0.1", "0.1"], ["(0.1, 0.1)", "differ"]),
        (["--images", "0"], ["images is 0"]),
        (["--validation", "10"], ["--validation"]),
        (["--data-dir", "none"], ["none"]),
        (["--only", "vae"], ["unknown cell 'vae'"]),
        (["--table"], ["holds no sweep"]),
    ):
        complaint = printed(capsys, "colormnist", *words, code=2)
        for word in expected:
            assert word in complaint
    assert list(tmp_path.iterdir()) == []
