"""The whole evaluation of encoders, side by side: probes, attacks, checks, and what stands beside.

An encoder is a few callables, so one that is not ours is evaluated in the same way:

    evaluate([Encoder("mine", embed=network)], train=..., test=..., settings=Settings("paper"))
"""

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tf_avae.backend import tf
from tf_avae.errors import InputError
from tf_avae.evaluation.certified import planned_certified
from tf_avae.evaluation.detection import planned_detection
from tf_avae.evaluation.encoder import Batches, Encoder
from tf_avae.evaluation.evaluated import SHOWN, EvaluatedEncoder, Report, WorkProgress, planned_work
from tf_avae.evaluation.fid import Extractor
from tf_avae.evaluation.heads import telling_epsilon
from tf_avae.evaluation.inputs import (
    TestImages,
    check_encoder,
    check_encoders,
    check_extractor,
    check_shape,
    encoder_digest,
    read_test_images,
    read_train_images,
    test_digest,
)
from tf_avae.evaluation.part_store import PartStore
from tf_avae.evaluation.section import NO_GRADIENTS, NO_TASKS, SECTIONS, Piece
from tf_avae.evaluation.sections import FARTHEST, allowed_distances, moved
from tf_avae.evaluation.settings import Settings
from tf_avae.evaluation.table import attack_of, failed
from tf_avae.evaluation.tasks import ClassNames, Task, class_name, measured_tasks
from tf_avae.provenance import provenance, source_checksum


class Pictures(NamedTuple):
    """Images for a report, [N, H, W, C] each.

    Attributes:
        heading: what they show.
        rows: name to images.
        captions: of each image the attack, and perhaps what a head read it as.
    """

    heading: str
    rows: dict[str, np.ndarray]
    captions: list[tuple[str, ...]]


class Evaluation(NamedTuple):
    """What was found.

    Attributes:
        results: JSON values: settings, data, and a record for each encoder.
        pictures: sheets of images for each encoder.
        evaluated_encoders: by the encoder's name, what was evaluated, with its fitted heads.
    """

    results: dict[str, Any]
    pictures: list[list[Pictures]]
    evaluated_encoders: dict[str, EvaluatedEncoder]

    @property
    def checked(self) -> bool:
        """Whether the checks were made of each encoder."""
        return all("checks" in encoder for encoder in self.results["encoders"])

    @property
    def failed_checks(self) -> list[tuple[str, str, str, str]]:
        """(encoder, task, head, check) of the checks that failed."""
        return [
            (encoder["name"], group["task"], group["head"], check["name"])
            for encoder in self.results["encoders"]
            if "checks" in encoder
            for group, check in failed(encoder["checks"])
        ]


def evaluate(
    encoders: list[Encoder],
    *,
    train: Batches,
    test: Batches,
    settings: Settings | None = None,
    extractor: Extractor | None = None,
    data: dict[str, Any] | None = None,
    folder: Path | None = None,
    progress: Callable[[Report], None] = lambda report: None,
    class_names: ClassNames | None = None,
    shards: Callable[[str], None] | None = None,
) -> Evaluation:
    """Evaluates encoders on the same images, by the same protocol.

    Args:
        encoders: with different names.
        train: the training split, for the probes; read anew for each encoder.
        test: the test split.
        settings: what is measured; the paper's protocol unless given.
        extractor: of features for the FID.
        data: where the images come from, for the result.
        folder: where finished parts are kept; a call that was stopped goes on from there.
        progress: called with the current work.
        class_names: what classes are called, by their numbers, for what is said of them.
        shards: has the attacks and proofs done by `evaluate_shard`, in the same folder: called with
            the digest that it gives, before anything is measured. All of them must be there then.

    Returns:
        what was found. What of the labels cannot be measured is named, with the reason, in
        `results["data"]["left_out"]`.

    Raises:
        InputError: encoders that do not fit the images or one another, images or labels that are
            none (all of them are looked at before the work), labels that are asked for and not
            there, nothing that can be measured, or a part that is not there and must be.
        ProofContradicted: an attack broke an image that bounds verify.
    """
    settings = settings or Settings()
    images, tasks, left_out, opened, work_progress, digest = _opened(
        encoders, train, test, settings, extractor, folder, progress, class_names
    )
    if shards is not None:
        shards(digest)
    records, pictures = [], []
    for evaluated in opened:
        if shards is not None:
            evaluated.find_all(_pieces(evaluated))
        record: dict[str, Any] = {
            "name": evaluated.encoder.name, **evaluated.encoder.notes, "left_out": {}
        }  # fmt: skip
        for section in SECTIONS.values():
            if section.name not in settings.sections:
                continue
            lacking = section.cannot(evaluated)
            if lacking:
                record["left_out"][section.name] = lacking
            else:
                record[section.name] = section.measure(evaluated)
            work_progress.forget((section.name, evaluated.encoder.name))
        records.append(record)
        pictures.append(_pictures(evaluated, class_names))
    results = {
        "settings": asdict(settings) | {"tasks": list(tasks)},
        "data": {**(data or {}), **_of_data(images, tasks, left_out)},
        "encoders": records,
    }
    return Evaluation(results, pictures, {one.encoder.name: one for one in opened})


class Shard(NamedTuple):
    """One of several shards of an evaluation's attacks and proofs, which are batches of images.

    Attributes:
        number: from 1; 0 is what comes before: heads are fitted once, for all.
        of: how many there are.
    """

    number: int
    of: int


def evaluate_shard(
    encoders: list[Encoder],
    shard: Shard,
    *,
    train: Batches,
    test: Batches,
    folder: Path,
    settings: Settings | None = None,
    progress: Callable[[Report], None] = lambda report: None,
) -> tuple[int, str]:
    """Does one shard of an evaluation's attacks and proofs, and keeps their parts in a folder,
    where `evaluate` finds them. It may be done anywhere: what becomes of an image is the same, bit
    by bit, where the encoder computes the same.

    Args:
        encoders, train, test, settings, progress: as `evaluate` takes them.
        shard: which.
        folder: where parts are kept.

    Returns:
        how many pieces of work it was, and a digest of all that decides what comes of them.

    Raises:
        InputError: as `evaluate`.
    """
    settings = settings or Settings()
    found = _opened(encoders, train, test, settings, None, folder, progress, None)
    opened, planned = found.evaluated, found.work_progress.planned
    if shard.number == 0:
        found.work_progress.planned = {}
        for evaluated, task, head in itertools.product(opened, found.tasks, settings.heads):
            evaluated.fitted(task, head)
        return len(opened) * len(found.tasks) * len(settings.heads), found.digest
    pieces = [piece for evaluated in opened for piece in _pieces(evaluated)]
    mine = pieces[shard.number - 1 :: shard.of]
    found.work_progress.planned = {each.work: planned.get(each.work, 0.0) for each in mine}
    for piece in mine:
        piece.do()
    return len(mine), found.digest


def _pieces(evaluated: EvaluatedEncoder) -> list[Piece]:
    """What of an encoder's evaluation can be done elsewhere, each once."""
    settings = evaluated.settings
    found = [
        piece
        for section in SECTIONS.values()
        if section.name in settings.sections and section.pieces and not section.cannot(evaluated)
        for piece in section.pieces(evaluated)
    ]
    return list({piece.work: piece for piece in found}.values())


class _Opened(NamedTuple):
    """What an evaluation works with: test images, tasks, labels left out and why, an encoder under
    evaluation for each encoder, the planned work, and a digest of all that decides the outcome."""

    images: TestImages
    tasks: dict[str, Task]
    left_out: dict[str, str]
    evaluated: list[EvaluatedEncoder]
    work_progress: WorkProgress
    digest: str


def _opened(
    encoders: list[Encoder],
    train: Batches,
    test: Batches,
    settings: Settings,
    extractor: Extractor | None,
    folder: Path | None,
    progress: Callable[[Report], None],
    class_names: ClassNames | None,
) -> _Opened:
    """Looks at all that `evaluate` is given."""
    check_encoders(encoders)
    _must_search(encoders, settings)
    images = read_test_images(test, settings.tasks)
    for encoder in encoders:  # before the training split is read, which may take minutes
        check_shape(encoder, images.images.shape[1:])
    split = read_train_images(
        train, tuple(images.labels), images.images.shape[1:], must=settings.tasks is not None
    )
    for encoder in encoders:
        check_encoder(encoder, images.images, through_decoder="detection" in settings.sections)
    if extractor is not None:
        check_extractor(extractor, images.images)
    tasks, left_out = measured_tasks(images.labels, split.counts, class_names)
    _must_measure(tasks, left_out, settings)
    if tasks and "probes" in settings.sections and settings.neighbours > split.size:
        left_out["nearest neighbours"] = (
            f"{split.size} training images, fewer than the {settings.neighbours} asked for"
        )
    work_progress = WorkProgress(progress)
    for encoder in encoders:
        if encoder.gradients:
            channels = images.images.shape[3]
            work_progress.planned |= planned_work(encoder.name, tasks, settings, channels)
        work_progress.planned |= planned_detection(encoder, images, tasks, settings)
        work_progress.planned |= planned_certified(encoder, tasks, settings)
    # All that decides every part's outcome, so that no part is taken for another's.
    common = {
        "test": test_digest(images),
        "train": split.digest,
        "tasks": list(tasks),
        "seed": settings.seed,
        "norm": settings.norm,
        "batch_size": settings.batch_size,
        "source": source_checksum(),
        "versions": provenance()["versions"],
    }
    identities = [{"encoder": encoder_digest(each, images.images), **common} for each in encoders]
    opened = [
        EvaluatedEncoder(
            encoder, train, images, tasks, split.size, settings, extractor,
            PartStore(folder, identity), work_progress,
        )
        for encoder, identity in zip(encoders, identities, strict=True)
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(identities, sort_keys=True).encode()).hexdigest()
    return _Opened(images, tasks, left_out, opened, work_progress, digest)


def _must_measure(tasks: dict[str, Task], left_out: dict[str, str], settings: Settings) -> None:
    """Raises `InputError` where nothing that is asked for can be measured."""
    if not tasks and all(SECTIONS[name].of_tasks for name in settings.sections):
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise InputError(
            f"nothing can be measured: {NO_TASKS} ({why or 'the data have no labels'}); give such "
            "labels, or ask for other sections"
        )


def _must_search(encoders: list[Encoder], settings: Settings) -> None:
    """Raises `InputError` where only searches along gradients are asked for of an encoder that has
    none."""
    if not all(SECTIONS[name].by_gradients for name in settings.sections):
        return
    for encoder in encoders:
        if not encoder.gradients:
            raise InputError(f"nothing of {encoder.name} can be measured: {NO_GRADIENTS}")


def _of_data(
    images: TestImages, tasks: dict[str, Task], left_out: dict[str, str]
) -> dict[str, Any]:
    """How many test images there are; and by task, where that is not the usual, how many of them
    are measured, the class numbers of a head's columns, and what is left out."""
    count = len(images.images)
    unusual = {
        "measured": {name: len(task.at) for name, task in tasks.items() if len(task.at) < count},
        "classes": {
            name: task.classes.tolist()
            for name, task in tasks.items()
            if task.classes[-1] >= len(task.classes)
        },
        "left_out": left_out,
    }
    shape = list(images.images.shape[1:])
    return {
        "test_images": count,
        "image_shape": shape,
        **{key: value for key, value in unusual.items() if value},
    }


def _pictures(evaluated: EvaluatedEncoder, names: ClassNames | None) -> list[Pictures]:
    """What attacks do to images that they broke, and to those that they moved farthest."""
    settings, head = evaluated.settings, evaluated.settings.heads[0]
    sheets = []

    def made(name: str) -> bool:
        return name in settings.sections and not SECTIONS[name].cannot(evaluated)

    for task in evaluated.tasks if made("robustness") else ():
        epsilon = telling_epsilon(evaluated, task, head)
        found = evaluated.outcomes(task, head, epsilon)
        broken = np.flatnonzero(found.broken_by[:SHOWN] >= 0)[:FARTHEST]
        if len(broken):
            images, labels = evaluated.attacked(task, SHOWN)
            attacked = found.attacked[broken]
            said = evaluated.classify(task, head)(tf.constant(attacked)).numpy().argmax(1)
            before, after = (
                [class_name(task, number, names) for number in evaluated.tasks[task].classes[of]]
                for of in (labels[broken], said)
            )
            attacks = [attack_of(found.trials[number]) for number in found.broken_by[broken]]
            read = [f"{right} → {wrong}" for right, wrong in zip(before, after, strict=True)]
            captions: list[tuple[str, ...]] = list(zip(attacks, read, strict=True))
            what = f"broken for {task}, ε = {epsilon:g}"
            sheets.append(_before_and_after(evaluated, what, images[broken], attacked, captions))
    for distance in allowed_distances(evaluated)[:1] if made("representation") else ():
        epsilon = max(settings.epsilons)
        worst = moved(evaluated, distance, epsilon, False).arrays
        what = f"moved farthest by {distance.name}, ε = {epsilon:g}"
        images = evaluated.test.images[worst["worst"]]
        captions = [(f"pgd-{evaluated.budget.steps}",)] * len(images)
        sheets.append(_before_and_after(evaluated, what, images, worst["found"], captions))
    return sheets


def _before_and_after(
    evaluated: EvaluatedEncoder, what: str, images: np.ndarray, attacked: np.ndarray,
    captions: list[tuple[str, ...]],
) -> Pictures:  # fmt: skip
    rows = {"x": images, "xᵃ": attacked, "change": attacked - images}
    decode = evaluated.encoder.decode
    if decode is not None:
        for name, x in (("g(μ(x))", images), ("g(μ(xᵃ))", attacked)):
            rows[name] = np.asarray(decode(evaluated.encoder.embed(tf.constant(x))))
    return Pictures(f"{evaluated.encoder.name}: {what}", rows, captions)
