"""Models that are not ours: whatever a signature is like, it is answered, or refused in words."""

import asyncio
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.server.batching import NOT_BY_ROW, SCALAR, Scheduler
from serving.server.budget import LARGEST_REQUEST
from serving.server.core import Core
from serving.server.manager import Options
from serving.server.parameters import Parameters
from serving.server.servable import Servable
from serving.server.status import Code, StatusError

NO_TENSOR = "Tried to fetch data for 'NoOp', which produces no output."
NO_INPUT = "Batching Run() must have at least one input tensor"
LABELS = [10.0, 20.0, 30.0, 40.0]
ECHOED = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16",
    "bfloat16", "float64", "complex64", "complex128", "string", "qint8",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A SavedModel with signatures of all kinds."""
    path = tmp_path_factory.mktemp("foreign")
    module, floats = tf.Module(), tf.TensorSpec([None], tf.float32, "x")
    module.count = tf.Variable(0.0)
    module.labels = tf.Variable(LABELS, shape=[None])

    def signature(*specs):
        return lambda function: tf.function(function, input_signature=specs)

    signatures = {
        "labels": signature(floats)(lambda x: {"y": 2 * x, "labels": tf.constant(LABELS)}),
        "hidden": signature(floats)(lambda x: {"y": 2 * x, "labels": module.labels.value()}),
        "scalar": signature(floats)(lambda x: {"y": 2 * x, "word": tf.constant(b"hello\0")}),
        "nothing": signature()(lambda: {"output": module.count.assign_add(1.0)}),
        "fixed": signature(tf.TensorSpec([2, 3], tf.float32, "x"))(lambda x: {"y": x + 1}),
        "any": signature(tf.TensorSpec(None, tf.float32, "x"))(lambda x: {"y": x / 2 + 2}),
        "two": signature(floats, tf.TensorSpec([None, 2], tf.int32, "n"))(
            lambda x, n: {"y": x * tf.cast(tf.reduce_sum(n, 1), tf.float32)}
        ),
        "wide": signature(floats)(lambda x: {"y": tf.zeros([tf.size(x), 1_000_000])}),
        "many": signature(floats)(lambda x: {f"y{n}": x + n for n in range(8)}),
        "ragged": signature(tf.RaggedTensorSpec([None, None], tf.float32))(
            lambda x: {"y": tf.reduce_sum(x, 1)}
        ),
    }
    for name in ECHOED:
        spec = tf.TensorSpec([None], tf.as_dtype(name), "x")
        signatures[f"echo_{name}"] = signature(spec)(lambda x: {"y": tf.identity(x)})
    module.functions = list(signatures.values())
    tf.saved_model.save(module, str(path / "m" / "1"), signatures=signatures)
    return path / "m"


@asynccontextmanager
async def serving(folder, merged=False, **options):
    """What answers for the models, without a port."""
    parameters = Parameters(**{"threads": 1, "max_batch_size": 8} | options) if merged else None
    core = Core(Scheduler(parameters, 2), Options(poll=0, retries=0), False, lambda: None)
    config = model_server_config_pb2.ModelConfig(
        name="m", base_path=str(folder), model_platform="tensorflow"
    )
    await core.manager.configure(model_server_config_pb2.ModelConfigList(config=[config]))
    try:
        yield core
    finally:
        await core.manager.close()


def request(signature, outputs=(), **inputs):
    made = predict_pb2.PredictRequest(output_filter=outputs)
    made.model_spec.name, made.model_spec.signature_name = "m", signature
    for name, value in inputs.items():
        made.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return made


def answers(folder, *requests, merged=False, **options):
    """What each request gets, asked together: arrays by output, or code and words."""

    async def one(core, asked):
        try:
            reply = await core.predict(asked)
        except StatusError as error:
            return error.code, error.message
        return {name: tf.make_ndarray(value) for name, value in reply.outputs.items()}

    async def run():
        async with serving(folder, merged, **options) as core:
            return await asyncio.gather(*[one(core, asked) for asked in requests])

    return asyncio.run(run())


X = np.array([1, 2], np.float32)


@pytest.mark.parametrize("merged", [False, True])
def test_each_kind_of_signature(folder, merged):
    asked = {
        "fixed": request("fixed", x=np.ones((2, 3), np.float32)),
        "any": request("any", x=X),
        "any scalar": request("any", x=np.float32(2)),
        "two": request("two", x=X, n=np.array([[1, 2], [3, 4]], np.int32)),
        "unequal": request("two", x=X, n=np.array([[1, 2]], np.int32)),
        "labels": request("labels", x=X),
        "labels alone": request("labels", x=np.zeros(4, np.float32)),
        "only y": request("labels", ["y"], x=X),
        "scalar": request("scalar", x=X),
        "nothing": request("nothing"),
        "init": request("__saved_model_init_op"),
        "ragged": request("ragged", x=X, x_1=np.array([0, 0, 2])),
    }
    found = dict(zip(asked, answers(folder, *asked.values(), merged=merged), strict=True))
    np.testing.assert_array_equal(found["fixed"]["y"], np.full((2, 3), 2))
    np.testing.assert_array_equal(found["any"]["y"], [2.5, 3])
    np.testing.assert_array_equal(found["two"]["y"], [3, 14])
    np.testing.assert_array_equal(found["only y"]["y"], [2, 4])
    np.testing.assert_array_equal(found["labels alone"]["labels"], LABELS)
    if merged:
        words = {name: value for name, value in found.items() if isinstance(value, tuple)}
        no_rows = "Batching Run() input tensors must have at least one dimension"
        unequal = "Batching Run() input tensors must have equal 0th-dimension size"
        assert words == {
            "any scalar": (Code.INVALID_ARGUMENT, no_rows),
            "unequal": (Code.INVALID_ARGUMENT, unequal),
            "labels": (Code.FAILED_PRECONDITION, NOT_BY_ROW),
            "scalar": (Code.FAILED_PRECONDITION, SCALAR),
            "nothing": (Code.INVALID_ARGUMENT, NO_INPUT),
            "init": (Code.INVALID_ARGUMENT, NO_INPUT),
            "ragged": (Code.INVALID_ARGUMENT, unequal),
        }
        return
    np.testing.assert_array_equal(found["any scalar"]["y"], 3)
    np.testing.assert_array_equal(found["labels"]["labels"], LABELS)
    assert found["scalar"]["word"].item() == b"hello\0"
    np.testing.assert_array_equal(found["nothing"]["output"], 1)
    np.testing.assert_array_equal(found["ragged"]["y"], [0, 3])
    code, words = found["init"]
    assert code == Code.INVALID_ARGUMENT and words.startswith(NO_TENSOR)


@pytest.mark.parametrize("name", ECHOED)
def test_each_type_comes_back(folder, name):
    kind = tf.as_dtype(name)
    values = [b"a", b"b\0", b""] if kind == tf.string else [1, 0, 1]
    sent = tf.make_tensor_proto(np.array(values).astype(kind.as_numpy_dtype), kind)
    asked = predict_pb2.PredictRequest(inputs={"x": sent})
    asked.model_spec.name, asked.model_spec.signature_name = "m", f"echo_{name}"

    async def run(merged):
        async with serving(folder, merged) as core:
            return (await core.predict(asked)).outputs["y"]

    for merged in (False, True):
        found = asyncio.run(run(merged))
        assert found.dtype == kind.as_datatype_enum and not found.tensor_content
        got = tf.io.parse_tensor(found.SerializeToString(), kind).numpy()
        expected = tf.io.parse_tensor(sent.SerializeToString(), kind).numpy()
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("allowed", [(), (1, 4, 8)])
def test_an_answer_does_not_depend_on_other_requests(folder, allowed):
    """Together they have as many rows as there are labels: nobody is given some of them."""
    for name, count in (("hidden", 3), ("labels", 2), ("labels", 1)):
        together = [request(name, x=X + n) for n in range(count)]
        for found in answers(folder, *together, merged=True, allowed=allowed, timeout=0.05):
            assert found == (Code.FAILED_PRECONDITION, NOT_BY_ROW)
    # Who has as many rows as there are labels is answered, alone or not, as by any request.
    four = request("labels", x=np.arange(4, dtype=np.float32))
    together = [four, request("labels", x=X), four]
    found = answers(folder, *together, merged=True, allowed=allowed, timeout=0.05)
    assert found[1] == (Code.FAILED_PRECONDITION, NOT_BY_ROW)
    for answer in (found[0], found[2]):
        np.testing.assert_array_equal(answer["labels"], LABELS)
        np.testing.assert_array_equal(answer["y"], [0, 2, 4, 6])
    # Shapes that do not fit one another are computed one by one.
    wide = [request("any", x=np.full((2, n), n, np.float32)) for n in (1, 2)]
    for n, found in enumerate(answers(folder, *wide, merged=True, timeout=0.05), 1):
        np.testing.assert_array_equal(found["y"], np.full((2, n), n / 2 + 2))


def test_work_is_counted_by_the_shapes(folder):
    """Before anything is filled or computed; what is too large is refused at once."""
    many = tf.make_tensor_proto(np.float32(1))
    many.tensor_shape.dim.add(size=2**30)
    much = predict_pb2.PredictRequest(inputs={"x": many})
    much.model_spec.name, much.model_spec.signature_name = "m", "any"
    wide = request("wide", x=np.zeros(100, np.float32))
    for found, size in zip(answers(folder, much, wide), (2**32, 400_000_400), strict=True):
        assert found[0] == Code.RESOURCE_EXHAUSTED
        assert found[1] == (
            f"The request takes {size} bytes with its outputs, by their shapes; at most "
            f"{LARGEST_REQUEST} are allowed: send fewer rows at a time, or raise the server's "
            "--max_request_mib"
        )
    # With merging, a batch bounds it first.
    (found,) = answers(folder, much, merged=True)
    assert found == (
        Code.INVALID_ARGUMENT,
        "Task size 1073741824 is larger than maximum input batch size 8",
    )
    # Each of these may be; all of them together may not. Those that may are all answered.
    asked = [request("wide", x=np.zeros(8, np.float32))] * 10
    found = answers(folder, *asked)
    refused = [value for value in found if isinstance(value, tuple)]
    assert len(refused) == 2 and all(len(value["y"]) == 8 for value in found[:8])
    assert {code for code, _ in refused} == {Code.RESOURCE_EXHAUSTED}
    assert "beside 256000256 of the requests under way" in refused[0][1]


def test_large_requests_are_computed_one_by_one_and_small_ones_beside_them(folder, monkeypatch):
    gate, running, most = threading.Event(), [], []
    run = Servable.run

    def watched(self, name, outputs, arrays):
        if name == "wide":
            running.append(name)
            most.append(len(running))
            assert gate.wait(60)
            running.pop()
        return run(self, name, outputs, arrays)

    monkeypatch.setattr(Servable, "run", watched)

    async def both():
        async with serving(folder) as core:
            large = request("wide", x=np.zeros(3, np.float32))
            tasks = [asyncio.create_task(core.predict(large)) for _ in range(4)]
            await asyncio.sleep(0.05)
            small = await core.predict(request("any", x=X))  # though every one of them waits
            tasks[1].cancel()  # its caller is gone: it gives up its turn
            gate.set()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            return small, found

    small, found = asyncio.run(both())
    np.testing.assert_array_equal(tf.make_ndarray(small.outputs["y"]), [2.5, 3])
    assert max(most) == 1 and len(most) == 3
    assert [isinstance(value, asyncio.CancelledError) for value in found] == [
        False, True, False, False,
    ]  # fmt: skip


def test_choices_of_outputs_do_not_take_memory_for_good(folder):
    choices = [[f"y{n}" for n in range(8) if number >> n & 1] for number in range(1, 100)]

    async def run():
        async with serving(folder) as core:
            for outputs in choices:
                reply = await core.predict(request("many", outputs, x=X))
                for name in outputs:
                    found = tf.make_ndarray(reply.outputs[name])
                    np.testing.assert_array_equal(found, X + int(name[1:]))
            version = core.manager.models["m"].versions[1]
            return len(version.queues), len(version.servable._callables)

    queues, callables = asyncio.run(run())
    assert queues <= 64 and callables <= 65


def test_tensors_of_several_parts_are_refused_in_words(folder):
    async def run():
        async with serving(folder) as core:
            signatures = core.manager.models["m"].versions[1].servable.signatures
            found = []
            for kind in ("coo_sparse", "composite_tensor"):
                getattr(signatures["any"].inputs["x"], kind).SetInParent()
                with pytest.raises(StatusError) as caught:
                    await core.predict(request("any", x=X))
                found.append((caught.value.code, caught.value.message))
            return found

    words = "The signature has a {} tensor, x; only dense ones are served"
    assert asyncio.run(run()) == [
        (Code.INVALID_ARGUMENT, words.format(kind)) for kind in ("sparse", "composite")
    ]


def test_defaults_of_a_signature_stand_in(folder):
    async def run(*requests):
        async with serving(folder) as core:
            signatures = core.manager.models["m"].versions[1].servable.signatures
            default = tf.make_tensor_proto(np.array([[2, 3], [1, 1]], np.int32))
            signatures["two"].defaults["n"].CopyFrom(default)
            reply = await core.predict(request("two", x=X))
            words = []
            for asked in requests:
                with pytest.raises(StatusError) as caught:
                    await core.predict(asked)
                words.append(caught.value.message)
            return tf.make_ndarray(reply.outputs["y"]), words

    found, words = asyncio.run(run(request("two", z=X), request("two", x=X, z=X)))
    np.testing.assert_array_equal(found, [5, 4])
    assert words[0].startswith("Signature input alias: x(feed name: two_x:0) not found in request")
    assert words[0].endswith("in the request {z}, or default input alias set: n")
    assert words[1] == "Inputs contains invalid name. Used request inputs: x, request input: x,z"
