"""What can a network keep that is told the labels?

`python -m benchmarks.ceiling --arch wide --adversary pgd --out ceilings/pgd.keras` trains the
encoder of an architecture with a linear head on its embedding, with labels, against the attack that
label-free training meets: PGD on the cross-entropy, or the worst that interval bounds allow (Gowal
et al., arXiv 1810.12715: half of the loss in the end). It writes the encoder
alone, which `python -m training.evaluate` measures as it does any other, with a head of its own:
the difference to a label-free encoder is what the labels are worth.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.counts import SHAPES
from benchmarks.encoder_file import encoder_path, save_encoder
from tf_avae.attacks import cross_entropy, pgd
from tf_avae.backend import keras, tf
from tf_avae.bounds import Bounds, ball
from tf_avae.bounds.logits import leads
from tf_avae.config import check
from tf_avae.console.commands import Parser, run_command
from tf_avae.datasets import DATASETS
from tf_avae.networks import ARCHITECTURES
from tf_avae.registry import unknown
from tf_avae.runs.optimizers import FusedAdam
from tf_avae.types import Images, Tensor

_CLEAN = 0.25
"""Share of the steps before interval bounds count, and of the last ones, in which they count half;
between them their weight grows."""


class Supervised(keras.Model):
    """An encoder and a linear head that are trained with labels against an adversary.

    Args:
        encoder: images to {"embedding", ...}.
        classes: how many labels there are.
        adversary: "pgd" or "interval".
        epsilon: radius of the ball.
        pgd_steps: iterations of PGD, from mixed starts.
        steps: of the training; bounds come in over some of them.
    """

    def __init__(
        self, encoder: keras.Model, classes: int, *, adversary: str, epsilon: float,
        pgd_steps: int, steps: int,
    ):  # fmt: skip
        super().__init__()
        logits = keras.layers.Dense(classes, dtype="float32")(encoder.output["embedding"])
        self.network = keras.Model(encoder.inputs, logits)
        self.classes, self.adversary, self.epsilon = classes, adversary, epsilon
        self.pgd_steps, self.steps = pgd_steps, steps
        self.bounds = Bounds(self.network) if adversary == "interval" else None
        self.mean = keras.metrics.Mean(name="loss")

    def call(self, images: Images) -> Tensor:
        return self.network(images)

    def loss_of(self, images: Images, labels: Tensor, step: Tensor) -> Tensor:
        """[B]: the cross-entropy of attacked images, or of clean ones and of what bounds allow."""
        if self.bounds is None:
            attacked = pgd(
                lambda x: cross_entropy(self.network(x), labels), images, epsilon=self.epsilon,
                steps=self.pgd_steps, start="mixed", seed=tf.stack([0, tf.cast(step, tf.int32)]),
            )  # fmt: skip
            return cross_entropy(self.network(attacked), labels)
        share = tf.cast(step, tf.float32) / self.steps
        grown = tf.clip_by_value((share - _CLEAN) / (1.0 - 2.0 * _CLEAN), 0.0, 1.0)
        box = ball(images, self.epsilon * grown)
        apart = leads(self.bounds, box, labels, self.classes)
        worst = tf.reduce_logsumexp(tf.pad(-apart, [[0, 0], [1, 0]]), axis=1)
        clean = cross_entropy(self.network(images), labels)
        return clean + 0.5 * grown * (worst - clean)

    def train_step(self, data: tuple[Images, Tensor]) -> dict[str, Tensor]:
        images, labels = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.loss_of(images, labels, self.optimizer.iterations))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        self.mean.update_state(loss)
        return {"loss": self.mean.result()}


def parser() -> Parser:
    """The command line."""
    made = Parser(prog="python -m benchmarks.ceiling", description=(__doc__ or "").split("\n")[0])
    made.add_argument("--arch", choices=list(SHAPES), default="wide")
    made.add_argument("--adversary", choices=["pgd", "interval"], default="pgd")
    made.add_argument("--epsilon", type=float, default=0.1)
    made.add_argument("--pgd-steps", type=int, default=5)
    made.add_argument("--task", default="digit", help="the label [digit]")
    made.add_argument("--steps", type=int, default=6_000)
    made.add_argument("--batch-size", type=int, default=64)
    made.add_argument("--learning-rate", type=float, default=1e-3)
    made.add_argument("--validation", type=int, default=10_000, help="images to leave out [10000]")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path, required=True, help="the encoder's file, .keras")
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(parser, argv, _main)


def _main(given: argparse.Namespace) -> int:
    out = encoder_path(given.out)
    names = ("epsilon", "pgd_steps", "steps", "batch_size", "learning_rate", "validation", "seed")
    check(**{name: getattr(given, name) for name in names})
    data: Any = DATASETS["color_mnist"].open(validation=given.validation)
    if given.task not in data.labels:
        raise unknown("task", given.task, list(data.labels))
    encoder = ARCHITECTURES[given.arch].encoder(data.image_shape, 64, seed=given.seed)
    model = Supervised(
        encoder, data.labels[given.task], adversary=given.adversary, epsilon=given.epsilon,
        pgd_steps=given.pgd_steps, steps=given.steps,
    )  # fmt: skip
    model.compile(optimizer=FusedAdam(given.learning_rate, global_clipnorm=10.0))
    stream = data.train(given.batch_size, seed=given.seed)
    stream = stream.map(lambda images, labels: (images, tf.cast(labels[given.task], tf.int32)))
    model.fit(stream, epochs=1, steps_per_epoch=given.steps, shuffle=False)
    save_encoder(encoder, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
