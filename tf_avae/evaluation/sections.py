"""What is measured of an encoder, a section each."""

from typing import Any

import numpy as np

from tf_avae.attacks import BALLS
from tf_avae.backend import tf
from tf_avae.distributions import Posterior, prior_sample
from tf_avae.evaluation import certified, statistics
from tf_avae.evaluation.batches import compiled, image_spec, in_batches, seed_spec
from tf_avae.evaluation.consistency import drift
from tf_avae.evaluation.detection import detection, lacks
from tf_avae.evaluation.evaluated import EvaluatedEncoder
from tf_avae.evaluation.fid import features_of, frechet_distance
from tf_avae.evaluation.heads import attacks, checks, probes, robustness
from tf_avae.evaluation.latents import latent_usage
from tf_avae.evaluation.likelihood import importance_weighted, reconstruction_error, sampled_images
from tf_avae.evaluation.part_store import Part
from tf_avae.evaluation.representation import DISTANCES, Distance, attack_representation
from tf_avae.evaluation.section import SECTIONS, Section
from tf_avae.probes import distance_between_classes
from tf_avae.types import Images, Tensor

FARTHEST = 10
"""Of so many images the attack on the representation is kept for the report."""


def allowed_distances(evaluated: EvaluatedEncoder) -> list[Distance]:
    """The distances asked for that the encoder has the means for."""
    rows = [DISTANCES[name] for name in evaluated.settings.distances]
    return [row for row in rows if evaluated.encoder.posterior is not None or not row.of_variance]


def _representation(evaluated: EvaluatedEncoder) -> dict[str, Any]:
    allowed = allowed_distances(evaluated)
    rows = [
        moved(evaluated, distance, epsilon, targeted).values
        for distance in allowed
        for epsilon in sorted(evaluated.settings.epsilons)
        for targeted in (False, True)
    ]
    left_out = [n for n in evaluated.settings.distances if DISTANCES[n] not in allowed]
    return {"rows": rows, "left_out": left_out}


def moved(evaluated: EvaluatedEncoder, distance: Distance, epsilon: float, targeted: bool) -> Part:
    """What one attack on the representation does; its arrays hold where the images are that it
    moved farthest, "worst", and what it made of them, "found"."""
    settings, encoder, head = evaluated.settings, evaluated.encoder, evaluated.settings.heads[0]
    images = evaluated.test.images[: settings.free_images]
    count = len(images)
    key = {
        "distance": distance.name, "epsilon": epsilon, "targeted": targeted, "images": count,
        "steps": evaluated.budget.steps, "head": head,
    }  # fmt: skip

    def make() -> Part:
        kind = "towards another image" if targeted else "away"
        evaluated.say(f"moving the representation {kind} by {distance.name}, ε {epsilon:g}")
        # Each image's target is the next one.
        others = np.roll(images, -1, axis=0)
        found = attack_representation(
            encoder.encode, images, distance, epsilon=epsilon, steps=evaluated.budget.steps,
            seed=settings.seed, towards=others if targeted else None,
            ball=BALLS[settings.norm], batch_size=settings.batch_size, graphs=evaluated.move_graphs,
        )  # fmt: skip
        before = Posterior(*(part[:count] for part in evaluated.posterior))
        after = evaluated.of_images(encoder.encode, found)
        target = Posterior(*(np.roll(part, -1, axis=0) for part in before))
        shift = np.linalg.norm(after.mean - before.mean, axis=1)
        by = np.asarray(distance.value(before, after))
        values: dict[str, Any] = {
            "distance": distance.name, "epsilon": epsilon, "targeted": targeted,
            "moved": statistics.mean(by), "tasks": {},
        }  # fmt: skip
        if targeted:
            left = np.asarray(distance.value(target, after))
            values["left"] = statistics.mean(left)
            values["between"] = statistics.mean(np.asarray(distance.value(target, before)))
            values["nearer_to_target"] = statistics.proportion(left < by)
        for task, of_task in evaluated.tasks.items():
            unit = distance_between_classes(
                of_task.first(len(evaluated.test.images), evaluated.posterior.mean), of_task.labels
            )
            said = np.asarray(evaluated.fitted(task, head).probe(after.mean)).argmax(1)
            told = of_task.among(count)
            right = said[told.at] == told.labels
            values["tasks"][task] = {
                # In units of the distance between classes; none where classes coincide.
                "shift": statistics.mean(shift / unit) if unit > 1e-6 else None,
                # None where all these images are left out of the task.
                "accuracy": statistics.proportion(right) if len(right) else None,
            }
        worst = np.argsort(-shift)[:FARTHEST]
        return Part(values, {"worst": worst, "found": found[worst]})

    return evaluated.part("moved", key, make)


def _needs_two(evaluated: EvaluatedEncoder) -> str | None:
    return None if len(evaluated.test.images) > 1 else "one test image, and it needs two"


def _needs_decoder(evaluated: EvaluatedEncoder) -> str | None:
    return None if evaluated.encoder.decode else "no decoder"


def _needs_model(evaluated: EvaluatedEncoder) -> str | None:
    return evaluated.encoder.lacks_model


def _consistency(evaluated: EvaluatedEncoder) -> dict[str, Any]:
    settings, encoder = evaluated.settings, evaluated.encoder
    assert encoder.decode
    decode, count = encoder.decode, settings.samples_images
    key = {"images": count, "steps": settings.chain_steps}

    def make() -> Part:
        evaluated.say("turns around the autoencoder")
        q = Posterior(*(part[:count] for part in evaluated.posterior))
        seeds = tf.constant([[settings.seed, 0], [settings.seed, 1]], tf.int32)
        prior = prior_sample(count, q.mean.shape[1], seeds[1])
        starts = {"data": np.asarray(q.sample(seeds[0])), "prior": prior.numpy()}
        values: dict[str, Any] = {
            name: drift(
                encoder.encode, decode, z, steps=settings.chain_steps, rho=encoder.rho,
                seed=settings.seed, batch_size=settings.batch_size,
            )
            for name, z in starts.items()
        }  # fmt: skip
        found = evaluated.of_images(evaluated.inconsistency, evaluated.test.images[:count])
        return Part(values | {"inconsistency": statistics.mean(found), "rho": encoder.rho}, {})

    return evaluated.part("consistency", key, make).values


def _reconstruction(evaluated: EvaluatedEncoder) -> dict[str, Any]:
    def make() -> Part:
        evaluated.say("reconstructing the test images")
        assert evaluated.encoder.decode
        found = reconstruction_error(
            evaluated.encoder.encode, evaluated.encoder.decode, evaluated.test.images,
            seed=evaluated.settings.seed, batch_size=evaluated.settings.batch_size,
        )  # fmt: skip
        return Part(found, {})

    return evaluated.part("reconstruction", {}, make).values


def _needs_likelihood(evaluated: EvaluatedEncoder) -> str | None:
    if evaluated.encoder.observation_variance is None:
        return "no observation variance"
    return _needs_model(evaluated)


def _likelihood(evaluated: EvaluatedEncoder) -> dict[str, Any]:
    settings, encoder = evaluated.settings, evaluated.encoder
    assert encoder.decode and encoder.observation_variance
    decode, variance = encoder.decode, encoder.observation_variance
    images = evaluated.test.images[: settings.samples_images]

    def bound(samples: int) -> dict[str, Any]:
        @compiled(image_spec(images.shape[1:]), seed_spec())
        def of_batch(x: Images, seed: Tensor) -> Tensor:
            return importance_weighted(
                encoder.encode, decode, x, variance, samples=samples, seed=seed
            )

        return statistics.mean(
            in_batches(of_batch, images, batch_size=settings.batch_size, seed=settings.seed)
        )

    def make() -> Part:
        evaluated.say("bounding the likelihood")
        values = {
            "samples": settings.samples,
            "observation_variance": variance,
            "importance_weighted": bound(settings.samples),
            "evidence_lower_bound": bound(1),
        }
        return Part(values, {})

    key = {"samples": settings.samples, "images": len(images), "variance": variance}
    return evaluated.part("likelihood", key, make).values


def _needs_extractor(evaluated: EvaluatedEncoder) -> str | None:
    if not evaluated.extractor:
        return _needs_decoder(evaluated) or "no feature extractor given"
    return _needs_decoder(evaluated) or _needs_two(evaluated)


def _fid(evaluated: EvaluatedEncoder) -> dict[str, Any]:
    extractor, settings, decode = evaluated.extractor, evaluated.settings, evaluated.encoder.decode
    assert extractor and decode
    images = evaluated.test.images[: settings.fid_images]

    def make() -> Part:
        evaluated.say("features of test images and samples")
        latents = evaluated.posterior.mean.shape[1]
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

    return evaluated.part("fid", {"images": len(images), "extractor": extractor.notes}, make).values


def _latents(evaluated: EvaluatedEncoder) -> dict[str, Any]:
    q = evaluated.posterior
    return latent_usage(q.mean, q.variance if evaluated.encoder.posterior else None)


for _section in (
    Section("probes", "nominal accuracy of the heads, and retrieval", probes, of_tasks=True),
    Section(
        "robustness", "accuracy under the budget, by task, head and ε", robustness, of_tasks=True,
        by_gradients=True, pieces=attacks,
    ),
    Section(
        certified.SECTION, "accuracy that bounds prove, by task, head and ε, beside that "
        "under the budget", certified.certified, certified.lacks, of_tasks=True,
        pieces=certified.proofs,
    ),
    Section(
        "checks", "whether the robustness figures can be trusted", checks, of_tasks=True,
        by_gradients=True, pieces=attacks,
    ),
    Section(
        "representation", "attacks on the representation, without labels", _representation,
        _needs_two, by_gradients=True,
    ),
    Section("consistency", "drift along the chain z -> g(z) -> z'", _consistency, _needs_model),
    Section(
        "detection", "whether inconsistency tells attacked images, by attackers who know of it too",
        detection, lambda evaluated: lacks(evaluated.encoder, evaluated.test), of_tasks=True,
        by_gradients=True,
    ),
    Section("reconstruction", "squared errors", _reconstruction, _needs_decoder),
    Section("likelihood", "importance-weighted bound", _likelihood, _needs_likelihood),
    Section("fid", "Frechet distance of samples to images", _fid, _needs_extractor),
    Section("latents", "active units and effective dimension", _latents),
):  # fmt: skip
    SECTIONS.register(_section)
