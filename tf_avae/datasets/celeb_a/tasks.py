"""CelebA's 40 attributes, and the 17 tasks that the paper's Table 3 makes of them."""

from dataclasses import dataclass

import numpy as np

from tf_avae.registry import Registry

ATTRIBUTES = tuple(
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
    "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee "
    "Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard "
    "Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
    "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie "
    "Young".split()
)
"""The attributes, in the order of the official file."""

NO_YES = ("no", "yes")


@dataclass(frozen=True)
class Task:
    """A binary task under the paper's name.

    Attributes:
        name: as Table 3 has it.
        attribute: the one of `ATTRIBUTES` that decides.
        negated: the task's class 1 is where the attribute is absent.
        classes: what classes 0 and 1 are called.
    """

    name: str
    attribute: str
    negated: bool = False
    classes: tuple[str, str] = NO_YES

    def labels(self, attributes: np.ndarray) -> np.ndarray:
        """The classes, int32 [N], of attributes bool [N, 40] in the order of `ATTRIBUTES`."""
        present = attributes[:, ATTRIBUTES.index(self.attribute)]
        return (present != self.negated).astype(np.int32)


TASKS: Registry[Task] = Registry(
    "CelebA task",
    Task("Bald", "Bald"),
    Task("Mustache", "Mustache"),
    Task("Eyeglasses", "Eyeglasses"),
    Task("Necklace", "Wearing_Necklace"),
    Task("Smiling", "Smiling"),
    Task("Lipstick", "Wearing_Lipstick"),
    Task("Bangs", "Bangs"),
    Task("Black Hair", "Black_Hair"),
    Task("Blond Hair", "Blond_Hair"),
    Task("Brown Hair", "Brown_Hair"),
    # What annotators took a face for: the data set knows no other gender, and not the person's own.
    Task("Gender", "Male", classes=("female", "male")),
    Task("Beard", "No_Beard", negated=True),
    Task("Straight Hair", "Straight_Hair"),
    Task("Wavy Hair", "Wavy_Hair"),
    Task("Earrings", "Wearing_Earrings"),
    Task("Hat", "Wearing_Hat"),
    Task("Necktie", "Wearing_Necktie"),
)
"""Those of Table 3, in its order."""


def labels_of(attributes: np.ndarray) -> dict[str, np.ndarray]:
    """The 17 tasks by name, then the attributes that none of them is called like, int32 [N] each.

    Args:
        attributes: bool [N, 40], in the order of `ATTRIBUTES`.
    """
    labels = {task.name: task.labels(attributes) for task in TASKS.values()}
    for column, name in enumerate(ATTRIBUTES):
        if name not in labels:
            labels[name] = attributes[:, column].astype(np.int32)
    return labels


def class_names() -> dict[str, tuple[str, ...]]:
    """What the classes of each label are called, in the order of `labels_of`."""
    names: dict[str, tuple[str, ...]] = {task.name: task.classes for task in TASKS.values()}
    return names | {name: NO_YES for name in ATTRIBUTES if name not in names}
