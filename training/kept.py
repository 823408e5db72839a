"""What is kept of an encoder whose copy was made robust: what relies on its embeddings still works,
and how much of that works under attack."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from tf_avae.attacks import cross_entropy, pgd
from tf_avae.backend import tf
from tf_avae.datasets import ImageData
from tf_avae.probes import HEADS, Probe
from tf_avae.robustified.model import Robustified
from tf_avae.types import Images, Tensor

HEAD, STEPS = "linear", 20
_BATCH, _FITTED = 250, 10_000
_LOW = 5  # percent of images whose similarity is told as the low one

Embed = Callable[[Images], Tensor]


class _Encoder(NamedTuple):
    """The encoder before, or after."""

    embed: Embed
    attack: Callable[[Images, Tensor], Images]  # images, seed: away from the embeddings of before


def kept(
    model: Robustified, data: ImageData, count: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Figures of an encoder before and after, on the first held-out images.

    Of clean images and of attacked ones: the cosine similarity to the embeddings that clean images
    had before, their mean and their 5th percentile; the share whose nearest of all those embeddings
    is their own, as where an old index is searched; and, of each label that the data predict, the
    accuracy of a linear head that was fitted to the embeddings of before, on at most 10,000
    training images. Similarity and search are attacked by the run's own attack on the embedding,
    heads by PGD on their cross-entropy (20 steps, from the run's start), each encoder by itself.
    These are quick looks, upper bounds of what a wider search would leave.

    Args:
        model: trained.
        data: its data.
        count: of held-out images.
        say: is told what is being done.

    Returns:
        {"images": n, "epsilon": radius, "before" and "after": {"clean" and "attacked": {"cosine":
        {"mean", "low"}, "found": share, "heads": {task: accuracy}}}}.
    """
    before = model.twin()
    before.encoder.set_weights(model.original.get_weights())
    pair = {"before": _encoder(before), "after": _encoder(model)}
    batches = list(data.held_out(_BATCH).unbatch().take(count).batch(_BATCH))
    index = _embedded(pair["before"].embed, (images for images, _ in batches))
    say(f"fitting heads to the embeddings of before: {', '.join(data.tasks) or 'no labels'}")
    heads = _heads(pair["before"].embed, data)
    found: dict[str, Any] = {"images": len(index), "epsilon": model.epsilon}
    for when, encoder in pair.items():
        say(f"attacking {len(index):,} held-out images: {when}")
        moved = [
            encoder.attack(images, tf.constant([model.seed, number]))
            for number, (images, _) in enumerate(batches)
        ]
        found[when] = {
            "clean": {
                **_near(_embedded(encoder.embed, (images for images, _ in batches)), index),
                "heads": {t: _accuracy(model, encoder.embed, h, t, batches, 0.0)
                          for t, h in heads.items()},
            },
            "attacked": {
                **_near(_embedded(encoder.embed, moved), index),
                "heads": {t: _accuracy(model, encoder.embed, h, t, batches, model.epsilon)
                          for t, h in heads.items()},
            },
        }  # fmt: skip
    return found


def _encoder(model: Robustified) -> _Encoder:
    @tf.function
    def embed(images: Images) -> Tensor:
        return model.encode(images, float32=True).mean

    @tf.function
    def attack(images: Images, seed: Tensor) -> Images:
        return model.attack(images, seed=seed)

    return _Encoder(embed, attack)


def _embedded(embed: Embed, batches: Iterable[Images]) -> np.ndarray:
    return np.concatenate([embed(images).numpy() for images in batches])


def _near(embeddings: np.ndarray, index: np.ndarray) -> dict[str, Any]:
    """How near embeddings are to their own of an index, and how often that is the nearest."""
    unit, of_index = (
        array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        for array in (embeddings, index)
    )
    similar = unit @ of_index.T
    own = similar.diagonal()
    return {
        "cosine": {"mean": float(own.mean()), "low": float(np.percentile(own, _LOW))},
        "found": float((own >= similar.max(axis=1)).mean()),
    }


def _heads(embed: Embed, data: ImageData) -> dict[str, Probe]:
    if not data.tasks:
        return {}
    embeddings, labels = [], []
    for images, of in data.train_images(_BATCH).take(-(-_FITTED // _BATCH)):
        embeddings.append(embed(images).numpy())
        labels.append({task: of[task].numpy() for task in data.tasks})
    together = np.concatenate(embeddings)
    return {
        task: HEADS[HEAD].fit(together, np.concatenate([of[task] for of in labels]), 0).probe
        for task in data.tasks
    }


def _accuracy(
    model: Robustified, embed: Embed, head: Probe, task: str, batches: list[Any], epsilon: float
) -> float:
    """The share of images that a head reads, as they are or under an attack of its own."""

    def right(images: Images, columns: Tensor, seed: Tensor) -> np.ndarray:
        if epsilon:
            images = pgd(
                lambda x: cross_entropy(head(embed(x)), columns), images, epsilon=epsilon,
                ball=model.ball, steps=STEPS, start=model.pgd_start, seed=seed,
            )  # fmt: skip
        return head(embed(images)).numpy().argmax(1) == columns

    found = []
    for number, (images, labels) in enumerate(batches):
        # A class that the head has not seen is not read.
        known = np.isin(labels[task].numpy(), head.classes)
        columns = head.columns(labels[task].numpy()[known])
        hit = np.zeros(len(known), bool)
        hit[known] = right(images[known], columns, tf.constant([model.seed, number]))
        found.append(hit)
    return float(np.concatenate(found).mean())
