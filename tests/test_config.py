"""The config: strict, frozen, and the same after a trip through JSON."""

import dataclasses
import json

import numpy as np
import pytest

from tf_avae import config
from tf_avae.config import Config
from tf_avae.errors import InputError
from tf_avae.runs.plan import Stage, resolve, stages


def test_round_trip_through_json():
    one = Config(algo="se", rho=0.9, pgd_steps=7, data_dir="/somewhere")
    assert Config.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().rho = 0.5


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"rhoo": 0.5}, "unknown config key 'rhoo' .did you mean 'rho'"),
        ({"rho": "0.5"}, "rho is '0.5'; it must be of type float"),
        ({"rho": True}, "rho is True; it must be of type float"),
        ({"rho": None}, "rho is None; it must be of type float"),
        ({"steps": 1.5}, "steps is 1.5; it must be of type int"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"pgd_steps": 0}, "pgd_steps is 0; it must be at least 1"),
        ({"rho": 1}, "rho is 1; it must be at least 0 and below 1"),
        ({"rho_se": -0.1}, "rho_se is -0.1; it must be at least 0"),
        ({"obs_var": 0.0}, "obs_var is 0; it must be above 0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"precision": "float64"}, "unknown precision 'float64'"),
        ({"algo": 3}, "algo is 3; it must be of type str"),
        (
            {"background": "#fff"},
            "background is '#fff'; it must be black, grey, white, or # and six",
        ),
        ({"background": None}, "background is None; it must be of type str"),
    ],
)
def test_what_is_wrong_is_named(bad, words):
    with pytest.raises(InputError, match=words):
        Config.from_dict(bad)


class Unequal:
    """As a tensor of numbers, which TensorFlow does not compare with a string."""

    def __eq__(self, other):
        raise TypeError("cannot be compared")


def test_numpys_scalars_are_numbers_and_travel_as_pythons():
    given = Config(
        latent_dim=np.int64(4), seed=np.uint8(3), rho=np.float64(0.5), epsilon=np.int32(1),
        obs_var=np.float32(0.25), algo=np.str_("avae"), pgd_steps=np.int16(7),
    )  # fmt: skip
    plain = Config(
        latent_dim=4, seed=3, rho=0.5, epsilon=1.0, obs_var=0.25, algo="avae", pgd_steps=7
    )
    assert given == plain
    assert json.loads(json.dumps(given.to_dict())) == plain.to_dict()
    for bad in (
        {"latent_dim": np.float64(4)},
        {"seed": np.bool_(True)},
        {"rho": np.float32("nan")},
        {"latent_dim": np.array([4, 5])},
        {"pgd_step_size": np.array([0.1, 0.2])},
        {"pgd_step_size": Unequal()},
    ):
        with pytest.raises(InputError, match=next(iter(bad))):
            Config(**bad)


def test_a_colour_is_kept_in_one_way_and_an_older_config_has_white():
    colours = [Config(background=text) for text in ("white", "WHITE", "#FFffFF")]
    assert colours == [Config.from_dict({})] * 3 and colours[0].background == "#ffffff"


def test_every_field_has_help_a_group_and_a_valid_default():
    for field in dataclasses.fields(Config):
        option = config.option(field.name)
        assert option.help and option.group and option.source
        if field.default is not None:
            option.check(field.name, field.default)
    assert Config()


def test_defaults_are_the_papers_and_the_authors():
    one = resolve(Config(algo="se_avae"))
    assert (one.arch, one.latent_dim, one.obs_var, one.batch_size) == ("mlp", 64, 0.5, 64)
    assert (one.rho, one.learning_rate, one.steps) == (0.975, 1e-4, 102_000)
    assert (one.epsilon, one.pgd_steps) == (0.1, 20)
    assert resolve(Config(algo="se", arch="celeba")).pgd_steps == 5


def test_a_folders_architecture_is_the_first_that_its_size_fits():
    folder = {"algo": "vae", "dataset": "image_folder"}
    sizes = {24: "mlp", 32: "resnet", 50: "mlp", 64: "resnet", 224: "resnet"}
    assert {n: resolve(Config(**folder, image_size=n)).arch for n in sizes} == sizes
    assert resolve(Config(**folder, image_size=64, arch="conv")).arch == "conv"


def test_resolving_twice_changes_nothing():
    once = resolve(Config(algo="avae_ss", steps=30, data_dir="relative"))
    assert resolve(once) == once
    assert once.data_dir.endswith("/relative") and once.data_dir.startswith("/")


def test_stages():
    assert stages(resolve(Config(algo="avae", steps=5))) == [Stage(0, "avae", 5)]
    two = stages(resolve(Config(algo="avae_ss", steps=5, pretrain_steps=9)))
    assert two == [Stage(0, "vae", 9), Stage(1, "avae_ss", 5)]
    assert stages(resolve(Config(algo="avae_ss", steps=5, init_from="run"))) == [
        Stage(0, "avae_ss", 5)
    ]


def test_steps_per_execution_divides_every_interval():
    assert resolve(Config(algo="vae")).steps_per_execution == 10
    assert resolve(Config(algo="se")).steps_per_execution == 1
    assert resolve(Config(algo="vae", log_every=6, eval_every=9)).steps_per_execution == 1
    with pytest.raises(InputError, match="steps_per_execution is 7"):
        resolve(Config(algo="vae", steps_per_execution=7))
