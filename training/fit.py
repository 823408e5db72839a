"""Trains one of the five objectives: `python -m training.fit --algo avae_ss`."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from tf_avae import checkpoints
from tf_avae.attacks import BALLS
from tf_avae.commands import Parser, exit_code
from tf_avae.config import Config, check_keys, read_json
from tf_avae.datasets import DATASETS, ImageData, open_data
from tf_avae.errors import InputError
from tf_avae.files import shown, write_json
from tf_avae.model import AVAE
from tf_avae.networks import ARCHITECTURES
from tf_avae.objectives import COUPLINGS, OBJECTIVES
from tf_avae.registry import Registry
from tf_avae.runs import (
    Run,
    build_model,
    copy_networks,
    load_trained,
    resolve,
    stages,
)
from training.options import add_config_options, given_options, unused_data_options
from training.session import (
    Interrupted,
    StopSignals,
    check_finite,
    held_out_terms,
    say,
    train_stage,
)

_REGISTRIES: dict[str, Registry[Any]] = {
    "algo": OBJECTIVES,
    "dataset": DATASETS,
    "arch": ARCHITECTURES,
    "coupling": COUPLINGS,
    "pgd_norm": BALLS,
}


def parser() -> Parser:
    """The command line; `--help` is made from the table of options and the registries."""
    made = Parser(
        prog="python -m training.fit",
        description="Trains one of the five objectives. Values: flags, then --config, then the "
        "defaults, which are the paper's for the data set and architecture; [default; its source].",
    )
    where = made.add_argument_group("the run")
    where.add_argument(
        "--run-dir", metavar="PATH", help="where to write the run [runs/DATASET-ARCH-ALGO-SEED]"
    )
    where.add_argument(
        "--resume", action="store_true", help="go on with the run in --run-dir, to the bit"
    )
    where.add_argument(
        "--config", metavar="FILE", help="JSON object of options, such as a run's config.json"
    )
    add_config_options(made, _REGISTRIES)
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = parser().parse_args(argv)
    return exit_code(lambda: _fit(arguments))


def _fit(arguments: argparse.Namespace) -> int:
    flags = given_options(arguments)
    given = flags
    if arguments.config:
        from_file = read_json(arguments.config)
        check_keys(from_file)
        given = from_file | flags
    if arguments.resume:
        run = _open_to_resume(arguments.run_dir, given)
        data = open_data(run.config)
        run.lock()
        initial = None
    else:
        config = resolve(Config.from_dict(given))
        _warn_of_unused(flags, config)
        data = open_data(config)
        ARCHITECTURES[config.arch].check(data.image_shape)
        initial = None
        if config.init_from:
            initial = load_trained(config.init_from)
            copy_networks(initial, build_model(config, data.image_shape), config.init_from)
            variance = initial.hyperparameters.observation_variance
            if variance != config.obs_var:
                say(f"note: {config.init_from} has obs_var {variance:g}, here {config.obs_var:g}")
        run = Run.create(arguments.run_dir or _default_path(config), config, data.checksums)
    run.begin_session(data.checksums)
    say(f"run directory: {shown(run.path)}")
    if run.result_path.exists():
        say("this run is complete")
    else:
        try:
            _train(run, data, initial)
        except Interrupted as stop:
            say(f"\nsaved. To go on: {_resume_command(run)}")
            return 128 + stop.signum
    _say_what_next(run)
    return 0


def _open_to_resume(path: str | None, given: dict) -> Run:
    run = Run.open(path or _default_path(resolve(Config.from_dict(given))))
    # Only what was given counts; what was left out stays as the run has it.
    asked = resolve(Config.from_dict(run.config.to_dict() | given))
    differences = asked.differences(run.config)
    if differences:
        listed = ", ".join(f"{k} {new!r} (was {old!r})" for k, (new, old) in differences.items())
        raise InputError(
            f"{run.path} was started with another config: {listed}; leave those options out to "
            "go on with it, or give another --run-dir"
        )
    return run


def _default_path(config: Config) -> Path:
    return Path("runs") / f"{config.dataset}-{config.arch}-{config.algo}-{config.seed}"


def _warn_of_unused(given: dict, config: Config) -> None:
    """Says which given options the objective does not read."""
    readable = {name for row in OBJECTIVES.values() for name in row.uses}
    for name in sorted(readable & given.keys() - set(OBJECTIVES[config.algo].uses)):
        say(f"note: --{name.replace('_', '-')} has no effect on {config.algo}")
    for line in unused_data_options(given, config.dataset):
        say(line)
    if "pretrain_steps" in given and len(stages(config)) == 1:
        say("note: --pretrain-steps has no effect: nothing is pretrained here")


def _train(run: Run, data: ImageData, initial: AVAE | None) -> None:
    """Trains all stages from where the newest checkpoint is, and writes the results."""
    # Ops that could differ from run to run raise instead, or take their reproducible form.
    tf.config.experimental.enable_op_determinism()
    signals = StopSignals()
    checkpoint, damage = run.newest_checkpoint()
    for problem in damage:
        say(f"warning: {problem}; using the one before")
    run.rewind_metrics(checkpoint)
    plan = stages(run.config)
    if initial is None and checkpoint is None and run.config.init_from:
        initial = load_trained(run.config.init_from)
    before = initial
    for stage in plan:
        if checkpoint is not None and stage.number < checkpoint.meta["stage"]:
            continue
        model = build_model(run.config, data.image_shape, stage.algo)
        metrics = None
        if checkpoint is not None and stage.number == checkpoint.meta["stage"]:
            checkpoints.restore(model, checkpoint.arrays)
            metrics = checkpoints.metrics_state(model)
            say(f"going on with {stage.algo} after step {int(model.step.numpy()):,}")
        else:
            if before is not None:
                copy_networks(before, model)
            run.save_checkpoint(stage, model)
        train_stage(run, stage, model, data, signals, metrics)
        if stage is not plan[-1]:
            run.save_model(model, run.path / f"{stage.algo}.keras")
        before = model
    run.save_model(model, run.model_path)
    run.save_encoder(model)
    say(f"measuring the terms on {data.held_out_size:,} held-out images")
    terms = held_out_terms(model, data)
    signals.check()
    check_finite(run, plan[-1], plan[-1].steps, terms)
    write_json(run.result_path, {"held_out": terms, "images": data.held_out_size})
    say("held out: " + "  ".join(f"{name} {value:.2f}" for name, value in terms.items()))


def _arguments(config: Config) -> str:
    """The arguments of `open` that differ from their defaults, as Python."""
    names = DATASETS[config.dataset].options
    values = {name: value for name, (value, _) in config.differences(Config()).items()}
    return ", ".join(f"{name}={values[name]!r}" for name in names if name in values)


def _resume_command(run: Run) -> str:
    return f"{_python()} -m training.fit --run-dir {shlex.quote(shown(run.path))} --resume"


def _python() -> str:
    return shlex.quote(shown(sys.executable))


def _say_what_next(run: Run) -> None:
    here = shlex.quote(shown(run.path))
    source = _arguments(run.config)
    say(
        f"""
run:      {shown(run.path)}
pictures: {shown(run.path / "pictures")}
encoder:  {shown(run.encoder_path)}

Next, look at the pictures, or embed images in Python:
  import keras, tf_avae
  encoder = keras.saving.load_model("{shown(run.encoder_path)}")
  images = tf_avae.DATASETS["{run.config.dataset}"].open({source}).held_out(500)
  embedding = encoder.predict(images.map(lambda x, labels: x))["mean"]
or train another objective from its weights, with its other options:
  {_python()} -m training.fit --config {here}/config.json --init-from {here} \\
      --algo avae --run-dir {here}-avae"""
    )


if __name__ == "__main__":
    sys.exit(main())
