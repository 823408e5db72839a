"""Pictures of a model: rows of images under one another, each row named."""

import io
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tf_avae.networks import float32_compute
from tf_avae.types import Images

if TYPE_CHECKING:
    from tf_avae.model import AVAE

_INCHES_PER_IMAGE = 0.62
_LABEL_INCHES = 1.75
_DPI = 150


def sheet(rows: dict[str, np.ndarray], title: str) -> bytes:
    """A PNG with one named row of images per entry.

    Args:
        rows: name to images [N, H, W, C] in [0, 1] (clipped), C being 1 or 3; all of one shape.
        title: what the picture shows.
    """
    tiles = [np.clip(np.asarray(images), 0.0, 1.0) for images in rows.values()]
    count, height, width, channels = tiles[0].shape
    gap = max(1, height // 14)
    canvas = np.ones((len(tiles) * (height + gap) - gap, count * (width + gap) - gap, channels))
    for r, images in enumerate(tiles):
        for c, image in enumerate(images):
            top, left = r * (height + gap), c * (width + gap)
            canvas[top : top + height, left : left + width] = image
    size = (
        _LABEL_INCHES + count * _INCHES_PER_IMAGE,
        0.45 + len(tiles) * _INCHES_PER_IMAGE * height / width,
    )
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    picture = canvas[..., 0] if channels == 1 else canvas
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([r * (height + gap) + (height - 1) / 2 for r in range(len(tiles))], list(rows))
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=10, loc="left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def model_pictures(model: "AVAE", images: Images, title: str) -> dict[str, bytes]:
    """PNGs by name: "reconstructions", "samples", "decoded" and, with an attack, "adversarial".

    Args:
        model: any trained or untrained model.
        images: [N, H, W, C] in [0, 1].
        title: which model this is; put before each picture's own title.
    """
    seed = tf.constant([model.seed, 0], tf.int32)
    with float32_compute(model.encoder, model.decoder):
        q = model.encode(images)
        reconstructed = model.decode(q.mean)
        decoded = model.decode(q.sample(seed))
        again = model.decode(model.encode(decoded).mean)
        count = len(images)
        samples = model.generate(4 * count, seed=seed).numpy()
        pictures = {
            "reconstructions": sheet(
                {"x": images, "g(μ(x))": reconstructed},
                f"{title}: images and their reconstructions",
            ),
            "samples": sheet(
                {f"g(z), z ~ p(z)  {r + 1}": samples[r * count :][:count] for r in range(4)},
                f"{title}: what the decoder makes of the prior",
            ),
            "decoded": sheet(
                {"x": images, "x̃ = g(z), z ~ q(z|x)": decoded, "g(μ(x̃))": again},
                f"{title}: once and twice around the autoencoder",
            ),
        }
        if model.objective.attack is not None:
            attacked = model.attack(images, seed=seed)
            change = attacked - images
            gain = 0.5 / max(float(tf.reduce_max(tf.abs(change))), 1e-6)
            pictures["adversarial"] = sheet(
                {
                    "x": images,
                    "xᵃ": attacked,
                    "xᵃ − x, scaled": 0.5 + gain * change,
                    "g(μ(x))": reconstructed,
                    "g(μ(xᵃ))": model.decode(model.encode(attacked).mean),
                },
                f"{title}: the attack of training, {model.ball.name} radius {model.epsilon:g}",
            )
    return pictures
