"""What this environment exports gives the same numbers under the container's TensorFlow."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.conformance.prepare import RELEASE, untrained_run
from tf_avae.runs.run import load_trained
from tf_avae.saved.exports import export_run

# Run by an interpreter that has that TensorFlow and nothing of ours.
_ASK = """
import sys
import numpy as np
import tensorflow as tf
model, asked, answered = sys.argv[1:]
signatures = tf.saved_model.load(model).signatures
inputs = dict(np.load(asked, allow_pickle=True))
found = {"version": tf.__version__}
aliases = {"serving_default": "image", "embed_bytes": "image_bytes", "decode": "latent"}
for name, alias in aliases.items():
    reply = signatures[name](**{alias: tf.constant(inputs[alias])})
    found |= {name + "-" + key: value.numpy() for key, value in reply.items()}
np.savez(answered, **found)
"""


def interpreter(folder, release):
    """An environment with this TensorFlow alone, made unless PINNED_PYTHON names one."""
    if os.environ.get("PINNED_PYTHON"):
        return os.environ["PINNED_PYTHON"]
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=300)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", f"tensorflow=={release}"]
    subprocess.run(install, check=True, timeout=1200)
    return python


@pytest.mark.long
def test_same_numbers_under_the_servers_release(tmp_path):
    python = interpreter(tmp_path / "venv", RELEASE.split("@")[0])
    run = untrained_run(tmp_path / "run")
    model = load_trained(run)
    folder = export_run(run, tmp_path / "encoder")
    pixels = np.random.default_rng(0).integers(0, 256, (8, *model.image_shape)).astype(np.uint8)
    images = (pixels / 255).astype(np.float32)
    files = np.array([tf.io.encode_png(image).numpy() for image in pixels], object)
    expected = model(images)
    latents = expected["embedding"].numpy()
    np.savez(tmp_path / "asked.npz", image=images, image_bytes=files, latent=latents)
    (tmp_path / "ask.py").write_text(_ASK)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [python, "ask.py", folder, "asked.npz", "answered.npz"],
        cwd=tmp_path, check=True, timeout=300, env=environment,
    )  # fmt: skip
    found = dict(np.load(tmp_path / "answered.npz"))
    print("TensorFlow", found["version"], "against", tf.__version__)
    for name, value in expected.items():
        for signature in ("serving_default", "embed_bytes"):
            np.testing.assert_allclose(
                found[f"{signature}-{name}"], value, rtol=1e-6, atol=1e-6, err_msg=signature
            )
    np.testing.assert_allclose(found["decode-image"], model.decode(latents), rtol=1e-6, atol=1e-6)
