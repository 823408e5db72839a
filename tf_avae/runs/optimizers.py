"""Adam, as one operation a variable, how its learning rate goes, and averages of the weights."""

from typing import Any

from tf_avae.backend import keras, tf
from tf_avae.config import Config
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


def adam(config: Config, steps: int) -> FusedAdam:
    """The optimiser of a training, as its config asks for it.

    Args:
        config: learning rate, how it rises and falls (half a cosine: Loshchilov and Hutter, arXiv
            1608.03983), clipping, moving average.
        steps: of the training.
    """
    rate: Any = config.learning_rate
    if config.learning_rate_warmup or config.learning_rate_decay == "cosine":
        rises = config.learning_rate_warmup
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if rises else rate,
            steps - rises,
            alpha=0.05 if config.learning_rate_decay == "cosine" else 1.0,
            warmup_target=rate if rises else None,
            warmup_steps=rises,
        )
    return FusedAdam(
        rate,
        global_clipnorm=config.clip_norm,
        use_ema=config.ema_momentum is not None,
        ema_momentum=config.ema_momentum or 0.0,
    )


def averages(model: keras.Model) -> list[keras.Variable]:
    """The averages of the weights that a model trains, in their order; none where its optimiser
    keeps none, or has taken no step."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    started = optimizer.use_ema and int(optimizer.iterations.numpy()) > 0
    return optimizer._model_variables_moving_average if started else []


def use_averages(model: keras.Model, target: keras.Model | None = None) -> None:
    """Gives a model, or a twin of it, the averages of its weights where there are some, as Keras'
    `fit` does at its end. (Keras' own way refuses a twin that is outside of a strategy.)"""
    if found := averages(model):
        for variable, average in zip((target or model).trainable_variables, found, strict=True):
            variable.assign(average.numpy())
