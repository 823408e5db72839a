"""A leaderboard as a page and as JSON values."""

import re
from collections.abc import Sequence
from typing import Any

from tf_avae.evaluation import table
from tf_avae.provenance import published
from training.leaderboard.entries import SEEDS, Entry, Leaderboard, passed
from training.leaderboard.rules import RULES, Measured
from training.leaderboard.trainings import Training, Values
from training.sweep import pages

_NOBODY = "No entry meets all rules."


def tables(board: Leaderboard) -> str:
    """Both lists of entries, Markdown."""
    admitted = _table(board.admitted, board.measured) if board.admitted else _NOBODY
    parts = ["## Admitted", admitted]
    if board.others:
        reasons = [
            f"- {_safe(entry.name)}, `{_safe(entry.budget)}`: "
            + "; ".join(f"**{rule}**: {_safe(word)}" for rule, word in why)
            for entry, why in board.others
        ]
        parts += [
            "## Not admitted",
            _table([entry for entry, _ in board.others], board.measured),
            "The rules that each of them does not meet, and what was found:",
            "\n".join(reasons),
        ]
    return "\n\n".join(parts)


def page(board: Leaderboard, command: str) -> str:
    """The page, Markdown.

    Args:
        board: the leaderboard.
        command: that made it.
    """
    measured = board.measured
    entries = [*board.admitted, *(entry for entry, _ in board.others)]
    told = [_safe(entry.name) for entry in entries if entry.told]
    data = measured.data
    sums = ", ".join(f"{name} {digest}" for name, digest in data["checksums"].items())
    parts = [
        "# Leaderboard",
        "You can compare encoders by their robust accuracy, and submit yours "
        "(`docs/evaluation.md` says how). This command made the page:",
        f"```sh\n{command}\n```",
        f"Accuracies are in percent, through the head `{_safe(measured.head)}` on the embeddings. "
        f"Perturbations are in the `{_safe(data['norm'])}` ball of radius ε. Nominal accuracy is "
        f"on all {data['test_images']:,} {_images(data)} of {_safe(data['name'])}, robust accuracy "
        "on the first of them, as many as the table says; an image counts if it is classified "
        "correctly as it is and after every search of the budget. The rows are sorted by "
        f"{_safe(measured.tasks[0])} at ε {measured.epsilons[0]:g}. Every robust accuracy is an "
        "upper bound: another attack can only lower it. Compare entries of the same budget: a "
        "weaker one flatters.",
        "With several seeds of training a cell is the mean ± half of the 95 % confidence interval "
        "over seeds (Student's t). With one it has the 95 % interval over images (Wilson), which "
        f"does not cover what another seed would give. Fewer than {SEEDS} seeds are marked ⚠.",
        *([f"The files do not say how these were trained, and whoever made the page says that they "
           f"differ in their seed alone: {', '.join(told)}."] if told else []),
        tables(board),
        "## Rules of admission",
        pages.table([
            ["rule", "must be so", "or else"],
            *([f"`{rule.name}`", rule.must, rule.why] for rule in RULES.values()),
        ]),
        "The command reads files and attacks nothing. It counts the accuracies again from the "
        "outcome of each image, but it cannot tell who wrote a file. To make sure of an entry, "
        "evaluate its weights again.",
        "## Where the figures come from",
        "\n".join(_origin(entry, training) for entry in entries for training in entry.trainings),
        f"Data: {_safe(data['name'])}; {_safe(sums)}.",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def values(board: Leaderboard, command: str) -> Values:
    """The same as JSON values; accuracies are shares."""
    measured = board.measured
    return {
        "command": command,
        **measured._asdict(),
        "rules": [{"name": r.name, "must": r.must, "why": r.why} for r in RULES.values()],
        "admitted": [_values(entry, measured) for entry in board.admitted],
        "not_admitted": [
            _values(entry, measured) | {"reasons": [{"rule": r, "found": w} for r, w in why]}
            for entry, why in board.others
        ],
    }


def _values(entry: Entry, measured: Measured) -> Values:
    groups = entry.checks(measured)
    return {
        "name": entry.name,
        "budget": entry.budget,
        "seeds_told": entry.told,
        "images": entry.images(measured),
        "checks": passed(groups),
        "figures": [
            {
                "task": task,
                "nominal": entry.nominal(task),
                "robust": {f"{e:g}": entry.robust(task, e) for e in measured.epsilons},
            }
            for task in measured.tasks
        ],
        "trainings": [
            {
                "name": training.name, "seed": training.seed, "step": training.step,
                "sha256": training.sha256, "config": training.config,
                "active_units": (training.latents or {}).get("active_units"),
                "latents": (training.latents or {}).get("latents"),
                "files": [{"file": published(f), **of} for f, of in training.origin.items()],
            }
            for training in entry.trainings
        ],
    }  # fmt: skip


def _table(entries: Sequence[Entry], measured: Measured) -> str:
    radii = [f"ε {epsilon:g}" for epsilon in measured.epsilons]
    figures = [f"{_safe(t)}, {of}" for t in measured.tasks for of in ("nominal", *radii)]
    head = ["encoder", *figures, "images", "seeds", "checks passed", "active units", "budget"]
    return pages.table([head, *(_row(entry, measured) for entry in entries)])


def _row(entry: Entry, measured: Measured) -> list[str]:
    figures = [
        _cell(found)
        for task in measured.tasks
        for found in (entry.nominal(task), *(entry.robust(task, e) for e in measured.epsilons))
    ]
    units = [table.active_units(t.latents) if t.latents else table.NONE for t in entry.trainings]
    return [
        _safe(entry.name),
        *figures,
        f"{entry.images(measured):,}",
        _seeds(entry),
        passed(entry.checks(measured)),
        ", ".join(dict.fromkeys(cell.text for cell in units)),
        f"`{_safe(entry.budget)}`",
    ]


def _seeds(entry: Entry) -> str:
    count = len(entry.trainings)
    words = "1 seed" if count == 1 else f"{count} seeds"
    return f"{words} ⚠" if count < SEEDS else words


def _cell(found: Values | None) -> str:
    if found is None or found["over"] == "images":
        return table.percent(found).line
    return pages.worded({k: v and 100 * v for k, v in found.items() if k != "over"}, 1)


def _origin(entry: Entry, training: Training) -> str:
    seed = "" if training.seed is None else f", seed {training.seed}"
    files = "; ".join(
        f"{_safe(published(file))} (trained at {_commit(of['trained_at_commit'])}, evaluated at "
        f"{_commit(of['evaluated_at_commit'])})"
        for file, of in training.origin.items()
    )
    who = f"{entry.name}, {entry.budget}{seed}, weights {training.sha256[:12]}"
    return f"- {_safe(who)}: {files}"


def _commit(words: str | None) -> str:
    """A commit, shortened; whether the source was changed after it stays."""
    return _safe(re.sub(r"\b([0-9a-f]{12})[0-9a-f]+", r"\1", words or "a commit not known"))


def _images(data: Values) -> str:
    return "validation images" if data["validation"] else "test images"


def _safe(words: Any) -> str:
    """Words of a file, which others may have written, as Markdown that shows them."""
    printable = "".join(c if c.isprintable() else " " for c in str(words))
    return re.sub(r"([\\`|<>\[\]*])", r"\\\1", printable)
