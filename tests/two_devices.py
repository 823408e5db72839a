"""Trains on one CPU device and on two in the same process, and writes what was found."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tf_avae import networks
from tf_avae.attacks import BALLS
from tf_avae.backend import replicas
from tf_avae.model import AVAE
from tf_avae.networks import layers
from tf_avae.objectives import OBJECTIVES
from training import fit, session, strategies

FOLDER, ALGOS, RUN = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
MIRRORED = ["--strategy", "mirrored"]


def command(*words):
    """The exit code, and what was complained."""
    complaint = io.StringIO()
    with contextlib.redirect_stderr(complaint):
        return fit.main([*map(str, words)]), complaint.getvalue()


def begin(name, *more):
    return command(*RUN, "--run-dir", FOLDER / name, *more)[0]


@contextlib.contextmanager
def stopped_at(step):
    """SIGTERM comes at the end of this step."""
    record = session.Recorder.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        if self._step() == step:
            os.kill(os.getpid(), signal.SIGTERM)
        record(self, batch, logs)

    session.Recorder.on_train_batch_end = on_train_batch_end
    yield
    session.Recorder.on_train_batch_end = record


found = {}
# First of all, as nothing may use TensorFlow before the CPU is split.
assert begin("mirrored", *MIRRORED, "--virtual-devices", "2") == 0
assert begin("none") == 0
with stopped_at(6):
    found["codes"] = [begin("stopped", *MIRRORED)]
shutil.copytree(FOLDER / "stopped", FOLDER / "changing")
assert command("--resume", "--run-dir", FOLDER / "stopped", *MIRRORED)[0] == 0
resume = ("--resume", "--run-dir", FOLDER / "changing")
with stopped_at(9):
    found["codes"].append(command(*resume)[0])
found["codes"].append(command(*resume, *MIRRORED)[0])
found["odd batch"] = command("--algo", "vae", "--batch-size", "15", *MIRRORED)

images = np.load(FOLDER / "images.npy")
# One normalised convolution: the architectures of the paper take long to trace.
SMALL = networks.Architecture(
    name="small",
    summary="",
    encoder_body=lambda x, build: layers.convolution_stack(
        x, build, keras.layers.Conv2D, 3, (layers.Convolution(4, 2, batch_norm=True),)
    ),
    decoder_body=layers.dense_output,
)
strategy = strategies.Team("mirrored", None, print).strategy


def train(algo, images=images, architecture=SMALL, **options):
    """The trained model, the means of its terms, and the weights that it began with."""
    model = AVAE(
        objective=OBJECTIVES[algo], architecture=architecture, image_shape=images.shape[1:],
        latent_dim=4, pgd_steps=2, **options,
    )  # fmt: skip
    # Not Adam, whose first steps are as long where a gradient is rounding alone.
    model.compile(optimizer=keras.optimizers.SGD(1e-5))
    before = model.get_weights()
    means = model.fit(images, batch_size=32, verbose=0, shuffle=False).history
    return model, means, before


def numbers(means):
    return {name: np.ravel(value).tolist() for name, value in means.items()}


def apart(one, other):
    """The largest difference of weights; the step is none."""
    pairs = [pair for pair in zip(one, other, strict=True) if pair[0].dtype == np.float32]
    return max(float(np.abs(a - b).max()) for a, b in pairs)


OPTIONS = {
    "se": {"ball": BALLS["l2"]},
    "se_avae": {"batch_norm": "all", "pgd_start": "mixed"},
    "adversarial_elbo": {"batch_norm": "clean"},
}
found["steps"] = {}
for algo in ALGOS:
    said, weights = {}, {}
    for name, scope in (("alone", contextlib.nullcontext()), ("both", strategy.scope())):
        with scope:
            model, means, before = train(algo, **OPTIONS.get(algo, {}))
        weights[name] = model.get_weights()
        said[name] = {"fit": numbers(means)}
        if algo == "se_avae":
            terms = model.evaluate(images, batch_size=32, verbose=0, return_dict=True)
            said[name]["evaluate"] = numbers(terms)
    said["apart"] = apart(weights["alone"], weights["both"])
    said["moved"] = apart(before, weights["both"])
    found["steps"][algo] = said

white = 0.9 * images
white[20] = 1.0  # the second replica's half of the first batch
divides = dataclasses.replace(
    networks.ARCHITECTURES["linear"],
    encoder_body=lambda x, build: keras.layers.Flatten()(1.0 / (1.0 - x)),
)
with strategy.scope():
    found["nonfinite"] = train("vae", white, divides)[0].nonfinite()

# One replica's gradient overflows in a step of the optimiser that Keras wraps for float16.
with strategy.scope():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0))
    weight = keras.Variable(np.ones(3, np.float32))
    optimizer.build([weight])


@tf.function
def step():
    def on_replica():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        gradient = tf.fill([3], tf.where(replica == 1, np.inf, 1.0))
        optimizer.apply(replicas.overflow_together([tf.cast(gradient, tf.float32)]), [weight])
        return tf.convert_to_tensor(optimizer.dynamic_scale)

    return strategy.run(on_replica)


scales = [float(scale) for scale in strategy.experimental_local_results(step())]
found["overflow"] = {
    "initial_scale": optimizer.initial_scale,
    "scales": scales,
    "moved": float(np.abs(weight.numpy() - 1).max()),
}
(FOLDER / "found.json").write_text(json.dumps(found))
