"""The Frechet inception distance (Heusel et al., 2017), with features of one's own choosing."""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tf_avae.backend import keras, tf
from tf_avae.backend.float32 import Float32View, in_float32
from tf_avae.distributions import w2_squared_full
from tf_avae.errors import InputError, reason
from tf_avae.evaluation.batches import compiled, image_spec, in_batches
from tf_avae.files import absolute
from tf_avae.graphs.saved_models import SavedModel, load_keras_model
from tf_avae.inputs import image_array
from tf_avae.types import Images, Tensor

_INCEPTION_SIDE = 299
_INCEPTION_MD5 = "bcbd6486424b2319ff4ef7d526e38f63"
"""Of Keras' inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5."""


@dataclass(frozen=True)
class Extractor:
    """What makes features of images.

    Attributes:
        features: images [B, H, W, C] in [0, 1] to features [B, F].
        notes: what it is, for the result: "kind", "file" and its "sha256".
    """

    features: Callable[[Images], Tensor]
    notes: dict[str, Any]


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """The Frechet distance of two samples' Gaussians: FID where the features are Inception's.

    |m - m'|^2 + Tr(S + S' - 2 (S S')^(1/2)), which is the squared 2-Wasserstein distance of the
    two Gaussians; unbiased covariances, float64.

    Args:
        features, others: [N, F] and [M, F], two rows or more each. With fewer rows than features
            the covariances are singular and the estimate is biased upwards.

    Raises:
        InputError: shapes that do not fit, or a value that is not finite.
    """
    samples = [np.asarray(x, np.float64) for x in (features, others)]
    for x in samples:
        if x.ndim != 2 or len(x) < 2 or x.shape[1:] != samples[0].shape[1:]:
            raise InputError(
                f"features have shapes {samples[0].shape} and {samples[1].shape}; they must be "
                "[N, F] and [M, F], two rows or more each"
            )
        if not np.isfinite(x).all():
            raise InputError("the features are not all finite; take another extractor")
    moments = [m for x in samples for m in (x.mean(0), np.atleast_2d(np.cov(x, rowvar=False)))]
    return float(w2_squared_full(*moments))


def open_extractor(path: str | Path, *, trust: bool = False) -> Extractor:
    """A feature extractor from a local file. Nothing is downloaded.

    Args:
        path: `.h5`, Inception v3's weights without its top (Keras'
            inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5): 2,048 features, images
            resized to 299 x 299 and scaled to [-1, 1]; `.keras`, a Keras model; or the folder of a
            SavedModel with a signature `serving_default`.
        trust: whether to open a model that may do more than compute.

    Raises:
        InputError: there is nothing at the path, it is not what its name says, or it may do more
            than compute.
    """
    path = absolute(path)
    if path.is_dir():
        saved = SavedModel(path, trust=trust)
        notes = {"kind": "SavedModel", "file": path.name, "sha256": saved.checksum}
        return Extractor(_saved_model(saved), notes)
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such feature extractor; give Inception v3 weights (.h5), a "
            "Keras model (.keras) or a SavedModel folder"
        )
    notes = {"file": path.name, "sha256": _digest(path)}
    if path.suffix == ".h5":
        known = _digest(path, "md5") == _INCEPTION_MD5
        kind = "Inception v3, " + ("Keras' ImageNet weights" if known else "unknown weights")
        return Extractor(_inception(path), {"kind": kind, **notes})
    if path.suffix == ".keras":
        model = load_keras_model(path, trust=trust)
        return Extractor(Float32View(model), {"kind": "Keras model", **notes})
    raise InputError(
        f"{path.name}: a feature extractor is Inception v3 weights (.h5), a Keras model (.keras) "
        "or a SavedModel folder"
    )


def features_of(extractor: Extractor, images: np.ndarray, batch_size: int) -> np.ndarray:
    """The features of images, [N, F] float32.

    Raises:
        InputError: they are no images, or the extractor does not take them, or gives no matrix.
    """
    images = image_array(images)
    try:
        graph = compiled(image_spec(images.shape[1:]))(extractor.features)
        found = in_batches(graph, images, batch_size=batch_size)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise InputError(
            f"{extractor.notes['file']} does not take images of {images.shape[1:]}: {reason(error)}"
        ) from error
    if getattr(found, "ndim", 0) != 2:
        raise InputError(
            f"{extractor.notes['file']} does not give one vector an image; "
            "a feature extractor has one output [N, features]"
        )
    return found


def _inception(path: Path) -> Callable[[Images], Tensor]:
    if keras.config.image_data_format() != "channels_last":
        raise InputError(
            "Keras' image_data_format is channels_first, and Inception v3 is made in it; set it to "
            "channels_last for the FID (keras.json, or keras.config.set_image_data_format)"
        )
    network = keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")
    if keras.config.dtype_policy().name != "float32":
        network = in_float32(network)
    try:
        with warnings.catch_warnings():
            # Keras warns, and leaves random weights, where a file lacks some.
            warnings.simplefilter("error")
            network.load_weights(path)
    except (ValueError, OSError, KeyError, TypeError, UserWarning) as error:
        raise InputError(
            f"{path} does not hold the weights of Inception v3 without its top ({reason(error)})"
        ) from error

    def features(images: Images) -> Tensor:
        if images.shape[-1] == 1:
            images = tf.repeat(images, 3, axis=-1)
        resized = tf.image.resize(images, [_INCEPTION_SIDE] * 2, method="bilinear")
        return network(2.0 * resized - 1.0, training=False)

    return features


def _saved_model(saved: SavedModel) -> Callable[[Images], Tensor]:
    inputs = saved.inputs("serving_default")
    if len(inputs) != 1:
        raise InputError(
            f"{saved.path} takes {', '.join(sorted(inputs))}; a feature extractor takes images only"
        )
    (name,) = inputs

    def features(images: Images) -> Tensor:
        outputs = saved.call("serving_default", **{name: images})
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    return features


def _digest(path: Path, algorithm: str = "sha256") -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
