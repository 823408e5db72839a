"""Encoders as files for other runtimes, and what an evaluation says of one without gradients."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from conftest import SMALL, small_model

from serving import export
from serving.transformer import RobustEmbedding
from tests.conformance.prepare import untrained_run
from tf_avae.attacks import square
from tf_avae.config import read_json
from tf_avae.errors import InputError
from tf_avae.evaluation import Encoder, Settings, charts, evaluate
from tf_avae.evaluation.report import page
from tf_avae.evaluation.section import NO_GRADIENTS, SECTIONS
from tf_avae.evaluation.table import text
from tf_avae.graphs.saved_models import PROVENANCE
from tf_avae.saved.encoders import open_encoder
from tf_avae.saved.exports import export_run
from tf_avae.saved.formats import FORMATS, EncoderFile
from tf_avae.saved.versions import check_target, publish
from tf_avae.types import OUTPUTS


@pytest.fixture(scope="module")
def model():
    """Of mixed precision and with normalisation, which both must not show in a file."""
    return small_model(arch="compact_bn", precision="mixed_bfloat16", compiled=False)


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory):
    """A version of each format, by the format's name."""
    made = {}
    for name in ("onnx", "openvino", "litert"):
        content = EncoderFile(FORMATS[name], model, OUTPUTS)
        base = tmp_path_factory.mktemp("files") / name
        made[name] = publish(content, base, {"background": "#0033ff"}, batch_sizes=(1, 3))
    return made


def by_onnx(folder, images):
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return dict(zip(OUTPUTS, session.run(OUTPUTS, {"image": images}), strict=True))


def by_openvino(folder, images):
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    found = openvino.Core().compile_model(folder / "model.xml", "CPU", options)({"image": images})
    return {name: found[name] for name in OUTPUTS}


def by_litert(folder, images):
    return Interpreter(str(folder / "model.tflite")).get_signature_runner()(image=images)


@pytest.mark.parametrize("run", [by_onnx, by_openvino, by_litert])
def test_gives_the_models_outputs_in_its_runtime(folders, model, small_images, run):
    folder = folders[run.__name__.removeprefix("by_")]
    for size in (1, 5):  # one of which it was not tried with
        found, expected = run(folder, small_images[:size]), model(tf.constant(small_images[:size]))
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)
    assert read_json(folder / PROVENANCE)["background"] == "#0033ff"
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_a_file_that_differs_is_not_published(tmp_path):
    model, row = small_model(compiled=False), FORMATS["onnx"]

    def other(path):
        run = row.run(path)
        return lambda images: {"embedding": run(images)["embedding"] + 1e-3}

    for wrong, error, why in (
        (replace(row, run=other), RuntimeError, r"embedding \[2, 4\] of 2 .* differ by 0.001"),
        # Which needs Keras on another backend.
        (replace(row, name="torch"), InputError, "cannot be written as torch"),
    ):
        content = EncoderFile(wrong, model, ("embedding",))
        with pytest.raises(error, match=why):
            publish(content, tmp_path / "m" / "e", {}, batch_sizes=(2,))
        assert not any(tmp_path.iterdir())


def test_a_run_becomes_a_file(tmp_path, capsys):
    run = untrained_run(tmp_path / "run")
    words = [str(run), "--to", str(tmp_path / "m"), "--batch-sizes", "2", "--outputs", "embedding"]
    assert export.main([*words, "--format", "onnx"]) == 0
    assert "model.onnx: image -> embedding\n" in capsys.readouterr().out
    folder = tmp_path / "m" / "1"
    assert [out.name for out in onnx.load(folder / "model.onnx").graph.output] == ["embedding"]
    notes = read_json(folder / PROVENANCE)
    of_run = open_encoder(run).notes
    assert notes["weights_sha256"] == of_run["sha256"] and notes["left_out"] == {}
    assert open_encoder(tmp_path / "m").notes["config"] == of_run["config"]
    for to, options, why in (
        ("m", ["--format", "litert"], "holds versions in the format onnx"),
        ("n", ["--format", "onx"], "unknown format 'onx'"),
        ("n", [], "a SavedModel gives all of embedding, variance, inconsistency"),
    ):
        words = [str(run), "--to", str(tmp_path / to), "--outputs", "embedding", *options]
        assert export.main(words) == 2
        assert why in capsys.readouterr().err and not (tmp_path / "n").exists()
    with pytest.raises(InputError, match="holds versions in the format onnx"):
        check_target(tmp_path / "m", None)
    with pytest.raises(InputError, match="give some of: embedding"):
        export_run(run, tmp_path / "n", format="onnx", outputs=("mean",))


def test_an_evaluation_leaves_attacks_out(folders, model, small_images):
    without = open_encoder(folders["onnx"] / "model.onnx", "file")
    assert without.image_shape == SMALL and without.notes["background"] == "#0033ff"
    q = without.encode(tf.constant(small_images))
    expected = model.encode(small_images, float32=True)
    for found, value in zip(q, expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5)
    batches = [(small_images, {"row": (small_images.sum((1, 3)).argmax(1) > 5).astype(int)})]

    def evaluated(*encoders, sections):
        settings = Settings(
            "smoke", images=4, free_images=10, heads=("linear",), epsilons=(0.1,), sections=sections
        )
        return evaluate(list(encoders), train=batches, test=batches, settings=settings)

    attacks = {"robustness", "checks", "representation", "detection"}
    assert attacks == {row.name for row in SECTIONS.values() if row.by_gradients}
    found = evaluated(without, sections=("probes", "latents", *attacks))
    (record,) = found.results["encoders"]
    assert record["left_out"] == dict.fromkeys(attacks, NO_GRADIENTS)
    assert not attacks & set(record) and record["latents"]
    assert not found.checked and "could not be made of file:" in page(found)
    assert f"left out: file, robustness: {NO_GRADIENTS}" in text(found.results)
    with pytest.raises(InputError, match="nothing of file can be measured: no gradients"):
        evaluated(without, sections=("robustness", "checks"))
    # Beside one that has gradients.
    other = Encoder("sums", lambda images: tf.reduce_sum(images, (1, 2)))
    found = evaluated(without, other, sections=("probes", "robustness"))
    first, second = found.results["encoders"]
    assert first["probes"] == record["probes"] and second["robustness"]["rows"]
    (axes,) = charts.accuracy(found.results, "row").axes
    assert axes.get_legend_handles_labels()[1] == ["sums"]


def test_searches_without_gradients_take_it(folders, small_images):
    encoder, x = open_encoder(folders["onnx"]), tf.constant(small_images[:4])
    at = encoder.embed(x)

    def moved(images):
        return tf.norm(encoder.embed(images) - at, axis=1)

    found = square(moved, x, epsilon=0.1, queries=5, seed=0)
    assert (moved(found).numpy() > 0).all() and np.abs(found - x).max() < 0.1001


def test_scikit_learn_takes_it(folders, model, small_images):
    base = folders["onnx"].parent
    embed = RobustEmbedding(base).fit(small_images)
    assert embed.pinned_["path"] == str(base / "1" / "model.onnx")
    expected = model(tf.constant(small_images))["embedding"]
    np.testing.assert_allclose(embed.transform(small_images), expected, rtol=1e-4, atol=1e-5)


def foreign(path, inputs, outputs):
    """A file of somebody else's: sums over each channel."""
    value = onnx.helper.make_tensor_value_info
    axes = onnx.numpy_helper.from_array(np.array([1, 2]), "axes")
    sums = [onnx.helper.make_node("ReduceSum", ["x", "axes"], [o], keepdims=0) for o in outputs]
    graph = onnx.helper.make_graph(
        sums, "sums", [value(name, onnx.TensorProto.FLOAT, side) for name, side in inputs],
        [value(o, onnx.TensorProto.FLOAT, ["n", 3]) for o in outputs], [axes],
    )  # fmt: skip
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.save(made, path)
    return path


def test_files_of_others(tmp_path, small_images):
    x, sides = tf.constant(small_images[:2]), ["n", "h", "w", 3]
    encoder = open_encoder(foreign(tmp_path / "a.onnx", [("x", sides)], ["sum"]))
    assert encoder.name == "a" and encoder.image_shape is None and encoder.posterior is None
    np.testing.assert_allclose(encoder.embed(x), tf.reduce_sum(x, (1, 2)), rtol=1e-5)
    (tmp_path / "garbage.onnx").write_bytes(b"no protocol buffer")
    for path, why in (
        (foreign(tmp_path / "b.onnx", [("x", sides), ("y", sides)], ["s"]), "one float32 tensor"),
        (foreign(tmp_path / "c.onnx", [("x", sides)], ["s", "t"]), "gives s, t; an encoder gives"),
        (foreign(tmp_path / "d.onnx", [("x", sides[1:])], ["s"]), r"takes \[N, H, W, C\]"),
        (tmp_path / "garbage.onnx", "no ONNX file that can be run"),
    ):
        with pytest.raises(InputError, match=why):
            open_encoder(path)
