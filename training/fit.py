"""Trains one of the objectives: `python -m training.fit --algo avae_ss`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tf_avae import plugins
from tf_avae.backend import keras
from tf_avae.config import GIVEN, Config, check_keys, fields_of, read_json
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import note, say
from tf_avae.datasets import DATASETS, ImageData, open_data
from tf_avae.errors import InputError
from tf_avae.files import absolute, shown, write_json
from tf_avae.networks import ARCHITECTURES
from tf_avae.objectives import DATA, OBJECTIVES
from tf_avae.runs import checkpoints
from tf_avae.runs.plan import build_model, copy_networks, resolve, rows_of, stages
from tf_avae.runs.run import Run, holds_run, load_trained
from training.options import add_config_options, given_options, unused_data_options
from training.signals import Interrupted, StopSignals, deterministic
from training.strategies import STRATEGIES, WORKER_LOST, Team, gone

if TYPE_CHECKING:
    from tf_avae.model import AVAE


def parser() -> Parser:
    """The command line; `--help` is made from the table of options and the registries."""
    made = Parser(
        prog="python -m training.fit",
        description="Trains one of the objectives. Values: flags, then --config, then the "
        "defaults, which are the paper's for the data set and architecture; [default; its source].",
    )
    add_run_options(made, "runs/DATASET-ARCH-ALGO-SEED")
    add_config_options(made, [f.name for f in fields(Config) if f.name not in fields_of(GIVEN)])
    return made


def add_run_options(made: Parser, run_dir: str) -> None:
    """Adds the flags of a training that are no part of its config."""
    where = made.add_argument_group("the run")
    where.add_argument("--run-dir", metavar="PATH", help=f"where to write the run [{run_dir}]")
    where.add_argument(
        "--resume", action="store_true", help="go on with the run in --run-dir, to the bit"
    )
    where.add_argument(
        "--begin-or-resume",
        action="store_true",
        help="--resume where --run-dir holds a run, and begin it otherwise: the same command then "
        "serves each time that something starts it again",
    )
    where.add_argument(
        "--config", metavar="FILE", help="JSON object of options, such as a run's config.json"
    )
    devices = made.add_argument_group("devices (no part of the run: another may go on with it)")
    devices.add_argument(
        "--strategy",
        choices=list(STRATEGIES),
        default="none",
        help="\n".join(
            [
                "over which devices to spread each batch; --batch-size is that of all [none]",
                *(f"- {name}: {row.summary}" for name, row in STRATEGIES.items()),
            ]
        ),
    )
    devices.add_argument(
        "--virtual-devices",
        type=int,
        metavar="N",
        help="split the CPU into N devices, to try mirrored without GPUs",
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(parser, argv, _fit)


def _fit(arguments: argparse.Namespace) -> int:
    return fit(arguments, say_what_next)


def fit(
    arguments: argparse.Namespace,
    then: Callable[[Run], None],
    defaults: Mapping[str, Any] | None = None,
    module: str = "training.fit",
) -> int:
    """Begins a run or goes on with it, as the command line says; the exit code.

    Args:
        arguments: what `add_run_options` and `add_config_options` have parsed.
        then: is given the run when it is complete.
        defaults: fields of `Config` that a new run has instead of the usual ones.
        module: what `python -m` runs to go on.
    """
    arguments.module = module
    flags = given_options(arguments)
    given = flags
    if arguments.config:
        from_file = read_json(arguments.config)
        check_keys(from_file)
        given = from_file | flags
    for folder in (given.get("init_from"), arguments.config and Path(arguments.config).parent):
        if folder and holds_run(absolute(folder)):
            Run.open(folder)  # whose error names the plugin of a row that is not here
    try:
        team = Team(arguments.strategy, arguments.virtual_devices, say)
        return _fit_with(team, arguments, flags, given, then, defaults or {})
    except gone() as error:
        if arguments.strategy != "multiworker":
            raise
        note(
            f"\nstopped: lost another worker ({type(error).__name__}); start all of them again "
            "with --begin-or-resume to go on from the last checkpoint"
        )
        return WORKER_LOST


def _fit_with(
    team: Team, arguments: argparse.Namespace, flags: dict, given: dict,
    then: Callable[[Run], None], defaults: Mapping[str, Any],
) -> int:  # fmt: skip
    opened: tuple[Run, ImageData, AVAE | None] | None = None

    def open_run() -> dict[str, Any]:
        nonlocal opened
        run, data, _ = opened = _open(arguments, flags, given, defaults, team)
        return {"path": str(run.path), "config": run.config.to_dict(), "data": data.checksums}

    said = team.first(open_run)
    if opened is None:  # a worker that is not the chief; only that writes the run
        run = Run(Path(said["path"]), Config.from_dict(said["config"]))
        if run.config.encoder and not run.original_path.is_file():
            raise InputError(
                f"{run.original_path} is not here: all workers read the encoder that a robust copy "
                "is made of; put --run-dir on storage that they share"
            )
        data, initial = open_data(run.config), None
        if data.checksums != said["data"]:
            raise InputError(
                f"the data here are not those of the chief: checksums {data.checksums} and "
                f"{said['data']}; give all workers the same files"
            )
    else:
        run, data, initial = opened
    team.say(f"run directory: {shown(run.path)}")
    try:
        if team.first(lambda: run.result() is not None):
            team.say("this run is complete")
        else:
            with deterministic(), StopSignals() as signals:
                _train(run, data, initial, team, signals)
    except Interrupted as stop:
        team.say(f"\nsaved. To go on: {_resume_command(run, arguments)}")
        return 128 + stop.signum
    finally:
        run.unlock()
    if team.is_chief:
        then(run)
    return 0


def _open(
    arguments: argparse.Namespace, flags: dict, given: dict, defaults: Mapping[str, Any], team: Team
) -> tuple[Run, ImageData, AVAE | None]:
    """The run, locked, its data, and the model whose weights it starts with, if any."""
    resume = arguments.resume
    if arguments.begin_or_resume:
        resume = holds_run(absolute(_path(arguments.run_dir, given)))
    initial = None
    if resume:
        run = _open_to_resume(arguments.run_dir, given)
        noted = run.provenance()["sessions"][-1:]
        for name in plugins.changed(noted[0].get("plugins", {}) if noted else {}):
            say(f"note: plugin {name} has changed since the last session of this run")
        team.check(run.config)
        data, original = open_data(run.config), run.given()
        run.lock()
        run.result()  # one that is damaged is told of before anything is written
    else:
        config = resolve(Config.from_dict({**defaults, **given}))
        team.check(config)
        _warn_of_unused(flags, config)
        original = None
        if config.encoder:
            from tf_avae.saved.given import open_with_data  # needs Keras

            config, data, original = open_with_data(config)
        else:
            data = open_data(config)
            ARCHITECTURES[config.arch].check(data.image_shape)
        if config.init_from:
            initial = load_trained(config.init_from)
            copy_networks(initial, build_model(config, data.image_shape), config.init_from)
            variance = initial.hyperparameters.observation_variance
            if variance != config.obs_var:
                say(f"note: {config.init_from} has obs_var {variance:g}, here {config.obs_var:g}")
        run = Run.create(
            _path(arguments.run_dir, given), config, _digests(data, original), original
        )
    run.begin_session(_digests(data, original), team.notes())
    return run, data, initial


def _digests(data: ImageData, original: keras.Model | None) -> dict[str, str]:
    """Those of the data, and of the weights of an encoder that somebody has."""
    if original is None:
        return data.checksums
    from tf_avae.saved.encoders import weights_checksum  # needs Keras

    return {**data.checksums, "the encoder": weights_checksum(original)}


def _path(given_path: str | None, given: dict) -> str | Path:
    if given_path:
        return given_path
    config = resolve(Config.from_dict(given))
    return Path("runs") / f"{config.dataset}-{config.arch}-{config.algo}-{config.seed}"


def _open_to_resume(path: str | None, given: dict) -> Run:
    run = Run.open(_path(path, given))
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


def _warn_of_unused(given: dict, config: Config) -> None:
    """Says which given options the objective does not read."""
    readable = {name for row in OBJECTIVES.values() for name in row.uses}
    for name in sorted(readable & given.keys() - set(rows_of(config)["algo"][config.algo].uses)):
        say(f"note: --{name.replace('_', '-')} has no effect on {config.algo}")
    for line in unused_data_options(given, config.dataset):
        say(line)
    if "augment" in given and all(
        rows_of(config)["algo"][s.algo].encodes != DATA for s in stages(config)
    ):
        say(f"note: --augment has no effect: {config.algo} trains on images of its own")
    if "pretrain_steps" in given and len(stages(config)) == 1:
        say("note: --pretrain-steps has no effect: nothing is pretrained here")


def _train(
    run: Run, data: ImageData, initial: AVAE | None, team: Team, signals: StopSignals
) -> None:
    """Trains all stages from where the newest checkpoint is, and writes the results."""
    from training.session import check_finite, held_out_terms, train_stage

    checkpoint = None

    def go_back() -> int | None:
        nonlocal checkpoint
        checkpoint, damage = run.newest_checkpoint()
        for problem in damage:
            say(f"warning: {problem}; using the one before")
        run.rewind_metrics(checkpoint)
        return checkpoint.meta["stage"] if checkpoint else None

    resumed = team.first(go_back)
    plan = stages(run.config)
    if team.is_chief and initial is None and checkpoint is None and run.config.init_from:
        initial = load_trained(run.config.init_from)
    before = initial
    for stage in plan:
        if resumed is not None and stage.number < resumed:
            continue
        with team.strategy.scope():
            model = run.build(data.image_shape, stage.algo)
        if team.is_chief and checkpoint is not None and stage.number == resumed:
            checkpoints.restore(model, checkpoint.arrays)
            say(f"going on with {stage.algo} after step {int(model.step.numpy()):,}")
        elif team.is_chief:
            if before is not None:
                copy_networks(before, model)
            run.save_checkpoint(stage, model)
        team.start_from_chief(model)
        train_stage(run, stage, model, data, signals, team)
        if team.is_chief and stage is not plan[-1]:
            run.save_model(model, run.path / f"{stage.algo}.keras")
        before = model
    if team.is_chief:
        run.save_model(model, run.model_path)
        run.save_encoder(model)
    team.say(f"measuring the terms on {data.held_out_size:,} held-out images")
    terms = team.first(lambda: held_out_terms(team.to_measure(model), data))
    asked = team.signal(signals.received)
    if asked is not None:
        raise Interrupted(asked)
    check_finite(run, plan[-1], plan[-1].steps, terms)
    # The others end when the chief has written all: a chief that dies before that needs them again.
    team.first(
        lambda: write_json(run.result_path, {"held_out": terms, "images": data.held_out_size})
    )
    team.say("held out: " + "  ".join(f"{name} {value:.2f}" for name, value in terms.items()))


def _arguments(config: Config) -> str:
    """The arguments of `open` that differ from their defaults, as Python."""
    names = DATASETS[config.dataset].options
    values = {name: value for name, (value, _) in config.differences(Config()).items()}
    return ", ".join(f"{name}={values[name]!r}" for name in names if name in values)


def _resume_command(run: Run, arguments: argparse.Namespace) -> str:
    words = ["--run-dir", shlex.quote(shown(run.path)), "--resume"]
    words += map(shlex.quote, plugins.flags())
    if arguments.strategy != "none":
        words += ["--strategy", arguments.strategy]
    if arguments.virtual_devices is not None:
        words += ["--virtual-devices", str(arguments.virtual_devices)]
    return f"{_python()} -m {arguments.module} {' '.join(words)}"


def _python() -> str:
    return shlex.quote(shown(sys.executable))


def say_what_next(run: Run) -> None:
    """Says where a run is, and what can be done with it."""
    here = shlex.quote(shown(run.path))
    source = _arguments(run.config)
    mine = "".join(f", {name}" for name in plugins.loaded())
    more = "".join(f" {shlex.quote(flag)}" for flag in plugins.flags())
    say(
        f"""
run:      {shown(run.path)}
pictures: {shown(run.path / "pictures")}
encoder:  {shown(run.encoder_path)}

Next, look at the pictures, or embed images in Python:
  import tf_avae, keras{mine}
  encoder = keras.saving.load_model({shown(run.encoder_path)!r})
  images = tf_avae.DATASETS["{run.config.dataset}"].open({source}).held_out(500)
  embedding = encoder.predict(images.map(lambda x, labels: x))["embedding"]"""
    )
    if not run.config.encoder:  # of which there is no other
        say(
            f"""or train another objective from its weights, with its other options:
  {_python()} -m training.fit --config {here}/config.json --init-from {here} \\
      --algo avae --run-dir {here}-avae{more}"""
        )


if __name__ == "__main__":
    sys.exit(main())
