"""Small models and data that the tests share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Several processes share the cores, and threads of BLAS that wait for a core spin meanwhile.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# First, as in the commands: what imports TensorFlow decides on oneDNN (tf_avae/backend), and so on
# the last bits of results, which tests compare between this process and commands in their own.
import tf_avae  # isort: split

import hypothesis
import keras
import numpy as np
import pytest

from tf_avae.networks import Architecture, layers
from tf_avae.runs.optimizers import FusedAdam

# How long an example takes says what else the machine does.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")

SMALL = (12, 12, 3)
# Both networks have a normalised convolution; those of the paper take three times as long to trace.
SMALL_CONV = Architecture(
    name="small",
    summary="",
    encoder_body=lambda x, build: layers.convolution_stack(
        x, build, keras.layers.Conv2D, 3, (layers.Convolution(4, 2, batch_norm=True),)
    ),
    decoder_body=lambda z, build: layers.convolution_decoder(
        z, build, shrink=2, start_channels=4, kernel=3,
        stack=(layers.Convolution(4, 2, batch_norm=True),), last_stride=1,
    ),
    divisor=2,
)  # fmt: skip


def small_model(algo="avae", *, arch="mlp", precision="float32", compiled=True, **options):
    """A model for 12x12 images with 4 latents and a short attack."""
    # The bounds of random weights are far apart: training grows epsilon from 0.
    small = {"epsilon": 1e-5} if algo == "certified_elbo" else {}
    model = tf_avae.AVAE(
        objective=tf_avae.OBJECTIVES[algo],
        architecture=arch,
        image_shape=SMALL,
        dtype=precision,
        **({"latent_dim": 4, "pgd_steps": 3} | small | options),
    )
    if compiled:
        model.compile(optimizer=FusedAdam(1e-3))
    return model


def idx_bytes(array):
    """A file in MNIST's format."""
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes()
    return head + array.tobytes()


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory, color_mnist):
    """A folder of idx files: the first 800 training and 120 test images of MNIST."""
    folder = tmp_path_factory.mktemp("digits")
    splits = (("train", color_mnist.train_split, 800), ("t10k", color_mnist.held_out_split, 120))
    for prefix, split, count in splits:
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(split.images[:count]))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(split.labels[:count]))
    return folder


@pytest.fixture(autouse=True)
def seeded():
    """Initial weights and orders that a test leaves to Keras; needed too where an earlier test has
    asked TensorFlow for determinism."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def make_model():
    return small_model


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory):
    """A version of what `small_model()` is served as; exporting takes long, so others copy it."""
    from tf_avae.saved.exports import served_encoder
    from tf_avae.saved.versions import publish

    base = tmp_path_factory.mktemp("small") / "encoder"
    return publish(served_encoder(small_model(compiled=False)), base, {}, batch_sizes=(1,))


@pytest.fixture(scope="session")
def small_images():
    """64 smooth images [64, 12, 12, 3] in [0, 1]: blobs of random place and colour."""
    rng = np.random.default_rng(7)
    grid = np.stack(np.meshgrid(np.arange(12), np.arange(12), indexing="ij"), -1)
    centers = rng.uniform(2, 9, (64, 1, 1, 2))
    blobs = np.exp(-((grid - centers) ** 2).sum(-1) / 8.0)
    return (blobs[..., None] * rng.uniform(0.2, 1, (64, 1, 1, 3))).astype(np.float32)


@pytest.fixture(scope="session")
def color_mnist():
    return tf_avae.DATASETS["color_mnist"].open()
