"""An encoder's outputs are called the same everywhere; old names are read for one release."""

import dataclasses
import json
import re
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import tf_avae
from serving.client import Embeddings, messages
from serving.transformer import RobustEmbedding
from tests.conftest import SMALL, small_model
from tf_avae.saved.encoders import open_encoder
from tf_avae.saved.exports import served_encoder

NAMES = ["embedding", "variance", "inconsistency"]
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def encoder():
    return small_model(compiled=False).encoder


def renamed(encoder, **outputs):
    """The encoder with its outputs called otherwise, as {new: old}."""
    found = encoder.output
    return keras.Model(encoder.input, {new: found[old] for new, old in outputs.items()})


def of_before(saved, to):
    """A file of a quantised model as this package wrote it when outputs were called "mean"."""
    now, then = '"output_layers": {"embedding": [', '"output_layers": {"mean": ['
    with zipfile.ZipFile(saved) as new, zipfile.ZipFile(to, "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name == "config.json":
                text = json.dumps(json.loads(content))
                assert text.count(now) == 1
                content = text.replace(now, then).encode()
            old.writestr(name, content)
    return to


# ---------------------------------------------------------------------- one name


@pytest.mark.parametrize("arch", tf_avae.ARCHITECTURES)
def test_encoders_give_embedding_and_variance(arch):
    side = max(12, tf_avae.ARCHITECTURES[arch].smallest)
    made = tf_avae.ARCHITECTURES[arch].encoder((side, side, 3), 2)
    assert list(made.output) == NAMES[:2]
    # Checkpoints and checksums go by the order of the weights, files by the layers' names.
    assert [layer.name for layer in made.layers][-2:] == ["mean", "variance"]


def test_models_signatures_and_clients_give_the_same_names(small_images):
    model = small_model(compiled=False)
    found = model.predict(small_images, verbose=0)
    assert list(found) == NAMES
    # On some processors a batch of another size is added up in another order.
    embedding = model.encode(small_images, float32=True).mean
    np.testing.assert_allclose(embedding, found["embedding"], rtol=1e-5, atol=1e-6)
    functions = served_encoder(model).functions
    for signature in ("serving_default", "embed_bytes"):
        made = functions[signature].get_concrete_function()
        assert sorted(made.structured_outputs) == sorted(NAMES)
    assert [field.name for field in dataclasses.fields(Embeddings)] == [*NAMES, "version"]


def test_no_document_asks_for_the_old_name():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        found = re.findall(r"\[.mean.\]|found\.mean\b", page.read_text(encoding="utf-8"))
        assert not found or page.name == "runs.md", page


# ---------------------------------------------------------------------- the old one


def test_an_encoder_of_before_opens_with_one_warning(encoder, small_images, tmp_path):
    old = tmp_path / "old.keras"
    renamed(encoder, mean="embedding", variance="variance").save(old)
    encoder.save(tmp_path / "new.keras")
    with pytest.warns() as told:
        opened = open_encoder(old)
        embedding, q = opened.embed(small_images), opened.encode(small_images)
    (warning,) = (one for one in told if one.category is FutureWarning)
    assert warning.filename == __file__
    for words in (str(old), "'mean'", "'embedding'", "next release", "save it again: keras.Model("):
        assert words in str(warning.message)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        expected = open_encoder(tmp_path / "new.keras")
        np.testing.assert_array_equal(embedding, expected.embed(small_images))
        np.testing.assert_array_equal(q.variance, expected.encode(small_images).variance)
    assert opened.notes["sha256"] == expected.notes["sha256"]  # of the weights
    with pytest.warns(FutureWarning, match="old.keras"):
        found = RobustEmbedding(old).transform(small_images)
    np.testing.assert_allclose(found, embedding, rtol=1e-5, atol=1e-6)


def test_the_remedy_that_the_warning_names_works(encoder, small_images, tmp_path):
    old, new = tmp_path / "old.keras", tmp_path / "new.keras"
    renamed(encoder, mean="embedding", variance="variance").save(old)
    with pytest.warns(FutureWarning) as told:
        expected = open_encoder(old).embed(small_images)
    code = re.search(r"keras\.Model\(.*\)(?=\.save)", str(told[0].message)).group()
    eval(code, {"keras": keras, "m": keras.saving.load_model(old)}).save(new)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        np.testing.assert_array_equal(open_encoder(new).embed(small_images), expected)


@pytest.mark.parametrize(
    ("outputs", "warned"),
    [
        ({"embedding": "embedding"}, False),
        ({"mean": "embedding"}, True),
        ({"embedding": "embedding", "mean": "variance"}, False),  # the new name is the one
    ],
)
def test_encoders_of_others_may_give_either_name(encoder, small_images, tmp_path, outputs, warned):
    path = tmp_path / "other.keras"
    renamed(encoder, **outputs).save(path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", FutureWarning)
        opened = open_encoder(path)
    assert len([w for w in told if w.category is FutureWarning]) == warned
    assert opened.posterior is None
    np.testing.assert_array_equal(
        opened.embed(small_images), encoder(small_images, training=False)["embedding"]
    )


def test_other_outputs_are_refused_with_the_name_that_is_wanted(encoder, tmp_path):
    renamed(encoder, z="embedding").save(tmp_path / "other.keras")
    with pytest.raises(tf_avae.InputError, match="gives z; an encoder gives embedding, or one"):
        open_encoder(tmp_path / "other.keras")


@pytest.mark.filterwarnings("error::FutureWarning")
def test_a_quantised_model_of_before_opens_under_the_new_name(small_images, tmp_path):
    """Its file holds its networks, so also what their outputs were called."""
    model = small_model(compiled=False)
    model.quantize("int8")
    model.save(tmp_path / "new.keras")
    old = of_before(tmp_path / "new.keras", tmp_path / "old.keras")
    loaded = keras.saving.load_model(old)
    for again in (loaded, loaded.twin()):
        assert list(again.encoder(np.zeros((1, *SMALL), np.float32))) == NAMES[:2]
        for name, value in again(small_images).items():
            np.testing.assert_array_equal(value, model(small_images)[name])


def test_the_clients_result_answers_to_the_old_name():
    numbers = [np.full((2, 3), value, np.float32) for value in (1, 2)]
    found = Embeddings(*numbers, np.zeros(2, np.float32), 7)
    whole = messages.join([found, found])
    assert len(whole) == 4 and whole.version == 7
    with pytest.warns(FutureWarning, match=r"Embeddings\.embedding") as told:
        assert found.mean is found.embedding
    assert told[0].filename == __file__
