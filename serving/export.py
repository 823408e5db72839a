"""`python -m serving.export RUN --to models/NAME`: a run as the next version of a served model."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up notices of TensorFlow's

import argparse
import shlex
import sys
import time
from typing import Any

from tf_avae.console.commands import Parser, run_command, sigterm_unwinds
from tf_avae.console.printing import say
from tf_avae.files import shown
from tf_avae.saved.contract import BATCH_SIZES, CERTIFY_SIGNATURES, SIGNATURES


def parser() -> Parser:
    """The command line."""
    made = Parser(prog="python -m serving.export", description=(__doc__ or "").splitlines()[0])
    made.add_argument("run", metavar="RUN", help="a run's directory")
    made.add_argument(
        "--to", required=True, metavar="DIR",
        help="the model's folder, for example models/encoder; its versions are folders in it",
    )  # fmt: skip
    made.add_argument(
        "--version", type=int, metavar="N", help="[one more than the largest version there]"
    )
    made.add_argument(
        "--batch-sizes", type=int, nargs="+", default=list(BATCH_SIZES), metavar="N",
        help="numbers of images that the server is warmed up for: the allowed_batch_sizes of its "
        f"batching file [{' '.join(map(str, BATCH_SIZES))}]",
    )  # fmt: skip
    made.add_argument(
        "--evaluation", metavar="FILE",
        help="results.json of an evaluation of this run, to be kept with the model [none]",
    )  # fmt: skip
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    with sigterm_unwinds():  # the draft is removed on the way out
        return run_command(parser, argv, _export)


def _export(arguments: argparse.Namespace) -> int:
    from tf_avae.config import read_json
    from tf_avae.graphs.saved_models import PROVENANCE, SavedModel
    from tf_avae.saved.exports import export_run
    from tf_avae.saved.versions import serve_command

    start = time.monotonic()
    folder = export_run(
        arguments.run,
        arguments.to,
        version=arguments.version,
        batch_sizes=arguments.batch_sizes,
        evaluation=arguments.evaluation,
    )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(f"version {folder.name} of {folder.parent.name}: {shown(folder)}")
    say(f"  {size / 1e6:.1f} MB, verified against the model, {time.monotonic() - start:.1f} s")
    saved = SavedModel(folder, trust=True)  # it was written here
    for name in filter(saved.__contains__, (*SIGNATURES, *CERTIFY_SIGNATURES)):
        takes = ", ".join(f"{k} {_spec(v)}" for k, v in sorted(saved.inputs(name).items()))
        say(f"  {name}: {takes} -> {', '.join(sorted(saved.outputs(name)))}")
    for name, why in read_json(folder / PROVENANCE)["left_out"].items():
        say(f"  without {name}: {why}")
    ask = shlex.join(["python", "-m", "serving.client", "status", f"--model={folder.parent.name}"])
    say(f"\nServe it here:   {serve_command(folder)}\nAsk it:          {ask}")
    return 0


def _spec(spec: Any) -> str:
    sides = ", ".join("N" if side is None else str(side) for side in spec.shape)
    return f"{spec.dtype.name} [{sides}]"


if __name__ == "__main__":
    sys.exit(main())
