"""What an evaluation is given: read, checked before any work is done, and told apart by digests."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_avae.errors import InputError, reason
from tf_avae.evaluation.batches import compiled, image_spec
from tf_avae.evaluation.encoder import Batches, Encoder
from tf_avae.evaluation.fid import Extractor, features_of
from tf_avae.registry import unknown
from tf_avae.types import Images, Tensor

_PROBED, _DIGESTED = 3, 64  # images that an encoder is tried on, and told apart by


class TestImages(NamedTuple):
    """Test images as arrays.

    Attributes:
        images: [N, H, W, C] float32 in [0, 1].
        labels: by task, [N] integers, at least 0.
    """

    images: np.ndarray
    labels: dict[str, np.ndarray]


def read_test_images(test: Batches) -> TestImages:
    """All test images.

    Raises:
        InputError: none, or images or labels that do not fit.
    """
    batches = [(np.asarray(x), {k: np.asarray(v) for k, v in y.items()}) for x, y in test]
    if not batches:
        raise InputError("there are no test images")
    if not batches[0][1]:
        raise InputError("the data have no labels; robustness of a classifier needs at least one")
    images = np.concatenate([x for x, _ in batches])
    if images.ndim != 4 or images.dtype != np.float32 or images.min() < 0 or images.max() > 1:
        raise InputError(
            f"test images have shape {images.shape} and dtype {images.dtype} and go from "
            f"{images.min():g} to {images.max():g}; they must be [N, H, W, C] float32 in [0, 1]"
        )
    labels = {task: np.concatenate([y[task] for _, y in batches]) for task in batches[0][1]}
    for task, values in labels.items():
        if values.dtype.kind not in "iu" or values.shape != (len(images),) or values.min() < 0:
            raise InputError(
                f"labels of {task!r} have dtype {values.dtype} and go from {values.min()}; they "
                "must be one integer an image, at least 0"
            )
    return TestImages(images, labels)


def chosen_tasks(test: TestImages, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """The tasks asked for, or all.

    Raises:
        InputError: there is no such label.
    """
    for task in asked or ():
        if task not in test.labels:
            raise unknown("task", task, list(test.labels))
    return asked or tuple(test.labels)


def check_names(names: list[str]) -> None:
    """Raises `InputError` unless there are encoders, with different names that can be printed."""
    if not names or len(set(names)) != len(names):
        raise InputError(f"encoders are named {names}; give one or more, of different names")
    for name in names:
        if not name.isprintable() or not name.strip():
            raise InputError(
                f"an encoder is named {name!r}; a name is made of printable characters"
            )


def check_encoder(encoder: Encoder, images: np.ndarray, through_decoder: bool) -> None:
    """Tries an encoder on a few images.

    Args:
        encoder: the encoder.
        images: [N, H, W, C].
        through_decoder: attacks will go through the decoder too.

    Raises:
        InputError: it does not take them, or does not give what `Encoder` asks for.
    """
    shape: tuple[int, ...] = images.shape[1:]

    def need(holds: Any, what: str) -> None:
        if not holds:
            raise InputError(f"{encoder.name} {what}; evaluate an encoder that does otherwise")

    wanted = encoder.image_shape
    if wanted is not None and tuple(wanted) != shape:
        raise InputError(
            f"{encoder.name} takes images of {'x'.join(map(str, wanted))}, the data are "
            f"{'x'.join(map(str, shape))}; evaluate it on the data it was made for"
        )
    few = tf.constant(images[:_PROBED])
    try:
        with tf.GradientTape() as tape:  # not every operation has a gradient
            tape.watch(few)
            embedding, q = encoder.embed(few), encoder.encode(few)
            decoded = encoder.decode(q.mean) if encoder.decode else None
        attacked = [decoded] if through_decoder and decoded is not None else []
        tape.gradient([embedding, *q, *attacked], few)
    except (ValueError, TypeError, KeyError, LookupError, tf.errors.OpError) as error:
        raise InputError(
            f"{encoder.name} fails on {len(few)} images of {'x'.join(map(str, shape))}: "
            f"{reason(error)}"
        ) from error
    shapes = [tuple(getattr(part, "shape", ())) for part in (embedding, *q)]
    need(
        len(shapes[0]) == 2 and shapes[0][0] == len(few), f"embeds them as {shapes[0]}, not [N, D]"
    )
    need(shapes[1] == shapes[2] == shapes[0], "has a mean or variance of another shape")
    need(all(part.dtype == tf.float32 for part in (embedding, *q)), "does not embed in float32")
    need(np.isfinite(embedding).all(), "has embeddings that are not finite")
    need(np.allclose(embedding, q.mean, rtol=1e-3, atol=1e-4 * np.abs(q.mean).max()),
         "embeds them as something else than its posterior's mean")  # fmt: skip
    if encoder.posterior is not None:
        variance = np.asarray(q.variance)
        need(np.isfinite(variance).all() and (variance > 0).all(),
             "has a posterior variance that is not above 0")  # fmt: skip
    if decoded is not None:
        what = f"{decoded.dtype.name} {decoded.shape}"
        need(decoded.shape == few.shape and decoded.dtype == tf.float32,
             f"decodes to {what}, not to images like those it takes")  # fmt: skip


def check_extractor(extractor: Extractor, images: np.ndarray) -> None:
    """Raises `InputError` where a feature extractor does not take the images."""
    features_of(extractor, images[:_PROBED], _PROBED)


def test_digest(test: TestImages) -> str:
    """Tells test images and labels apart."""
    digest = hashlib.sha256(test.images.tobytes())
    for task, labels in sorted(test.labels.items()):
        digest.update(task.encode() + labels.astype(np.int64).tobytes())
    return digest.hexdigest()


def train_digest(train: Batches, tasks: tuple[str, ...]) -> str:
    """Tells training splits apart, by images and labels.

    Raises:
        InputError: the training images lack the label of a task.
    """
    digest = hashlib.sha256()
    for images, labels in train:
        digest.update(np.asarray(images).tobytes())
        for task in tasks:
            if task not in labels:
                raise InputError(
                    f"the training images have no label {task!r}; they have: {', '.join(labels)}"
                )
            digest.update(np.asarray(labels[task]).astype(np.int64).tobytes())
    return digest.hexdigest()


def encoder_digest(encoder: Encoder, images: np.ndarray) -> str:
    """Tells encoders apart: by what they make of images, by the gradients that attacks see, which
    the values do not decide, and by the checksum of their weights where it is known."""
    few = images[:_DIGESTED]
    digest = hashlib.sha256()

    @compiled(image_spec(few.shape[1:]))
    def look(x: Images) -> list[Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            q = encoder.encode(x)
            # Different weights for each entry, so that no direction is left out.
            mix = [
                tf.reduce_sum(part * tf.random.stateless_normal(tf.shape(part), [n, 1]))
                for n, part in enumerate((*q, encoder.embed(x)))
            ]
            total = tf.add_n(mix)
        gradient = tape.gradient(total, x, unconnected_gradients="zero")
        return [*q, gradient] + ([encoder.decode(q.mean)] if encoder.decode else [])

    for array in look(tf.constant(few)):
        digest.update(np.asarray(array).tobytes())
    facts = (encoder.rho, encoder.observation_variance, encoder.notes.get("sha256"))
    digest.update(repr(facts).encode())
    return digest.hexdigest()
