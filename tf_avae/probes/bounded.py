"""A head with one hidden layer that trains against interval bounds."""

from typing import Any

from tf_avae.backend import keras, tf
from tf_avae.bounds import Bounds, Box
from tf_avae.types import Latents, Tensor

_AT_ONCE = 25  # steps: Keras takes longer between two of them than for one


class BoundedHead(keras.Sequential):
    """A head that trains against interval bounds of its logits.

    Attributes:
        radius: how far each dimension of its inputs may move.
    """

    def __init__(self, size: int, units: int, classes: int, seed: int):
        def dense(count: int, number: int, **options: Any) -> keras.layers.Dense:
            kernel = keras.initializers.GlorotUniform(seed=seed + number)
            return keras.layers.Dense(count, kernel_initializer=kernel, dtype="float32", **options)

        inputs = keras.Input((size,), dtype="float32")
        super().__init__(
            [inputs, dense(units, 0, activation="relu"), dense(classes, 1)], name="head"
        )
        self.radius = tf.Variable(0.0, trainable=False)
        self._classes, self._bounds = classes, Bounds(self)
        # Of a number, Keras would make a rate in its floatx; and it would scale by its policy.
        adam = keras.optimizers.Adam(lambda: tf.constant(1e-3))
        self.compile(adam, jit_compile=False, auto_scale_loss=False, steps_per_execution=_AT_ONCE)

    def compute_loss(
        self, x: Latents, y: Tensor, y_pred: Tensor, sample_weight: None = None,
        training: bool = True,
    ) -> Tensor:  # fmt: skip
        """The mean over a batch, a number."""
        box = Box(x - self.radius, x + self.radius)
        logits = self._bounds(box)
        right = tf.one_hot(y, self._classes, on_value=True, off_value=False)
        worst = tf.where(right, logits.lower, logits.upper)
        losses = [
            tf.nn.sparse_softmax_cross_entropy_with_logits(y, given) for given in (y_pred, worst)
        ]
        return tf.reduce_mean(losses)
