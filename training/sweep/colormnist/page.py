"""The page of a grid on ColorMNIST, Markdown: accuracies, what is beside them, the claims."""

import itertools
from collections.abc import Iterator

from tf_avae.config import ATTACK, OBJECTIVE, Config, fields_of
from tf_avae.evaluation import BUDGETS, Settings
from tf_avae.objectives import OBJECTIVES
from tf_avae.probes import HEADS
from training.sweep.colormnist.claims import AGAINST, FOR, OPEN
from training.sweep.colormnist.grids import GRIDS
from training.sweep.colormnist.measures import accuracies, between, proven
from training.sweep.models import PERCENT, Values, at_radius, with_unit
from training.sweep.pages import NONE, Notes, provenance, shared_options, table, time_taken, worded

_SIGNS = {
    "obs_var": "v", "rho": "ρ", "rho_se": "ρ_SE", "epsilon": "ε", "pgd_steps": "PGD steps",
    "latent_dim": "D", "learning_rate": "learning rate", "reconstruction_weight": "w",
    "coupling": "coupling", "arch": "", "init_from": "starts from", "penalty_weight": "w",
    "adversary": "", "pgd_start": "PGD from", "epsilon_warmup": "warm-up",
    "learning_rate_decay": "decay", "batch_size": "batch", "clip_norm": "gradients of at most",
    "ema_momentum": "averages of", "learning_rate_warmup": "rate rises over",
}  # fmt: skip
_SHORT = (("digit", 0, (0.0, 0.05, 0.1)), ("color", 0, (0.0, 0.1)), ("digit", 1, (0.0, 0.1)))
"""The columns of the table in short: task, number of the head, radii."""


def page(values: Values) -> str:
    """The grid, Markdown; tables read well in a terminal too."""
    grid, notes = GRIDS[values["settings"]["grid"]], Notes()
    short = () if grid.dots else ("## In short", in_short(values))
    parts = [
        f"# {grid.title}",
        f"{grid.text} {_what(values)}",
        f"![{_caption(values)}](colormnist.png)",
        *short,
        *_accuracies(values, notes),
        "## Beside them",
        _beside(values),
        *_claims(values),
        "## Time",
        _times(values, notes),
        "## The trainings",
        _options(values),
        _trainings(values, notes),
        *notes.section(),
        "## Provenance",
        "\n".join([provenance(values), *_elsewhere(values)]),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _options(values: Values) -> str:
    """What models have in common but for the settings that stand with their names."""
    read = [_read(model) for model in values["models"].values()]
    common = Config().to_dict()
    for fields in reversed(read):
        common |= fields
    configs: list[Values | None] = [common | fields for fields in read]
    return shared_options(
        configs, but=("pretrain_steps",), of="all that read them, but for what their names say,"
    )


def _read(model: Values) -> Values:
    """The fields that a model reads and its name does not say."""
    unread = {*fields_of(OBJECTIVE), *fields_of(ATTACK)} - {*OBJECTIVES[model["algo"]].uses}
    left_out = {*unread, *model["own"], *model["differs"]}
    return {name: value for name, value in model["config"].items() if name not in left_out}


def in_order(values: Values) -> Iterator[Values]:
    """The models, objective by objective, an objective's own first."""
    models = values["models"].values()
    for algo in OBJECTIVES:
        of = [model for model in models if model["algo"] == algo]
        yield from sorted(of, key=lambda model: bool(model["differs"]))


def label(model: Values) -> str:
    """What a model is called: its objective, and the settings in which it differs from the
    grid's."""
    return ", ".join([model["algo"], *_differing(model["own"] | model["differs"])])


def setting(model: Values) -> str:
    """The settings in which a model differs from its objective's own; empty for that."""
    return ", ".join(_differing(model["differs"]))


def _differing(differs: Values) -> Iterator[str]:
    for name, value in differs.items():
        yield f"{_SIGNS.get(name, name)} {_shown(value)}".strip()


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _what(values: Values) -> str:
    first = next(iter(values["evaluation"].values()))
    part = "validation" if first.get("validation") else "test"
    count = values["settings"]["seeds"]
    seeds = (
        f"mean over {count} seeds, ± half of the 95 % interval by Student's t"
        if count > 1
        else "of one seed, so without an interval"
    )
    heads = [f"`{name}` ({HEADS[name].summary})" for name in values["settings"]["heads"]]
    others = (
        f"; heads but the first on {Settings.other_images:,} of them at most"
        if len(heads) > 1
        else ""
    )
    said = []
    for name, flags in values["evaluation"].items():
        images = f"the first {flags['images']:,}" if "images" in flags else "all"
        what = BUDGETS[name].summary
        if flags["searches"] != BUDGETS[name].searches:
            what = f"as it was then: {', '.join(flags['searches'])}; today's finds more"
        said.append(f"`{name}` ({what}), here on {images} {part} images")
    return (
        "Encoders never saw a label; heads on posterior means are fitted to the training images: "
        f"{'; '.join(heads)}. Accuracies in percent, {seeds}. Under attack: {'; '.join(said)}, L∞"
        f"{others}."
    )


def _caption(values: Values) -> str:
    hollow = "; hollow marks: verified" if proven(values) else ""
    if GRIDS[values["settings"]["grid"]].dots:
        what = "Accuracy of each model, nominal and under attack, by the setting that differs"
    else:
        what = "Accuracy against the radius of the attack, an objective a line, over seeds"
    return what + hollow


def in_short(values: Values) -> str:
    """Accuracies under the first budget that say most, a row for each model."""
    heads, (budget, *_) = values["settings"]["heads"], values["settings"]["budgets"]
    of = [
        m
        for task, n, radii in _SHORT
        if n < len(heads)
        for m in _through(values, task, heads[n], budget)
        if m["epsilon"] in radii
    ]
    rows = [["", *(f"{m['task']}, {m['head']}, {_column(m)}" for m in of)]]
    for model in in_order(values):
        cells = (worded(model["over_seeds"].get(m["name"]), 1) for m in of)
        rows.append([label(model), *cells])
    return table(rows)


def _through(values: Values, task: str, head: str, budget: str) -> list[Values]:
    """The accuracies of a task through a head under a budget, by radius, and after each what is
    proven of it."""
    where, all_of = (task, head, budget), [*accuracies(values), *proven(values)]
    of = [m for m in all_of if (m["task"], m["head"], m["budget"]) == where]
    return sorted(of, key=lambda m: m["epsilon"])  # what is proven is the later of equals


def _accuracies(values: Values, notes: Notes) -> Iterator[str]:
    """A table for each task, head and budget."""
    tasks, settings = dict.fromkeys(m["task"] for m in accuracies(values)), values["settings"]
    for task, head, budget in itertools.product(tasks, settings["heads"], settings["budgets"]):
        of = _through(values, task, head, budget)
        if not of:
            continue
        yield f"## {task.capitalize()}, {head} head, `{budget}`"
        rows = [["", *map(_column, of)]]
        for model in in_order(values):
            missing = [t["not_measured"].get(budget) for t in model["trainings"]]
            lead = label(model)
            if any(missing):
                lead += " " + " ".join(notes.missing(m) for m in missing if m)
            cells = [worded(model["over_seeds"].get(m["name"]), 1) for m in of]
            rows.append([lead, *cells])
        yield table(rows)
        yield from _attack_by_attack(values, of)


def _attack_by_attack(values: Values, of: list[Values]) -> Iterator[str]:
    """What is left after each attack of a budget, where it consists of several."""
    where = tuple(of[0][key] for key in ("task", "head", "budget"))
    whole = [m for m in of if m["epsilon"] and "proof" not in m]
    parts = [m for m in between(values) if (m["task"], m["head"], m["budget"]) == where]
    attacks = list(dict.fromkeys(m["after"] for m in parts))
    if not attacks:
        return
    rows = [["after", *attacks, "all"]]
    for model, measure in itertools.product(in_order(values), whole):
        names = {m["after"]: m["name"] for m in parts if m["epsilon"] == measure["epsilon"]}
        found = [model["over_seeds"].get(name) for name in (*names.values(), measure["name"])]
        if any(found):
            rows.append([f"{label(model)}, {_column(measure)}", *(worded(f, 1) for f in found)])
    yield "The same images, attack by attack:"
    yield table(rows)


def _beside(values: Values) -> str:
    asked = [m for m in values["measures"] if m["unit"] != PERCENT]
    rows = [["", *map(with_unit, asked)]]
    for model in in_order(values):
        found = [model["over_seeds"].get(m["name"]) for m in asked]
        rows.append([label(model), *(worded(f, _digits(f)) for f in found)])
    return table(rows)


def _digits(estimate: Values | None) -> int:
    """Digits after the point: more of a small figure."""
    size = 10.0 if estimate is None else abs(estimate["value"])
    return 1 if size >= 10 else 3 if 0 < size < 0.1 else 2


def _claims(values: Values) -> Iterator[str]:
    claims = [claim for claim in values["claims"] if claim["rows"]]
    if not claims or values["settings"]["seeds"] == 1:  # without an interval all would be open
        return
    yield "## Do the paper's claims hold here?"
    yield (
        "Mean difference, seed by seed, ± half of the 95 % interval by Student's t. A difference "
        "counts for or against a claim where zero lies outside of that interval, and is open "
        "where it does not; one that a single seed has is left out."
    )
    for claim in claims:
        yield f"### {claim['title']}"
        yield f"**{verdict(claim)}**"
        yield _claim(claim)


def verdict(claim: Values) -> str:
    """What the differences say of a claim, in words."""
    words = [row["word"] for row in claim["rows"]]
    counts = {word: words.count(word) for word in (FOR, AGAINST, OPEN)}
    listed = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    if all(row["difference"]["high"] is None for row in claim["rows"]):
        lead = "Not decided"
    elif claim["keeps"]:
        lead = "Not in every case" if counts[AGAINST] else "No loss seen"
    elif counts[FOR] and not counts[AGAINST]:
        lead = "It holds" if not counts[OPEN] else "It holds where the figures decide"
    elif counts[AGAINST] and not counts[FOR]:
        lead = "It does not hold"
    elif counts[FOR]:
        lead = "It depends"
    else:
        lead = "Not decided"
    return f"{lead}: of {len(words)} differences {listed}."


def _claim(claim: Values) -> str:
    """A row for each pair and task, a column for each radius; a word with each difference."""
    columns = list(dict.fromkeys(_column(row["measure"]) for row in claim["rows"]))
    lines: dict[str, dict[str, str]] = {}
    for row in claim["rows"]:
        measure = row["measure"]
        lead = f"{row['algo']} − {row['baseline']}"
        if "task" in measure:
            lead += f", {measure['task']}, {measure['head']}, `{measure['budget']}`"
        shown = worded(row["difference"], 1 if "task" in measure else 2, sign="+")
        lines.setdefault(lead, {})[_column(measure)] = f"{shown} {row['word']}"
    rows = [["", *columns]]
    rows += [[lead, *(of.get(column, NONE) for column in columns)] for lead, of in lines.items()]
    return table(rows)


def _column(measure: Values) -> str:
    if "epsilon" not in measure:
        return measure["name"]
    proof = f", verified ({measure['proof']})" if "proof" in measure else ""
    return at_radius(measure["epsilon"]) + proof


def _times(values: Values, notes: Notes) -> str:
    time = values["time"]
    if time["missing"] is not None:
        return f"A training step's time: {notes.missing(time['missing'])}."
    rows = [["", "time of a training step", "least–most of the rounds"]]
    for name, factor in time["factors"].items():
        rows.append([name, f"{factor['value']:.2f}", f"{factor['low']:.2f}–{factor['high']:.2f}"])
    return (
        f"Time of a training step over that of `{time['baseline']}`, timed in turn in one "
        "process: median, least and most of the rounds' ratios.\n\n" + table(rows)
    )


def _trainings(values: Values, notes: Notes) -> str:
    budgets = values["settings"]["budgets"]
    rows = [["training", "took", *(f"`{budget}` took" for budget in budgets)]]
    for model in in_order(values):
        for training in model["trainings"]:
            seconds = training["seconds"]
            cells = []
            for budget in budgets:
                missing = training["not_measured"].get(budget)
                took = time_taken(seconds["evaluated_in"][budget])
                cells.append(notes.missing(missing) if missing else took)
            rows.append([training["name"], time_taken(seconds["trained_in"]), *cells])
    return table(rows)


def _elsewhere(values: Values) -> Iterator[str]:
    """Which figures another sweep has measured, and at which commit."""
    found: dict[tuple[str, str], list[str]] = {}
    for model in in_order(values):
        for training in model["trainings"]:
            for budget in training.get("elsewhere", []):
                commit = training["evaluated_by"][budget]["commit"] or "not known"
                found.setdefault((budget, commit), []).append(training["name"])
    for (budget, commit), names in found.items():
        listed = ", ".join(names)
        yield f"- measured by another sweep, under `{budget}`, commit {commit}: {listed}"
    if values["time"].get("elsewhere"):
        commit = values["time"]["timed_by"].get("commit") or "not known"
        yield f"- timed by another sweep, commit {commit}"
