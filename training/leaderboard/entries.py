"""Entries of a leaderboard: encoders of trainings that differ in their seed alone."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tf_avae.errors import InputError
from tf_avae.evaluation import table
from tf_avae.registry import unknown
from training.leaderboard.rules import RULES, Measured
from training.leaderboard.trainings import Training, Values, differing
from training.sweep.seeds import over_seeds

SEEDS = 3
"""Fewer trainings than this are marked: from two, the interval over seeds says next to nothing."""


@dataclass(frozen=True)
class Entry:
    """Trainings that differ in their seed alone, under one budget.

    Attributes:
        name: what it is called.
        budget: name of the budget.
        trainings: one for each seed.
        told: whether the command line says that they differ so, and not their files.
    """

    name: str
    budget: str
    trainings: tuple[Training, ...]
    told: bool = False

    def nominal(self, task: str) -> Values | None:
        """The accuracy on all test images, as `_estimate`."""
        return self._estimate(lambda training: training.nominal.get(task))

    def robust(self, task: str, epsilon: float) -> Values | None:
        """The accuracy under the budget, as `_estimate`."""
        return self._estimate(
            lambda training: training.robust.get((task, epsilon), {}).get("accuracy")
        )

    def _estimate(self, read: Callable[[Training], Values | None]) -> Values | None:
        """A share and its 95 % interval: over seeds, or of one over test images, which "over"
        says; None where a training lacks it."""
        found = [figure for training in self.trainings if (figure := read(training)) is not None]
        if len(found) < len(self.trainings):
            return None
        if len(found) == 1:
            return {"over": "images", **found[0]}
        values = over_seeds({n: figure["value"] for n, figure in enumerate(found)})
        return {"over": "seeds", **(values or {})}

    def images(self, measured: Measured) -> int:
        """The least number of images that a figure of the table is of."""
        counts = [
            row["accuracy"]["count"]
            for training in self.trainings
            for (task, epsilon), row in training.robust.items()
            if task in measured.tasks and epsilon in measured.epsilons
        ]
        return min(counts, default=0)

    def checks(self, measured: Measured) -> list[Values]:
        """The groups of honesty checks of the table's tasks."""
        return [
            group for t in self.trainings for group in t.checks if group["task"] in measured.tasks
        ]

    def reasons(self, measured: Measured) -> list[tuple[str, str]]:
        """The rules that it does not meet, and what was found."""
        found: dict[tuple[str, str], None] = {}
        for rule in RULES.values():
            for training in self.trainings:
                word = rule.look(training, measured)
                if word:
                    seed = "" if len(self.trainings) == 1 else f"{training.name}: "
                    found[rule.name, seed + word] = None
        return list(found)


class Leaderboard(NamedTuple):
    """Entries, the best first, by the robust accuracy of the first task at the first radius.

    Attributes:
        measured: what the table shows.
        admitted: entries that meet all rules.
        others: those that do not, and why: pairs of rule and finding.
    """

    measured: Measured
    admitted: list[Entry]
    others: list[tuple[Entry, list[tuple[str, str]]]]


def leaderboard(
    trainings: Sequence[Training],
    data: Values,
    head: str,
    tasks: Sequence[str] | None = None,
    epsilons: Sequence[float] | None = None,
) -> Leaderboard:
    """The entries of trainings, judged by the rules.

    Args:
        trainings: at least one.
        data: that they are measured on.
        head: through which.
        tasks: columns of the table [those that all trainings have].
        epsilons: the same [those that all of them have].

    Raises:
        InputError: nothing that all of them have, what none of them has, or trainings that make
            no entry.
    """
    entries = _entries(trainings)
    tasks = _columns("task", tasks, [list(t.nominal) for t in trainings], trainings)
    radii = [sorted({e for task, e in t.robust if task in tasks}) for t in trainings]
    epsilons = _columns("epsilon", epsilons, radii, trainings)
    measured = Measured(data, head, tasks, epsilons)

    def place(entry: Entry) -> tuple[float, str, str]:
        first = entry.robust(tasks[0], epsilons[0])
        return (1.0 if first is None else -first["value"], entry.name, entry.budget)

    judged = [(entry, entry.reasons(measured)) for entry in sorted(entries, key=place)]
    return Leaderboard(
        measured,
        [entry for entry, reasons in judged if not reasons],
        [(entry, reasons) for entry, reasons in judged if reasons],
    )


def _columns(
    what: str, asked: Sequence | None, lists: list[list], trainings: Sequence[Training]
) -> tuple:
    """What is asked for, or what all trainings have, in the order of the first.

    Raises:
        InputError: it is none, or asked for twice, or no training has it.
    """
    if asked:
        if len(set(asked)) != len(asked):
            raise InputError(f"--{what} is {' '.join(map(str, asked))}; name each once")
        there = list(dict.fromkeys(one for some in lists for one in some))
        for one in asked:
            if one not in there:
                raise unknown(what, one, list(map(str, there)))
        return tuple(asked)
    shared = [one for one in lists[0] if all(one in other for other in lists)]
    if not shared:
        of_each = "; ".join(
            f"{training.name} has {', '.join(map(str, one)) or 'none'}"
            for training, one in zip(trainings, lists, strict=True)
        )
        raise InputError(f"no {what} is one of all encoders ({of_each}); give --{what}")
    return tuple(shared)


def _entries(trainings: Iterable[Training]) -> list[Entry]:
    """Trainings by what the command line calls them, or else by their config without its seed."""
    groups: dict[tuple, list[Training]] = {}
    for training in trainings:
        by = "" if training.told else str(training.setting())
        groups.setdefault((training.told, by, training.budget), []).append(training)
    entries = [_entry(told, members) for (told, _, _), members in groups.items()]
    named: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        other = named.setdefault((entry.name, entry.budget), entry)
        if other is not entry:
            files = [", ".join(f for t in e.trainings for f in t.origin) for e in (other, entry)]
            raise InputError(
                f"two entries are called {entry.name!r} ({'; '.join(files)}), and their files do "
                "not say that they differ in their seed alone; tell them apart by NAME=FILE, or "
                "give them the same NAME if it is so"
            )
    return entries


def _entry(told: str | None, members: list[Training]) -> Entry:
    """The entry of trainings, of which no two are the same."""
    members = sorted(members, key=lambda t: (t.seed is None, t.seed or 0, t.sha256))
    seeds: dict[int, Training] = {}
    for training in members:
        if training.config is None:
            continue
        first = next(iter(seeds.values()), training)
        differ = differing(first, training)
        if differ:
            raise InputError(
                f"{first.name} and {training.name}, which are called {told!r}, differ in "
                f"{', '.join(differ)}: they are no seeds of one training; give them different names"
            )
        other = seeds.setdefault(training.config["seed"], training)
        if other is not training:
            raise InputError(
                f"{other.name} ({other.sha256[:12]}) and {training.name} ({training.sha256[:12]}) "
                f"are both of the training with seed {training.seed}, with other weights; give one "
                "of them"
            )
    names = ", ".join(dict.fromkeys(training.name for training in members))
    unsaid = len(members) > 1 and any(training.config is None for training in members)
    return Entry(told or names, members[0].budget, tuple(members), unsaid)


def passed(groups: list[Values]) -> str:
    """How many checks passed, of how many; "none made" where there are none."""
    return table.passed({"groups": groups}) if groups else "none made"
