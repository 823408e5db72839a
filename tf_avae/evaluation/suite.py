"""The whole evaluation of encoders, side by side: probes, attacks, checks, and what stands beside.

An encoder is a few callables, so one that is not ours is evaluated in the same way:

    evaluate([Encoder("mine", embed=network)], train=..., test=..., settings=Settings("paper"))
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_avae.evaluation.detection import planned_detection
from tf_avae.evaluation.encoder import Batches, Encoder
from tf_avae.evaluation.fid import Extractor
from tf_avae.evaluation.heads import telling_epsilon
from tf_avae.evaluation.inputs import (
    check_encoder,
    check_extractor,
    check_names,
    chosen_tasks,
    encoder_digest,
    read_test_images,
    test_digest,
    train_digest,
)
from tf_avae.evaluation.parts import Parts
from tf_avae.evaluation.sections import FARTHEST, SECTIONS, allowed_distances, moved
from tf_avae.evaluation.settings import Settings
from tf_avae.evaluation.subject import SHOWN, Report, Subject, Teller, planned_work
from tf_avae.evaluation.table import failed
from tf_avae.provenance import provenance, source_checksum


class Pictures(NamedTuple):
    """Images for a report, [N, H, W, C] each.

    Attributes:
        heading: what they show.
        rows: name to images.
    """

    heading: str
    rows: dict[str, np.ndarray]


class Evaluation(NamedTuple):
    """What was found.

    Attributes:
        results: JSON values: settings, data, and a record for each encoder.
        pictures: sheets of images for each encoder.
        subjects: by the encoder's name, what was evaluated, with its fitted heads.
    """

    results: dict[str, Any]
    pictures: list[list[Pictures]]
    subjects: dict[str, Subject]

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
    progress: Callable[[Report], None] | None = None,
) -> Evaluation:
    """Evaluates encoders on the same images, by the same protocol.

    Args:
        encoders: with different names.
        train: the training split, for the probes.
        test: the test split.
        settings: what is measured; the paper's protocol unless given.
        extractor: of features for the FID.
        data: where the images come from, for the result.
        folder: where finished parts are kept; a call that was stopped goes on from there.
        progress: told what is being done.

    Raises:
        InputError: encoders that do not fit the images or one another, labels that are missing.
    """
    settings = settings or Settings()
    check_names([encoder.name for encoder in encoders])
    images = read_test_images(test)
    tasks = chosen_tasks(images, settings.tasks)
    for encoder in encoders:
        check_encoder(encoder, images.images, through_decoder="detection" in settings.sections)
    if extractor is not None:
        check_extractor(extractor, images.images)
    teller = Teller(progress)
    for encoder in encoders:
        teller.planned |= planned_work(encoder.name, images, tasks, settings)
        teller.planned |= planned_detection(encoder, images, tasks, settings)
    # All that decides every part's outcome, so that no part is taken for another's.
    common = {
        "test": test_digest(images),
        "train": train_digest(train, tasks),
        "tasks": tasks,
        "seed": settings.seed,
        "norm": settings.norm,
        "batch_size": settings.batch_size,
        "source": source_checksum(),
        "versions": provenance()["versions"],
    }
    records, pictures, subjects = [], [], {}
    for encoder in encoders:
        identity = {"encoder": encoder_digest(encoder, images.images), **common}
        parts = Parts(folder, identity)
        subject = Subject(encoder, train, images, tasks, settings, extractor, parts, teller)
        record: dict[str, Any] = {"name": encoder.name, **encoder.notes, "left_out": {}}
        for section in SECTIONS.values():
            if section.name not in settings.sections:
                continue
            lacking = section.lacks(subject)
            if lacking:
                record["left_out"][section.name] = lacking
            else:
                record[section.name] = section.measure(subject)
        records.append(record)
        subjects[encoder.name] = subject
        pictures.append(_pictures(subject))
    results = {
        "settings": asdict(settings) | {"tasks": list(tasks)},
        "data": {**(data or {}), "test_images": len(images.images)},
        "encoders": records,
    }
    return Evaluation(results, pictures, subjects)


def _pictures(subject: Subject) -> list[Pictures]:
    """What attacks do, on images that they broke, and on those that they moved farthest."""
    settings, head = subject.settings, subject.settings.heads[0]
    sheets = []
    for task in subject.tasks if "robustness" in settings.sections else ():
        epsilon = telling_epsilon(subject, task, head)
        found = subject.outcomes(task, head, epsilon)
        broken = np.flatnonzero(found.broken_by[:SHOWN] >= 0)[:FARTHEST]
        if len(broken):
            sheets.append(
                Pictures(
                    f"{subject.encoder.name}: broken for {task}, ε = {epsilon:g}",
                    _before_and_after(subject, subject.test.images[broken], found.attacked[broken]),
                )
            )
    for distance in allowed_distances(subject)[:1] if "representation" in settings.sections else ():
        epsilon = max(settings.epsilons)
        worst = moved(subject, distance, epsilon, False).arrays
        images = subject.test.images[worst["worst"]]
        sheets.append(
            Pictures(
                f"{subject.encoder.name}: moved farthest by {distance.name}, ε = {epsilon:g}",
                _before_and_after(subject, images, worst["found"]),
            )
        )
    return sheets


def _before_and_after(
    subject: Subject, images: np.ndarray, attacked: np.ndarray
) -> dict[str, np.ndarray]:
    rows = {"x": images, "xᵃ": attacked, "change": attacked - images}
    decode = subject.encoder.decode
    if decode is not None:
        for name, x in (("g(μ(x))", images), ("g(μ(xᵃ))", attacked)):
            rows[name] = np.asarray(decode(subject.encoder.embed(tf.constant(x))))
    return rows
