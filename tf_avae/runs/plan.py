"""From a config to a training: its stages, its defaults filled in, its compiled model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tf_avae.attacks import BALLS, STARTS
from tf_avae.backend import keras, replicas
from tf_avae.backend.float32 import saved_in
from tf_avae.config import GIVEN as GIVEN_GROUP
from tf_avae.config import Config, fields_of
from tf_avae.datasets import DATASETS
from tf_avae.datasets.augmentation import AUGMENTATIONS
from tf_avae.errors import InputError
from tf_avae.files import absolute
from tf_avae.image_files.fitting import FITS
from tf_avae.networks import ARCHITECTURES, Architecture
from tf_avae.objectives import ADVERSARIES, COUPLINGS, ENCODER, OBJECTIVES, Objective
from tf_avae.registry import Registry
from tf_avae.robustified.objectives import GIVEN, ROBUST
from tf_avae.robustified.pixels import PIXELS
from tf_avae.types import ImageShape

if TYPE_CHECKING:
    from tf_avae.model import AVAE

ROWS: dict[str, Registry[Any]] = {
    "algo": OBJECTIVES,
    "dataset": DATASETS,
    "fit": FITS,
    "arch": ARCHITECTURES,
    "augment": AUGMENTATIONS,
    "coupling": COUPLINGS,
    "adversary": ADVERSARIES,
    "pgd_norm": BALLS,
    "pgd_start": STARTS,
}
"""The registries that fields of `Config` name rows of."""


def rows_of(config: Config) -> dict[str, Registry[Any]]:
    """As `ROWS`, for this config: there are other rows for an encoder that somebody has."""
    return ROWS | ({"algo": ROBUST, "arch": GIVEN} if config.encoder else {})


class Stage(NamedTuple):
    """One objective trained for so many steps; most runs have one stage, `avae_ss` has two."""

    number: int
    algo: str
    steps: int


def stages(config: Config) -> list[Stage]:
    """What a run trains, in order. An objective that starts from another one trains that first,
    unless the run starts from a run that has done so."""
    first = rows_of(config)["algo"][config.algo].starts_from
    if first is None or config.init_from:
        return [Stage(0, config.algo, config.steps)]
    return [
        Stage(0, first, config.pretrain_steps or config.steps),
        Stage(1, config.algo, config.steps),
    ]


def resolve(config: Config) -> Config:
    """The same config with every default that depends on another choice filled in.

    Raises:
        InputError: a name that no registry has, or intervals that do not fit one another.
    """
    rows = rows_of(config)
    if not config.algo:
        raise InputError(f"algo is not given; choose one of: {', '.join(rows['algo'])}")
    objective: Objective = rows["algo"][config.algo]
    COUPLINGS[config.coupling]
    FITS[config.fit]
    for name in config.augment.split():
        AUGMENTATIONS[name]
    STARTS[config.pgd_start].check(BALLS[config.pgd_norm], of_distance=True)
    if config.adversary:
        ADVERSARIES[config.adversary]
    if objective.attack and (config.epsilon_warmup or 0) > config.steps:
        raise InputError(
            f"epsilon_warmup is {config.epsilon_warmup} and steps is {config.steps}: epsilon would "
            "never reach its value; give a warm-up of at most as many steps"
        )
    for stage in stages(config):
        if config.learning_rate_warmup >= stage.steps:
            raise InputError(
                f"learning_rate_warmup is {config.learning_rate_warmup} and the steps of "
                f"{stage.algo} are {stage.steps}: the learning rate would never reach its value; "
                "give fewer steps of warm-up"
            )
    lone = [n for n in fields_of(GIVEN_GROUP) if n != "encoder" and getattr(config, n) is not None]
    if lone and not config.encoder:
        raise InputError(
            f"{', '.join(lone)} of no encoder; give training.robustify an --encoder too, or leave "
            "out what is said of one"
        )
    if config.encoder and config.init_from:
        raise InputError(
            f"init_from is {config.init_from}, and a robust copy starts from its encoder, "
            f"{config.encoder}; leave init_from out"
        )
    if config.pixels:
        PIXELS[config.pixels]
    if config.keep and config.checkpoint_every != config.eval_every:
        raise InputError(
            f"keep is {config.keep:g}, checkpoint_every {config.checkpoint_every} and eval_every "
            f"{config.eval_every}; give the last two the same value: what is measured is kept"
        )
    architecture = _architecture(config)
    intervals = ("log_every", "checkpoint_every", "eval_every", "pictures_every")
    common = math.gcd(*(getattr(config, name) for name in intervals))
    if config.steps_per_execution is None:
        most = 1 if objective.attack else 10
        execution = max(n for n in range(1, most + 1) if common % n == 0)
    else:
        execution = config.steps_per_execution
        if common % execution:
            raise InputError(
                f"steps_per_execution is {execution}; it must divide {', '.join(intervals)}, "
                f"so one of the divisors of {common}"
            )
    encoder = config.encoder
    return replace(
        config,
        arch=architecture.name,
        pgd_steps=config.pgd_steps or architecture.pgd_steps,
        pretrain_steps=config.pretrain_steps or config.steps,
        steps_per_execution=execution,
        data_dir=config.data_dir and str(absolute(config.data_dir)),
        init_from=config.init_from and str(absolute(config.init_from)),
        # A path, unless it is one of the names that an encoder may have.
        encoder=str(absolute(encoder)) if encoder and Path(encoder).exists() else encoder,
    )


def _architecture(config: Config) -> Architecture:
    """The one that was asked for, or the data set's; what stands for that of an encoder that
    somebody has."""
    if config.encoder:
        return GIVEN[config.arch or "given"]
    row, side = DATASETS[config.dataset], config.image_size
    usual = ARCHITECTURES[config.arch or row.architecture]
    if config.arch or not row.otherwise or side is None or usual.fits(side, side):
        return usual
    return ARCHITECTURES[row.otherwise]


def build_model(
    config: Config, image_shape: ImageShape, algo: str | None = None,
    given: keras.Model | None = None,
) -> AVAE:  # fmt: skip
    """The compiled model of a resolved config, with its optimiser's variables.

    Under several replicas each execution is one step: TensorFlow cannot loop over their input
    within a graph.

    Args:
        config: from `resolve`.
        image_shape: (H, W, C).
        algo: the objective, where it is not the config's own (an earlier stage).
        given: the encoder that the config names, which a copy is made of.
    """
    from tf_avae.model import AVAE
    from tf_avae.robustified.model import Robustified
    from tf_avae.runs.optimizers import adam

    algo = algo or config.algo
    steps = next((s.steps for s in stages(config) if s.algo == algo), config.steps)
    adversary = ADVERSARIES[config.adversary or rows_of(config)["algo"][algo].adversary]
    warmup = config.epsilon_warmup
    kind: type[AVAE] = AVAE
    networks: Any = None
    if given is not None:
        kind, networks = Robustified, {ENCODER: saved_in(config.precision, given)}
    model = kind(
        networks=networks,
        objective=algo,
        architecture=config.arch,
        image_shape=image_shape,
        latent_dim=config.latent_dim,
        observation_variance=config.obs_var,
        rho=config.rho,
        rho_se=config.rho_se,
        coupling=config.coupling,
        reconstruction_weight=config.reconstruction_weight,
        penalty_weight=config.penalty_weight,
        adversary=adversary,
        epsilon=config.epsilon,
        epsilon_warmup=int(adversary.warmup * steps) if warmup is None else warmup,
        ball=config.pgd_norm,
        pgd_start=config.pgd_start,
        pgd_steps=config.pgd_steps,
        pgd_step_size=config.pgd_step_size,
        batch_norm=config.batch_norm,
        seed=config.seed,
        dtype=config.precision,
    )
    if isinstance(model, Robustified):
        model.start_from(given)
    model.compile(
        optimizer=adam(config, steps),
        steps_per_execution=config.steps_per_execution if replicas.count() == 1 else 1,
        jit_compile=config.jit == "on",
    )
    return model


def copy_networks(source: AVAE, target: AVAE, name: str = "the model") -> None:
    """Gives `target` the encoder and decoder weights of `source`.

    Raises:
        InputError: they have different architectures, latent dimensions or image shapes, or
            `source` has no decoder.
    """
    if source.decoder is None:
        raise InputError(
            f"{name} is a robust copy of an encoder and has no decoder to start from; give a run "
            "of training.fit"
        )
    for what, of in (
        ("architecture", lambda m: m.architecture.name),
        ("latent dimension", lambda m: m.latent_dim),
        ("image shape", lambda m: m.image_shape),
    ):
        if of(source) != of(target):
            raise InputError(
                f"{name} has {what} {of(source)}, this run asks for {of(target)}; "
                "they must be the same to start from its weights"
            )
    target.encoder.set_weights(source.encoder.get_weights())
    target.decoder.set_weights(source.decoder.get_weights())
