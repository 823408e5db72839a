"""Keras' settings: those that the package cannot work with end in one line, the others change
nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras_settings import SHAPE, made, numbers

from tf_avae import backend
from tf_avae.errors import InputError
from tf_avae.evaluation import open_extractor
from tf_avae.graphs.saved_models import load_keras_model

ROOT = Path(__file__).parent.parent


def run(*words, home=None, **variables):
    """A command under other settings."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KERAS")} | variables
    if home is not None:
        environment["KERAS_HOME"] = str(home)
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def settings(folder, **values):
    folder.mkdir(parents=True)
    (folder / "keras.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    made(seed=5).save(path)
    return path


@pytest.fixture(scope="module")
def right(saved):
    return numbers(saved)


def assert_same(found, right):
    assert set(found) == set(right)
    for name, value in right.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert found[name].dtype == value.dtype, name


@pytest.mark.long
def test_other_settings_of_kerass_file_change_no_number(saved, right, tmp_path):
    home = settings(tmp_path / "keras", floatx="float16", image_data_format="channels_first")
    done = run("tests/keras_settings.py", saved, tmp_path / "out.npz", home=home)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as found:
        assert_same(dict(found), right)
    # What was saved there is what would be saved here.
    images = np.random.default_rng(0).uniform(size=(4, *SHAPE)).astype(np.float32)
    theirs = load_keras_model(tmp_path / "out.npz.keras")
    assert theirs.dtype_policy.name == "float32"
    assert {w.dtype for w in theirs.encoder.weights} == {"float32"}
    for name, value in made()(images).items():
        np.testing.assert_array_equal(theirs(images)[name], value)


@pytest.fixture
def keras_set():
    """Sets Keras' settings within this process."""
    kept = keras.config.floatx(), keras.config.image_data_format(), keras.config.dtype_policy()

    def change(floatx, data_format="channels_first"):
        keras.config.set_floatx(floatx)
        keras.config.set_image_data_format(data_format)
        keras.config.set_dtype_policy(floatx)

    yield change
    keras.config.set_floatx(kept[0])
    keras.config.set_image_data_format(kept[1])
    keras.config.set_dtype_policy(kept[2])


@pytest.mark.parametrize("floatx", ["bfloat16", pytest.param("float64", marks=pytest.mark.long)])
def test_settings_made_in_a_program_change_no_number(saved, right, keras_set, floatx):
    keras_set(floatx)
    assert_same(numbers(saved), right)


def test_images_that_are_none_are_refused_under_other_settings_too(keras_set):
    model = made("mlp", "vae")
    images = np.random.default_rng(0).uniform(size=(4, *SHAPE)).astype(np.float32)
    keras_set("float16")
    for wrong in (images * 255, images.astype(np.float64), (images * 255).astype(np.uint32)):
        for door in (model.fit, model.predict, model.train_on_batch):
            with pytest.raises(InputError):
                door(wrong)


def test_the_fid_says_which_setting_it_needs(keras_set, tmp_path):
    keras_set("float32", "channels_first")
    (tmp_path / "weights.h5").touch()
    with pytest.raises(InputError, match="image_data_format is channels_first"):
        open_extractor(tmp_path / "weights.h5")


@pytest.mark.parametrize("other", ["jax", "torch", "numpy", "nonsense"])
@pytest.mark.parametrize("by", ["KERAS_BACKEND", "keras.json"])
def test_another_backend_is_named(monkeypatch, tmp_path, other, by):
    home = settings(tmp_path / "keras", backend=other if by == "keras.json" else "tensorflow")
    monkeypatch.setenv("KERAS_HOME", str(home))
    monkeypatch.setenv("KERAS_BACKEND", other if by == "KERAS_BACKEND" else "")
    monkeypatch.delitem(sys.modules, "keras")
    with pytest.raises(InputError, match=f"{by} is '{other}'.*KERAS_BACKEND=tensorflow"):
        backend.import_tensorflow()


@pytest.mark.parametrize(
    ("command", "variables", "words"),
    [
        (("training.fit", "--algo=vae", "--run-dir=RUN"), {"KERAS_BACKEND": "nonsense"},
         ["KERAS_BACKEND is 'nonsense'"]),
        (("training.classify", "--encoder=colormnist-robust", "--task=digit", "--out=RUN"),
         {"KERAS_BACKEND": "jax"}, ["KERAS_BACKEND is 'jax'"]),
        # What Keras itself refuses when it is imported.
        (("training.evaluate", "colormnist-robust", "--out=RUN"), {},
         ["floatx=bfloat16", "keras.json"]),
    ],
)  # fmt: skip
def test_a_command_ends_in_one_line_and_leaves_nothing(tmp_path, command, variables, words):
    home = settings(tmp_path / "keras", floatx="bfloat16")
    given = [word.replace("RUN", str(tmp_path / "run")) for word in command]
    kept = run("-m", *given, home=home, **variables)
    assert kept.returncode == 2
    assert kept.stdout == "" and kept.stderr.count("\n") == 1
    assert kept.stderr.startswith("error: ") and all(word in kept.stderr for word in words)
    assert list(tmp_path.iterdir()) == [home]
