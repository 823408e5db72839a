"""An encoder with its heads, what attacks them, and what proves that nothing can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tf_avae.attacks import margin, pgd
from tf_avae.backend import tf
from tf_avae.datasets import ImageData
from tf_avae.errors import InputError
from tf_avae.evaluation import Budget, worst_case
from tf_avae.evaluation.batches import compiled, image_spec
from tf_avae.evaluation.tasks import class_name
from tf_avae.evaluation.trial_graphs import Headed, TrialGraphs
from tf_avae.evaluation.trials import pgd_trial
from tf_avae.probes import Probe
from tf_avae.saved.certified import CertifiedRadius
from tf_avae.saved.encoders import open_encoder
from tf_avae.types import Images, Tensor
from training.demo.kept import linear_heads

MOST, STEP = 0.3, 0.01
"""The largest ε, and what lies between two of them: proofs are looked for at each."""

ATTACKED = "digit"
"""The task whose class attacks change and proofs hold."""

STEPS, STARTS = 40, 10
"""Of a search, as of the budget `paper`."""


class Reading(NamedTuple):
    """What a head says.

    Attributes:
        name: the class.
        probability: of it, by the softmax of the logits.
    """

    name: str
    probability: float


class View(NamedTuple):
    """What an encoder makes of an image.

    Attributes:
        image: [H, W, C] in [0, 1].
        decoded: what its embedding is decoded to, [H, W, C].
        readings: by task.
    """

    image: np.ndarray
    decoded: np.ndarray
    readings: dict[str, Reading]


class Seen(NamedTuple):
    """What became of an image.

    Attributes:
        name: the encoder's.
        epsilon: radius of the attack, in pixel values.
        before, after: the image as it is, and attacked.
        radius: the largest on the grid of `STEP` up to `MOST` within which the digit that the head
            says is proven to stay; 0 where none is.
    """

    name: str
    epsilon: float
    before: View
    after: View
    radius: float

    @property
    def changed(self) -> bool:
        """Whether the head says another digit of the attacked image."""
        return self.before.readings[ATTACKED].name != self.after.readings[ATTACKED].name

    @property
    def proven(self) -> bool:
        """Whether no image within epsilon is read as another digit."""
        return bool(np.float32(self.radius) >= np.float32(self.epsilon))


class Reader:
    """An encoder with a linear head for each task.

    Args:
        name: what the page calls it.
        path: as `open_encoder` takes it; it must have a decoder, and layers with bounds.
        data: what its heads are fitted to.
        images: so many training images.

    Raises:
        InputError: there is no such encoder at the path, or no bounds of it.
    """

    def __init__(self, name: str, path: str | Path, data: ImageData, images: int):
        self.name = name
        self._encoder = open_encoder(path, name)
        self.heads: Mapping[str, Probe] = linear_heads(self._encoder, data, images)
        self._class_names = data.class_names
        self._shape = data.image_shape
        self._headed = Headed(self._encoder.embed, self.heads[ATTACKED])
        self._graphs = TrialGraphs()
        grid = [round(STEP * k, 2) for k in range(1, round(MOST / STEP) + 1)]
        self._certified = CertifiedRadius(path, grid, proof="crown")
        self._certified.prove(lambda x: {"logits": self._headed(tf.constant(x))}, self._headed.head)

    def logits(self, images: Images) -> dict[str, Tensor]:
        """Images [B, H, W, C] to the logits of each head, [B, K]."""
        embedding = self._encoder.embed(images)
        return {task: head(embedding) for task, head in self.heads.items()}

    def look(self, image: np.ndarray, epsilon: float, aim: str) -> Seen:
        """Attacks an image, as the head of digits reads it.

        Args:
            image: [H, W, C] float32 in [0, 1].
            epsilon: radius in pixel values, from 0 to `MOST`; it is rounded to the grid.
            aim: a key of `AIMS`.

        Raises:
            InputError: a radius or an aim that there is not, or images that are none.
        """
        if not 0 <= epsilon <= MOST:
            raise InputError(f"epsilon is {epsilon:g}; it must be from 0 to {MOST:g}")
        if aim not in AIMS:
            raise InputError(f"the attack's aim is {aim!r}; choose one of {', '.join(AIMS)}")
        epsilon = round(STEP * round(epsilon / STEP), 2)
        before = self._view(image)
        (column,) = self.heads[ATTACKED].columns([int(before.readings[ATTACKED].name)])
        attacked = AIMS[aim](self, image, column, epsilon)
        (radius,) = self._radius(tf.constant(image[np.newaxis])).numpy()
        return Seen(self.name, epsilon, before, self._view(attacked), float(radius))

    def any_other(
        self, image: np.ndarray, column: int, epsilon: float, *, budget: Budget | str, starts: int
    ) -> np.ndarray:
        """An attacked image [H, W, C]: any class but that of the column will do.

        Args:
            image, column, epsilon: what is attacked, as what it is read, and how far.
            budget: of each of the searches, which are made side by side.
            starts: how many these are.
        """
        images, columns = _copies(image, starts), np.full(starts, column)
        found = worst_case(
            self._headed, images, columns, epsilon=epsilon, budget=budget, graphs=self._graphs
        )
        return found.attacked[found.margin.argmax()]

    def towards(self, image: np.ndarray, column: int, epsilon: float, *, digit: int) -> np.ndarray:
        """An attacked image [H, W, C] that the head shall read as a digit; the image itself where
        it does so already."""
        (wanted,) = self.heads[ATTACKED].columns([digit])
        if wanted == column:
            return image
        found, lead = self._search(
            tf.constant(_copies(image, STARTS)),
            tf.fill([STARTS], tf.constant(wanted, tf.int32)),
            tf.constant(epsilon, tf.float64),
        )
        return found.numpy()[lead.numpy().argmax()]

    @cached_property
    def _search(self) -> Callable:
        targets, radius = tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.float64)

        @compiled(image_spec(self._shape), targets, radius)
        def search(images: Images, targets: Tensor, epsilon: Tensor) -> tuple[Images, Tensor]:
            def lead(x: Images) -> Tensor:
                return -margin(self._headed(x), targets)

            found = pgd(lead, images, epsilon=epsilon, steps=STEPS, seed=0)
            return found, lead(found)

        return search

    @cached_property
    def _radius(self) -> Callable:
        return compiled(image_spec(self._shape))(lambda x: self._certified(x, self._headed(x)))

    def _view(self, image: np.ndarray) -> View:
        assert self._encoder.decode
        embedding = self._encoder.embed(tf.constant(image[np.newaxis]))
        readings = {}
        for task, head in self.heads.items():
            (probabilities,) = tf.nn.softmax(head(embedding)).numpy()
            column = probabilities.argmax()
            name = class_name(task, int(head.classes[column]), self._class_names)
            readings[task] = Reading(name, float(probabilities[column]))
        return View(image, np.asarray(self._encoder.decode(embedding))[0], readings)


def _copies(image: np.ndarray, count: int) -> np.ndarray:
    return np.repeat(image[np.newaxis], count, axis=0)


Aim = Callable[[Reader, np.ndarray, int, float], np.ndarray]
"""(reader, image, column as which it is read, epsilon) to an attacked image."""

# Side by side the starts of the budget `paper` take a tenth of the time.
_SHORT = Budget("short", f"PGD, {STEPS} steps, one start", (pgd_trial(STEPS),))

AIMS: dict[str, Aim] = {
    "none: any other digit": partial(Reader.any_other, budget=_SHORT, starts=STARTS),
    "none, and a longer search": partial(Reader.any_other, budget="strong", starts=1),
    **{f"the digit {digit}": partial(Reader.towards, digit=digit) for digit in range(10)},
}
"""What an attack wants the head to say, by the words of the page."""

FIRST, *_ = AIMS
