"""Adam, as one operation a variable, and how its learning rate falls."""

from typing import Any

from tf_avae.backend import keras, tf
from tf_avae.types import Tensor


@keras.saving.register_keras_serializable("tf_avae")
class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam, of which each variable's update is one of TensorFlow's operations.

    Keras composes it of a dozen, each of which goes through memory once: on a CPU most of the time
    of a small network's update. Arguments and variables are those of `keras.optimizers.Adam`, and
    so are the numbers, up to rounding. The learning rate is float32 whatever Keras' `floatx`.

    Raises:
        ValueError: `amsgrad` is asked for.
    """

    _learning_rate: Any

    def __init__(self, learning_rate: Any = 0.001, **kwargs: Any):
        super().__init__(learning_rate, **kwargs)
        rounded = self._learning_rate
        if isinstance(rounded, keras.Variable) and rounded.dtype != "float32":
            self._untrack_variable(rounded)
            self._learning_rate = keras.Variable(
                learning_rate,
                name="learning_rate",
                dtype="float32",
                trainable=False,
                aggregation="only_first_replica",
            )
            self._track_variable(self._learning_rate)
        if self.amsgrad:
            raise ValueError("FusedAdam has no amsgrad; use keras.optimizers.Adam for it")

    def update_step(self, gradient: Tensor, variable: "tf.Variable", learning_rate: Tensor) -> None:
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.cast(self.beta_1, variable.dtype) ** step,
            beta2_power=tf.cast(self.beta_2, variable.dtype) ** step,
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, variable.dtype),
        )


def adam(learning_rate: float, decay: str, steps: int, clip_norm: float | None) -> FusedAdam:
    """The optimiser of a training.

    Args:
        learning_rate: at first.
        decay: "none", or "cosine": half a cosine to a twentieth of it (Loshchilov and Hutter,
            arXiv 1608.03983).
        steps: of the training.
        clip_norm: the largest norm of the gradient of all weights together; None for any.
    """
    rate: Any = learning_rate
    if decay == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps, alpha=0.05)
    return FusedAdam(rate, global_clipnorm=clip_norm)
