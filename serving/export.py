"""`python -m serving.export RUN --to models/NAME`: a run as the next version of a served model."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up notices of TensorFlow's

import argparse
import sys
import time
from typing import Any

from tf_avae.commands import Parser, exit_code, sigterm_unwinds
from tf_avae.exports import SIGNATURES, export_run
from tf_avae.files import shown
from tf_avae.saved_models import SavedModel
from tf_avae.versions import BATCH_SIZES


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
    arguments = parser().parse_args(argv)
    with sigterm_unwinds():  # the draft is removed on the way out
        return exit_code(lambda: _export(arguments))


def _export(arguments: argparse.Namespace) -> int:
    start = time.monotonic()
    folder = export_run(
        arguments.run,
        arguments.to,
        version=arguments.version,
        batch_sizes=arguments.batch_sizes,
        evaluation=arguments.evaluation,
    )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"version {folder.name} of {folder.parent.name}: {shown(folder)}")
    print(f"  {size / 1e6:.1f} MB, verified against the model, {time.monotonic() - start:.1f} s")
    saved = SavedModel(folder, trust=True)  # it was written here
    for name in SIGNATURES:
        takes = ", ".join(f"{k} {_spec(v)}" for k, v in saved.inputs(name).items())
        print(f"  {name}: {takes} -> {', '.join(sorted(saved.outputs(name)))}")
    print(
        f"\nServe it here:   python -m serving.server --model_name={folder.parent.name} "
        f"--model_base_path={shown(folder.parent)} --rest_api_port=8501\n"
        f"Ask it:          python -m serving.client status --model {folder.parent.name}"
    )
    return 0


def _spec(spec: Any) -> str:
    sides = ", ".join("N" if side is None else str(side) for side in spec.shape)
    return f"{spec.dtype.name} [{sides}]"


if __name__ == "__main__":
    sys.exit(main())
