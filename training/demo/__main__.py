"""`python -m training.demo`: makes the encoders ready and serves the page."""

import argparse
import contextlib
import socket
import sys
import webbrowser
from collections.abc import Iterator
from typing import Any

from tf_avae.console.commands import Parser, run_command, sigterm_unwinds
from tf_avae.console.printing import say
from tf_avae.errors import InputError
from training.demo import check_installed

_HOST, _PORT = "127.0.0.1", 7860
_GRACE = 1  # seconds in which answers that are under way may end


def parser() -> Parser:
    """The command line."""
    made = Parser(
        plugins=False,
        prog="python -m training.demo",
        description="Opens a page of this machine on which you draw or pick a digit, drag ε, and "
        "see one attack on a plain VAE and on the encoder that comes with the package, side by "
        "side, with what is proven. The first start trains the VAE, in about half a minute, and "
        "keeps it in your cache. Needs pip install 'tf-avae[demo]'.",
    )
    made.add_argument(
        "--host", default=_HOST,
        help=f"address to listen at; 0.0.0.0 lets other machines in [{_HOST}: this one alone]",
    )  # fmt: skip
    made.add_argument("--port", type=int, default=_PORT, help=f"0 is any that is free [{_PORT}]")
    made.add_argument(
        "--no-browser", action="store_true", help="do not open the page [your browser opens it]"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(parser, argv, _demo, with_plugins=False)


def _demo(arguments: argparse.Namespace) -> int:
    check_installed()
    from training.demo.kept import Stopped
    from training.demo.page import application, page
    from training.demo.ready import ready

    # The port is taken first: what cannot be served need not be trained.
    with _listening(arguments.host, arguments.port) as listening:
        try:
            readers, split = ready()
        except Stopped as stop:
            return stop.code
        app = application(page(readers, split), arguments.host)
        _serve(app, listening, not arguments.no_browser)
    return 0


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens at a port.

    Raises:
        InputError: the address is not one of this machine, or the port is in use.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"port is {port}; it must be from 0 to {2**16 - 1}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family)
    except OSError as error:
        # Python adds the address.
        why = str(error.strerror or error).partition(" (while")[0]
        raise InputError(
            f"cannot listen at port {port} of {host}: {why}; give another --port, or another --host"
        ) from error
    with listening:
        yield listening


def _serve(app: Any, listening: socket.socket, browser: bool) -> None:
    """Serves an application, and shows it to a browser, until a signal ends it."""
    import uvicorn

    # Its configuration of logging would close what others log to.
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, log_level="critical", timeout_graceful_shutdown=_GRACE)
    )
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    with sigterm_unwinds(), contextlib.suppress(KeyboardInterrupt):
        say(f"the page is at {address}; Ctrl-C ends it")
        if browser:
            webbrowser.open(address)
        server.run([listening])


if __name__ == "__main__":
    sys.exit(main())
