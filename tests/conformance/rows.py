"""What the suite's rows are made of: requests, and what they are compared with."""

import re

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from tests.conformance.prepare import MODEL

Code = grpc.StatusCode
SHAPE, LATENT = (28, 28, 3), 8


def images(count, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, *SHAPE)).astype(np.float32)


def png(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, SHAPE).astype(np.uint8)
    return tf.io.encode_png(pixels).numpy(), pixels


def request(spec=f'name: "{MODEL}"', outputs=(), **inputs):
    """A PredictRequest; its model spec in text format, None: without."""
    made = predict_pb2.PredictRequest(output_filter=outputs)
    if spec is not None:
        made.model_spec.SetInParent()
        text_format.Parse(spec, made.model_spec)
    for name, value in inputs.items():
        is_proto = isinstance(value, tensor_pb2.TensorProto)
        made.inputs[name].CopyFrom(value if is_proto else tf.make_tensor_proto(value))
    return made


def tensor(text):
    return text_format.Parse(text, tensor_pb2.TensorProto())


def refused(call, asked):
    with pytest.raises(grpc.RpcError) as caught:
        call(asked, timeout=60)
    return caught.value.code(), caught.value.details()


def arrays(reply):
    return {name: tf.make_ndarray(value) for name, value in reply.outputs.items()}


def assert_text(found, expected):
    """Compares an error with the text, or the beginning in a pattern; None: any."""
    if isinstance(expected, re.Pattern):
        assert expected.match(found), found
    elif expected is not None:
        assert found == expected


NAMED = f'name: "{MODEL}"'
ONE = images(1)
