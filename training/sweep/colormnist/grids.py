"""Grids of models on ColorMNIST: objectives, the settings in which they vary, seeds."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from tf_avae.config import ATTACK, OBJECTIVE, Config, fields_of
from tf_avae.errors import InputError
from tf_avae.objectives import OBJECTIVES
from tf_avae.registry import Registry
from tf_avae.runs.plan import resolve

Fields = Mapping[str, Any]
"""Names of fields of `Config` and their values."""

DATASET = "color_mnist"


@dataclass(frozen=True)
class Block:
    """Objectives, each with each of some variants.

    Attributes:
        algos: names of objectives.
        variants: fields in which a model differs from the grid's own for its objective; {} is
            that model itself. A variant in fields that an objective does not read is none of its.
            "init_from" is the objective of the model whose networks it starts from.
    """

    algos: tuple[str, ...]
    variants: tuple[Fields, ...] = ({},)


class Attacks(NamedTuple):
    """How hard to attack what.

    Attributes:
        budget: a row of `BUDGETS`.
        images: how many test images, at most; all, or the budget's number, where None.
        radii: the grid's where None.
    """

    budget: str
    images: int | None = None
    radii: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Grid:
    """A declared grid.

    Attributes:
        name: the row's name.
        summary: for `--help`.
        title: of the page.
        text: what the page says first of it.
        common: fields of all models.
        blocks: what varies.
        own: fields of an objective's models, by its name.
        seeds: trainings of each model.
        radii: of the attacks in the evaluation.
        attacks: under which budgets.
        heads: through which under the first budget; those after the first on fewer images
            (`other_images`). Under other budgets it is the first alone.
        sections: of the evaluation under the first budget; under others it is the attacks alone.
        tasks: what is read of the embeddings; all that the data have where empty.
        certify: by which bounds images are verified, where that is a section.
        dots: whether the picture has a row of dots for each model; otherwise it has curves.
    """

    name: str
    summary: str
    title: str
    text: str
    common: Fields
    blocks: tuple[Block, ...]
    own: Mapping[str, Fields] = field(default_factory=dict)
    seeds: int = 1
    radii: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3)
    attacks: tuple[Attacks, ...] = (Attacks("paper"),)
    heads: tuple[str, ...] = ("linear", "margin")
    sections: tuple[str, ...] = (
        "probes", "robustness", "consistency", "reconstruction", "latents",
    )  # fmt: skip
    tasks: tuple[str, ...] = ()
    certify: str = "crown"
    dots: bool = False


class Model(NamedTuple):
    """A model of a grid, whatever its seed.

    Attributes:
        name: of its cells, the seed left out.
        algo: the objective.
        differs: the fields in which it differs from the grid's own model of its objective.
        config: resolved; seed 0.
        starts_from: the model whose networks it starts from.
    """

    name: str
    algo: str
    differs: dict[str, Any]
    config: Config
    starts_from: str | None


def models(
    grid: Grid, given: Fields, axes: Mapping[str, tuple[Any, ...]], algos: tuple[str, ...] = ()
) -> list[Model]:
    """The models of a grid, each once, those that others start from before these.

    Args:
        grid: the grid.
        given: fields that all models have instead of the grid's.
        axes: fields that every model has with each of these values instead of the grid's.
        algos: of the grid's objectives; all unless given.

    Raises:
        InputError: a value out of range, or an objective that is not in the grid.
    """
    there = {algo for block in grid.blocks for algo in block.algos}
    for algo in algos:
        if OBJECTIVES[algo].name not in there:
            raise InputError(f"the grid {grid.name} has no {algo}; it has {', '.join(there)}")
    found: dict[tuple[Config, str | None], Model] = {}
    for block in grid.blocks:
        for variant, algo in itertools.product(block.variants, block.algos):
            if algos and algo not in algos:
                continue
            for values in itertools.product(*axes.values()):
                varied = dict(zip(axes, values, strict=True))
                _add(found, grid, algo, {**variant, **given, **varied}, given)
    made = list(found.values())
    names = [model.name for model in made]
    if len(set(names)) != len(names):
        raise ValueError(f"grid {grid.name}: two models have one name, of {names}")
    return made


def _add(
    found: dict[tuple[Config, str | None], Model],
    grid: Grid,
    algo: str,
    fields: Fields,
    given: Fields,
) -> Model:
    """The model of an objective with these fields, added after the one that it starts from."""
    first = fields.get("init_from", OBJECTIVES[algo].starts_from)
    plain = {name: value for name, value in fields.items() if name != "init_from"}
    source = _add(found, grid, first, plain, given).name if first else None
    config = _config(grid, algo, plain)
    if (config, source) not in found:
        own = _config(grid, algo, given)
        differs = {n: v for n, (v, _) in config.differences(own).items() if n in fields}
        if "init_from" in fields:
            differs["init_from"] = first
        words = "".join(f"-{name}{_word(value)}" for name, value in differs.items())
        found[config, source] = Model(algo + words, algo, differs, config, source)
    return found[config, source]


def _config(grid: Grid, algo: str, fields: Fields) -> Config:
    """The resolved config of a model; what its objective does not read has its default, so that
    models that differ in that alone are one."""
    values = {**grid.common, **grid.own.get(algo, {}), **fields, "dataset": DATASET, "algo": algo}
    config = Config.from_dict(values)
    unread = set(fields_of(OBJECTIVE) + fields_of(ATTACK)) - set(OBJECTIVES[algo].uses)
    default = Config()
    config = replace(config, **{name: getattr(default, name) for name in unread})
    return resolve(config)


def _word(value: Any) -> str:
    """A value in a name: short, unless that would be another value's."""
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value)


def _each(name: str, *values: Any) -> tuple[Fields, ...]:
    return tuple({name: value} for value in values)


PAPER = ("vae", "avae", "se", "se_avae", "avae_ss")
"""The objectives of the paper, whose claims a page judges."""

_BOUNDED: Fields = {"obs_var": 0.03, "learning_rate_decay": "cosine", "pgd_steps": 5,
                    "validation": 10_000}  # fmt: skip

_NORMALISED: Fields = {"arch": "compact_bn", "batch_norm": "clean"}

_ATTACKING = tuple(name for name in PAPER if OBJECTIVES[name].attack)

GRIDS: Registry[Grid] = Registry(
    "grid",
    Grid(
        "objectives",
        "the five objectives on the MLP, three seeds, all test images",
        title="Five objectives side by side: ColorMNIST, MLP",
        text="The five objectives, each with three seeds and otherwise the same, but for the "
        "observation variance of `se`: with that of the others it keeps few latents.",
        common={"arch": "mlp", "obs_var": 0.1, "learning_rate": 1e-3, "pgd_steps": 5,
                "steps": 20_000, "eval_every": 4_000},
        blocks=(Block(PAPER),),
        own={"se": {"obs_var": 0.02}},
        seeds=3,
        # At smaller radii it takes longest: what stands is searched to the end.
        attacks=(Attacks("paper"), Attacks("strong", 1_000, (0.1, 0.2, 0.3))),
        sections=(*Grid.sections, "likelihood", "checks"),
    ),
    Grid(
        "authors",
        "the five objectives at the authors' settings on the MLP, but for the steps of PGD",
        title="The authors' settings: ColorMNIST, MLP",
        text="The five objectives as the authors' code has them: observation variance 0.5, "
        "learning rate 1e-4, 102,000 steps of 64 images, 64 latents. The attack in training takes "
        "5 steps in the place of 20.",
        common={"arch": "mlp", "pgd_steps": 5, "steps": 102_000, "eval_every": 20_400},
        blocks=(Block(PAPER),),
        seeds=3,
        attacks=(Attacks("paper", 1_000), Attacks("strong", 1_000, (0.05, 0.1))),
    ),
    Grid(
        "settings",
        "what matters of the settings, on a validation part of the training images",
        title="Which settings matter: ColorMNIST, MLP",
        text="Short trainings that differ from their objective's first one in one setting, and a "
        "few in two or three. What was looked at are the last 10,000 training images, which no "
        "model was trained on; no test image was.",
        common={"arch": "mlp", "obs_var": 0.1, "learning_rate": 1e-3, "pgd_steps": 5,
                "steps": 3_000, "validation": 10_000, "eval_every": 600},
        blocks=(
            Block(PAPER),
            Block(("se_avae",), (
                {"rho_se": 0.99}, {"rho_se": 0.999}, {"epsilon": 0.05}, {"epsilon": 0.2},
                {"rho_se": 0.99, "epsilon": 0.2}, {"rho_se": 0.999, "epsilon": 0.2},
                {"obs_var": 0.02, "rho_se": 0.999},
                {"obs_var": 0.02, "rho_se": 0.999, "epsilon": 0.2},
            )),
            Block(("se",), (
                {"init_from": "vae"}, {"init_from": "vae", "rho": 0.99},
                {"init_from": "vae", "rho": 0.99, "epsilon": 0.2}, {"rho": 0.9}, {"rho": 0.99},
                {"epsilon": 0.05}, {"epsilon": 0.2},
            )),
            Block(("vae", *_ATTACKING), _each("obs_var", 0.02, 0.5)),
            Block(("avae", "se_avae"), _each("rho", 0.9, 0.99)),
            Block(("vae", "se_avae"), _each("latent_dim", 16, 128)),
            Block(("vae", *_ATTACKING), _each("learning_rate", 3e-4)),
            Block(("se_avae",), _each("pgd_steps", 1, 20)),
            Block(("avae", "se_avae", "avae_ss"), _each("coupling", "sampled")),
            Block(("avae_ss",), _each("reconstruction_weight", 0.0, 0.1)),
            Block(("avae", "se_avae"), _each("init_from", "vae")),
        ),
        radii=(0.05, 0.1, 0.2),
        attacks=(Attacks("paper", 500),),
        dots=True,
    ),
    Grid(
        "conv",
        "all objectives on the convolutional network with the three couplings of Fig. 9",
        title="The couplings of Fig. 9: ColorMNIST, convolutional network",
        text="All objectives with the three pairs (rho, rho_se) of the paper's Fig. 9, where they "
        "read them, at a scale that two processors can do.",
        common={"arch": "conv", "obs_var": 0.1, "learning_rate": 1e-3, "pgd_steps": 5,
                "steps": 1_000, "eval_every": 200},
        blocks=(
            Block(PAPER, (
                {"rho": 0.95, "rho_se": 0.975},
                {"rho": 0.97, "rho_se": 0.97},
                {"rho": 0.97, "rho_se": 0.975},
            )),
        ),
        radii=(0.05, 0.1),
        attacks=(Attacks("paper", 200),),
    ),
    Grid(
        "worst-case",
        "what matters of the settings of adversarial_elbo and certified_elbo, on validation images",
        title="Settings of the two objectives beyond the paper: ColorMNIST, a small network",
        text="Short trainings of `adversarial_elbo` and `certified_elbo` on `shallow`, the "
        "smallest architecture that suits bounds, that differ from their objective's first one "
        "in one setting, and a few in two; `se` and `se_avae` beside them, against PGD and against "
        "interval bounds. What was looked at are the last 10,000 training images, which no model "
        "was trained on; no test image was.",
        common={**_BOUNDED, "arch": "shallow", "steps": 4_000, "learning_rate": 2e-3,
                "eval_every": 800},
        blocks=(
            Block(("certified_elbo",), (
                {}, *_each("obs_var", 0.1, 0.01, 0.005), *_each("penalty_weight", 0.5, 5.0),
                {"obs_var": 0.01, "penalty_weight": 1.0}, {"obs_var": 0.01, "penalty_weight": 5.0},
                {"epsilon": 0.15}, *_each("epsilon_warmup", 1_000, 3_000),
                {"learning_rate": 1e-3}, {"learning_rate_decay": "none"}, {"batch_size": 32},
                {"latent_dim": 32}, {"obs_var": 0.01, "arch": "wide"},
                {"obs_var": 0.01, "steps": 8_000},
                {"obs_var": 0.01, "epsilon_warmup": 3_000},
                {"obs_var": 0.01, "epsilon_warmup": 3_000, "learning_rate_decay": "none"},
                {"obs_var": 0.01, "epsilon_warmup": 4_000, "learning_rate_decay": "none"},
            )),
            Block(("adversarial_elbo",), (
                {}, *_each("obs_var", 0.1, 0.01), {"epsilon_warmup": 2_000},
            )),
            Block(("se", "se_avae"), ({}, {"adversary": "interval", "epsilon_warmup": 2_000})),
        ),
        own={"certified_elbo": {"epsilon_warmup": 2_000}},
        radii=(0.05, 0.1),
        attacks=(Attacks("strong", 300),),
        heads=("linear",),
        sections=("probes", "robustness", "certified", "latents"),
        tasks=("digit",),
        dots=True,
    ),
    Grid(
        "beyond",
        "the two objectives beyond the paper beside those of its that attack, on as much compute, "
        "on validation images",
        title="Beyond the paper: trainings of as much compute: ColorMNIST, `wide`",
        text="As many steps of each objective as make the multiply-adds of its training those of "
        "the others (`python -m benchmarks.counts --arch wide`). Settings are those that helped "
        "most in the grid `worst-case`; attacks in training start from `mixed`. What was looked at "
        "are the last 10,000 training images, which no model was trained on; no test image was.",
        common={**_BOUNDED, "arch": "wide", "learning_rate": 1e-3, "eval_every": 50_000,
                "pgd_start": "mixed"},
        blocks=(
            Block(("certified_elbo",), ({}, {"epsilon": 0.2})),
            Block(("adversarial_elbo", "se", "se_avae")),
            Block(("se_avae",), (
                {"adversary": "interval", "obs_var": 0.01, "learning_rate_decay": "none",
                 "steps": 10_600},
            )),
        ),
        own={
            "certified_elbo": {"obs_var": 0.01, "learning_rate_decay": "none", "steps": 14_000},
            "adversarial_elbo": {"steps": 7_250},
            "se": {"steps": 7_500},
            "se_avae": {"steps": 6_400},
        },
        radii=(0.05, 0.1, 0.2),
        attacks=(Attacks("strong", 300),),
        heads=("linear",),
        sections=("probes", "robustness", "certified", "latents"),
    ),
    Grid(
        "recipes",
        "what matters of how these two are trained: networks, averages, rates; on validation "
        "images",
        title="Recipes: what matters of the training: ColorMNIST, small networks",
        text="Short trainings of `certified_elbo` against the radius 0.2, and of "
        "`adversarial_elbo` against 0.1, that differ from their objective's first one in one "
        "choice of the network or of the training, and a few in two. What was looked at are the "
        "last 10,000 training images, which no model was trained on; no test image was.",
        common={"arch": "compact", "obs_var": 0.01, "learning_rate": 2e-3, "steps": 4_000,
                "pgd_steps": 5, "validation": 10_000, "eval_every": 50_000},
        blocks=(
            Block(("certified_elbo",), (
                {}, *_each("arch", "shallow", "leaky", "wide"), _NORMALISED, {"arch": "compact_bn"},
                {**_NORMALISED, "penalty_weight": 0.5}, *_each("ema_momentum", 0.99, 0.999),
                {"learning_rate_warmup": 400}, {"learning_rate_decay": "cosine"},
                {"learning_rate": 1e-3}, {"clip_norm": 1_000.0}, {"batch_size": 128},
                {"latent_dim": 128}, {"obs_var": 0.0025, "penalty_weight": 8.0},
            )),
            Block(("adversarial_elbo",), (
                {}, {"pgd_start": "mixed"}, {"pgd_start": "mixed", "arch": "leaky"},
                {"pgd_start": "mixed", "ema_momentum": 0.999},
                {"pgd_start": "mixed", "epsilon": 0.15},
            )),
        ),
        own={"certified_elbo": {"epsilon": 0.2}},
        radii=(0.1, 0.2),
        attacks=(Attacks("strong", 300),),
        heads=("linear", "mlp"),
        sections=("probes", "robustness", "certified", "latents"),
        tasks=("digit",),
        dots=True,
    ),
    Grid(
        "hold",
        "three seeds of the encoder that ships, on test images",
        title="The encoder that ships: ColorMNIST, three seeds",
        text="Settings that were chosen on the last 10,000 training images, trained on all 60,000 "
        "with three seeds, and measured once on test images. Seed 0 comes with the package as "
        "`colormnist-robust`.",
        common={**_NORMALISED, "obs_var": 0.01, "penalty_weight": 0.5, "epsilon": 0.2,
                "learning_rate": 1e-3, "steps": 14_000, "eval_every": 50_000},
        blocks=(Block(("certified_elbo",)),),
        seeds=3,
        radii=(0.1, 0.2),
        attacks=(Attacks("strong", 1_000),),
        heads=("linear", "mlp"),
        sections=("probes", "robustness", "certified", "checks", "latents"),
    ),
)  # fmt: skip
