"""What of each label can be measured: classes are what the labels say, and numbers may be missing.

A head has a column for each class with two training images or more. What cannot be measured is
left out by name: test images of another class, and a label of which too little is left.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tf_avae.probes import LEAST_EXAMPLES

ClassNames = Mapping[str, Sequence[str]]
"""By label, what its classes are called, by their numbers."""


@dataclass(frozen=True)
class Task:
    """What of a label is measured.

    Attributes:
        classes: class numbers, ascending, [K]: a head's column k is of classes[k].
        at: positions among the test images of those that are measured, ascending, [M].
        labels: their columns, [M] in [0, K).
    """

    classes: np.ndarray
    at: np.ndarray
    labels: np.ndarray

    def first(self, count: int, images: np.ndarray) -> np.ndarray:
        """The first measured ones of all test images (or what there is one of for each), at most
        `count`: not a copy where none before them is left out."""
        at = self.at[:count]
        return images[: len(at)] if at[-1] == len(at) - 1 else images[at]

    def among(self, count: int) -> "Task":
        """What is measured of the first `count` test images; it may be none."""
        return replace(self, at=self.at[self.at < count], labels=self.labels[self.at < count])


def measured_tasks(
    test: Mapping[str, np.ndarray],
    train: Mapping[str, Counter[int]],
    names: ClassNames | None = None,
) -> tuple[dict[str, Task], dict[str, str]]:
    """The tasks that can be measured, and why what else there is cannot.

    Args:
        test: labels of the test images, class numbers [N] by task.
        train: number of training images by class number, by task; a task may be missing.
        names: of classes.

    Returns:
        tasks by name, and a reason for each that is left out, whole or a class of it.
    """
    tasks: dict[str, Task] = {}
    left_out: dict[str, str] = {}
    for task, labels in test.items():
        if task not in train:
            left_out[task] = "the training images have no such label"
            continue
        there = train[task]
        fitted = np.array(sorted(k for k, count in there.items() if count >= LEAST_EXAMPLES), int)
        at = np.flatnonzero(np.isin(labels, fitted))
        if len(fitted) < 2:
            left_out[task] = (
                f"classes with {LEAST_EXAMPLES} training images or more: {len(fitted)}; a head "
                "needs 2 such classes"
            )
        elif not len(at):
            left_out[task] = "no test image is of a class that a head is fitted to"
        else:
            tasks[task] = Task(fitted, at, np.searchsorted(fitted, labels[at]))
            left_out |= _classes_left_out(task, labels, there, names)
    return tasks, left_out


def _classes_left_out(
    task: str, labels: np.ndarray, train: Counter[int], names: ClassNames | None
) -> dict[str, str]:
    """Why a task's classes are not measured, of those that are not."""
    reasons = {}
    for number in sorted(set(labels.tolist()) | set(train)):
        if train[number] < LEAST_EXAMPLES:
            name = class_name(task, number, names)
            called = "" if name == str(number) else f" ({name})"
            reasons[f"{task}, class {number}{called}"] = (
                f"{train[number] or 'no'} training image, and a head needs {LEAST_EXAMPLES} of a "
                f"class; test images left out: {np.sum(labels == number)}"
            )
    return reasons


def class_name(task: str, number: int, names: ClassNames | None) -> str:
    """What a class is called: its number where it has no name."""
    of_task = (names or {}).get(task, ())
    return of_task[number] if number < len(of_task) else str(number)
