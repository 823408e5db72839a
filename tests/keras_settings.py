"""What the package computes under Keras' settings: run by `test_keras_settings`, also in another
process: `python tests/keras_settings.py SAVED.keras OUT.npz`."""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_avae import AVAE
from tf_avae.backend.float32 import Float32View
from tf_avae.graphs.saved_models import load_keras_model
from tf_avae.probes import Probe
from tf_avae.runs.optimizers import FusedAdam
from tf_avae.saved.classifiers import classifier
from tf_avae.saved.frozen import as_layer
from tf_avae.theory.circle import CIRCLE_OBJECTIVES, Circle, train
from training.theory.linear import LinearTask

SHAPE = (12, 12, 3)


def made(arch="conv", objective="se", **options):
    """A compiled model of few latents."""
    model = AVAE(objective=objective, architecture=arch, image_shape=SHAPE, latent_dim=4,
                 pgd_steps=2, **options)  # fmt: skip
    model.compile(FusedAdam(1e-4))
    return model


def numbers(saved: Path) -> dict[str, np.ndarray]:
    """Arrays by name, to be the same to the bit under every setting.

    Args:
        saved: a model saved under Keras' own settings.
    """
    found: dict[str, np.ndarray] = {}

    def note(name, values):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            found[f"{name} {key}"] = np.asarray(value)

    images = np.random.default_rng(0).uniform(size=(32, *SHAPE)).astype(np.float32)
    model = made()
    told = model.fit(images, batch_size=16, shuffle=False, validation_data=(images[:8],), verbose=0)
    note("fit", told.history)
    note("step", model.train_on_batch(images[:16], return_dict=True))
    note("evaluate", model.evaluate(images, batch_size=16, return_dict=True, verbose=0))
    note("predict", model.predict(images, verbose=0))
    note("call", model(images))
    note("weights", model.get_weights())
    note("rate", [model.optimizer.learning_rate])

    spec = tf.TensorSpec([None, *SHAPE], tf.float32, "image")
    function = tf.function(model, input_signature=[spec]).get_concrete_function()
    encoder = as_layer(function, ["embedding"], name="encoder")
    rng = np.random.default_rng(1)
    layer = rng.normal(size=(4, 3)).astype(np.float32), np.zeros(3, np.float32)
    head = Probe(np.zeros(4, np.float32), np.ones(4, np.float32), (layer,))
    note("classify", classifier(encoder, head)(images))

    loaded = load_keras_model(saved)
    note("loaded", loaded(images))
    note("mixed", Float32View(made("mlp", dtype="mixed_bfloat16").encoder)(images))
    note("circle", train(Circle(latents=8), CIRCLE_OBJECTIVES["vae"], steps=3))
    task = LinearTask((4.0, 2.0))
    linear = task.model("vae")
    task.train(linear, 20)
    note("linear", linear.get_weights())
    return found


if __name__ == "__main__":
    np.savez(sys.argv[2], **numbers(Path(sys.argv[1])))
    made().save(f"{sys.argv[2]}.keras")
