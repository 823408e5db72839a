"""Layers that Keras does not have."""

from tf_avae.backend import keras


@keras.saving.register_keras_serializable("tf_avae")
class ConstantVariance(keras.layers.Layer):
    """A learned variance per latent dimension that is the same for every image.

    Features [B, F] to exp(log_variance) repeated, [B, D].
    """

    def __init__(self, latent_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.latent_dim = latent_dim

    def build(self, input_shape):
        self.log_variance = self.add_weight(
            shape=(self.latent_dim,), initializer="zeros", name="log_variance"
        )

    def call(self, features):
        batch = keras.ops.shape(features)[0]
        return keras.ops.broadcast_to(keras.ops.exp(self.log_variance), (batch, self.latent_dim))

    def get_config(self):
        return {**super().get_config(), "latent_dim": self.latent_dim}
