"""TensorFlow Serving's messages, as far as they are needed here, without TensorFlow.

The messages are written down in the .proto files of this folder. They are read, compiled, into a
pool of their own, so the official classes (tensorflow, tensorflow-serving-api) can live in the same
process: the two do not know one another, and what one writes the other reads. After a change:

    python -m grpc_tools.protoc -I. --descriptor_set_out=serving/protocol/messages.binpb \\
        serving/protocol/*.proto
"""

from pathlib import Path
from typing import Any

from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

MESSAGES = Path(__file__).with_name("messages.binpb")

_pool = DescriptorPool()
for _google in (any_pb2, wrappers_pb2):
    _pool.AddSerializedFile(_google.DESCRIPTOR.serialized_pb)
for _file in FileDescriptorSet.FromString(MESSAGES.read_bytes()).file:
    _pool.AddSerializedFile(_file.SerializeToString())


def _message(name: str) -> Any:
    return GetMessageClass(_pool.FindMessageTypeByName(name))


def _enum(name: str) -> Any:
    return EnumTypeWrapper(_pool.FindEnumTypeByName(name))


DataType = _enum("tensorflow.DataType")
SignatureDef = _message("tensorflow.SignatureDef")
TensorInfo = _message("tensorflow.TensorInfo")
TensorProto = _message("tensorflow.TensorProto")
TensorShapeProto = _message("tensorflow.TensorShapeProto")

Code = _enum("tensorflow.error.Code")

GetModelMetadataRequest = _message("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = _message("tensorflow.serving.GetModelMetadataResponse")
GetModelStatusRequest = _message("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = _message("tensorflow.serving.GetModelStatusResponse")
ModelSpec = _message("tensorflow.serving.ModelSpec")
ModelVersionStatus = _message("tensorflow.serving.ModelVersionStatus")
PredictRequest = _message("tensorflow.serving.PredictRequest")
PredictResponse = _message("tensorflow.serving.PredictResponse")
SignatureDefMap = _message("tensorflow.serving.SignatureDefMap")
StatusProto = _message("tensorflow.serving.StatusProto")

BatchingParameters = _message("tensorflow.serving.BatchingParameters")
MonitoringConfig = _message("tensorflow.serving.MonitoringConfig")
PrometheusConfig = _message("tensorflow.serving.PrometheusConfig")
SSLConfig = _message("tensorflow.serving.SSLConfig")
