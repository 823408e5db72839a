"""What is not installed is named, with what brings it."""

import importlib
import importlib.util
import re

import pytest

import serving.client
import serving.server
import serving.transformer
import tf_avae.saved.versions
from serving import bulk
from tests.test_readme import ROOT
from tf_avae import backend
from tf_avae.errors import InputError
from tf_avae.saved.formats import FORMATS, OnnxFile
from training import demo

CASES = [
    (lambda: importlib.reload(serving.transformer), "sklearn", "scikit-learn", "tf"),
    (lambda: importlib.reload(serving.client), "grpc", "grpcio", "client"),
    (lambda: importlib.reload(serving.client), "google.protobuf", "protobuf", "client"),
    (lambda: importlib.reload(serving.server), "aiohttp", "aiohttp", "tf"),
    (lambda: importlib.reload(serving.server), "grpc_health", "grpcio-health-checking", "tf"),
    (lambda: importlib.reload(tf_avae.saved.versions), "tensorflow_serving",
     "tensorflow-serving-api", "tf"),
    (backend.import_tensorflow, "tensorflow", "TensorFlow", "tf"),
    (backend.import_tensorflow, "matplotlib", "matplotlib", "tf"),
    (backend.import_tensorflow, "PIL", "pillow", "tf"),
    (bulk.check_installed, "apache_beam", "Apache Beam", "beam"),
    (bulk.check_installed, "pyarrow", "pyarrow", "beam"),
    (FORMATS["onnx"].check_installed, "tf2onnx", "tf2onnx", "onnx"),
    (lambda: OnnxFile(ROOT), "onnxruntime", "onnxruntime", "onnx"),
    (FORMATS["openvino"].check_installed, "openvino", "openvino", "openvino"),
    (demo.check_installed, "gradio", "Gradio", "demo"),
    (FORMATS["litert"].check_installed, "ai_edge_litert", "ai-edge-litert", "litert"),
]  # fmt: skip


@pytest.mark.parametrize(("use", "module", "name", "extra"), CASES)
def test_what_is_missing_is_named(use, module, name, extra, monkeypatch):
    find = importlib.util.find_spec

    def without(wanted, *package):
        return None if wanted == module else find(wanted, *package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises((ModuleNotFoundError, InputError)) as raised:
        use()
    assert name in str(raised.value) and f"pip install '.[{extra}]'" in str(raised.value)
    extras = re.findall(r'^        "(\w+)": ', (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert extra in extras
