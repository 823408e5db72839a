"""The page of Table 3, Markdown: our figures beside the paper's, and what to make of them."""

import math
from collections.abc import Callable

from tf_avae.config import Config
from tf_avae.datasets.celeb_a.files import IMAGES, OFFICIAL_SHA256
from tf_avae.datasets.celeb_a.images import SHAPE
from tf_avae.evaluation.budgets import BUDGETS
from tf_avae.evaluation.table import active_units, failed, passed
from tf_avae.objectives import OBJECTIVES
from training.sweep.models import Values
from training.sweep.pages import NONE, Notes, provenance, shared_options, table, time_taken

CLOSE = 2.0
"""A nominal accuracy less than so many points above the share of the commonest class is marked."""

MARK = "*"


def close_to_majority(nominal: float, majority: float | None) -> bool:
    """Whether a nominal accuracy says little: both in percent."""
    return majority is not None and nominal - majority < CLOSE


def page(values: Values) -> str:
    """The table, Markdown; columns are padded, so that it reads well in a terminal too."""
    notes = Notes()
    tables = [_main_table(values, notes), _balanced_table(values, notes)]
    parts = [
        f"# Table 3 of the paper, beside it ours: scale {values['settings']['scale']}",
        *_warning(values),
        _what(values),
        tables[0],
        _legend(values),
        "![For each model and task the accuracy as images are and under attack, ours and the "
        "paper's, and the share of the commonest class](table3.png)",
        "## What the accuracies hide",
        "Balanced accuracy, area under the ROC curve, and balanced accuracy under the attack, "
        "ours. A head that always says the same has a balanced accuracy of 50 % and an area of "
        "0.5.",
        tables[1],
        "## Can these figures be trusted?",
        _checks(values),
        "## The models",
        _models(values),
        shared_options(
            [model["config"] for model in values["models"].values()],
            but=("arch", "steps", "pretrain_steps"),  # the first two have columns
        ),
        *notes.section(),
        "## Provenance",
        provenance(values),
    ]
    return "\n\n".join(parts) + "\n"


def _warning(values: Values) -> list[str]:
    """What the images are, where they are not CelebA's."""
    drawn = values["settings"]["drawn"]
    if drawn:
        what = f"{drawn:,} drawn faces in the format of its archive"
    elif values["data"] and not _is_celeb_a(values):
        what = "the archive is not the official one"
    else:
        return []
    return [
        f"> **Not CelebA:** {what}. The figures show that the sweep runs from end to end; they say "
        "nothing of photographs, and are not comparable with the paper's beside them."
    ]


def _what(values: Values) -> str:
    budget, data, counted = BUDGETS[values["evaluation"]["budget"]], values["data"], ""
    if data:
        there = [m for m in values["models"].values() if m["missing"] is None]
        figures = [task for model in there for task in model["tasks"].values()]
        shares = [task[kind] for task in figures for kind in ("nominal", "attacked")]
        widest = max((share["high"] - share["low"]) / 2 for share in shares)
        counted = (
            f" Nominal: {data['test_images']:,} test images; under attack: the first "
            f"{figures[0]['attacked']['count']:,}. The 95 % intervals, in the JSON file, reach up "
            f"to ± {100 * widest:.1f} points over test images."
        )
    return (
        "Accuracy in percent, nominal / under attack, of a linear head on posterior means. Attack: "
        f"budget {budget.name} ({budget.summary}); L∞, ε = {values['paper']['epsilon']:g} of pixel "
        "values from 0 to 1."
        f"{counted} Scale {values['settings']['scale']}: {values['scale']}."
    )


def _main_table(values: Values, notes: Notes) -> str:
    paper, models = values["paper"], values["models"]
    rows = [["task", "commonest class", *(word for name in models for word in (name, "paper"))]]
    for task in paper["tasks"]:
        majority = _majority(values, task)
        row = [task, NONE if majority is None else f"{majority:.1f}"]
        for name, model in models.items():
            theirs = paper["tasks"][task][name]
            mark = _mark(theirs["nominal"], majority if _is_celeb_a(values) else None)
            row += [
                _absent(model, notes) or _accuracies(model["tasks"][task], majority),
                f"{theirs['nominal']:.1f}{mark} / {theirs['attacked']:.1f}",
            ]
        rows.append(row)
    for label, section, read, theirs in _beside(values):
        row = [label, ""]
        for name, model in models.items():
            row += [
                _absent(model, notes, section) or read(model[section]),
                theirs.get(name, NONE if theirs else ""),
            ]
        rows.append(row)
    return table(rows)


def _majority(values: Values, task: str) -> float | None:
    return 100 * values["majority"][task] if values["majority"] else None


def _is_celeb_a(values: Values) -> bool:
    """Whether the images are those of the paper, so that its figures have their majority rates.
    Where the data set was prepared by TFDS, that has seen to it."""
    if values["data"] is None:
        return False
    return values["data"]["checksums"].get(IMAGES, OFFICIAL_SHA256) == OFFICIAL_SHA256


def _absent(model: Values, notes: Notes, section: str | None = None) -> str | None:
    """The cell of what is missing of a model; None where it is there."""
    if model["missing"] is not None:
        return notes.missing(model["missing"])
    if section is None or section in model:
        return None
    why = model["left_out"].get(section) or _UNASKED.get(section, "left out at this scale")
    return notes.missing(f"{section.replace('_', ' ')}: {why}")


_UNASKED = {"fid": "no feature extractor was given (--fid)"}
"""Why a section was not asked for, where that is not the scale's doing."""


def _mark(nominal: float, majority: float | None) -> str:
    return MARK if close_to_majority(nominal, majority) else ""


def _accuracies(task: Values, majority: float | None) -> str:
    nominal = 100 * task["nominal"]["value"]
    return f"{nominal:.1f}{_mark(nominal, majority)} / {100 * task['attacked']['value']:.1f}"


Row = tuple[str, str, Callable[[Values], str], dict[str, str]]
"""Label, section, how our cell is read from the section, the paper's cells by model."""


def _beside(values: Values) -> list[Row]:
    """The rows under the tasks: the paper's, then ours alone."""
    paper = {label.lower(): row for label, row in values["paper"]["beside"].items()}

    def theirs(label: str, shown: Callable[[float], str]) -> dict[str, str]:
        return {name: shown(value) for name, value in paper[label].items()}

    def factor(found: Values) -> str:
        return f"{found['value']:.2f}"

    def mse(found: Values) -> str:
        return f"{found['mean_code']['sum']['value']:.1f}"

    density = theirs("mse", lambda nats: f"{squared_error(nats):.1f}")
    return [
        ("time factor", "time_factor", factor, theirs("time factor", "{:g}".format)),
        ("MSE", "reconstruction", mse, theirs("mse", "{:.1f}".format)),
        ("MSE, the paper's read as a density", "reconstruction", mse, density),
        ("FID", "fid", factor, theirs("fid", "{:.2f}".format)),
        ("honesty checks passed", "checks", passed, {}),
        ("active units", "latents", lambda found: active_units(found).text, {}),
    ]


def squared_error(nats: float) -> float:
    """|x − g|² of an image whose −log N(x; g, v I) is so many nats, at the default v."""
    variance, size = Config().obs_var, math.prod(SHAPE)
    return 2 * variance * (nats - size / 2 * math.log(2 * math.pi * variance))


def _legend(values: Values) -> str:
    whose = (
        "in ours and in the paper's"
        if _is_celeb_a(values)
        else "in ours; not in the paper's, whose images have other shares"
    )
    return "\n".join(
        [
            f"- `{MARK}`: less than {CLOSE:g} points above the share of the commonest class "
            f"({whose}). A head that always says the commonest class does as well, and no attack "
            "moves it: such a row says little of the encoder. Marked, of "
            f"{len(values['paper']['tasks'])}: {_marked(values)}.",
            "- time factor: time of a training step over that of the VAE's, timed in turn in one "
            "process; 1 for the VAE by definition.",
            "- MSE, ours: |x − g(μ(x))|² summed over the pixel values of an image, from 0 to 1; "
            "other conventions are in the JSON file. The paper does not say what its MSE is. Read "
            f"as −log N(x; g, v I) at the default v = {Config().obs_var:g}, it stands for the "
            "squared errors of the row below, which are of a plausible size; that is a guess.",
            "- FID: figures of different feature extractors cannot be compared.",
        ]
    )


def _marked(values: Values) -> str:
    """How many nominal accuracies are marked, by model."""
    counts = []
    for name, model in values["models"].items():
        words = [NONE]
        if model["missing"] is None:
            ours = [(t, 100 * of["nominal"]["value"]) for t, of in model["tasks"].items()]
            words = [str(_close(values, ours))]
        if _is_celeb_a(values):
            paper = [(t, row[name]["nominal"]) for t, row in values["paper"]["tasks"].items()]
            words.append(f"the paper's {_close(values, paper)}")
        counts.append(f"{name} {' and '.join(words)}")
    return ", ".join(counts)


def _close(values: Values, accuracies: list[tuple[str, float]]) -> int:
    return sum(close_to_majority(value, _majority(values, task)) for task, value in accuracies)


def _balanced_table(values: Values, notes: Notes) -> str:
    models = values["models"]
    rows = [["task", *models]]
    for task in values["paper"]["tasks"]:
        row = [_absent(m, notes) or _balanced(m["tasks"][task]) for m in models.values()]
        rows.append([task, *row])
    return table(rows)


def _balanced(task: Values) -> str:
    area = NONE if task["roc_auc"] is None else f"{task['roc_auc']['value']:.3f}"
    return f"{100 * task['balanced']:.1f} / {area} / {100 * task['attacked_balanced']:.1f}"


def _checks(values: Values) -> str:
    lines = []
    for name, model in values["models"].items():
        if "checks" not in model:
            continue
        words = [f"{group['task']} ({check['name']})" for group, check in failed(model["checks"])]
        listed = f"; not: {', '.join(words)}" if words else ""
        lines.append(f"- {name}: {passed(model['checks'])} honesty checks passed{listed}")
    return "\n".join(lines) or "No honesty checks were made (see above)."


def _models(values: Values) -> str:
    rows = [
        ["model", "objective", "architecture", "steps", "PGD steps", "trained in", "evaluated in"]
    ]
    for name, model in values["models"].items():
        config, taken, seconds = model["config"], model["taken_from"], model["seconds"]
        trained = f"taken: `{taken}`" if taken else time_taken(seconds["trained_in"])
        made = [NONE] * 4
        if config:
            pgd_steps = config["pgd_steps"] if OBJECTIVES[config["algo"]].attack else NONE
            made = [config["algo"], config["arch"], f"{config['steps']:,}", str(pgd_steps)]
        rows.append([name, *made, trained, time_taken(seconds["evaluated_in"])])
    return table(rows)
