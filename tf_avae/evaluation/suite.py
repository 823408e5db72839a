"""The whole evaluation of encoders, side by side: probes, attacks, checks, and what stands beside.

An encoder is a few callables, so one that is not ours is evaluated in the same way:

    evaluate([Encoder("mine", embed=network)], train=..., test=..., settings=Settings("paper"))
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_avae.errors import InputError
from tf_avae.evaluation.encoder import Batches, Encoder
from tf_avae.evaluation.fid import Extractor
from tf_avae.evaluation.parts import Parts
from tf_avae.evaluation.sections import (
    FARTHEST,
    SECTIONS,
    allowed_distances,
    moved,
    telling_epsilon,
)
from tf_avae.evaluation.settings import Settings
from tf_avae.evaluation.subject import SHOWN, Report, Subject, Teller, TestImages, planned_work
from tf_avae.provenance import source_checksum
from tf_avae.registry import unknown


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
    """

    results: dict[str, Any]
    pictures: list[list[Pictures]]

    @property
    def failed_checks(self) -> list[tuple[str, str, str]]:
        """(encoder, task, check) of the checks that failed."""
        return [
            (encoder["name"], group["task"], check["name"])
            for encoder in self.results["encoders"]
            for group in encoder.get("checks", {}).get("groups", [])
            for check in group["checks"]
            if not check["passed"]
        ]


def evaluate(
    encoders: list[Encoder],
    *,
    train: Batches,
    test: Batches,
    settings: Settings | None = None,
    extractor: Extractor | None = None,
    data: dict[str, Any] | None = None,
    folder: Any = None,
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
        folder: where finished parts are kept (a path); a call that was stopped goes on from there.
        progress: told what is being done.

    Raises:
        InputError: encoders that do not fit the images or one another, labels that are missing.
    """
    settings = settings or Settings()
    names = [encoder.name for encoder in encoders]
    if not encoders or len(set(names)) != len(names):
        raise InputError(f"encoders are named {names}; give one or more, of different names")
    images = _test_images(test, settings)
    tasks = _tasks(images, settings)
    for encoder in encoders:
        _check_fit(encoder, images.images.shape[1:])
    teller = Teller(progress)
    for encoder in encoders:
        teller.planned |= planned_work(encoder.name, images, tasks, settings)
    records, pictures = [], []
    for encoder in encoders:
        identity = {
            "encoder": _fingerprint(encoder, images.images),
            "images": hashlib.sha256(images.images.tobytes()).hexdigest(),
            "data": data,
            "seed": settings.seed,
            "source": source_checksum(),
        }
        parts = Parts(folder, identity)
        subject = Subject(encoder, train, images, tasks, settings, extractor, parts, teller)
        record: dict[str, Any] = {"name": encoder.name, **encoder.notes, "left_out": {}}
        for section in SECTIONS.values():
            lacking = section.lacks(subject)
            if lacking:
                record["left_out"][section.name] = lacking
            else:
                record[section.name] = section.measure(subject)
        records.append(record)
        pictures.append(_pictures(subject))
    results = {
        "settings": asdict(settings) | {"tasks": list(tasks)},
        "data": {**(data or {}), "test_images": len(images.images)},
        "encoders": records,
    }
    return Evaluation(results, pictures)


def _test_images(test: Batches, settings: Settings) -> TestImages:
    batches = [(np.asarray(x), {k: np.asarray(v) for k, v in y.items()}) for x, y in test]
    if not batches:
        raise InputError("there are no test images")
    images = np.concatenate([x for x, _ in batches])
    labels = {task: np.concatenate([y[task] for _, y in batches]) for task in batches[0][1]}
    return TestImages(images, labels)


def _tasks(test: TestImages, settings: Settings) -> tuple[str, ...]:
    if not test.labels:
        raise InputError("the data have no labels; robustness of a classifier needs at least one")
    for task in settings.tasks or ():
        if task not in test.labels:
            raise unknown("task", task, list(test.labels))
    return settings.tasks or tuple(test.labels)


def _check_fit(encoder: Encoder, shape: tuple[int, ...]) -> None:
    wanted = encoder.image_shape
    if wanted is not None and tuple(wanted) != tuple(shape):
        raise InputError(
            f"{encoder.name} takes images of {'x'.join(map(str, wanted))}, the data are "
            f"{'x'.join(map(str, shape))}; evaluate it on the data it was made for"
        )


def _fingerprint(encoder: Encoder, images: np.ndarray) -> str:
    """What the encoder and its decoder make of the first images, as a digest."""
    digest = hashlib.sha256()
    q = encoder.encode(tf.constant(images[:64]))
    arrays = [*q] + ([encoder.decode(q.mean)] if encoder.decode else [])
    for array in arrays:
        digest.update(np.asarray(array).tobytes())
    digest.update(f"{encoder.rho} {encoder.observation_variance}".encode())
    return digest.hexdigest()


def _pictures(subject: Subject) -> list[Pictures]:
    """What attacks do, on images that they broke, and on those that they moved farthest."""
    sheets = []
    for task in subject.tasks:
        epsilon = telling_epsilon(subject, task)
        found = subject.outcomes(task, "linear", epsilon)
        broken = np.flatnonzero(found.broken_by[:SHOWN] >= 0)[:FARTHEST]
        if len(broken):
            sheets.append(
                Pictures(
                    f"{subject.encoder.name}: broken for {task}, ε = {epsilon:g}",
                    _before_and_after(subject, subject.test.images[broken], found.attacked[broken]),
                )
            )
    distance = allowed_distances(subject)[:1]
    if distance:
        epsilon = max(subject.settings.epsilons)
        worst = moved(subject, distance[0], epsilon, False).arrays
        images = subject.test.images[worst["worst"]]
        sheets.append(
            Pictures(
                f"{subject.encoder.name}: moved farthest by {distance[0].name}, ε = {epsilon:g}",
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
