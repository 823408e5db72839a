"""`python -m serving.server`: reads the flags and serves."""

import argparse
import os
import sys

from serving.server import flags
from tf_avae.console.commands import run_command


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(flags.parser, argv, _run)


def _run(given: argparse.Namespace) -> int:
    from serving.server.listening import run

    return run(given)


if __name__ == "__main__":
    code = main()
    # The server has ended in order. Python itself would wait for a thread that hangs in a load.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
