"""Trained models as SavedModels that TensorFlow Serving serves: encoders and classifiers.

How a version is written, verified and published is `tf_avae.saved.versions`'; here are the
signatures.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_avae.backend import keras, tf
from tf_avae.colours import WHITE, colour
from tf_avae.config import read_json
from tf_avae.errors import InputError
from tf_avae.evaluation import table
from tf_avae.files import absolute
from tf_avae.image_files.decoding import decode_images
from tf_avae.image_files.fitting import FITS, STRETCH
from tf_avae.model import AVAE
from tf_avae.provenance import provenance, session
from tf_avae.runs.run import Run, load_trained
from tf_avae.saved.certified import CertifiedRadius, Certify, certifier
from tf_avae.saved.contract import (
    BATCH_SIZES,
    CERTIFY_SIGNATURES,
    CLASSIFIER_SIGNATURES,
    SIGNATURES,
)
from tf_avae.saved.encoders import OF_FILES, weights_checksum
from tf_avae.saved.formats import FORMATS, EncoderFile
from tf_avae.saved.versions import Served, Signature, Trial, check_target, publish
from tf_avae.types import Images, ImageShape, Latents, Tensor

_TRIED = 8  # images that a graph must agree on


def served_encoder(model: AVAE, background: str = WHITE, fit: str = STRETCH) -> Served:
    """A model's networks and its signatures. All compute in float32, whatever the precision of
    training; the weights are shared, not copied.

    Args:
        model: what is served.
        background, fit: how image files become images, as `decode_pixels` takes them; training's.
    """

    def decode(latent: Latents) -> dict[str, Tensor]:
        return {"image": model.decode(latent, float32=True)}

    def trials() -> Iterable[Trial]:
        images = _random_images(model.image_shape)
        expected = model(images)
        yield Trial("serving_default", {"image": images}, expected)
        if model.decoder is not None:
            latents = expected["embedding"]
            yield Trial("decode", {"latent": latents}, decode(latents))
        if certify is not None:
            radii = tf.linspace(0.0, 0.1, _TRIED)
            yield Trial("certify", {"image": images, "epsilon": radii}, certify(images, radii))

    certify, why_not = None, ""
    try:
        certify = certifier(model)
    except InputError as error:
        why_not = str(error)
    images = _of_images(model, model.image_shape)
    decoder = _decoder(model.image_shape, background, fit)
    files = _of_files(model, decoder)
    latent = tf.TensorSpec([None, model.latent_dim], tf.float32, "latent")
    functions: dict[str, Signature] = dict(
        zip(SIGNATURES, (images, files, (decode, latent)), strict=True)
    )
    left_out = {}
    if model.decoder is None:
        del functions["decode"]
        left_out["decode"] = "the encoder has no decoder"
    if certify is not None:
        both = _certifying(certify, model.image_shape, decoder)
        functions |= zip(CERTIFY_SIGNATURES, both, strict=True)
    weights = [*model.encoder.weights, *(model.decoder.weights if model.decoder else ())]
    left_out |= dict.fromkeys(CERTIFY_SIGNATURES, why_not) if why_not else {}
    return Served(
        [weight.value for weight in weights],
        functions,
        model.image_shape,
        trials,
        left_out or None,
    )


def served_classifier(
    model: "keras.Model",
    image_shape: ImageShape,
    background: str = WHITE,
    fit: str = STRETCH,
    radius: CertifiedRadius | None = None,
) -> Served:
    """A classifier of images and its signatures.

    Args:
        model: images [N, H, W, C] in [0, 1] to a dict with "logits" and "probabilities", [N, K]
            each, "embedding" [N, D] and what else the encoder gives; all float32.
        image_shape: (H, W, C).
        background, fit: how image files become images, as `decode_pixels` takes them; training's.
        radius: what gives the output "certified_radius", [N]; there is none unless given.
    """

    def answer(image: Images) -> dict[str, Tensor]:
        found = model(image)
        if radius is None:
            return found
        return {**found, "certified_radius": radius(image, found["logits"])}

    def trials() -> Iterable[Trial]:
        images = _random_images(image_shape)
        for name in ("serving_default", "classify"):
            yield Trial(name, {"image": images}, model(images))

    images = _of_images(answer, image_shape)
    files = _of_files(answer, _decoder(image_shape, background, fit))
    functions = dict(zip(CLASSIFIER_SIGNATURES, (images, images, files, files), strict=True))
    weights = [*model.weights, *(radius.weights if radius else ())]
    return Served([weight.value for weight in weights], functions, image_shape, trials)


def _of_images(model: Any, image_shape: ImageShape) -> Signature:
    def embed(image: Images) -> dict[str, Tensor]:
        return model(image)  # which refuses pixels that are not numbers in [0, 1]

    return embed, tf.TensorSpec([None, *image_shape], tf.float32, "image")


def _of_files(model: Any, decoder: Any) -> Signature:
    def embed_bytes(image_bytes: Tensor) -> dict[str, Tensor]:
        return model(decoder(image_bytes))

    return embed_bytes, tf.TensorSpec([None], tf.string, "image_bytes")


@functools.cache
def _decoder(image_shape: ImageShape, background: str, fit: str) -> Any:
    """Files [N] to images: a graph of its own, which the signatures of files share, and exports of
    the same images too: it is most of what an export has to trace."""
    return tf.function(
        lambda files: decode_images(files, image_shape, background, fit),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )


def _certifying(certify: Certify, image_shape: ImageShape, decoder: Any) -> tuple[Signature, ...]:
    def certify_bytes(image_bytes: Tensor, epsilon: Tensor) -> dict[str, Tensor]:
        return certify(decoder(image_bytes), epsilon)

    image = tf.TensorSpec([None, *image_shape], tf.float32, "image")
    file = tf.TensorSpec([None], tf.string, "image_bytes")
    epsilon = tf.TensorSpec([None], tf.float32, "epsilon")
    return (certify, image, epsilon), (certify_bytes, file, epsilon)


def _random_images(image_shape: ImageShape) -> Images:
    images = np.random.default_rng(0).uniform(size=(_TRIED, *image_shape))
    return tf.constant(images, tf.float32)


def export_run(
    run: str | Path,
    base: str | Path,
    *,
    format: str = "savedmodel",
    outputs: Sequence[str] = (),
    version: int | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    evaluation: str | Path | None = None,
) -> Path:
    """Publishes a run's model as a new version.

    Args:
        run: a run's directory.
        base: the model's folder, which holds its versions; its name is the model's.
        format: name of a row of `FORMATS`.
        outputs: of a file for another runtime, those that it computes; all unless given.
        version, batch_sizes: as `publish` takes them.
        evaluation: `results.json` of an evaluation of this run; its figures go into the provenance.

    Returns:
        The folder of the version.

    Raises:
        InputError: there is no trained run, the version exists, the evaluation is of other weights,
            the model has no such outputs, or the folder holds another format; `NotInstalled`: the
            format needs more packages.
    """
    row = FORMATS[format]
    row.check_installed()
    base = check_target(base, version, batch_sizes, row.file)
    model = load_trained(run)
    opened = Run.open(run)
    wanted = tuple(outputs or model.answers)
    if not set(wanted) <= set(model.answers):
        raise InputError(
            f"outputs are {', '.join(wanted)}; give some of: {', '.join(model.answers)}"
        )
    if not row.run and set(wanted) != set(model.answers):
        raise InputError(
            f"outputs are {', '.join(wanted)}; a SavedModel gives all of "
            f"{', '.join(model.answers)}, of which a request names those that it wants: leave "
            "them out, or choose another format"
        )
    of_files = {name: getattr(opened.config, name) for name in OF_FILES}
    content = EncoderFile(row, model, wanted) if row.run else served_encoder(model, **of_files)
    notes = {
        **_notes(opened, model, evaluation),
        "outputs": list(wanted),
        "left_out": dict(content.left_out),
    }
    return publish(content, base, notes, version=version, batch_sizes=batch_sizes)


def export_classifier(
    model: "keras.Model",
    base: str | Path,
    notes: Mapping[str, Any],
    *,
    version: int | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    background: str = WHITE,
    fit: str = STRETCH,
    radius: CertifiedRadius | None = None,
) -> Path:
    """Publishes a classifier, encoder and head in one, as a new version.

    Args:
        model: as `served_classifier` takes it.
        base, version, batch_sizes: those of `export_run`.
        notes: what is known of it: task, class names, its encoder, its accuracy.
        background, fit: how image files become images, as `decode_pixels` takes them; training's.
        radius: what gives the output "certified_radius"; there is none unless given.

    Returns:
        The folder of the version.

    Raises:
        InputError: the version exists, the model is no such classifier, the background no colour or
            the fit no row.
    """
    base = check_target(base, version, batch_sizes)
    shape, outputs = model.input_shape, model.output
    needed = {"logits", "probabilities", "embedding"}
    if not isinstance(outputs, dict) or not needed <= set(outputs) or None in shape[1:]:
        given = ", ".join(outputs) if isinstance(outputs, dict) else "no dict"
        raise InputError(
            f"the model takes {shape} and gives {given}; a classifier takes [N, H, W, C] and gives "
            f"at least {', '.join(sorted(needed))}"
        )
    known = {
        "image_shape": list(shape[1:]),
        **notes,
        "background": colour(background),
        "fit": FITS[fit].name,
        "weights_sha256": weights_checksum(model),
        "exported": {**session(), **provenance()},
    }
    if radius is not None:
        known["certified_radius"] = {
            "epsilons": radius.epsilons, "norm": "linf", "bounds": radius.proof.name
        }  # fmt: skip
    served = served_classifier(model, shape[1:], background, fit, radius)
    return publish(served, base, known, version=version, batch_sizes=batch_sizes)


def _notes(run: Run, model: AVAE, evaluation: str | Path | None) -> dict[str, Any]:
    """The provenance and the figures of a version."""
    trained, result = run.provenance(), run.result()
    checksum = weights_checksum(model)
    return {
        "algorithm": model.objective.name,
        "config": run.config.to_dict(),
        "image_shape": list(model.image_shape),
        "step": int(model.step.numpy()),
        "complete": result is not None,
        "weights_sha256": checksum,
        "held_out": result["held_out"] if result else None,
        "evaluation": figures(absolute(evaluation), checksum) if evaluation else None,
        "trained": {key: trained.get(key) for key in ("commit", "versions", "data", "sessions")},
        "exported": {**session(), **provenance()},
    }


def figures(path: Path, checksum: str) -> list[dict[str, str]]:
    """The rows of an evaluation's table that are about these weights, and what each honesty check
    found that failed.

    Args:
        path: its `results.json`.
        checksum: SHA-256 of the weights.

    Raises:
        InputError: it is about others, or no such file.
    """
    results = read_json(path)
    try:
        records = [e for e in results["encoders"] if e.get("sha256") == checksum]
        if not records:
            names = ", ".join(str(e.get("name")) for e in results["encoders"])
            raise InputError(
                f"{path} is about other weights ({names}); evaluate this run: "
                "python -m training.evaluate RUN"
            )
        one = {**results, "encoders": records[:1]}
        rows = [
            (row.group, row.label, row.cells[0].line)
            for row in (*table.rows(one), *table.failed_rows(one))
        ]
        rows += [("left out", name, why) for name, why in table.data_left_out(results)]
        rows.append(("protocol", "budget", results["settings"]["budget"]))
        return [dict(zip(("group", "figure", "value"), row, strict=True)) for row in rows]
    except InputError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is no results.json of an evaluation ({error!r})") from error
