"""Trials as graphs, each traced once: for all radii, and for all heads of one form.

Tracing an attack through a deep network takes seconds. An evaluation attacks through several heads
at several radii; the head's weights and the radius are arguments of one graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tf_avae.attacks import Ball
from tf_avae.backend import tf
from tf_avae.evaluation.batches import compiled, image_spec, seed_spec
from tf_avae.evaluation.trials import Classifier, Examples, Setting, Trial
from tf_avae.probes import Probe
from tf_avae.types import Images, ImageShape, Tensor


@dataclass(frozen=True)
class Headed:
    """The classifier that an encoder and a head make.

    Attributes:
        embed: images [B, H, W, C] to embeddings [B, D], differentiable, float32.
        head: embeddings to logits.
    """

    embed: Callable[[Images], Tensor]
    head: Probe

    def __call__(self, images: Images) -> Tensor:
        """Images [B, H, W, C] to logits [B, K]."""
        return self.head(self.embed(images))


class TrialGraphs:
    """The graphs made so far. Keep one for all attacks on an encoder."""

    def __init__(self) -> None:
        self._made: dict[tuple, Callable] = {}

    def of(
        self, trial: Trial, classify: Classifier, epsilon: float, ball: Ball, shape: ImageShape
    ) -> Callable[[Examples], tuple[Images, Tensor]]:
        """One search of a trial: examples to attacked images [B, H, W, C] and their logits [B, K].

        Args:
            trial: what is searched.
            classify: the classifier; as a `Headed` it shares its graph with other heads.
            epsilon: radius.
            ball: a row of `BALLS`.
            shape: of an image.
        """
        # A probe without its class numbers, which logits do not depend on.
        arrays = classify.head[:3] if isinstance(classify, Headed) else ()
        through = classify.embed if isinstance(classify, Headed) else classify
        specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), arrays)
        key = (trial, through, ball.name, tuple(shape), specs)
        if key not in self._made:
            self._made[key] = _traced(trial, through, ball, shape, specs)
        graph, radius = self._made[key], tf.constant(epsilon, tf.float64)
        return lambda examples: graph(arrays, radius, examples)


def _traced(
    trial: Trial, through: Callable[[Images], Tensor], ball: Ball, shape: ImageShape, specs: Any
) -> Callable:
    images, number = image_spec(shape), tf.TensorSpec([], tf.int32)
    examples = Examples(images, tf.TensorSpec([None], tf.int32), images, number, seed_spec())

    # The radius has the precision of a Python number until it meets the pixels.
    @compiled(specs, tf.TensorSpec([], tf.float64), examples)
    def run(arrays: tuple, epsilon: Tensor, examples: Examples) -> tuple[Images, Tensor]:
        classify = Headed(through, Probe(*arrays)) if arrays else through
        on = Setting(classify, epsilon, ball)
        found = trial.search(on, trial.target(on, examples), examples)
        return found, on.classify(found)

    return run
