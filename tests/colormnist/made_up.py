"""A sweep of a grid on ColorMNIST with made-up results."""

import functools
import itertools
import json
import zlib

import numpy as np
import scipy.stats
from sweep_results import TASKS, evaluation, write

from training.sweep import __main__ as command
from training.sweep.cells.folder import SweepFolder
from training.sweep.colormnist import figures as colormnist_figures
from training.sweep.colormnist import study as colormnist
from training.sweep.colormnist.grids import PAPER

RADII, SEEDS = (0.05, 0.1), 3
HEADS = ("linear", "margin")
THROUGH = {"paper": HEADS, "strong": HEADS[:1]}
TRIALS = {"strong": ("pgd-40/0", "pgd-40/1", "apgd-t/0", "square/0")}
PARTS = {"paper": (), "strong": ("pgd-40", "apgd-t")}
"""The attacks of a budget but the last, where it has several."""
PER_UNIT = "W2² per active unit"
BOUND, RISE, CHECKS = "bound, held out", "its rise in the last fifth", "honesty checks failed"
BESIDE = [
    "MSE: ‖x − g(μ(x))‖²", BOUND, RISE, "log p(x) at least", "inconsistency W2²", PER_UNIT,
    "active units", "effective dimension", CHECKS,
]  # fmt: skip
_SMALL = (BESIDE[0], RISE, "inconsistency W2²", "effective dimension")
NATS = (BOUND, RISE, "log p(x) at least")
LABELS = {m: m for m in PAPER} | {"se": "se, v 0.02"}
RATES = {"vae": [10.0, 20.0, 30.0], "avae": [5.0, 5.0, 10.0], "se": [2.0, 4.0, 6.0],
         "se_avae": [1.0, 2.0, 3.0], "avae_ss": [10.0, 10.0, 10.0]}  # fmt: skip


def declare(path, *words):
    arguments = command.parser().parse_args(["colormnist", *map(str, words)])
    return colormnist.declare(arguments, path)


def created(path, *words):
    return SweepFolder.create(path, declare(path, *words))


def accuracy_name(task, head, budget, epsilon, after=None):
    made = f"{budget} after {after}" if after else budget
    return f"{task}, {head}, {f'{made}, ε {epsilon:g}' if epsilon else 'nominal'}"


def figure(model, seed, name):
    """A made-up figure; what seeds have in common is larger than what they have not."""
    if name == PER_UNIT:
        return figure(model, seed, "inconsistency W2²") / figure(model, seed, "active units")
    common = np.random.default_rng([seed, zlib.crc32(name.encode())])
    own = np.random.default_rng([seed, zlib.crc32(f"{model} {name}".encode())])
    if name == CHECKS:
        return int(own.integers(1, 7))
    size = 0.1 if name in _SMALL else 1.0
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


def finish(sweep, model, seed, of=figure, **more):
    """What `training.fit` and `training.evaluate` write, as far as the figures need it.

    Args:
        sweep: where.
        model: whose.
        seed: its seed.
        of: (model, seed, name) to a figure.
        more: of `evaluation`.
    """
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
        trials = TRIALS.get(budget, ("pgd-40/0",))

        def left(task, head, epsilon, number, budget=budget, trials=trials):
            if number == 0 and len(trials) > 1:
                return 99.0  # of several starts the last one counts
            attack = trials[number].split("/")[0]
            after = attack if attack in PARTS.get(budget, ()) else None
            return found(accuracy_name(task, head, budget, epsilon, after))

        results = evaluation(
            sweep.cells[training].options,
            options["epsilon"],
            lambda task, head, epsilon, budget=budget: found(
                accuracy_name(task, head, budget, epsilon)
            ),
            heads=options["head"],
            nominal="probes" in options["section"],
            trials=trials,
            left=left,
            commit=f"c-{budget}",
            **more,
            **_certified(options, found),
            **{name: sections[name] for name in options["section"] if name in sections},
        )
        write(sweep, f"{training}-{budget}", results)


def _certified(options, found):
    """What an evaluation says of what it verified, where it was asked to."""
    if "certified" not in options["section"]:
        return {}
    tasks, proof = options.get("task", TASKS), options["certify"]
    rows = [
        {"task": t, "head": h, "epsilon": e,
         "verified": {"value": found(f"{t}, {h}, verified by {proof}, ε {e:g}") / 100}}
        for t, h, e in itertools.product(tasks, options["head"], options["epsilon"])
    ]  # fmt: skip
    return {"certified": {"bounds": proof, "rows": rows}}


def finish_all(sweep, of=figure, **more):
    settings = sweep.declaration.settings
    for row, seed in itertools.product(settings["models"], range(settings["seeds"])):
        finish(sweep, row["name"], seed, of, **more)


def collected(sweep):
    return json.loads(json.dumps(colormnist_figures.collect(sweep), allow_nan=False))


def seeds_of(model, name):
    """The seeds that a figure of that sweep is there of."""
    missing = {"avae_ss": 1, "se_avae": 2 if ", strong" in name else None}.get(model)
    return [seed for seed in range(SEEDS) if seed != missing]
