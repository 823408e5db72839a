"""Makes an encoder that you have robust: `python -m training.robustify --encoder E`."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from tf_avae.config import Config, read_json
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import say
from tf_avae.datasets import open_data
from tf_avae.errors import InputError
from tf_avae.files import absolute, shown, write_json
from tf_avae.objectives import OBJECTIVES
from tf_avae.robustified.objectives import ROBUST
from tf_avae.robustified.pixels import PIXELS
from tf_avae.runs.plan import ROWS
from tf_avae.runs.run import Run, holds_run, load_trained
from training.fit import add_run_options, fit
from training.options import add_config_options

DEFAULTS = {
    "algo": "fare", "steps": 3_000, "epsilon": 4 / 255, "pgd_start": "mixed",
    "checkpoint_every": 500, "eval_every": 500,
}  # fmt: skip
"""What a new run has in the place of the usual values."""

KEPT = "kept.json"
"""The file of a run that holds what is printed when it is complete."""

_UNREAD = {"arch", "latent_dim", "obs_var", "batch_norm", "init_from", "pretrain_steps"}.union(
    *(row.uses for row in OBJECTIVES.values())
).difference(*(row.uses for row in ROBUST.values()))
"""Fields of `Config` that say nothing of an encoder that is there already."""


def parser() -> Parser:
    """The command line; `--help` is made from the table of options and the registries."""
    made = Parser(
        prog="python -m training.robustify",
        description="Trains a copy of an encoder, without labels, to embed attacked images where "
        "the original embeds them unattacked, and says what it still does as the original did. "
        "Values: flags, then --config, then the defaults [default; its source].",
    )
    add_run_options(made, "runs/ENCODER-ALGO-SEED")
    add_config_options(
        made,
        [field.name for field in fields(Config) if field.name not in _UNREAD],
        rows={**ROWS, "algo": ROBUST, "pixels": PIXELS},
        defaults={**DEFAULTS, "dataset": "image_folder with --data-dir, otherwise color_mnist"},
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(parser, argv, _robustify)


def _robustify(arguments: argparse.Namespace) -> int:
    given = vars(arguments)
    config = read_json(arguments.config) if arguments.config else {}
    encoder = given.get("encoder", config.get("encoder"))
    if arguments.run_dir is None:
        if encoder is None:
            raise InputError("no encoder is given; say which with --encoder, or go on with a run "
                             "by --run-dir and --resume")  # fmt: skip
        algo, seed = (given.get(n, config.get(n, d)) for n, d in (("algo", "fare"), ("seed", 0)))
        arguments.run_dir = f"runs/{Path(encoder).stem}-{algo}-{seed}"
    elif encoder is None and not (
        arguments.resume
        or (arguments.begin_or_resume and holds_run(absolute(arguments.run_dir)))
    ):  # fmt: skip
        raise InputError("no encoder is given; say which with --encoder")
    if holds_run(absolute(arguments.run_dir)) and not Run.open(arguments.run_dir).config.encoder:
        raise InputError(
            f"{arguments.run_dir} holds no encoder that is made robust; go on with it by "
            "python -m training.fit"
        )
    defaults: dict[str, Any] = dict(DEFAULTS)
    if "data_dir" in given or config.get("data_dir"):
        defaults["dataset"] = "image_folder"
    return fit(arguments, _tell, defaults, "training.robustify")


def _tell(run: Run) -> None:
    """Measures what is kept, where that is not done yet, and prints it."""
    from tf_avae.robustified.model import Robustified
    from training.kept import HEAD, STEPS, kept

    path = run.path / KEPT
    if not path.is_file():
        model = load_trained(run.path)
        assert isinstance(model, Robustified)
        write_json(path, kept(model, open_data(run.config), run.config.eval_images, say))
    found = read_json(path)
    here, epsilon = shlex.quote(shown(run.path)), f"{run.config.epsilon:.6g}"
    say(f"\non {found['images']:,} held-out images, percent   before   after   "
        f"attacked (ε {found['epsilon']:.4g}): before   after")  # fmt: skip
    for line in _lines(found):
        say(line)
    say(
        f"""
similarity and search: attacked by the run's own attack; heads ({HEAD}, fitted to the embeddings
of before): by PGD, {STEPS} steps, one start. Quick looks; measure with

  python -m training.evaluate before={here}/original.keras {here} --epsilon {epsilon}

run:      {shown(run.path)}
encoder:  {shown(run.encoder_path)}
serve it: python -m serving.export {here} --to {shlex.quote(f"models/{run.path.name}")}"""
    )


def _lines(found: dict[str, Any]) -> list[str]:
    """The table's rows."""
    four = [found[when][how] for how in ("clean", "attacked") for when in ("before", "after")]
    rows = {
        "cosine similarity to before, mean": [each["cosine"]["mean"] for each in four],
        "the same, lowest 5 % below": [each["cosine"]["low"] for each in four],
        "found in an index of before": [each["found"] for each in four],
        **{
            f"{task}, a head of before": [each["heads"][task] for each in four]
            for task in four[0]["heads"]
        },
    }
    return [
        f"{name:<36}" + "".join(f"{100 * value:>{width}.1f}" for value, width in
                                zip(values, (14, 8, 30, 8), strict=True))
        for name, values in rows.items()
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
