"""Models of others: what only computes is opened, and all else only where it is trusted."""

import asyncio
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL as SHAPE
from google.protobuf import text_format
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel as Proto
from tensorflow.python.framework import op_def_registry

import tf_avae
from serving.bulk import __main__ as bulk
from serving.server import flags
from serving.server.batching import Scheduler
from serving.server.manager import Manager, Options
from serving.server.servable import Servable
from serving.transformer import RobustEmbedding
from tf_avae.errors import InputError
from tf_avae.evaluation import open_extractor
from tf_avae.graphs import operations
from tf_avae.graphs.operations import check_saved_model
from tf_avae.graphs.saved_models import SavedModel
from tf_avae.saved.encoders import open_encoder
from training import classify, evaluate
from training.sweep import __main__ as sweep

IMAGE = tf.TensorSpec([None, *SHAPE], tf.float32, "image")
SESSION = tf.compat.v1.ConfigProto()


def saved(folder, beside):
    """A SavedModel that embeds images by their means, and does something besides.

    Args:
        folder: where it goes.
        beside: what it does, which gives a number that is added.
    """
    module = tf.Module()
    module.weight = tf.Variable(1.0, name="weight")

    @tf.function(input_signature=[IMAGE])
    def embed(image):
        return {"embedding": module.weight * tf.reduce_mean(image, [1, 2]) + beside(image)}

    module.embed = embed
    tf.saved_model.save(module, str(folder), {"serving_default": embed})
    return folder


def edited(folder, change):
    """The SavedModel in a folder, changed: `change` takes its first meta graph."""
    proto = Proto.FromString((folder / "saved_model.pb").read_bytes())
    change(proto.meta_graphs[0])
    (folder / "saved_model.pb").write_bytes(proto.SerializeToString())
    return folder


def write(path):
    with tf.control_dependencies([tf.io.write_file(str(path), "written")]):
        return tf.constant(0.0)


def in_a_loop(path):
    return tf.reduce_sum(tf.map_fn(lambda _: write(path), tf.zeros([2])))


def in_a_branch(image, path):
    return tf.cond(tf.reduce_sum(image) > 0, lambda: write(path), lambda: 0.0)


def of_text(tensor):
    return tf.cast(tf.strings.length(tensor), tf.float32)


def in_a_data_set(path):
    return tf.data.TextLineDataset(str(path)).reduce(0.0, lambda count, _: count + 1)


def printed(path):
    with tf.control_dependencies([tf.print("x", output_stream=f"file://{path}")]):
        return tf.constant(0.0)


PLANTED = {
    "WriteFile": lambda image, path: write(path),
    "WriteFile in a nested function": lambda image, path: tf.function(write)(path),
    "WriteFile in a loop": lambda image, path: in_a_loop(path),
    "WriteFile in a branch": in_a_branch,
    "ReadFile": lambda image, path: of_text(tf.io.read_file(str(path))),
    "MatchingFiles": lambda image, path: of_text(tf.io.matching_files(f"{path.parent}/*")[0]),
    "ImmutableConst": lambda image, path: tf.raw_ops.ImmutableConst(
        dtype=tf.float32, shape=[], memory_region_name=str(path)
    ),
    "PyFunc": lambda image, path: tf.numpy_function(np.sum, [image], tf.float32),
    "EagerPyFunc": lambda image, path: tf.py_function(tf.reduce_sum, [image], tf.float32),
    "PrintV2": lambda image, path: printed(path),
    "DebugIdentity": lambda image, path: tf.raw_ops.DebugIdentity(
        input=tf.constant(0.0), debug_urls=[f"file://{path.parent}"]
    ),
    "TextLineDataset": lambda image, path: in_a_data_set(path),
    "RestoreV2": lambda image, path: tf.raw_ops.RestoreV2(
        prefix=str(path), tensor_names=["w"], shape_and_slices=[""], dtypes=[tf.float32]
    )[0],
    "SaveV2": lambda image, path: write_checkpoint(path),
}  # fmt: skip


def write_checkpoint(path):
    save = tf.raw_ops.SaveV2(
        prefix=str(path), tensor_names=["w"], shape_and_slices=[""], tensors=[tf.zeros([1])]
    )
    with tf.control_dependencies([save]):
        return tf.constant(0.0)


@pytest.mark.parametrize("name", PLANTED)
def test_a_graph_that_may_do_more_than_compute_is_refused_unread(name, tmp_path):
    target = tmp_path / "target"
    folder = saved(tmp_path / "model", lambda image: PLANTED[name](image, target))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for opened in (SavedModel, tf_avae.load_encoder, lambda path: Servable(path, SESSION)):
        with pytest.raises(InputError) as refused:
            opened(folder)
        words = str(refused.value)
        assert str(folder) in words and name.split()[0] in words and "--trust" in words
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def tables(folder):
    """A SavedModel whose table is filled from a file when it is loaded."""
    (folder.parent / "words.txt").write_text("a\nb\n")
    index = tf.lookup.TextFileIndex
    init = tf.lookup.TextFileInitializer(
        str(folder.parent / "words.txt"),
        tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER,
    )  # fmt: skip
    module = tf.Module()
    module.table = tf.lookup.StaticVocabularyTable(init, 1)
    module.embed = tf.function(
        lambda image: {"embedding": tf.reduce_mean(image) + tf.cast(module.table.size(), "float")},
        input_signature=[IMAGE],
    )
    tf.saved_model.save(module, str(folder), {"serving_default": module.embed})


def initialised(folder, key="main_op"):
    """A SavedModel of TensorFlow 1 that writes when it is loaded."""
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session() as session:
        image = tf.compat.v1.placeholder(tf.float32, [None, *SHAPE], "image")
        weight = tf.compat.v1.get_variable("weight", [], use_resource=True)
        found = weight * tf.reduce_mean(image, [1, 2])
        written = tf.io.write_file(str(folder.parent / "target"), "written")
        session.run(weight.initializer)
        signature = tf.compat.v1.saved_model.predict_signature_def(
            {"image": image}, {"embedding": found}
        )
        builder = tf.compat.v1.saved_model.Builder(str(folder))
        at_load = {key: written} if key else {}
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, **at_load
        )
        builder.save()


def of_tensorflow_1(folder):
    """The same without anything at load, and its operation taken out."""
    initialised(folder, key="")

    def drop(meta):
        (at,) = (i for i, node in enumerate(meta.graph_def.node) if node.op == "WriteFile")
        del meta.graph_def.node[at]

    edited(folder, drop)


def plain(folder):
    return saved(folder, lambda image: 0.0)


def outputs_from(operation):
    """Makes the signature give what the saver's own operation gives."""

    def change(meta):
        saver = meta.saver_def
        name = {"save": saver.save_tensor_name, "restore": f"{saver.restore_op_name}:0"}[operation]
        meta.signature_def["serving_default"].outputs["embedding"].name = name

    return change


def restore_of_another(meta):
    """Gives the restoring function another file's name."""
    constant = meta.graph_def.node.add(name="elsewhere", op="Const")
    constant.attr["dtype"].type = tf.string.as_datatype_enum
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto("/elsewhere"))
    (call,) = (n for n in meta.graph_def.node if n.name == meta.saver_def.restore_op_name)
    call.input[0] = "elsewhere"


def restore_within(meta):
    """The same, inside that function."""
    for function in meta.graph_def.library.function:
        for node in function.node_def:
            if node.op == "RestoreV2":
                node.input[0] = node.input[1]


def writes_when_restored(meta):
    for function in meta.graph_def.library.function:
        if any(node.op == "RestoreV2" for node in function.node_def):
            function.node_def.add(name="extra", op="WriteFile")


def hidden_by_a_function(meta):
    """A function that has the name of an operation, and a call of it."""
    function = meta.graph_def.library.function.add()
    function.signature.name = "ReadFile"
    meta.graph_def.node.add(name="call", op="ReadFile")


def in_a_function_that_nobody_calls(meta):
    function = meta.graph_def.library.function.add()
    function.signature.name = "spare"
    function.node_def.add(name="x", op="ReadFile")


def in_the_savers_function_that_another_calls(meta):
    """A signature whose function calls what restores."""
    names = {f.signature.name: f for f in meta.graph_def.library.function}
    (restore,) = (n for n in meta.graph_def.node if n.name == meta.saver_def.restore_op_name)
    wrapper = next(f for name, f in names.items() if "signature_wrapper" in name)
    call = wrapper.node_def.add(name="extra", op="StatefulPartitionedCall")
    call.attr["f"].func.name = restore.attr["f"].func.name


def of_an_unknown_operation(meta):
    meta.graph_def.node.add(name="x", op="SomebodysOwn")


def a_function_twice(meta):
    meta.graph_def.library.function.add().CopyFrom(meta.graph_def.library.function[0])


def changed(change):
    return lambda folder: edited(plain(folder), change)


def second_graph(folder):
    """A second meta graph, by another tag."""
    plain(folder)
    proto = Proto.FromString((folder / "saved_model.pb").read_bytes())
    other = proto.meta_graphs.add()
    other.CopyFrom(proto.meta_graphs[0])
    other.meta_info_def.tags[:] = ["gpu"]
    other.graph_def.node.add(name="x", op="ReadFile")
    (folder / "saved_model.pb").write_bytes(proto.SerializeToString())


def as_text(folder):
    """As saved_model.pbtxt, which loaders read where there is no saved_model.pb."""
    saved(folder, lambda image: write(folder.parent / "target"))
    proto = Proto.FromString((folder / "saved_model.pb").read_bytes())
    (folder / "saved_model.pb").unlink()
    (folder / "saved_model.pbtxt").write_text(text_format.MessageToString(proto))


CRAFTED = {
    "a table from a file": (tables, "InitializeTableFromTextFileV2"),
    "an operation at load": (initialised, "WriteFile"),
    "an operation in TensorFlow 1's graph": (lambda f: initialised(f, ""), "WriteFile"),
    "an older operation at load": (lambda f: initialised(f, "legacy_init_op"), "WriteFile"),
    "an output that saves": (changed(outputs_from("save")), "MergeV2Checkpoints, SaveV2"),
    "an output that restores": (changed(outputs_from("restore")), "RestoreV2"),
    "another file is restored": (changed(restore_of_another), "RestoreV2"),
    "another file within": (changed(restore_within), "RestoreV2"),
    "writes when restored": (changed(writes_when_restored), "WriteFile"),
    "hidden by a function": (changed(hidden_by_a_function), "ReadFile"),
    "not called": (changed(in_a_function_that_nobody_calls), "ReadFile"),
    "a signature restores": (changed(in_the_savers_function_that_another_calls), "RestoreV2"),
    "unknown": (changed(of_an_unknown_operation), "SomebodysOwn"),
    "a function twice": (changed(a_function_twice), "two functions have one name"),
    "another graph": (second_graph, "ReadFile"),
    "text": (as_text, "WriteFile"),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_what_is_planted_elsewhere_is_found(case, tmp_path):
    make, words = CRAFTED[case]
    make(tmp_path / "model")
    with pytest.raises(ValueError) as refused:
        Servable(tmp_path / "model", SESSION)
    assert words in str(refused.value)
    if case != "text":  # which is no SavedModel for us
        with pytest.raises(InputError) as refused:
            SavedModel(tmp_path / "model")
        assert words in str(refused.value)
    assert not (tmp_path / "target").exists()


def everyday_network():
    """Layers of many kinds, of those that people export."""
    layers = keras.layers
    images = keras.Input((16, 16, 3))
    x = layers.RandomFlip()(images)
    x = layers.Resizing(12, 12)(x)
    x = layers.SeparableConv2D(8, 3, activation="gelu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.1)(x)
    steps = layers.Reshape((-1, 8))(x)
    steps = layers.GRU(8, return_sequences=True)(steps)
    steps = layers.MultiHeadAttention(2, 4)(steps, steps)
    steps = layers.LayerNormalization()(steps)
    return keras.Model(images, layers.Dense(4)(layers.GlobalAveragePooling1D()(steps)))


def test_what_only_computes_needs_no_trust(tmp_path, small_images):
    everyday_network().export(tmp_path / "keras", verbose=False)
    check_saved_model(tmp_path / "keras")
    of_tensorflow_1(tmp_path / "one")
    servable = Servable(tmp_path / "one", SESSION)
    assert set(servable.signatures) == {"serving_default"}
    servable.close()
    encoder = open_encoder(plain(tmp_path / "plain"))
    np.testing.assert_allclose(
        encoder.embed(tf.constant(small_images)), small_images.mean((1, 2)), rtol=1e-5
    )


def commands(folder, out):
    """Command lines that open the model in a folder, and their main functions."""
    data = ["--dataset", "color_mnist"]
    extractor = ["--section", "reconstruction", "--fid", str(folder)]
    return {
        "evaluate": (evaluate.main, [str(folder), *data, "--out", str(out)]),
        "fid": (evaluate.main, ["colormnist-robust", *data, *extractor, "--out", str(out)]),
        "classify": (
            classify.main,
            ["--encoder", str(folder), "--task", "digit", "--out", str(out), *data],
        ),
        "bulk": (
            bulk.main, ["--model", str(folder), "--input", __file__, "--output", str(out)]
        ),
        "sweep": (
            sweep.main,
            ["table3", "--scale", "mini", "--take", f"VAE={folder}", "--out", str(out)],
        ),
    }  # fmt: skip


def test_every_door_refuses_and_says_how_to_trust(tmp_path, capsys):
    target, out = tmp_path / "target", tmp_path / "out"
    folder = saved(tmp_path / "model", lambda image: write(target))
    for door in (
        SavedModel, tf_avae.load_encoder, open_encoder, open_extractor,
        lambda path: RobustEmbedding(path).fit(np.zeros((1, *SHAPE), np.float32)),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"WriteFile.*trust=True"):
            door(folder)
    for main, words in commands(folder, out).values():
        assert main(words) == 2
        complaint = capsys.readouterr().err.strip()
        assert "WriteFile" in complaint and "--trust" in complaint and "\n" not in complaint
    assert not target.exists() and not out.exists()


@pytest.mark.parametrize("command", ["evaluate", "fid", "classify", "bulk", "sweep"])
def test_every_command_takes_trust(command, tmp_path, monkeypatch):
    """And hands it on to what opens the model."""
    told = []

    def check(path):
        told.append("checked")

    def load(path, *args):
        told.append(path)
        raise InputError("enough")

    monkeypatch.setattr("tf_avae.graphs.saved_models.check_saved_model", check)
    monkeypatch.setattr(tf.saved_model, "load", load)
    folder = plain(tmp_path / "model")
    main, words = commands(folder, tmp_path / "out")[command]
    assert main([*words, "--trust"]) == 2 and told == [str(folder)]


def test_what_is_trusted_runs(tmp_path, small_images):
    target = tmp_path / "target"
    target.write_text("12345")
    folder = saved(tmp_path / "model", lambda image: of_text(tf.io.read_file(str(target))))
    expected = small_images.mean((1, 2)) + 5
    encoder = tf_avae.load_encoder(folder, trust=True)
    np.testing.assert_allclose(encoder(small_images)["embedding"], expected, rtol=1e-5)
    found = open_encoder(folder, trust=True).embed(tf.constant(small_images))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    trusting = RobustEmbedding(folder, trust=True)
    np.testing.assert_allclose(trusting.fit_transform(small_images), expected, rtol=1e-5)
    with pytest.raises(InputError):  # though it is in memory by now
        RobustEmbedding(folder).transform(small_images)
    Servable(folder, SESSION, trust=True).close()


def test_a_keras_file_with_code_needs_trust(tmp_path, small_images):
    """The counterpart there is Keras' safe mode."""
    images = keras.Input(SHAPE)
    corner = keras.layers.Lambda(lambda x: x[:, 0, 0], output_shape=(3,))(images)
    path = tmp_path / "own.keras"
    keras.Model(images, corner).save(path)
    for door in (open_encoder, open_extractor):
        with pytest.raises(InputError, match=r"own\.keras.*Lambda.*--trust") as refused:
            door(path)
        assert "safe_mode" not in str(refused.value)
    found = open_encoder(path, trust=True).embed(tf.constant(small_images))
    np.testing.assert_array_equal(found, small_images[:, 0, 0])


async def loaded(base, **options):
    """The version of the model in a folder, as the server's manager ends with it."""
    scheduler = Scheduler(None, 1)
    manager = Manager(Options(retry_interval=600.0, **options), scheduler, lambda: None)
    config = flags._models({"m": base})
    try:
        await manager.configure(config)
    except Exception as error:
        return str(error)
    finally:
        await manager.close()
        scheduler.close()
    return "AVAILABLE"


def test_the_server_refuses_at_once_and_takes_trust(tmp_path):
    target = tmp_path / "target"
    saved(tmp_path / "m" / "1", lambda image: write(target))
    refused = asyncio.run(loaded(tmp_path / "m"))
    assert "WriteFile" in refused and "--trust" in refused
    assert asyncio.run(loaded(tmp_path / "m", trust=True)) == "AVAILABLE"
    parser = flags.parser()
    assert [parser.parse_args(words).trust for words in ([], ["--trust"])] == [False, True]


KEPT = """
    Assert Case DecodeGif If Multinomial RandomShuffle RandomStandardNormal RandomUniform
    RandomUniformInt StatefulPartitionedCall StatelessRandomGetAlg TruncatedNormal While
""".split()  # of those with a state: random numbers, calls, checks


def test_the_lists_name_operations_that_there_are():
    """And none with a state beyond those of memory that are named one by one."""
    for name in operations.COMPUTES | operations._HOLDS:
        definition = op_def_registry.get(name)
        assert definition is not None, name
        if name in operations.COMPUTES and name not in KEPT:
            assert not definition.is_stateful, name
    forbidden = (
        "File", "Dataset", "Reader", "PyFunc", "Print", "Debug", "Summary", "Save", "Restore",
        "Rpc", "Remote", "Xla", "Custom", "Dump", "Send", "Recv", "Const", "Remapping", "Iterator",
    )  # fmt: skip
    allowed = operations.COMPUTES | operations._HOLDS
    found = {name for name in allowed if any(word in name for word in forbidden)}
    assert found == {"Const"}


def test_a_copy_is_judged_by_what_is_in_it(tmp_path):
    """The path, and what was found there before, do not matter."""
    bad = saved(tmp_path / "bad", lambda image: write(tmp_path / "target"))
    folder = plain(tmp_path / "model")
    SavedModel(folder)
    shutil.copy(bad / "saved_model.pb", folder)
    with pytest.raises(InputError, match="WriteFile"):
        SavedModel(folder)
