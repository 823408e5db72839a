"""Which data a command reads, from its flags and from the encoders it is given."""

import dataclasses

import pytest

from tf_avae.config import Config
from tf_avae.console.commands import Parser
from tf_avae.datasets import DATASETS, open_data
from tf_avae.errors import InputError
from tf_avae.evaluation import Encoder
from training.options import add_data_options, data_config, given_options, unused_data_options


def parsed(*words):
    parser = Parser(prog="test")
    add_data_options(parser)
    return parser.parse_args(words)


def trained_on(**options):
    return Encoder("e", lambda x: x, notes={"config": Config(**options).to_dict()})


FOLDER = {"dataset": "image_folder", "data_dir": "/a", "image_size": 32, "split_seed": 3}


@pytest.mark.parametrize(
    ("words", "encoders", "expected"),
    [
        ([], [], {}),
        ([], [Encoder("e", lambda x: x)], {}),
        ([], [trained_on(**FOLDER)], FOLDER),
        # What was held out in training is not held out from an evaluation.
        ([], [trained_on(**FOLDER, validation=9)], FOLDER),
        (["--validation", "5"], [trained_on(**FOLDER)], FOLDER | {"validation": 5}),
        (["--data-dir", "/b"], [trained_on(**FOLDER)], FOLDER | {"data_dir": "/b"}),
        # Of two folders a given one is taken.
        (["--data-dir", "/b"], [trained_on(**FOLDER), trained_on(**FOLDER | {"data_dir": "/c"})],
         FOLDER | {"data_dir": "/b"}),
        # Options of another data set do not carry over.
        (["--dataset", "color_mnist"], [trained_on(**FOLDER)], {}),
        (["--dataset", "image_folder"], [trained_on(**FOLDER), trained_on()], FOLDER),
    ],
)  # fmt: skip
def test_given_options_come_first_then_those_of_training(words, encoders, expected):
    assert data_config(parsed(*words), encoders) == Config(**expected)


def test_encoders_of_different_data_need_a_word():
    encoders = [trained_on(**FOLDER), trained_on()]
    with pytest.raises(InputError, match=r"dataset color_mnist and image_folder.*--dataset"):
        data_config(parsed(), encoders)
    encoders = [trained_on(**FOLDER), trained_on(**FOLDER | {"split_seed": 4})]
    with pytest.raises(InputError, match=r"\(split_seed 3 and 4\); .* with --split-seed$"):
        data_config(parsed(), encoders)


def test_options_that_a_data_set_does_not_read_are_said():
    given = given_options(parsed("--image-size", "32", "--data-dir", "/a"))
    assert unused_data_options(given, "color_mnist") == [
        "note: --image-size has no effect on color_mnist"
    ]


@pytest.mark.parametrize("row", DATASETS.values(), ids=lambda row: row.name)
def test_each_row_takes_the_options_that_it_names(row, monkeypatch):
    taken = {}
    seen = dataclasses.replace(row, open=lambda **options: taken.update(options))
    monkeypatch.setitem(DATASETS._rows, row.name, seen)
    config = Config(dataset=row.name, data_dir="/a", validation=2)
    open_data(config)
    assert taken == {name: getattr(config, name) for name in row.options}
    assert {"data_dir", "validation"} <= taken.keys()


@pytest.mark.parametrize(
    "folders",
    [("pics", "HERE/pics"), ("HERE/pics", ".../pics"), (".../pics", "pics")],
)
def test_a_run_and_its_export_name_one_folder(folders, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = [folder.replace("HERE", str(tmp_path)) for folder in folders]
    encoders = [trained_on(dataset="image_folder", data_dir=folder) for folder in given]
    assert data_config(parsed(), encoders).data_dir == str(tmp_path / "pics")
