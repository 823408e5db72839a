"""The terms that complete runs reached, side by side.

`python -m benchmarks.terms RUN [RUN ...]` prints a Markdown table of the terms on all held-out
images; `--json FILE` keeps what the table was made from, `--from FILE` makes it again.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from tf_avae.config import read_json
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import answer
from tf_avae.datasets import open_data
from tf_avae.errors import InputError
from tf_avae.files import write_json
from tf_avae.objectives import OBJECTIVES
from tf_avae.records import damage_told
from tf_avae.runs.run import Run


def collect(path: str) -> dict[str, Any]:
    """Config, commit, versions and held-out terms of a complete run."""
    run = Run.open(path)
    result, notes = run.result(), run.provenance()
    if result is None:
        raise InputError(f"{run.path} is not complete; let its training end")
    config = run.config.to_dict() | {"data_dir": None, "init_from": None}
    data = open_data(run.config)
    size = math.prod(data.image_shape)
    return {
        "config": config,
        "commit": notes.get("commit"),
        "versions": notes.get("versions"),
        # What log p(x|z) is at most: that of a perfect reconstruction.
        "reconstruction_limit": -0.5 * size * math.log(2 * math.pi * run.config.obs_var),
        **result,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """A Markdown table, a row per run and a column per term; nats per image."""
    used = [name for row in OBJECTIVES.values() for name in row.terms]
    terms = [name for name in dict.fromkeys(used) if any(name in run["held_out"] for run in runs)]
    lines = [
        "| objective | steps | " + " | ".join(terms).replace("_", " ") + " | squared error |",
        "|---|---:|" + "---:|" * (len(terms) + 1),
    ]
    for run in runs:
        config, held_out = run["config"], run["held_out"]
        short = run["reconstruction_limit"] - held_out["reconstruction"]
        values = [f"{held_out[name]:.1f}" if name in held_out else "" for name in terms]
        values.append(f"{2 * config['obs_var'] * short:.1f}")
        lines.append(f"| `{config['algo']}` | {config['steps']:,} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Prints the table and returns the exit code."""
    parser = Parser(prog="python -m benchmarks.terms", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help="directories of complete runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures here")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="kept figures")
    return run_command(lambda: parser, argv, _main)


def _main(arguments: argparse.Namespace) -> int:
    runs = [collect(path) for path in arguments.runs]
    if arguments.source:
        kept = read_json(arguments.source)
        with damage_told(arguments.source, "collect it again"):
            table(kept["runs"])
        runs += kept["runs"]
    if not runs:
        raise InputError("no run is given; name run directories, or --from a kept file")
    if arguments.json:
        write_json(arguments.json, {"runs": runs})
    answer(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
