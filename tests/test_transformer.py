"""Encoders in scikit-learn pipelines, from files and from a server; a classifier that is served."""

import asyncio
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL, small_model
from picture_files import READABLE
from scipy.special import softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from serving import transformer
from serving.client import AsyncEmbeddingClient, EmbeddingClient, NotFound
from serving.transformer import RobustEmbedding
from tests.serving_process import ROOT, Server
from tf_avae.graphs.saved_models import SavedModel
from tf_avae.probes import fit_mlp
from tf_avae.saved.classifiers import classifier
from tf_avae.saved.exports import export_classifier, served_encoder
from tf_avae.saved.frozen import load_encoder
from tf_avae.saved.versions import publish

MODEL = "small"
BACKGROUND = "#0033ff"


@pytest.fixture(scope="module")
def model():
    return small_model(compiled=False)


@pytest.fixture(scope="module")
def base(small_encoder, tmp_path_factory):
    """Of its encoder and a head, in one."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(90, 4)).astype(np.float32)
    probe = fit_mlp(embeddings, np.arange(90) % 3).probe
    whole = classifier(load_encoder(small_encoder), probe)
    notes = {"task": "blobs"}
    export_classifier(whole, folder / MODEL, notes, batch_sizes=(1, 2), background=BACKGROUND)
    return folder / MODEL


@pytest.fixture(scope="module")
def server(base, tmp_path_factory):
    flags = (f"--model_name={MODEL}", f"--model_base_path={base}")
    with Server(tmp_path_factory.mktemp("logs"), *flags) as running:
        yield running


@pytest.fixture(scope="module")
def labels(small_images):
    """Whether a blob is above the middle."""
    rows = small_images.sum((2, 3))
    return (rows[:, :6].sum(1) > rows[:, 6:].sum(1)).astype(int)


@pytest.fixture(scope="module")
def files(small_images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = []
    for index, image in enumerate(np.round(255 * small_images[:4]).astype(np.uint8)):
        paths.append(folder / f"{index}.png")
        paths[-1].write_bytes(tf.io.encode_png(image).numpy())
    return paths


def test_embeds_arrays_and_files(base, model, small_images, files):
    embed = RobustEmbedding(base, batch_size=10)
    expected = model(tf.constant(small_images))["embedding"]
    found = embed.transform(small_images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(embed.transform(small_images.astype(np.float64)), found)
    as_bytes = np.round(255 * small_images[:4]).astype(np.uint8)
    rounded = embed.transform(as_bytes / np.float32(255))
    for images in (
        as_bytes, files, [str(path) for path in files], np.array([str(path) for path in files]),
        [path.read_bytes() for path in files],
    ):  # fmt: skip
        np.testing.assert_allclose(embed.transform(images), rounded, rtol=1e-5, atol=1e-6)


def test_transparent_files_lie_on_the_models_own_background(base):
    """Here as in the served graph."""
    file = READABLE["PNG all transparent"]
    colour = np.broadcast_to(np.float32([0, 0x33, 0xFF]) / np.float32(255), (1, *SMALL))
    expected = RobustEmbedding(base).transform(colour)
    np.testing.assert_allclose(RobustEmbedding(base).transform([file]), expected, rtol=1e-5)
    served = SavedModel(base).call("embed_bytes", image_bytes=tf.constant([file]))
    np.testing.assert_allclose(served["embedding"], expected, rtol=1e-5, atol=1e-6)


def test_what_a_fit_tells(base, small_images, files):
    embed = RobustEmbedding(base).fit(small_images)
    assert embed.n_features_in_ == 12 * 12 * 3
    assert list(embed.get_feature_names_out()) == [f"robustembedding{i}" for i in range(4)]
    assert not hasattr(embed.fit(files), "n_features_in_")
    with pytest.raises(NotFittedError):
        RobustEmbedding(base).get_feature_names_out()


def test_scikit_learns_own_checks(base):
    assert {check["status"] for check in check_estimator(RobustEmbedding(base))} <= {
        "passed", "skipped",
    }  # fmt: skip


def test_pipelines(base, model, small_images, labels, monkeypatch):
    pipeline = make_pipeline(RobustEmbedding(base), LogisticRegression(max_iter=1000))
    scores = cross_val_score(pipeline, small_images, labels, cv=3)
    embeddings = model(tf.constant(small_images))["embedding"].numpy()
    alone = cross_val_score(LogisticRegression(max_iter=1000), embeddings, labels, cv=3)
    np.testing.assert_allclose(scores, alone)
    grid = {"robustembedding__batch_size": [5, 64], "logisticregression__C": [0.1, 1.0]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(small_images, labels)
    expected = search.predict_proba(small_images)
    content = pickle.dumps(search)
    assert len(content) < 50_000  # the encoder is not in it
    monkeypatch.setattr(transformer, "_CACHE", {})  # as in another process
    np.testing.assert_array_equal(pickle.loads(content).predict_proba(small_images), expected)
    copy = clone(search.best_estimator_)
    assert copy[0].get_params() == search.best_estimator_[0].get_params()
    assert not hasattr(copy[0], "pinned_")


@pytest.mark.long
def test_cross_validation_in_processes(base, small_images, labels):
    pipeline = make_pipeline(RobustEmbedding(base), LogisticRegression(max_iter=1000))
    one, two = (
        cross_val_score(pipeline, small_images, labels, cv=3, n_jobs=jobs) for jobs in (1, 2)
    )
    np.testing.assert_array_equal(one, two)


def test_is_loaded_once_and_keeps_to_what_it_was_fitted_with(base, tmp_path, small_images):
    copy = shutil.copytree(base, tmp_path / "copy")
    embed = RobustEmbedding(copy).fit(small_images)
    loaded = transformer._CACHE[str(copy / "1"), False]
    embed.transform(small_images)
    assert transformer._CACHE[str(copy / "1"), False] is loaded
    expected = embed.transform(small_images)
    other = small_model(seed=1, compiled=False)
    publish(served_encoder(other), copy, {}, version=2, batch_sizes=(1,))
    np.testing.assert_array_equal(embed.transform(small_images), expected)
    newest = RobustEmbedding(copy).transform(small_images)
    np.testing.assert_allclose(
        newest, other(tf.constant(small_images))["embedding"], rtol=1e-5, atol=1e-6
    )
    shutil.copytree(copy / "2", copy / "1", dirs_exist_ok=True)
    with pytest.raises(ValueError, match="fit again"):
        embed.transform(small_images)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 12, 12), np.float32), r"shape \[2, 12, 12\]"),
        (np.zeros((0, *SMALL), np.float32), "at least one image"),
        (np.zeros((2, 8, 8, 3), np.float32), r"takes \[N, 12, 12, 3\]"),
        (np.full((2, *SMALL), 255.0), "from 255 to 255"),
        (np.full((2, *SMALL), np.nan), "not finite"),
        (np.zeros((2, *SMALL), np.int64), "images are int64"),
        ("digits", "one str; give a list"),
        (["/nowhere.png"], "cannot read /nowhere.png"),
        ([b"GIF89a"], "a file cannot be embedded"),
        ([], "list of image files"),
    ],
)
def test_images_that_are_none(base, images, words):
    with pytest.raises(ValueError, match=words):
        RobustEmbedding(base).transform(images)


def test_sources_that_are_none(tmp_path, base, small_images):
    for source, options, words in (
        (tmp_path / "none", {}, "neither a run"),
        (base, {"options": {"timeout": 1}}, "which is a path"),
        (base, {"batch_size": 0}, "batch_size is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            RobustEmbedding(source, **options).fit(small_images)


def test_a_head_on_a_server_is_the_one_in_this_process(base, server, small_images, labels, files):
    heads = {
        source: make_pipeline(
            RobustEmbedding(source, model=MODEL, batch_size=20), LogisticRegression(max_iter=1000)
        ).fit(small_images, labels)
        for source in (str(base), server.grpc)
    }
    here, there = heads.values()
    np.testing.assert_allclose(
        there[0].transform(small_images), here[0].transform(small_images), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(there[1].coef_, here[1].coef_, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(there.predict(small_images), here.predict(small_images))
    np.testing.assert_allclose(
        there[0].transform(files), here[0].transform(files), rtol=1e-5, atol=1e-6
    )
    assert there[0].pinned_ == {"source": server.grpc, "version": 1}
    assert list(there[0].get_feature_names_out()) == list(here[0].get_feature_names_out())
    there[0].pinned_["version"] = 9
    with pytest.raises(NotFound, match="9"):
        there.predict(small_images)
    there[0].set_params(source="elsewhere")
    with pytest.raises(ValueError, match=r"fitted on .* fit again"):
        there.predict(small_images)
    with pytest.raises(NotFound, match="other"):
        RobustEmbedding(server.grpc, model="other").fit(small_images)


def test_a_server_needs_no_tensorflow_here(server):
    code = f"""
import pickle, sys
import numpy as np
from serving.transformer import RobustEmbedding
embed = RobustEmbedding({server.grpc!r}, model={MODEL!r})
found = pickle.loads(pickle.dumps(embed)).fit_transform(np.zeros((3, 12, 12, 3)))
assert found.shape == (3, 4), found.shape
assert not {{"tensorflow", "keras"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0


def test_a_served_classifier_classifies(base, server, small_images, files):
    whole = tf.saved_model.load(str(base / "1"))
    expected = whole.signatures["classify"](image=tf.constant(small_images))
    with EmbeddingClient(server.grpc, MODEL, batch_size=20) as client:
        found = client.classify(small_images)
        by_file = client.classify_files(files)
        by_bytes = client.classify_bytes([path.read_bytes() for path in files])
        embedded = client.embed(small_images)

    async def wait():
        async with AsyncEmbeddingClient(server.grpc, MODEL) as client:
            return await client.classify(small_images), await client.classify_files(files)

    for one, count in ((found, 64), (by_file, 4), (by_bytes, 4), *zip(
        asyncio.run(wait()), (64, 4), strict=True
    )):  # fmt: skip
        assert len(one) == count and one.version == 1
        np.testing.assert_allclose(one.logits, expected["logits"][:count], rtol=0.05, atol=0.05)
        np.testing.assert_allclose(one.probabilities, softmax(one.logits, 1), atol=1e-6)
    np.testing.assert_allclose(found.logits, expected["logits"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.classes, np.argmax(expected["probabilities"], 1))
    np.testing.assert_allclose(found.embedding, embedded.embedding, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.inconsistency, embedded.inconsistency, rtol=1e-4, atol=1e-6)
