"""The models that a grid on ColorMNIST consists of."""

import itertools
import json
import re

import pytest

from benchmarks import counts
from tf_avae.config import ATTACK, OBJECTIVE, Config, fields_of
from tf_avae.errors import InputError
from tf_avae.objectives import OBJECTIVES
from tf_avae.runs.plan import build_model, resolve
from training.sweep.colormnist.grids import GRIDS, Block, Grid, models

SMALL = Grid(
    "small", "summary", "title", "text",
    common={"arch": "mlp", "steps": 100},
    own={"se": {"pgd_steps": 3}},
    blocks=(
        Block(("vae", "avae", "avae_ss")),
        Block(("vae", "avae", "se"), (
            {"rho": 0.9}, {"epsilon": 0.2}, {"rho": 0.9, "epsilon": 0.2},
        )),
        Block(("avae",), ({"rho": 0.975}, {"init_from": "vae"}, {"rho": 0.9, "init_from": "vae"})),
        Block(("avae_ss",), ({"obs_var": 0.1}, {"rho": 0.9}, {"epsilon": 0.3})),
    ),
)  # fmt: skip


def named(*how):
    return {model.name: model for model in models(*how)}


def test_a_grid_has_each_model_once_and_first_what_it_starts_from():
    found = named(SMALL, {}, {})
    # Neither vae nor avae reads epsilon, 0.975 is rho's default, and no VAE reads rho.
    assert {name: model.starts_from for name, model in found.items()} == {
        "vae": None,
        "avae": None,
        "avae_ss": "vae",
        "avae-rho0.9": None,
        "se-rho0.9": None,
        "se-epsilon0.2": None,
        "se-rho0.9-epsilon0.2": None,
        "avae-init_fromvae": "vae",
        "avae-rho0.9-init_fromvae": "vae",
        "vae-obs_var0.1": None,
        "avae_ss-obs_var0.1": "vae-obs_var0.1",
        "avae_ss-rho0.9": "vae",
    }
    assert list(found).index("vae-obs_var0.1") < list(found).index("avae_ss-obs_var0.1")
    model = found["se-rho0.9-epsilon0.2"]
    assert model.differs == {"rho": 0.9, "epsilon": 0.2}
    assert model.config == resolve(
        Config(algo="se", arch="mlp", steps=100, pgd_steps=3, rho=0.9, epsilon=0.2)
    )
    assert found["avae-init_fromvae"].differs == {"init_from": "vae"}
    assert found["avae-init_fromvae"].config == found["avae"].config
    assert found["avae"].differs == {} and found["avae"].config.epsilon == Config().epsilon


def test_algos_pick_and_what_is_given_holds_for_all():
    picked = named(SMALL, {"latent_dim": 16}, {}, ("avae_ss",))
    assert list(picked) == ["vae", "avae_ss", "vae-obs_var0.1", "avae_ss-obs_var0.1",
                            "avae_ss-rho0.9"]  # fmt: skip
    assert {model.config.latent_dim for model in picked.values()} == {16}
    assert list(named(SMALL, {}, {}, ("se",))) == [
        "se-rho0.9", "se-epsilon0.2", "se-rho0.9-epsilon0.2",
    ]  # fmt: skip
    with pytest.raises(InputError, match="the grid small has no se_avae; it has "):
        models(SMALL, {}, {}, ("se_avae",))
    with pytest.raises(InputError, match="unknown objective 'vea'"):
        models(SMALL, {}, {}, ("vea",))


def test_axes_give_the_product_of_their_values_to_the_objectives_that_read_them():
    archs, rhos, rho_ses, epsilons = ("mlp", "conv"), (0.9, 0.975), (0.95,), (0.1, 0.2)
    axes = {"arch": archs, "rho": rhos, "rho_se": rho_ses, "epsilon": epsilons}
    found = {}
    for model in models(GRIDS["objectives"], {}, axes):
        values = tuple(getattr(model.config, name) for name in axes)
        found.setdefault(model.algo, []).append(values)
    rho, rho_se, epsilon = ((getattr(Config(), name),) for name in ("rho", "rho_se", "epsilon"))
    expected = {
        "vae": (archs, rho, rho_se, epsilon),
        "avae": (archs, rhos, rho_se, epsilon),
        "se": (archs, rhos, rho_se, epsilons),
        "se_avae": (archs, rhos, rho_ses, epsilons),
        "avae_ss": (archs, rhos, rho_se, epsilon),
    }
    assert found.keys() == expected.keys()
    for algo, values in expected.items():
        assert sorted(found[algo]) == sorted(itertools.product(*values))
    made = named(GRIDS["objectives"], {}, axes)
    assert made["avae_ss-archconv-rho0.9"].starts_from == "vae-archconv"
    assert made["avae_ss"].starts_from == "vae"


@pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
def test_no_two_models_of_a_declared_grid_do_the_same_and_names_can_be_those_of_cells(grid):
    found = models(grid, {}, {})
    assert {model.algo for model in found} == {a for block in grid.blocks for a in block.algos}
    seen = set()
    for model in found:
        unread = set(fields_of(OBJECTIVE) + fields_of(ATTACK)) - set(OBJECTIVES[model.algo].uses)
        read = {k: v for k, v in model.config.to_dict().items() if k not in unread}
        seen.add((json.dumps(read), model.starts_from))
        assert re.fullmatch(r"[\w.+-]+", model.name)
        assert model.config.validation == grid.common.get("validation", 0)
    assert len(seen) == len(found) == len({model.name for model in found})


def test_values_that_differ_in_a_late_digit_have_names_of_their_own():
    close = (0.9999991, 0.9999992)
    found = named(SMALL, {}, {"rho": close}, ("avae",))
    assert [found[f"avae-rho{rho}"].config.rho for rho in close] == list(close)


def test_the_trainings_of_beyond_take_as_many_multiply_adds():
    costs = {}
    for model in models(GRIDS["beyond"], {}, {}):
        work = counts.required(build_model(model.config, counts.SHAPES[model.config.arch]))
        costs[model.name] = model.config.steps * work.total
    assert len(costs) == 6 and max(costs.values()) < 1.02 * min(costs.values()), costs
