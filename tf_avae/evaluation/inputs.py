"""What an evaluation is given: read, checked before any work is done, and told apart by digests."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tf_avae.backend import tf
from tf_avae.errors import InputError, reason
from tf_avae.evaluation.batches import compiled, image_spec
from tf_avae.evaluation.encoder import Batches, Encoder
from tf_avae.evaluation.fid import Extractor, features_of
from tf_avae.inputs import image_array, label_array
from tf_avae.registry import unknown
from tf_avae.types import Images, ImageShape, Tensor

_PROBED, _DIGESTED = 3, 64  # images that an encoder is tried on, and told apart by


class TestImages(NamedTuple):
    """Test images as arrays.

    Attributes:
        images: [N, H, W, C] float32 in [0, 1].
        labels: by task, class numbers [N].
    """

    images: np.ndarray
    labels: dict[str, np.ndarray]


class TrainingSplit(NamedTuple):
    """What is known of a training split that was read once.

    Attributes:
        digest: tells it apart, by images and labels.
        size: number of images.
        counts: images by class number, of the tasks that it has the label of.
    """

    digest: str
    size: int
    counts: dict[str, Counter[int]]


def read_test_images(test: Batches, asked: Sequence[str] | None = None) -> TestImages:
    """All test images.

    Args:
        test: the test split.
        asked: the labels to read; all unless given.

    Raises:
        InputError: none, images or labels that do not fit, or there is no such label.
    """
    batches = list(_read(test, "test", asked or None))
    for task in asked or ():
        if task not in batches[0][1]:
            raise unknown("task", task, list(batches[0][1]))
    tasks = tuple(asked or batches[0][1])
    for task in tasks:
        if not all(task in labels for _, labels in batches):
            raise InputError(f"some batches of test images lack the label {task!r}; add it")
    return TestImages(
        np.concatenate([images for images, _ in batches]),
        {task: np.concatenate([labels[task] for _, labels in batches]) for task in tasks},
    )


def read_train_images(
    train: Batches, tasks: Sequence[str], image_shape: ImageShape, *, must: bool
) -> TrainingSplit:
    """Goes once through the training split, which is checked and not kept.

    Args:
        train: the training split.
        tasks: the labels to read.
        image_shape: (H, W, C) of the test images.
        must: whether it has to have all of these labels.

    Raises:
        InputError: none, images or labels that do not fit, or labels that are missing.
    """
    if isinstance(train, Iterator):
        raise InputError(
            "the training images are an iterator, which can be read once, and each encoder reads "
            "them; give a list of batches or a tf.data.Dataset"
        )
    digest, size = hashlib.sha256(), 0
    counts: dict[str, Counter[int]] = {}
    for images, labels in _read(train, "training", tasks, image_shape):
        digest.update(images.tobytes())
        size += len(images)
        for task in tasks:
            if task in labels:
                digest.update(labels[task].astype(np.int64).tobytes())
                counts.setdefault(task, Counter()).update(labels[task].tolist())
            elif must:
                raise InputError(
                    f"the training images have no label {task!r}; they have: "
                    f"{', '.join(labels) or 'none'}"
                )
    for task, of_task in counts.items():
        if of_task.total() != size:
            raise InputError(f"some batches of training images lack the label {task!r}; add it")
    return TrainingSplit(digest.hexdigest(), size, counts)


def _read(
    split: Batches, kind: str, tasks: Sequence[str] | None, image_shape: ImageShape | None = None
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """The batches of a split, at least one; images and the labels of tasks as checked arrays."""
    if isinstance(split, tf.data.Dataset) and split.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise InputError(f"the {kind} images never end; give each of them once")
    if not isinstance(split, Iterable):
        raise InputError(
            f"the {kind} images are of type {type(split).__name__}; give batches, pairs "
            "(images, {label: class numbers})"
        )
    empty = True
    for batch in split:
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise InputError(
                f"a batch of {kind} images is of type {type(batch).__name__}; each must be a pair "
                "(images, {label: class numbers})"
            )
        images, labels = batch
        if not isinstance(labels, Mapping):
            raise InputError(
                f"labels of {kind} images are of type {type(labels).__name__}; give them by name, "
                "such as {'digit': labels}"
            )
        for name in labels:
            if not isinstance(name, str):
                raise InputError(
                    f"a label of {kind} images is named {name!r}; give it a string for a name, "
                    "such as 'digit'"
                )
        images = image_array(images, image_shape=image_shape, what=f"{kind} images")
        image_shape, empty = images.shape[1:], False
        checked = dict(labels)
        for task in labels if tasks is None else set(tasks) & set(labels):
            what = f"labels {task!r} of {kind} images"
            checked[task] = label_array(labels[task], count=len(images), what=what)
        yield images, checked
    if empty:
        raise InputError(f"there are no {kind} images")


def check_encoders(encoders: Sequence[Encoder]) -> None:
    """Raises `InputError` unless they are several encoders, or one, of different names."""
    if not (
        isinstance(encoders, list | tuple) and all(isinstance(each, Encoder) for each in encoders)
    ):
        raise InputError(
            f"the encoders are {encoders!r}; give a list of tf_avae.evaluation.Encoder, such as "
            "[Encoder('mine', embed)]"
        )
    check_names([encoder.name for encoder in encoders])


def check_names(names: list[str]) -> None:
    """Raises `InputError` unless there are encoders, with different names that can be printed."""
    if not names or len(set(names)) != len(names):
        raise InputError(f"encoders are named {names}; give one or more, of different names")
    for name in names:
        if not (isinstance(name, str) and name.isprintable() and name.strip()):
            raise InputError(
                f"an encoder is named {name!r}; a name is made of printable characters"
            )


def check_shape(encoder: Encoder, shape: ImageShape) -> None:
    """Raises `InputError` where an encoder is known to take images of another shape."""
    wanted = encoder.image_shape
    if wanted is not None and tuple(wanted) != shape:
        raise InputError(
            f"{encoder.name} takes images of {'x'.join(map(str, wanted))}, the data are "
            f"{'x'.join(map(str, shape))}; evaluate it on the data it was made for"
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

    few = tf.constant(images[:_PROBED])
    try:
        with tf.GradientTape() as tape:  # not every operation has a gradient
            tape.watch(few)
            embedding, q = encoder.embed(few), encoder.encode(few)
            decoded = encoder.decode(q.mean) if encoder.decode else None
        for part in (embedding, *q, decoded):
            if part is not None and not tf.is_tensor(part):
                raise TypeError(
                    f"it gives {type(part).__name__}; an encoder gives tensors, made by operations "
                    "that have a gradient"
                )
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
