"""Pictures of a model: rows of images under one another, each row named."""

import functools
from typing import Any

from tf_avae.backend import tf
from tf_avae.plots import scaled_change, sheet
from tf_avae.types import Images, Tensor


def model_pictures(model: Any, images: Images, title: str) -> dict[str, bytes]:
    """PNGs by name: "reconstructions", "samples" and "decoded", where there is a decoder, and
    "adversarial", where there is an attack.

    Args:
        model: an `AVAE`, trained or untrained.
        images: [N, H, W, C] in [0, 1].
        title: which model this is; put before each picture's own title.
    """
    seed = tf.constant([model.seed, 0], tf.int32)
    decoded = _decoded(model, images, title, seed) if model.decoder is not None else {}
    if model.objective.attack is None:
        return decoded
    attacked = model.attack(images, seed=seed)
    rows = {"x": images, "xᵃ": attacked, "xᵃ − x, scaled": scaled_change(attacked - images)}
    if model.decoder is not None:
        both = (model.encode(of, float32=True).mean for of in (images, attacked))
        again = (model.decode(mean, float32=True) for mean in both)
        rows |= zip(("g(μ(x))", "g(μ(xᵃ))"), again, strict=True)
    heading = f"{title}: the attack of training, {model.ball.name} radius {model.epsilon:g}"
    return {**decoded, "adversarial": sheet(rows, heading)}


def _decoded(model: Any, images: Images, title: str, seed: Tensor) -> dict[str, bytes]:
    """What the decoder makes of images and of the prior."""
    encode = functools.partial(model.encode, float32=True)
    decode = functools.partial(model.decode, float32=True)
    q = encode(images)
    reconstructed = decode(q.mean)
    decoded = decode(q.sample(seed))
    again = decode(encode(decoded).mean)
    count = len(images)
    samples = model.generate(4 * count, seed=seed, float32=True).numpy()
    return {
        "reconstructions": sheet(
            {"x": images, "g(μ(x))": reconstructed}, f"{title}: images and their reconstructions"
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
