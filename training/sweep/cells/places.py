"""Where the commands of cells run: on this machine, or on the nodes of a cluster."""

import argparse
import contextlib
import math
import os
from collections.abc import Iterator
from typing import Protocol

from tf_avae import plugins
from tf_avae.console.commands import Parser
from tf_avae.errors import InputError
from training.sweep.cells.folder import SweepFolder
from training.sweep.cells.work import Work, begin


class Begun(Protocol):
    """A cell that was begun."""

    def over(self) -> bool:
        """Whether its command has ended."""

    def stop(self, signum: int) -> None:
        """Asks the command to save and end."""

    def end(self) -> str:
        """Waits until it has ended; what there is to say of it that the folder does not tell."""


class Place(Protocol):
    """Where commands run.

    Attributes:
        at_once: how many cells may be begun at once.
        queues: whether they may wait there for their turn.
    """

    at_once: int
    queues: bool

    def begin(self, sweep: SweepFolder, name: str) -> Begun | None:
        """Begins a cell, or goes on with it; None where another process has it or has done it."""


class Here:
    """Processes of this machine, each with its share of the cores: two on two cores make more steps
    with a thread each than with two each.

    Args:
        processes: at once.

    Attributes:
        at_once: the same.
    """

    queues = False

    def __init__(self, processes: int):
        self.at_once = processes
        cores = os.cpu_count() or 1
        self._threads = None if processes == 1 else max(1, cores // processes)

    def begin(self, sweep: SweepFolder, name: str) -> Work | None:
        """As `Place.begin`."""
        return begin(sweep, name, threads=self._threads, flags=plugins.flags())


def add_place_options(made: Parser, default: str = "1") -> None:
    """Adds the flags that say where cells run.

    Args:
        made: the command line.
        default: of the processes, in words.
    """
    where = made.add_argument_group("where it runs")
    where.add_argument(
        "--processes", type=int, metavar="N",
        help=f"cells in work at once, on this machine [{default}]",
    )  # fmt: skip
    where.add_argument(
        "--cluster", metavar="ADDRESS",
        help="of a Ray cluster that this machine is a node of, such as HOST:6379 or auto, or local "
        "for one that ends with this command; all nodes must see the same files [this machine]",
    )  # fmt: skip
    where.add_argument(
        "--cell-cpus", type=int, metavar="N", help="cores of a cell on the cluster [1]"
    )
    where.add_argument(
        "--cell-gpus", type=float, metavar="N",
        help="GPUs of a cell on the cluster; two share one at 0.5 [0]",
    )  # fmt: skip


def check_place(arguments: argparse.Namespace) -> None:
    """Raises `InputError` for flags of a place that make no sense."""
    cluster = arguments.cluster
    if cluster == "":
        raise InputError("--cluster is empty; give an address, such as HOST:6379, auto or local")
    if cluster is not None and arguments.processes is not None:
        raise InputError(
            "--processes is of this machine, and --cluster has a queue of its own; give one"
        )
    for flag in ("cell_cpus", "cell_gpus"):
        if cluster is None and getattr(arguments, flag) is not None:
            raise InputError(f"--{flag.replace('_', '-')} is of cells on a cluster; give --cluster")
    if arguments.processes is not None and arguments.processes < 1:
        raise InputError(f"processes is {arguments.processes}; it must be at least 1")
    if arguments.cell_cpus is not None and arguments.cell_cpus < 1:
        raise InputError(f"cell_cpus is {arguments.cell_cpus}; it must be at least 1")
    gpus = arguments.cell_gpus or 0.0
    if not (math.isfinite(gpus) and gpus >= 0 and (gpus <= 1 or gpus == int(gpus))):
        raise InputError(
            f"cell_gpus is {gpus:g}; it must be a share of one GPU, from 0 to 1, or a whole number"
        )


@contextlib.contextmanager
def place_of(arguments: argparse.Namespace) -> Iterator[Place]:
    """The place that the flags say, for a block.

    Raises:
        InputError: there is no such cluster, or Ray is not installed.
    """
    if arguments.cluster is None:
        yield Here(arguments.processes or 1)
        return
    try:
        from training.sweep.cells.cluster import cluster
    except ImportError as error:
        raise InputError(
            f"--cluster needs Ray ({error}); install it: pip install 'tf-avae[ray]'"
        ) from error
    each = arguments.cell_cpus or 1, arguments.cell_gpus or 0.0
    with cluster(arguments.cluster, *each) as place:
        yield place
