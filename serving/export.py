"""`python -m serving.export RUN --to models/NAME`: a run as the next version of a served model, or
as a file for another runtime."""

import argparse
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tf_avae.console.commands import Parser, run_command, sigterm_unwinds
from tf_avae.console.printing import say
from tf_avae.files import shown
from tf_avae.saved.contract import BATCH_SIZES, CERTIFY_SIGNATURES, SIGNATURES
from tf_avae.saved.formats import FORMATS
from tf_avae.types import OUTPUTS


def parser() -> Parser:
    """The command line."""
    made = Parser(prog="python -m serving.export", description=(__doc__ or "").splitlines()[0])
    made.add_argument("run", metavar="RUN", help="a run's directory")
    made.add_argument(
        "--to", required=True, metavar="DIR",
        help="the model's folder, for example models/encoder; its versions are folders in it",
    )  # fmt: skip
    rows = "\n".join(f"- {name}: {row.summary}" for name, row in FORMATS.items())
    made.add_argument(
        "--format", default="savedmodel", metavar="{" + ",".join(FORMATS) + "}",
        help=f"what a version is [savedmodel]\n{rows}",
    )  # fmt: skip
    made.add_argument(
        "--outputs", nargs="+", default=[], metavar="NAME",
        help="of a file, what it computes; inconsistency needs the decoder, and takes longer than "
        f"all else [all: {' '.join(OUTPUTS)}, where there is a decoder]",
    )  # fmt: skip
    made.add_argument(
        "--version", type=int, metavar="N", help="[one more than the largest version there]"
    )
    made.add_argument(
        "--batch-sizes", type=int, nargs="+", default=list(BATCH_SIZES), metavar="N",
        help="numbers of images that the server is warmed up for: the allowed_batch_sizes of its "
        f"batching file, or a file is tried with [{' '.join(map(str, BATCH_SIZES))}]",
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
    row = FORMATS[arguments.format]
    row.check_installed()  # before what takes seconds to import
    from tf_avae.config import read_json
    from tf_avae.graphs.saved_models import PROVENANCE
    from tf_avae.saved.exports import export_run

    start = time.monotonic()
    folder = export_run(
        arguments.run,
        arguments.to,
        format=arguments.format,
        outputs=arguments.outputs,
        version=arguments.version,
        batch_sizes=arguments.batch_sizes,
        evaluation=arguments.evaluation,
    )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(f"version {folder.name} of {folder.parent.name}: {shown(folder)}")
    say(f"  {size / 1e6:.1f} MB, verified against the model, {time.monotonic() - start:.1f} s")
    notes = read_json(folder / PROVENANCE)
    if row.run:
        say(f"  {shown(folder / row.file)}: image -> {', '.join(notes['outputs'])}")
    else:
        _say_signatures(folder, notes["left_out"])
    return 0


def _say_signatures(folder: Path, left_out: Mapping[str, str]) -> None:
    from tf_avae.graphs.saved_models import SavedModel
    from tf_avae.saved.versions import serve_command

    saved = SavedModel(folder, trust=True)  # it was written here
    for name in filter(saved.__contains__, (*SIGNATURES, *CERTIFY_SIGNATURES)):
        takes = ", ".join(f"{k} {_spec(v)}" for k, v in sorted(saved.inputs(name).items()))
        say(f"  {name}: {takes} -> {', '.join(sorted(saved.outputs(name)))}")
    for name, why in left_out.items():
        say(f"  without {name}: {why}")
    ask = shlex.join(["python", "-m", "serving.client", "status", f"--model={folder.parent.name}"])
    say(f"\nServe it here:   {serve_command(folder)}\nAsk it:          {ask}")


def _spec(spec: Any) -> str:
    sides = ", ".join("N" if side is None else str(side) for side in spec.shape)
    return f"{spec.dtype.name} [{sides}]"


if __name__ == "__main__":
    sys.exit(main())
