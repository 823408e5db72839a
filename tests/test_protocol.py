"""The messages written down here are the official ones."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, text_format, wrappers_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from tensorflow.core.protobuf import meta_graph_pb2  # noqa: F401 - registers its messages
from tensorflow_serving.apis import (  # noqa: F401 - register theirs
    get_model_metadata_pb2,
    model_service_pb2,
    prediction_service_pb2,
)

from serving import protocol

ROOT = Path(__file__).parent.parent
PROTOS = sorted((ROOT / "serving" / "protocol").glob("*.proto"))
# TensorFlow Serving's Python package leaves these out.
UNOFFICIAL = {"BatchingParameters", "MonitoringConfig", "PrometheusConfig", "SSLConfig"}

OURS = protocol._pool
OFFICIAL = descriptor_pool.Default()


def files():
    return [OURS.FindFileByName(f"serving/protocol/{path.name}") for path in PROTOS]


def with_nested(descriptors):
    for descriptor in descriptors:
        yield descriptor
        yield from with_nested(descriptor.nested_types)


MESSAGES = [
    message.full_name
    for file in files()
    for message in with_nested(file.message_types_by_name.values())
    if message.name not in UNOFFICIAL
]
ENUMS = [
    *(enum.full_name for file in files() for enum in file.enum_types_by_name.values()),
    "tensorflow.serving.ModelVersionStatus.State",
]
# Entries of maps are no messages of their own.
WHOLE = [name for name in MESSAGES if not OURS.FindMessageTypeByName(name).GetOptions().map_entry]


def shape(field):
    """All that the wire, JSON and text forms of a field depend on."""
    return {
        "name": field.name,
        "json": field.json_name,
        "number": field.number,
        "type": field.type,
        "of": (field.message_type or field.enum_type or field).full_name
        if field.message_type or field.enum_type
        else None,
        "repeated": field.is_repeated,
        "packed": field.is_packed,
        "presence": field.has_presence,
        "oneof": field.containing_oneof and field.containing_oneof.name,
    }


def both(name):
    return tuple(pool.FindMessageTypeByName(name) for pool in (OURS, OFFICIAL))


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_are_the_official_ones(name):
    ours, official = both(name)
    assert ours.GetOptions().map_entry == official.GetOptions().map_entry
    for field in ours.fields:
        assert shape(field) == shape(official.fields_by_name[field.name])


@pytest.mark.parametrize("name", ENUMS)
def test_values_are_the_official_ones(name):
    ours, official = (pool.FindEnumTypeByName(name) for pool in (OURS, OFFICIAL))
    for value in ours.values:
        assert official.values_by_name[value.name].number == value.number


def random_value(rng, field):
    kinds = FieldDescriptor
    if field.type == kinds.TYPE_ENUM:
        return int(rng.choice([value.number for value in field.enum_type.values]))
    if field.type == kinds.TYPE_BYTES:
        return rng.bytes(rng.integers(0, 20))
    if field.type == kinds.TYPE_STRING:
        return "".join(map(chr, rng.integers(32, 0x3000, rng.integers(0, 8))))
    if field.type == kinds.TYPE_BOOL:
        return bool(rng.integers(2))
    if field.type in (kinds.TYPE_FLOAT, kinds.TYPE_DOUBLE):
        return float(np.float32(rng.normal()))
    low, high = {
        kinds.CPPTYPE_INT32: (-(2**31), 2**31),
        kinds.CPPTYPE_UINT32: (0, 2**32),
        kinds.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
        kinds.CPPTYPE_UINT64: (0, 2**63 - 1),
    }[field.cpp_type]
    return int(rng.integers(low, high))


def fill(rng, message, depth=0):
    """Gives each field of a message a random value, or none."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.2 or depth > 4:
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            entries = getattr(message, field.name)
            for _ in range(rng.integers(1, 4)):
                word = random_value(rng, key)
                if value.message_type:
                    fill(rng, entries[word], depth + 1)
                else:
                    entries[word] = random_value(rng, value)
        elif field.message_type and field.is_repeated:
            for _ in range(rng.integers(1, 4)):
                fill(rng, getattr(message, field.name).add(), depth + 1)
        elif field.message_type:
            getattr(message, field.name).SetInParent()
            fill(rng, getattr(message, field.name), depth + 1)
        elif field.is_repeated:
            values = [random_value(rng, field) for _ in range(rng.integers(1, 9))]
            getattr(message, field.name).extend(values)
        else:
            setattr(message, field.name, random_value(rng, field))
    return message


def written(message):
    return message.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", WHOLE)
def test_each_reads_what_the_other_writes(name):
    ours, official = map(GetMessageClass, both(name))
    rng = np.random.default_rng(len(name))
    for _ in range(20):
        message = fill(rng, ours())
        other = official.FromString(written(message))
        assert written(other) == written(message)
        assert written(ours.FromString(written(other))) == written(message)
        assert text_format.MessageToString(other) == text_format.MessageToString(message)
    for _ in range(5):  # fields that we leave out are kept
        message = fill(rng, official())
        passed_on = ours.FromString(written(message))
        assert official.FromString(written(passed_on)) == message


def test_metadata_is_packed_alike():
    ours = protocol.GetModelMetadataResponse()
    signatures = fill(np.random.default_rng(0), protocol.SignatureDefMap())
    ours.metadata["signature_def"].Pack(signatures, deterministic=True)
    official = get_model_metadata_pb2.GetModelMetadataResponse.FromString(written(ours))
    unpacked = get_model_metadata_pb2.SignatureDefMap()
    assert official.metadata["signature_def"].Unpack(unpacked)
    assert written(unpacked) == written(signatures)


def test_the_compiled_messages_are_those_of_the_files(tmp_path):
    out = tmp_path / "messages.binpb"
    names = [str(path.relative_to(ROOT)) for path in PROTOS]
    # In a process of its own: beside TensorFlow's own copy of the compiler's code it crashes.
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--descriptor_set_out={out}"]
    subprocess.run([*protoc, *names], cwd=ROOT, check=True, timeout=120)
    fresh, kept = (
        descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())
        for path in (out, protocol.MESSAGES)
    )
    assert fresh == kept, "compile the .proto files again: see serving/protocol/__init__.py"


def test_reads_configuration_files():
    batching = text_format.Parse(
        """
        max_batch_size { value: 64 }
        batch_timeout_micros { value: 2000 }
        max_enqueued_batches { value: 100 }
        num_batch_threads { value: 2 }
        thread_pool_name { value: "pool" }
        allowed_batch_sizes: 8
        allowed_batch_sizes: 64
        pad_variable_length_inputs: true
        enable_large_batch_splitting { value: false }
        max_execution_batch_size { value: 32 }
        """,
        protocol.BatchingParameters(),
    )
    assert batching.max_batch_size.value == 64
    assert list(batching.allowed_batch_sizes) == [8, 64]
    assert batching.HasField("enable_large_batch_splitting")
    monitoring = text_format.Parse(
        'prometheus_config { enable: true, path: "/metrics" }', protocol.MonitoringConfig()
    )
    assert monitoring.prometheus_config.path == "/metrics"
    tls = text_format.Parse(
        'server_key: "k\\n" server_cert: "c" custom_ca: "a" client_verify: true',
        protocol.SSLConfig(),
    )
    assert (tls.server_key, tls.client_verify) == ("k\n", True)
    with pytest.raises(text_format.ParseError, match="no field named"):
        text_format.Parse("max_batch: 1", protocol.BatchingParameters())


def test_the_field_numbers_of_configuration_files():
    """What the wire would hold: these messages have no official Python class to compare with."""
    numbers = {
        name: {field.name: field.number for field in getattr(protocol, name).DESCRIPTOR.fields}
        for name in sorted(UNOFFICIAL)
    }
    assert numbers == {
        "BatchingParameters": {
            "max_batch_size": 1,
            "batch_timeout_micros": 2,
            "max_enqueued_batches": 3,
            "num_batch_threads": 4,
            "thread_pool_name": 5,
            "allowed_batch_sizes": 6,
            "pad_variable_length_inputs": 7,
            "enable_large_batch_splitting": 8,
            "max_execution_batch_size": 9,
        },
        "MonitoringConfig": {"prometheus_config": 1},
        "PrometheusConfig": {"enable": 1, "path": 2},
        "SSLConfig": {"server_key": 1, "server_cert": 2, "custom_ca": 3, "client_verify": 4},
    }


def run_alone(code):
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_lives_beside_the_official_classes():
    """In this process the official ones came first; here, ours do."""
    run_alone(
        "import serving.protocol as ours\n"
        "import tensorflow_serving.apis.predict_pb2 as official\n"
        "sent = ours.PredictRequest(output_filter=['a'])\n"
        "found = official.PredictRequest.FromString(sent.SerializeToString())\n"
        "assert list(found.output_filter) == ['a']\n"
        "assert type(found) is not type(sent)\n"
    )


@pytest.mark.parametrize("module", ["serving.client", "serving.client.__main__"])
def test_the_client_needs_numpy_grpcio_and_protobuf_only(module):
    """typing_extensions comes with grpcio."""
    run_alone(
        "import sys\n"
        "there = {'serving', 'tf_avae', 'numpy', 'grpc', 'google', 'typing_extensions'}\n"
        "class Nothing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] not in there | sys.stdlib_module_names:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Nothing())\n"
        f"import {module}\n"
    )


def test_googles_messages_are_googles():
    for google in (any_pb2, wrappers_pb2):
        ours = OURS.FindFileByName(google.DESCRIPTOR.name)
        assert ours.serialized_pb == google.DESCRIPTOR.serialized_pb
