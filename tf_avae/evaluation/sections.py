"""What is measured of an encoder, a section each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tf_avae.attacks import BALLS
from tf_avae.distributions import Posterior, prior_sample
from tf_avae.evaluation import statistics
from tf_avae.evaluation.batches import SEED, compiled, image_spec, in_batches
from tf_avae.evaluation.consistency import drift, inconsistency
from tf_avae.evaluation.detection import detection, lacks
from tf_avae.evaluation.fid import features_of, frechet_distance
from tf_avae.evaluation.heads import checks, probes, robustness
from tf_avae.evaluation.latents import latent_usage
from tf_avae.evaluation.likelihood import (
    importance_weighted,
    reconstruction_error,
    sampled_images,
)
from tf_avae.evaluation.parts import Part
from tf_avae.evaluation.representation import (
    DISTANCES,
    Distance,
    attack_representation,
    distance_between_classes,
)
from tf_avae.evaluation.subject import Subject
from tf_avae.registry import Registry
from tf_avae.types import Images, Tensor

NO_TASKS = "there is no label that a head can be fitted to and measured by"

FARTHEST = 10
"""Of so many images the attack on the representation is kept for the report."""


@dataclass(frozen=True)
class Section:
    """One thing that is measured.

    Attributes:
        name: its key in the result.
        summary: for `--help` and the docs.
        measure: a subject to JSON values.
        lacks: what the subject lacks for it, in words; None if nothing.
        of_tasks: whether it looks through heads, so that there must be a label to measure.
    """

    name: str
    summary: str
    measure: Callable[[Subject], dict[str, Any]]
    lacks: Callable[[Subject], str | None] = lambda subject: None
    of_tasks: bool = False

    def cannot(self, subject: Subject) -> str | None:
        """Why it cannot be measured; None if it can."""
        return NO_TASKS if self.of_tasks and not subject.tasks else self.lacks(subject)


def allowed_distances(subject: Subject) -> list[Distance]:
    """The distances asked for that the encoder has the means for."""
    rows = [DISTANCES[name] for name in subject.settings.distances]
    return [row for row in rows if subject.encoder.posterior is not None or not row.of_variance]


def _representation(subject: Subject) -> dict[str, Any]:
    rows = [
        moved(subject, distance, epsilon, targeted).values
        for distance in allowed_distances(subject)
        for epsilon in sorted(subject.settings.epsilons)
        for targeted in (False, True)
    ]
    return {"rows": rows, "left_out": [
        name for name in subject.settings.distances
        if DISTANCES[name] not in allowed_distances(subject)
    ]}  # fmt: skip


def moved(subject: Subject, distance: Distance, epsilon: float, targeted: bool) -> Part:
    """What one attack on the representation does; its arrays hold where the images are that it
    moved farthest, "worst", and what it made of them, "found"."""
    settings, encoder, head = subject.settings, subject.encoder, subject.settings.heads[0]
    images = subject.test.images[: settings.free_images]
    count = len(images)
    key = {
        "distance": distance.name, "epsilon": epsilon, "targeted": targeted, "images": count,
        "steps": subject.budget.steps, "head": head,
    }  # fmt: skip

    def make() -> Part:
        kind = "towards another image" if targeted else "away"
        subject.say(f"moving the representation {kind} by {distance.name}, ε {epsilon:g}")
        # Each image's target is the next one.
        others = np.roll(images, -1, axis=0)
        found = attack_representation(
            encoder.encode, images, distance, epsilon=epsilon, steps=subject.budget.steps,
            seed=settings.seed, towards=others if targeted else None,
            ball=BALLS[settings.norm], batch_size=settings.batch_size,
        )  # fmt: skip
        before = Posterior(*(part[:count] for part in subject.posterior))
        after = in_batches(
            compiled(image_spec(images.shape[1:]))(encoder.encode),
            found, batch_size=settings.batch_size,
        )  # fmt: skip
        target = Posterior(*(np.roll(part, -1, axis=0) for part in before))
        shift = np.linalg.norm(after.mean - before.mean, axis=1)
        values: dict[str, Any] = {
            "distance": distance.name,
            "epsilon": epsilon,
            "targeted": targeted,
            "moved": statistics.mean(np.asarray(distance.value(before, after))),
            "tasks": {},
        }
        if targeted:
            left = np.asarray(distance.value(target, after))
            values["left"] = statistics.mean(left)
            values["between"] = statistics.mean(np.asarray(distance.value(target, before)))
            nearer = left < np.asarray(distance.value(before, after))
            values["nearer_to_target"] = statistics.proportion(nearer)
        for task, of_task in subject.tasks.items():
            unit = distance_between_classes(
                of_task.first(len(subject.test.images), subject.posterior.mean), of_task.labels
            )
            said = np.asarray(subject.fitted(task, head).probe(after.mean)).argmax(1)
            told = of_task.among(count)
            values["tasks"][task] = {
                # In units of the distance between classes; none where classes coincide.
                "shift": statistics.mean(shift / unit) if unit > 1e-6 else None,
                # None where all these images are left out of the task.
                "accuracy": statistics.proportion(said[told.at] == told.labels)
                if len(told.at)
                else None,
            }
        worst = np.argsort(-shift)[:FARTHEST]
        return Part(values, {"worst": worst, "found": found[worst]})

    return subject.part("moved", key, make)


def _needs_two(subject: Subject) -> str | None:
    return None if len(subject.test.images) > 1 else "one test image, and it needs two"


def _needs_decoder(subject: Subject) -> str | None:
    return None if subject.encoder.decode else "no decoder"


def _needs_model(subject: Subject) -> str | None:
    return subject.encoder.lacks_model


def _consistency(subject: Subject) -> dict[str, Any]:
    settings, encoder = subject.settings, subject.encoder
    assert encoder.decode
    decode, count = encoder.decode, settings.samples_images
    key = {"images": count, "steps": settings.chain_steps}

    def make() -> Part:
        subject.say("turns around the autoencoder")
        q = Posterior(*(part[:count] for part in subject.posterior))
        starts = {
            "data": np.asarray(q.sample(tf.constant([settings.seed, 0], tf.int32))),
            "prior": prior_sample(
                count, q.mean.shape[1], tf.constant([settings.seed, 1], tf.int32)
            ).numpy(),
        }
        values: dict[str, Any] = {
            name: drift(
                encoder.encode, decode, z, steps=settings.chain_steps, rho=encoder.rho,
                seed=settings.seed, batch_size=settings.batch_size,
            )
            for name, z in starts.items()
        }  # fmt: skip
        shape = subject.test.images.shape[1:]
        measured = compiled(image_spec(shape))(lambda x: inconsistency(encoder.encode, decode, x))
        images = subject.test.images[:count]
        values["inconsistency"] = statistics.mean(
            in_batches(measured, images, batch_size=settings.batch_size)
        )
        values["rho"] = encoder.rho
        return Part(values, {})

    return subject.part("consistency", key, make).values


def _reconstruction(subject: Subject) -> dict[str, Any]:
    def make() -> Part:
        subject.say("reconstructing the test images")
        assert subject.encoder.decode
        found = reconstruction_error(
            subject.encoder.encode, subject.encoder.decode, subject.test.images,
            seed=subject.settings.seed, batch_size=subject.settings.batch_size,
        )  # fmt: skip
        return Part(found, {})

    return subject.part("reconstruction", {}, make).values


def _needs_likelihood(subject: Subject) -> str | None:
    if subject.encoder.observation_variance is None:
        return "no observation variance"
    return _needs_model(subject)


def _likelihood(subject: Subject) -> dict[str, Any]:
    settings, encoder = subject.settings, subject.encoder
    assert encoder.decode and encoder.observation_variance
    decode, variance = encoder.decode, encoder.observation_variance
    images = subject.test.images[: settings.samples_images]

    def bound(samples: int) -> dict[str, Any]:
        @compiled(image_spec(images.shape[1:]), SEED)
        def of_batch(x: Images, seed: Tensor) -> Tensor:
            return importance_weighted(
                encoder.encode, decode, x, variance, samples=samples, seed=seed
            )

        return statistics.mean(
            in_batches(of_batch, images, batch_size=settings.batch_size, seed=settings.seed)
        )

    def make() -> Part:
        subject.say("bounding the likelihood")
        values = {
            "samples": settings.samples,
            "observation_variance": variance,
            "importance_weighted": bound(settings.samples),
            "evidence_lower_bound": bound(1),
        }
        return Part(values, {})

    key = {"samples": settings.samples, "images": len(images), "variance": variance}
    return subject.part("likelihood", key, make).values


def _needs_extractor(subject: Subject) -> str | None:
    if not subject.extractor:
        return _needs_decoder(subject) or "no feature extractor given"
    return _needs_decoder(subject) or _needs_two(subject)


def _fid(subject: Subject) -> dict[str, Any]:
    extractor, settings, decode = subject.extractor, subject.settings, subject.encoder.decode
    assert extractor and decode
    images = subject.test.images[: settings.fid_images]

    def make() -> Part:
        subject.say("features of test images and samples")
        latents = subject.posterior.mean.shape[1]
        samples = sampled_images(
            decode, latents, len(images), seed=settings.seed, batch_size=settings.batch_size
        )
        features = [features_of(extractor, x, settings.batch_size) for x in (images, samples)]
        values = {
            "value": frechet_distance(*features),
            "images": len(images),
            "features": features[0].shape[1],
            "extractor": extractor.notes,
        }
        return Part(values, {})

    return subject.part("fid", {"images": len(images), "extractor": extractor.notes}, make).values


def _latents(subject: Subject) -> dict[str, Any]:
    q = subject.posterior
    return latent_usage(q.mean, q.variance if subject.encoder.posterior else None)


SECTIONS: Registry[Section] = Registry(
    "section",
    Section("probes", "nominal accuracy of the heads, and retrieval", probes, of_tasks=True),
    Section(
        "robustness", "accuracy under the budget, by task, head and ε", robustness, of_tasks=True
    ),
    Section("checks", "whether the robustness figures can be trusted", checks, of_tasks=True),
    Section(
        "representation", "attacks on the representation, without labels", _representation,
        _needs_two,
    ),
    Section("consistency", "drift along the chain z -> g(z) -> z'", _consistency, _needs_model),
    Section(
        "detection", "whether inconsistency tells attacked images, by attackers who know of it too",
        detection, lambda subject: lacks(subject.encoder, subject.test), of_tasks=True,
    ),
    Section("reconstruction", "squared errors", _reconstruction, _needs_decoder),
    Section("likelihood", "importance-weighted bound", _likelihood, _needs_likelihood),
    Section("fid", "Frechet distance of samples to images", _fid, _needs_extractor),
    Section("latents", "active units and effective dimension", _latents),
)  # fmt: skip
