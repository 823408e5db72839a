"""The formats of an export: what is served, and files for other runtimes.

A file is written by Keras' own exporter and run in its runtime right after, beside the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tf_avae.backend import keras, need, tf
from tf_avae.errors import InputError, reason
from tf_avae.graphs.saved_models import SAVED_MODEL
from tf_avae.registry import Registry
from tf_avae.saved.contract import ONNX

if TYPE_CHECKING:
    from tf_avae.model import AVAE

SAME = 1e-4
"""Largest difference of a runtime's numbers from the model's, over the largest of these where that
is above 1: sums are taken in another order."""

Runtime = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""Images [N, H, W, C] float32 to outputs by name."""


class Content(Protocol):
    """What a version holds.

    Attributes:
        file: the file that a version of this format is known by.
        left_out: what there might have been, by name, and why it is not there.
    """

    file: str
    left_out: Mapping[str, str]

    def fill(self, folder: Path, name: str, batch_sizes: Sequence[int]) -> None:
        """Writes all of it into an empty folder, and compares what it computes with the model.

        Args:
            folder: of the version.
            name: the model's.
            batch_sizes: numbers of images to try it with.

        Raises:
            RuntimeError: it gives other numbers than what it was made from.
        """


@dataclass(frozen=True)
class Format:
    """A format of an export.

    Attributes:
        name: the row's name.
        summary: what it is, for `--help` and the docs.
        file: the file that a version of this format is known by.
        needs: modules that must be there, to the names of their distributions.
        extra: the extra of this package that brings them.
        run: opens the file in its runtime; None for what is served, with signatures.
    """

    name: str
    summary: str
    file: str
    needs: Mapping[str, str]
    extra: str
    run: Callable[[Path], Runtime] | None = None

    def check_installed(self) -> None:
        """Raises `NotInstalled` where what it needs is missing; the message names the extra."""
        need(self.needs, self.extra)


class EncoderFile:
    """A model as a file for another runtime.

    It takes "image", [N, H, W, C] float32 for any N, and refuses no pixels: a graph of these
    formats cannot. It computes in float32, whatever the precision of training.

    Args:
        row: its format, which has a runtime; its name is Keras' own.
        model: what is written.
        outputs: names among those of a call.
    """

    left_out: Mapping[str, str] = {}

    def __init__(self, row: Format, model: AVAE, outputs: Sequence[str]):
        self.file, self._row = row.file, row
        self._model, self._outputs = model, tuple(outputs)

    def fill(self, folder: Path, name: str, batch_sizes: Sequence[int]) -> None:
        """As `Content` says."""
        row, shape = self._row, self._model.image_shape
        assert row.run
        network = _unchecked(self._model, self._outputs)
        network(tf.zeros((1, *shape)))  # Keras exports what was called
        path = folder / self.file
        signature = [keras.InputSpec("float32", (None, *shape), name="image")]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of how Keras mends tf2onnx
                network.export(str(path), format=row.name, verbose=False, input_signature=signature)
            run = row.run(path)
        except (OSError, tf.errors.OpError):
            raise
        except Exception as error:  # exporters and runtimes raise many kinds
            raise InputError(
                f"the model cannot be written as {row.name}, or not be run then "
                f"({reason(error)}); give another format"
            ) from error
        random = np.random.default_rng(0)
        for size in sorted(set(batch_sizes)):
            images = random.uniform(size=(size, *shape)).astype(np.float32)
            expected, found = self._model(tf.constant(images)), run(images)
            for output in self._outputs:
                value = np.asarray(expected[output])
                most = SAME * max(1.0, float(np.abs(value).max()))
                off = float(np.abs(value - found[output]).max())
                if value.shape != found[output].shape or not off <= most:
                    raise RuntimeError(
                        f"{self.file} gives {output} {list(found[output].shape)} of {size} images "
                        f"that differ by {off:g} from the model's {list(value.shape)}, more than "
                        f"{most:g}; nothing was published"
                    )


def _unchecked(model: AVAE, names: Sequence[str]) -> keras.Model:
    """What a call of the model gives, without its check of the images."""

    class Unchecked(keras.Model):
        def __init__(self) -> None:
            super().__init__(dtype="float32")
            self.of = model

        def call(self, image: Any) -> dict[str, Any]:
            found = self.of.outputs(image)
            return {name: found[name] for name in names}

    return Unchecked()


class OnnxFile:
    """An ONNX file in ONNX Runtime, on the CPU.

    Args:
        path: of the file, which holds its weights.

    Attributes:
        shape: of its input; a name, or None, stands for any number.
        outputs: their names, to their shapes.

    Raises:
        NotInstalled: there is no ONNX Runtime.
        InputError: it is no such file, or it takes other than one float32 tensor.
    """

    def __init__(self, path: Path):
        need({"onnxruntime": "onnxruntime"}, "onnx")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone
        try:
            # From bytes: what lies beside the file is not read, and decides nothing.
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except OSError:
            raise
        except Exception as error:  # ONNX Runtime raises many kinds
            raise InputError(
                f"{path} is no ONNX file that can be run ({reason(error)}); export it again, with "
                "its weights in it"
            ) from error
        inputs = self._session.get_inputs()
        kinds = [f"{each.name} {each.type} {each.shape}" for each in inputs]
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            raise InputError(
                f"{path} takes {', '.join(kinds)}; an encoder takes one float32 tensor"
            )
        self._input, self.shape = inputs[0].name, list(inputs[0].shape)
        self.outputs = {each.name: list(each.shape) for each in self._session.get_outputs()}

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """All outputs of images [N, H, W, C] float32, by name: naming some spares no time."""
        found = self._session.run(None, {self._input: images})
        return dict(zip(self.outputs, found, strict=True))


def _openvino(path: Path) -> Runtime:
    import openvino

    # A CPU that has bfloat16 would round to that.
    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(images: np.ndarray) -> Mapping[str, np.ndarray]:
        found = model(images)
        return {name: found[output] for output in model.outputs for name in output.names}

    return run


def _litert(path: Path) -> Runtime:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path)).get_signature_runner()
    return lambda images: run(image=images)


FORMATS: Registry[Format] = Registry(
    "format",
    Format(
        "savedmodel", "what serving.server and TensorFlow Serving serve", SAVED_MODEL,
        {"tensorflow_serving": "tensorflow-serving-api"}, "tf",
    ),
    Format(
        "onnx", "for ONNX Runtime, and what else reads ONNX", ONNX,
        {"onnx": "onnx", "tf2onnx": "tf2onnx", "onnxruntime": "onnxruntime"}, "onnx", OnnxFile,
    ),
    Format(
        "openvino", "for OpenVINO (model.xml, model.bin)", "model.xml",
        {"openvino": "openvino"}, "openvino", _openvino,
    ),
    Format(
        "litert", "for LiteRT, formerly TensorFlow Lite", "model.tflite",
        {"ai_edge_litert": "ai-edge-litert"}, "litert", _litert,
    ),
)  # fmt: skip
"""The formats of an export."""
