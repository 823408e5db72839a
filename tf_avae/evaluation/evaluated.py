"""An encoder under evaluation: what sections share, computed on first use."""

import itertools
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tf_avae.attacks import BALLS
from tf_avae.backend import tf
from tf_avae.distributions import Posterior
from tf_avae.errors import InputError
from tf_avae.evaluation.batches import compiled, image_spec, in_batches
from tf_avae.evaluation.budgets import BUDGETS, Budget
from tf_avae.evaluation.consistency import inconsistency
from tf_avae.evaluation.encoder import Batches, Encoder
from tf_avae.evaluation.fid import Extractor
from tf_avae.evaluation.inputs import TestImages
from tf_avae.evaluation.part_store import Part, PartStore
from tf_avae.evaluation.robustness import TRIAL_LETTERS, Outcomes, Stand, joined, worst_case
from tf_avae.evaluation.section import Piece
from tf_avae.evaluation.settings import Settings
from tf_avae.evaluation.tasks import Task
from tf_avae.evaluation.trial_graphs import Headed, TrialGraphs
from tf_avae.evaluation.trials import Classifier, Extent
from tf_avae.inputs import seed_of
from tf_avae.probes import HEADS, Fitted, Probe
from tf_avae.types import Images, PerExample

if TYPE_CHECKING:
    from tf_avae.evaluation.prover import Prover

_PROBED = 3  # images that an encoder's layers are tried on

SHOWN = 50
"""Attacked images are kept of so many first test images."""


class Report(NamedTuple):
    """The progress of an evaluation.

    Attributes:
        text: the current work.
        done: work done by this call, in gradient steps of one image.
        left: the remaining planned work in the same unit, at most.
    """

    text: str
    done: float
    left: float


Work = tuple
"""A key of planned work."""


class WorkProgress:
    """Adds up work, for estimates of the remaining time.

    Attributes:
        planned: work that has not begun, in gradient steps of one image, by key.
    """

    def __init__(self, progress: Callable[[Report], None]):
        self.planned: dict[Work, float] = {}
        self._progress = progress
        self._done = self._within = 0.0

    def begin(self, work: Work) -> None:
        """Some of the planned work begins, or was done before."""
        self.planned.pop(work, None)

    def forget(self, owner: Any) -> None:
        """What is left of the work whose keys begin with this is not done."""
        self.planned = {work: cost for work, cost in self.planned.items() if work[0] != owner}

    def end(self) -> None:
        """The work that began is done."""
        self._done += self._within
        self._within = 0.0

    def say(self, text: str, stand: Stand | None = None) -> None:
        """Reports the current work."""
        self._within = stand.done if stand else 0.0
        left = (stand.left if stand else 0.0) + sum(self.planned.values())
        self._progress(Report(text, self._done + self._within, left))


def images_through(head: str, settings: Settings, available: int) -> int:
    """How many of the first test images are attacked through a head."""
    count = min(settings.images or BUDGETS[settings.budget].images or available, available)
    return count if head == settings.heads[0] else min(count, settings.other_images)


def batches(head: str, settings: Settings, available: int) -> list[range]:
    """Places of the test images that are attacked through a head, in batches.

    An image stays in its batch whatever becomes of the others there, and each batch has its own
    random numbers: what becomes of it does not depend on which other batches are attacked, or
    where. So an evaluation can be split, and one of more images goes on from one of fewer.
    """
    count, size = images_through(head, settings, available), settings.batch_size
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def planned_work(
    encoder: str, tasks: Mapping[str, Task], settings: Settings, channels: int
) -> dict[Work, float]:
    """The gradient steps of one image that attacks through heads take at most, by part."""
    work: dict[Work, float] = {}
    if not {"robustness", "checks"} & set(settings.sections):
        return work
    for name, task in tasks.items():
        extent = Extent(len(task.classes), channels)
        cost = BUDGETS[settings.budget].cost(extent, settings.norm)
        for head, epsilon in itertools.product(settings.heads, settings.epsilons):
            for among in batches(head, settings, len(task.at)):
                work[encoder, name, head, epsilon, among] = cost * len(among)
    return work


class EvaluatedEncoder:
    """One encoder under evaluation: what the sections share, computed on first use.

    Args:
        encoder: the encoder.
        train: the training split.
        test: the test images.
        tasks: labels to predict, and what of them is measured.
        train_size: number of training images.
        settings: what is measured.
        extractor: of features for the FID.
        parts: finished parts.
        work_progress: gets reports of the current work.
    """

    def __init__(
        self,
        encoder: Encoder,
        train: Batches,
        test: TestImages,
        tasks: Mapping[str, Task],
        train_size: int,
        settings: Settings,
        extractor: Extractor | None,
        parts: PartStore,
        work_progress: WorkProgress,
    ):
        self.encoder, self.settings, self.extractor = encoder, settings, extractor
        self.test, self.tasks, self.train_size = test, tasks, train_size
        self._train, self._parts, self._work_progress = train, parts, work_progress
        # Each traced once, for all radii.
        self.graphs, self.move_graphs = TrialGraphs(), dict[tuple, Callable]()

    @property
    def budget(self) -> Budget:
        return BUDGETS[self.settings.budget]

    def say(self, text: str, stand: Stand | None = None) -> None:
        """Reports the current work; the receiver may raise to stop it."""
        self._work_progress.say(f"{self.encoder.name}: {text}", stand)

    def part(
        self,
        name: str,
        settings: dict[str, Any],
        make: Callable[[], Part],
        work: Work | None = None,
    ) -> Part:
        """A part, from earlier or made now.

        Args:
            name, settings: they identify it.
            make: computes it.
            work: its key in the planned work.
        """
        found = self._parts.find(name, settings)
        if work is not None:
            self._work_progress.begin(work)
        if found is None:
            found = make()
            self._parts.keep(name, settings, found)
        if work is not None:
            self._work_progress.end()
        return found

    def find_all(self, pieces: list[Piece]) -> None:
        """Looks for the parts of pieces of work.

        Raises:
            InputError: one is not there.
        """
        self._parts.closed = True
        for piece in pieces:
            piece.do()
        self._parts.closed = False

    def of_images(self, function: Callable[[Images], Any], images: np.ndarray) -> Any:
        """A function's results over images [N, H, W, C], in batches of the settings' size."""
        graph = compiled(image_spec(images.shape[1:]))(function)
        return in_batches(graph, images, batch_size=self.settings.batch_size)

    def inconsistency(self, images: Images) -> PerExample:
        """W2^2(q(z|x), q(z|g(mu(x)))), [B]; of an encoder with a decoder."""
        assert self.encoder.decode
        return inconsistency(self.encoder.encode, self.encoder.decode, images)

    @cached_property
    def posterior(self) -> Posterior:
        """Means and variances of all test images, [N, D] each."""
        self.say("encoding the test images")
        return self.of_images(self.encoder.encode, self.test.images)

    @cached_property
    def train_embeddings(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Embeddings and class numbers of the training split, [M, D] and [M] by task.

        Raises:
            InputError: it has not as many images as when it was read first.
        """
        self.say("encoding the training images")
        embed = compiled(image_spec(self.test.images.shape[1:]))(self.encoder.embed)
        found, labels = [], []
        for images, of_images in self._train:
            found.append(np.asarray(embed(tf.convert_to_tensor(images))))
            labels.append({task: np.asarray(of_images[task]) for task in self.tasks})
            self.say("encoding the training images")
        size = sum(map(len, found))
        if size != self.train_size:
            raise InputError(
                f"there were {self.train_size:,} training images, and {size:,} when they were read "
                "again; give a list of batches, or a tf.data.Dataset that starts anew each time"
            )
        return np.concatenate(found), {
            task: np.concatenate([part[task] for part in labels]) for task in self.tasks
        }

    def fitted(self, task: str, head: str) -> Fitted:
        """A head fitted to the training embeddings, of the classes that are measured."""

        def make() -> Part:
            embeddings, labels = self.train_embeddings
            self.say(f"fitting the {head} probe of {task}")
            kept = np.isin(labels[task], self.tasks[task].classes)
            if not kept.all():
                embeddings, labels = embeddings[kept], {task: labels[task][kept]}
            probe, notes = HEADS[head].fit(embeddings, labels[task], self.settings.seed)
            arrays = {"mean": probe.mean, "scale": probe.scale, "classes": probe.classes}
            for number, (kernel, bias) in enumerate(probe.layers):
                arrays |= {f"kernel{number}": kernel, f"bias{number}": bias}
            return Part(notes, arrays)

        values, arrays = self.part("probe", {"task": task, "head": head}, make)
        count = sum(name.startswith("kernel") for name in arrays)
        layers = tuple((arrays[f"kernel{n}"], arrays[f"bias{n}"]) for n in range(count))
        probe = Probe(arrays["mean"], arrays["scale"], layers, arrays["classes"])
        return Fitted(probe, values)

    def classify(self, task: str, head: str) -> Classifier:
        """The classifier that is attacked: head and encoder in one."""
        return Headed(self.encoder.embed, self.fitted(task, head).probe)

    def logits(self, task: str, head: str) -> np.ndarray:
        """What a head says of each measured test image, [M, K] float32."""
        means = self.tasks[task].first(len(self.test.images), self.posterior.mean)
        return np.asarray(self.fitted(task, head).probe(means))

    def nominal(self, task: str, head: str) -> np.ndarray:
        """Whether each measured test image is classified correctly, bool [M]."""
        return self.logits(task, head).argmax(1) == self.tasks[task].labels

    @cached_property
    def prover(self) -> "Prover":
        """Bounds of what heads say through the encoder.

        Raises:
            InputError: there are none.
        """
        from tf_avae.evaluation.prover import Prover

        self.say("reading its layers")
        return Prover(self.encoder, self.test.images[:_PROBED])

    def attacked(self, task: str, stop: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The first measured test images, at most `stop`, without the first `start` of them, and
        the columns of their labels."""
        of_task = self.tasks[task]
        return of_task.first(stop, self.test.images)[start:], of_task.labels[start:stop]

    def batches(self, task: str, head: str) -> list[range]:
        """Places of the measured test images that are attacked through a head, in batches."""
        return batches(head, self.settings, len(self.tasks[task].at))

    def outcomes(self, task: str, head: str, epsilon: float) -> Outcomes:
        """The worst case over the budget; its points are those of the first measured test images,
        for the pictures and the checks."""
        parts = [self.outcomes_of(task, head, epsilon, of) for of in self.batches(task, head)]
        return joined(parts)

    def outcomes_of(self, task: str, head: str, epsilon: float, among: range) -> Outcomes:
        """The same of one batch alone."""
        shown = max(SHOWN, self.settings.free_images) - among.start
        kept = max(0, min(shown, len(among)))
        settings = {
            "task": task, "head": head, "epsilon": epsilon, "images": [among.start, among.stop],
            "budget": self.settings.budget, "kept": kept,
        }  # fmt: skip

        def make() -> Part:
            images, labels = self.attacked(task, among.stop, among.start)
            count = len(self.batches(task, head))
            started = self._parts.find("started", settings)
            classify = self.classify(task, head)
            which = f", images {among.start + 1:,} to {among.stop:,}" if count > 1 else ""
            what = f"{head} probe of {task}, ε {epsilon:g}{which}"
            found = worst_case(
                classify,
                images,
                labels,
                epsilon=epsilon,
                budget=self.budget,
                # Each trial adds less than the number of images times that of the letters.
                seed=seed_of(self.settings.seed) + [0, among.start * len(TRIAL_LETTERS)],
                ball=BALLS[self.settings.norm],
                batch_size=self.settings.batch_size,
                progress=lambda stand: self.say(
                    f"{what}: {stand.trial}, {stand.unbroken:,} of {len(among):,} unbroken", stand
                ),
                earlier=None if started is None else _outcomes(started),
                # Later trials go on from the points that earlier ones found.
                after_trial=lambda so_far: self._parts.keep(
                    "started", settings, _kept(so_far, len(among))
                ),
                graphs=self.graphs,
            )
            return _kept(found, kept)

        work = (self.encoder.name, task, head, epsilon, among)
        finished = self.part("outcomes", settings, make, work)
        self._parts.drop("started", settings)
        return _outcomes(finished)


def _kept(found: Outcomes, images: int) -> Part:
    """Outcomes as a part, with the points of the first examples alone."""
    arrays = {
        "clean": found.clean,
        "broken_by": found.broken_by,
        "attacked": found.attacked[:images].copy(),  # not a view that holds all of them
        "margin": found.margin,
    }
    return Part({"trials": list(found.trials)}, arrays)


def _outcomes(part: Part) -> Outcomes:
    """The outcomes that were kept."""
    return Outcomes(trials=tuple(part.values["trials"]), **part.arrays)
