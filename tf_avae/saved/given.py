"""Encoders from elsewhere, as images in [0, 1] to {"embedding", perhaps "variance"}."""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tf_avae.backend import keras, tf
from tf_avae.backend.float32 import in_float32, layers_of
from tf_avae.config import Config
from tf_avae.datasets import DATASETS, ImageData, open_data
from tf_avae.errors import InputError, reason
from tf_avae.files import absolute
from tf_avae.graphs.operations import IF_TRUSTED
from tf_avae.graphs.saved_models import holds_saved_model
from tf_avae.networks import OLD_NAME
from tf_avae.robustified.objectives import ROBUST
from tf_avae.robustified.pixels import PIXELS, as_pixels
from tf_avae.runs.run import holds_run
from tf_avae.saved.layers import keras_encoder
from tf_avae.saved.shipped import located
from tf_avae.types import ImageShape

_TRIED = 4  # images that it must embed, twice alike


def application_names() -> list[str]:
    """The networks of `keras.applications`."""
    return [n for n, of in vars(keras.applications).items() if isinstance(of, types.FunctionType)]


def open_given(
    encoder: str | Path, *, weights: str | None = None, pixels: str | None = None,
    image_shape: ImageShape | None = None, outputs: Sequence[str] = ("embedding",),
) -> keras.Model:  # fmt: skip
    """An encoder as a functional Keras model in float32, its pixels' range included: images
    [B, H, W, C] in [0, 1] to {"embedding": [B, D]}, and "variance" where that is asked for.

    Args:
        encoder: what `keras_encoder` opens (a run, an export, a `.keras` file, the name of an
            encoder that comes with the package), or a name of `keras.applications`, which is taken
            without its top, the mean over the last map.
        weights: of an application: its file, or "imagenet", which Keras may download.
        pixels: a row of `PIXELS`; as the application's own `preprocess_input` has it, or unit,
            unless given.
        image_shape: (H, W, C) of the images; the encoder's unless given.
        outputs: those that are wanted.

    Raises:
        InputError: there is no such encoder, it cannot be trained, or it is none of such images.
    """
    names = application_names()
    if str(encoder) in names and not Path(encoder).exists():
        network, own = _application(str(encoder), weights, image_shape)
    else:
        if weights is not None:
            raise InputError(
                f"encoder weights are {weights!r}, and {encoder} has its own; leave them out, or "
                f"name one of keras.applications: {', '.join(names)}"
            )
        path = located(encoder)
        if not (path.is_file() or holds_run(path) or holds_saved_model(path)):
            close = difflib.get_close_matches(str(encoder), names, n=1)
            raise InputError(
                f"{encoder} is neither the path of a run, an export or a .keras file nor one of "
                f"keras.applications{f' (did you mean {close[0]!r}?)' if close else ''}"
            )
        try:
            network, own = keras_encoder(encoder), PIXELS["unit"].of
        except InputError as error:
            remedy = "build it of layers that only compute, and save it again"
            raise InputError(str(error).replace(IF_TRUSTED, remedy)) from error
    shape = _shape(network, encoder, image_shape)
    made = _wrapped(network, encoder, shape, PIXELS[pixels].of if pixels else own, outputs)
    _try(made, encoder)
    return made


def _application(
    name: str, weights: str | None, image_shape: ImageShape | None
) -> tuple[keras.Model, Callable[[np.ndarray], Any]]:
    if weights is None:
        raise InputError(
            f"{name} is a network without weights; give --encoder-weights FILE, or imagenet, which "
            "Keras downloads where it is not in its cache"
        )
    if weights != "imagenet" and not absolute(weights).is_file():
        raise InputError(f"encoder weights are {weights!r}; there is no such file")
    make, file = getattr(keras.applications, name), None if weights == "imagenet" else weights
    try:
        network = make(
            include_top=False, pooling="avg", weights=None if file else weights,
            input_shape=image_shape,
        )  # fmt: skip
        if file:
            network.load_weights(absolute(file))
    except Exception as error:  # what Keras raises is of many kinds
        raise InputError(f"{name} cannot be made of {weights} ({reason(error)})") from error
    # The module that it comes from has the preprocessing beside it.
    (module,) = (
        module
        for module in vars(keras.applications).values()
        if isinstance(module, types.ModuleType)
        and hasattr(module, name)
        and hasattr(module, "preprocess_input")
        and module.__name__.rpartition(".")[2] in make.__module__
    )
    return network, module.preprocess_input


def _shape(network: Any, name: str | Path, image_shape: ImageShape | None) -> ImageShape:
    """(H, W, C) of the images."""
    takes = getattr(network, "input_shape", None)
    if not isinstance(takes, tuple) or len(takes) != 4:
        raise InputError(f"{name} takes inputs of shape {takes}; an encoder takes [N, H, W, C]")
    if image_shape is None:
        if None in takes[1:]:
            raise InputError(
                f"{name} takes images of any size, {takes[1:]}; say which with --image-size"
            )
        return takes[1], takes[2], takes[3]
    if any(own not in (None, side) for own, side in zip(takes[1:], image_shape, strict=True)):
        raise InputError(
            f"{name} takes images of {_size(takes[1:])}, and these are {_size(image_shape)}; give "
            f"--image-size {takes[1]}, or an encoder of other images"
        )
    return image_shape


def _size(shape: Any) -> str:
    return "x".join("any" if side is None else str(side) for side in shape)


def _wrapped(
    network: Any, name: str | Path, shape: ImageShape, pixels: Callable[[np.ndarray], Any],
    wanted: Sequence[str],
) -> keras.Model:  # fmt: skip
    """The network behind its pixels' range, with named outputs."""
    dtype = keras.backend.standardize_dtype(network.inputs[0].dtype)
    if "float" not in dtype:
        raise InputError(
            f"{name} takes {dtype}, through which no gradient goes; save it with a float input "
            "(keras.Input of float32, and pixels from 0 to 255 with --pixels bytes)"
        )
    gives = getattr(network, "output", None)
    if isinstance(gives, dict) and set(wanted) <= set(gives):
        # The layers of its other outputs would be kept, and never trained.
        network = keras.Model(network.inputs, {key: gives[key] for key in wanted})
    if not network.trainable_weights:
        raise InputError(
            f"{name} has no trainable weights; set `trainable = True` on it, or on the layers that "
            "are to learn, and save it again"
        )
    try:
        made = in_float32(network)  # a copy, also of what computes in another precision
        made.set_weights(network.get_weights())
    except Exception as error:  # layers of others raise many kinds
        raise InputError(
            f"{name} cannot be made again in float32 ({reason(error)}); build it of Keras' own "
            "layers"
        ) from error
    images = keras.Input(shape, name="image", dtype="float32")
    found = made(as_pixels(images, shape[2], pixels, name))
    outputs = dict(found) if isinstance(found, dict) else {"embedding": found}
    if OLD_NAME in outputs and "embedding" not in outputs:
        outputs["embedding"] = outputs[OLD_NAME]
    ranks: dict[str, Any] = {key: getattr(of, "shape", None) for key, of in outputs.items()}
    if isinstance(found, list | tuple) or "embedding" not in outputs:
        given = ", ".join(ranks) if isinstance(found, dict) else f"{len(found)} outputs"
        raise InputError(f"{name} gives {given}; an encoder gives embedding, or one tensor")
    if len(ranks["embedding"]) != 2 or ranks["embedding"][1] is None:
        raise InputError(
            f"{name} gives embeddings of shape {ranks['embedding']}; they must be [N, D]: pool the "
            "map, for instance with GlobalAveragePooling2D, and save it again"
        )
    lacking = set(wanted) - set(outputs)
    if lacking:
        raise InputError(
            f"{name} gives no {' and no '.join(sorted(lacking))}, which the objective trains; take "
            "--algo fare"
        )
    kept = {key: outputs[key] for key in wanted}
    return keras.Model(images, kept, name="encoder")


def _try(encoder: keras.Model, name: str | Path) -> None:
    """Raises `InputError` unless it embeds images alike each time, as finite numbers that depend
    on them."""
    images = np.random.default_rng(0).uniform(size=(_TRIED, *encoder.input_shape[1:]))
    # Together and two by two: an embedding must not depend on what is beside the image either.
    once, again = (
        np.concatenate([encoder(tf.constant(part, tf.float32))["embedding"].numpy()
                        for part in np.split(images, parts)])
        for parts in (1, 2)
    )  # fmt: skip
    if not np.isfinite(once).all():
        raise InputError(
            f"{name} embeds images in [0, 1] as numbers that are not finite; say with --pixels "
            "what it takes, or mend it"
        )
    if not np.allclose(once, again, rtol=1e-5, atol=1e-5 * np.abs(once).max()):
        random = [layer.name for layer in layers_of(encoder) if hasattr(layer, "seed_generator")]
        raise InputError(
            f"{name} embeds the same images otherwise each time; a layer draws numbers in "
            f"inference mode (perhaps {', '.join(random) or 'one of its own'}), or normalises by "
            "the batch: save it without"
        )
    if not np.ptp(once, axis=0).max() > 1e-6 * np.abs(once).max():
        raise InputError(
            f"{name} embeds {_TRIED} images of noise alike; say with --pixels what range it takes "
            f"({', '.join(PIXELS)}), or mend it"
        )


def open_with_data(config: Config) -> tuple[Config, ImageData, keras.Model]:
    """The encoder that a config names, the data, and the config with what the encoder decides: the
    size of images, where the data set lets one choose, and the latent dimensions.

    Raises:
        InputError: as `open_given` and `open_data`, or the encoder is not of such images.
    """
    path: Any = config.encoder
    how: dict[str, Any] = {
        "weights": config.encoder_weights, "pixels": config.pixels,
        "outputs": ROBUST[config.algo].outputs,
    }  # fmt: skip
    encoder: Any = None
    if "image_size" in DATASETS[config.dataset].options and config.image_size is None:
        encoder = open_given(path, **how)
        height, width, _ = encoder.input_shape[1:]
        if height != width:
            raise InputError(
                f"{path} takes images of {height}x{width}; {config.dataset} gives square "
                "ones: take an encoder of these"
            )
        config = replace(config, image_size=height)
    data = open_data(config)
    if encoder is None or encoder.input_shape[1:] != data.image_shape:
        encoder = open_given(path, **how, image_shape=data.image_shape)
    return replace(config, latent_dim=encoder.output["embedding"].shape[1]), data, encoder
