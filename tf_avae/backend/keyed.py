"""Keras' random layers as functions of a key."""

from tf_avae.backend import keras, tf
from tf_avae.types import Tensor


class Keyed(keras.random.SeedGenerator):
    """Seeds that are a function of a key, and of how many were drawn since it was set; the state
    that Keras' own has is not used.

    Attributes:
        key: a stateless seed, int32 [2].
    """

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.set(tf.zeros(2, tf.int32))

    def set(self, key: Tensor) -> None:
        """Begins with another key."""
        self.key, self._drawn = key, 0

    def next(self, ordered: bool = True) -> Tensor:
        self._drawn += 1
        return tf.random.experimental.stateless_fold_in(self.key, self._drawn)
