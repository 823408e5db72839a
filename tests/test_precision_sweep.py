"""`python -m training.sweep precision`: its cells, its figures over seeds, its verdict."""

import json

import numpy as np
import pytest
import scipy.stats
from sweep_results import TASKS, evaluation, write
from test_resume import ROOT
from test_table3 import printed, tables

from tf_avae.config import Config, read_json
from tf_avae.runs.plan import resolve
from training import evaluate, fit
from training.sweep import __main__ as command
from training.sweep import timing
from training.sweep.cells.folder import State, SweepFolder
from training.sweep.cells.screen import estimate
from training.sweep.models import evaluated
from training.sweep.precision import chart as precision_chart
from training.sweep.precision import figures as precision_figures
from training.sweep.precision import page as precision_page
from training.sweep.precision import study as precision
from training.sweep.seeds import differs, over_seeds, paired

ALGOS, PRECISIONS, SEEDS = ("vae", "se_avae"), ("float32", "mixed_bfloat16", "mixed_float16"), 3
RADII = (0.02, 0.05)
NAMES = [
    "bound, held out",
    *(f"{task}, {at}" for task in TASKS for at in ("nominal", "ε 0.02", "ε 0.05")),
    "inconsistency W2²",
]


def declare(path, *words):
    arguments = command.parser().parse_args(["precision", *map(str, words)])
    return precision.declare(arguments, path)


def models():
    return [(a, p, s) for a in ALGOS for p in PRECISIONS for s in range(SEEDS)]


def figure(algo, which, seed, name):
    """A made-up figure: the seeds scatter in common, and so much apart under each precision."""
    own = np.random.default_rng([seed, NAMES.index(name), ALGOS.index(algo)])
    common, apart = own.normal(50, 3), own.normal(size=3)
    clear = 5.0 * ((algo, which, name) == ("se_avae", "mixed_float16", NAMES[1]))
    return clear + common + (0.3 * apart - 0.3 * apart.mean())[PRECISIONS.index(which)]


def mean_of(algo, which, name, base=None):
    """The mean over seeds, less that of another precision."""
    found = [figure(algo, which, seed, name) for seed in range(SEEDS)]
    return np.mean(found) - (mean_of(algo, base, name) if base else 0.0)


def finish(sweep, algo, which, seed, of=figure):
    """What `training.fit` and `training.evaluate` write, as far as the study reads it."""
    name = f"{algo}-{which}-{seed}"
    results = evaluation(
        sweep.cells[name].options,
        RADII,
        lambda t, _, e: of(algo, which, seed, f"{t}, {f'ε {e:g}' if e else 'nominal'}"),
        consistency={"inconsistency": {"value": of(algo, which, seed, NAMES[-1])}},
    )
    write(sweep, name, {"held_out": {"bound": of(algo, which, seed, NAMES[0])}})
    write(sweep, evaluated(name), results)


RATES = {"float32": [10.0, 20.0, 30.0], "mixed_bfloat16": [20.0, 30.0, 30.0],
         "mixed_float16": [5.0, 5.0, 10.0]}  # fmt: skip


@pytest.fixture
def sweep(tmp_path):
    """All but the timing of se_avae is done."""
    words = ["--radii", *RADII, "--images", 300, "--steps", 50]
    sweep = SweepFolder.create(tmp_path / "s", declare(tmp_path / "s", *words))
    for which in models():
        finish(sweep, *which)
    write(sweep, "vae-timing", {"rates": RATES, "provenance": {"commit": "c0ffee"}})
    return sweep


def collected(sweep):
    return json.loads(json.dumps(precision_figures.collect(sweep), allow_nan=False))


# ---------------------------------------------------------------------- cells


def test_cells_are_the_same_command_but_for_seed_and_precision(tmp_path):
    given = ["--arch", "conv", "--seeds", 2, "--algo", "avae", "se", "--pgd-steps", 7]
    sweep = SweepFolder.create(tmp_path / "s", declare(tmp_path / "s", *given))
    kinds = [cell.kind for cell in sweep.declaration.cells]
    assert kinds == ["timing"] * 2 + ["fit", "evaluate"] * (2 * 3 * 2)
    found = set()
    for cell in sweep.declaration.cells:
        module, *words = sweep.words(cell.name)[1:]
        if cell.kind == "fit":
            assert module == "training.fit"
            config = resolve(Config.from_dict(read_json(fit.parser().parse_args(words).config)))
            found.add((config.algo, config.precision, config.seed))
            same = resolve(Config(algo=config.algo, arch="conv", steps=2000, pgd_steps=7))
            assert config.differences(same).keys() <= {"precision", "seed"}
        elif cell.kind == "evaluate":
            assert module == "training.evaluate"
            arguments = evaluate.parser().parse_args(words)
            (model,) = cell.needs
            assert arguments.encoder == [f"{model}={sweep.output(model)}"]
            assert (arguments.budget, arguments.images, arguments.seed) == ("paper", 1000, 0)
            assert arguments.epsilon == [0.02, 0.05, 0.1] and arguments.head == ["linear"]
            assert arguments.section == ["probes", "robustness", "consistency"]
        else:
            assert module == "training.sweep.timing"
            options = read_json(timing.parser().parse_args(words).options)
            assert list(options["configs"]) == list(PRECISIONS)
            assert {c["precision"] for c in options["configs"].values()} == {*PRECISIONS}
    assert found == {(a, p, s) for a in ("avae", "se") for p in PRECISIONS for s in range(2)}


def test_time_left_is_told_by_the_timing_before_anything_is_trained(tmp_path):
    sweep = SweepFolder(tmp_path / "s", declare(tmp_path / "s", "--steps", 600))
    write(sweep, "vae-timing", {"rates": RATES})
    states = {name: State("ready", "", 0.0) for name in sweep.cells}
    states["vae-timing"] = State("done", "", 50.0)
    left = estimate(sweep, list(sweep.declaration.cells), states)
    for seed in range(SEEDS):  # 600 steps at the median rate
        assert left.seconds[f"vae-float32-{seed}"] == pytest.approx(600 / 20)
        assert left.seconds[f"vae-mixed_float16-{seed}"] == pytest.approx(600 / 5)
    assert left.seconds["se_avae-timing"] == 50.0
    assert evaluated("vae-float32-0") in left.unknown
    # What a training itself took counts more than another's.
    states["se_avae-mixed_float16-1"] = State("done", "", 777.0)
    left = estimate(sweep, list(sweep.declaration.cells), states)
    assert left.seconds["se_avae-mixed_float16-2"] == pytest.approx(777.0)


# ---------------------------------------------------------------------- figures


def test_intervals_over_seeds_are_scipys():
    figures = dict(enumerate([0.3, 1.7, 0.9, 2.2]))
    found, values = over_seeds(figures), list(figures.values())
    expected = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected))
    assert found["value"] == pytest.approx(np.mean(values)) and found["count"] == 4
    assert not differs(found) and scipy.stats.ttest_1samp(values, 0.0).pvalue > 0.05
    assert differs(over_seeds({s: v + 0.1 for s, v in figures.items()}))
    assert scipy.stats.ttest_1samp(np.add(values, 0.1), 0.0).pvalue < 0.05
    other = {0: 0.2, 2: 1.0, 3: 2.6, 7: 9.0}  # of seeds 0, 2 and 3 both have one
    found = paired(figures, other)
    result = scipy.stats.ttest_rel([0.3, 0.9, 2.2], [0.2, 1.0, 2.6])
    assert (found["low"], found["high"]) == pytest.approx(tuple(result.confidence_interval(0.95)))
    assert not differs(found) and result.pvalue > 0.05
    assert over_seeds({}) is None and paired({0: 1.0}, {1: 1.0}) is None
    one = over_seeds({5: 3.0})
    assert (one["value"], one["low"], one["high"]) == (3.0, None, None) and not differs(one)
    assert not differs(paired({0: 0.0, 1: 0.0}, {0: 0.0, 1: 0.0}))


def test_figures_and_differences_are_those_of_the_results(sweep):
    values = collected(sweep)
    assert [measure["name"] for measure in values["measures"]] == NAMES
    for algo in ALGOS:
        for which in PRECISIONS:
            compared = values["comparison"][algo][which]
            for name in NAMES:
                mine, base = (
                    [figure(algo, p, s, name) for s in range(SEEDS)] for p in (which, "float32")
                )
                found = compared["over_seeds"][name]
                expected = scipy.stats.ttest_1samp(mine, 0.0).confidence_interval()
                assert found["value"] == pytest.approx(np.mean(mine))
                assert (found["low"], found["high"]) == pytest.approx(tuple(expected))
                difference = compared["difference"][name]
                if which == "float32":
                    assert difference is None
                    continue
                expected = scipy.stats.ttest_rel(mine, base).confidence_interval()
                assert (difference["low"], difference["high"]) == pytest.approx(tuple(expected))
    assert values["time"]["vae"]["factors"]["mixed_bfloat16"] == pytest.approx(
        {"value": 2 / 3, "low": 1 / 2, "high": 1.0}
    )
    assert values["time"]["se_avae"] == {"missing": "se_avae-timing is ready"}


def test_the_page_shows_them(sweep):
    values = collected(sweep)
    page = precision_page.page(values)
    apart, figures, times, made = tables(page)
    assert apart[0][1:] == [f"{a}, {p}" for a in ALGOS for p in PRECISIONS[1:]]
    for name, row, of in zip(NAMES, apart[1:], figures[1:], strict=True):
        assert row[0] == of[0] and row[0].startswith(name)
        for (algo, which), cell in zip(
            [(a, p) for a in ALGOS for p in PRECISIONS[1:]], row[1:], strict=True
        ):
            mine, base = (
                np.array([figure(algo, p, s, name) for s in range(SEEDS)])
                for p in (which, "float32")
            )
            result = scipy.stats.ttest_rel(mine, base)
            half = result.confidence_interval().high - (mine - base).mean()
            mark = "*" if result.pvalue < 0.05 else ""
            assert bool(mark) == ((algo, which, name) == ("se_avae", "mixed_float16", NAMES[1]))
            assert cell == f"{(mine - base).mean():+.2f} ± {half:.2f}{mark}"
        assert of[1].startswith(f"{mean_of('vae', 'float32', name):.2f} ± ")
    assert times[1] == ["vae", "0.67 (0.50–1.00)", "3.00 (2.00–4.00)"]
    assert times[2] == ["se_avae", "– [1]", "– [1]"] and "- [1] se_avae-timing is ready" in page
    assert [row[0] for row in made[1:]] == [f"{a}-{p}-{s}" for a, p, s in models()]
    assert "nominal accuracy on 10,000 test images" in page and "the first 300" in page
    assert "arch mlp, pgd_steps 20, steps 50." in page


def test_the_verdict_where_nothing_where_something_differs_and_where_models_lack(sweep):
    def shifted(by):
        """bfloat16 apart by so much, float16 by nothing but scatter that no seed repeats."""

        def of(algo, which, seed, name):
            base = 40.0 + seed
            scatter = {"float32": 0.0, "mixed_bfloat16": seed - 1.0, "mixed_float16": 1.0 - seed}
            here = (algo, which, name) == ("vae", "mixed_bfloat16", "digit, ε 0.05")
            return base + scatter[which] * (0.1 if here else 1.0) + (by if here else 0.0)

        return of

    for which in models():
        finish(sweep, *which, of=shifted(0.0))
    # Differences -1, 0 and 1: by SciPy's t, half an interval is 2.484 standard errors of 1.
    half = scipy.stats.t.ppf(0.975, 2) / np.sqrt(3)
    said = precision_page.verdict(collected(sweep))
    assert said.startswith("No difference from float32 is larger than its interval reaches, of 32.")
    assert f"up to ± {half:.1f} points" in said
    for which in models():
        finish(sweep, *which, of=shifted(1.5))
    said = precision_page.verdict(collected(sweep))
    assert said.startswith("1 of 32 differences from float32 are larger")
    assert "chance alone makes about 1.6" in said
    assert f"`vae`, mixed_bfloat16: digit, ε 0.05 +1.50 ± {0.1 * half:.2f} points." in said
    sweep.result("vae-float32-1-evaluation").unlink()
    values = collected(sweep)
    assert precision_page.verdict(values) == "No verdict: 1 of 18 models are missing (see below)."
    page = precision_page.page(values)
    assert "vae-float32-1-evaluation is ready" in page
    assert values["comparison"]["vae"]["mixed_bfloat16"]["difference"][NAMES[0]]["count"] == 2


def test_the_picture_shows_the_same_figures(sweep):
    panels = precision_chart.chart(collected(sweep)).axes
    assert len(panels) == 2 * 2 * 2
    for row, algo in enumerate(ALGOS):
        for k in range(len(TASKS)):
            names = NAMES[1 + 3 * k : 4 + 3 * k]
            accuracy, difference = panels[4 * row + 2 * k : 4 * row + 2 * k + 2]
            for axes, among in ((accuracy, PRECISIONS), (difference, PRECISIONS[1:])):
                bars = {c.get_label(): c.lines[0].get_ydata() for c in axes.containers}
                assert list(bars) == list(among)
                for which, shown in bars.items():
                    for name, y in zip(names, shown, strict=True):
                        mean = np.mean([figure(algo, which, s, name) for s in range(SEEDS)])
                        if axes is difference:
                            mean -= np.mean(
                                [figure(algo, "float32", s, name) for s in range(SEEDS)]
                            )
                        assert y == pytest.approx(mean)


def test_a_page_of_nothing_yet(tmp_path):
    sweep = SweepFolder(tmp_path / "s", declare(tmp_path / "s"))
    values = collected(sweep)
    assert "No verdict: 18 of 18 models are missing" in precision_page.page(values)
    precision_chart.chart(values)


def test_the_docs_say_what_the_code_does():
    text = (ROOT / "docs" / "precision.md").read_text()
    given = command.parser().parse_args(["precision"])
    timing_cell = declare(ROOT).cells[0]
    for words in (
        f"default `{' '.join(given.algos)}`", f"seeds {', '.join(map(str, range(given.seeds)))} ",
        f"default `{given.budget}`", f"default {', '.join(map(str, given.radii))}",
        f"default {given.images:,}", f"`--steps` is {given.steps:,} here",
        f"{timing_cell.options['rounds']} paired rounds",
        *(f"`{name}`" for name in PRECISIONS),
    ):  # fmt: skip
        assert words in text
    # Half an interval in standard deviations, with three seeds and with five.
    three, five = (scipy.stats.t.ppf(0.975, n - 1) / np.sqrt(n) for n in (3, 5))
    assert f"{three:.1f} standard deviations" in text and five == pytest.approx(three / 2, rel=0.01)


# ---------------------------------------------------------------------- the command line


def test_bad_input_is_one_line_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, expected in (
        (["--seeds", "1"], ["seeds is 1", "at least 2"]),
        (["--algo", "vea"], ["unknown objective 'vea'", "did you mean 'vae'"]),
        (["--algo", "vae", "vae"], ["--algo has vae twice"]),
        (["--arch", "cnn"], ["unknown architecture 'cnn'"]),
        (["--arch", "celeba"], ["28"]),
        (["--steps", "0"], ["steps is 0"]),
        (["--budget", "huge"], ["unknown budget 'huge'"]),
        (["--radii", "-1"], ["-1"]),
        (["--images", "0"], ["images is 0"]),
        (["--data-dir", "none"], ["none"]),
        (["--only", "vae-float32"], ["unknown cell 'vae-float32'"]),
    ):
        complaint = printed(capsys, "precision", *words, code=2)
        for word in expected:
            assert word in complaint
    assert list(tmp_path.iterdir()) == []


def test_the_time_left_is_that_of_so_many_processes(capsys, tmp_path):
    words = ["precision", "--out", tmp_path / "s", "--steps", 600, "--dry-run", "--only",
             "vae-float32-0", "vae-float32-1", "vae-float32-2"]  # fmt: skip
    assert "time left not yet known" in printed(capsys, *words)
    sweep = SweepFolder.create(tmp_path / "s", declare(tmp_path / "s", "--steps", 600))
    write(sweep, "vae-timing", {"rates": RATES})
    for processes, left in ((1, "1:30"), (2, "0:45"), (3, "0:30"), (9, "0:30")):
        listed = printed(capsys, *words, "--processes", processes)
        assert f"0 of 3 cells done, about {left} left" in listed


def test_timings_are_of_the_configs(tmp_path, monkeypatch):
    """What is timed is what is trained, and what is found is what is written."""
    seen = {}

    def rates(timed, *, rounds, seconds):
        policies = {
            name: model.encoder.layers[1].dtype_policy.name for name, model in timed.items()
        }
        seen.update(timed=policies, rounds=rounds, seconds=seconds)
        return RATES

    monkeypatch.setattr(timing, "paired_rates", rates)
    monkeypatch.setattr(timing, "fit_steps", lambda model, batches: model)
    config = resolve(Config(algo="vae", batch_size=8)).to_dict()
    options = {"configs": {p: config | {"precision": p} for p in PRECISIONS}, "rounds": 4,
               "seconds": 0.5}  # fmt: skip
    (tmp_path / "options.json").write_text(json.dumps(options))
    words = [str(tmp_path / "options.json"), "--out", str(tmp_path / "timing.json")]
    assert timing.main(words) == 0
    assert seen == {"timed": {p: p for p in PRECISIONS}, "rounds": 4, "seconds": 0.5}
    assert read_json(tmp_path / "timing.json")["rates"] == RATES


def test_timings_need_their_options(tmp_path, capsys):
    path = tmp_path / "options.json"
    for content, words in (
        ("{}", "has no configs"), ('{"configs": {"a": {}}, "seconds": 1}', "has no rounds"),
        ('{"configs": {"a": {}}, "rounds": 1, "seconds": 1}', "algo is not given"),
    ):  # fmt: skip
        path.write_text(content)
        assert timing.main([str(path), "--out", str(tmp_path / "x")]) == 2
        assert words in capsys.readouterr().err
