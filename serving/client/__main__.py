"""`python -m serving.client`: embeds image files, and shows what a server serves.

It runs where TensorFlow is not installed, so it shares nothing with the package `tf_avae`.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np

from serving.client import EmbeddingClient, Embeddings, InvalidRequest, NotFound, ServingError

_Option = tuple[str, str, Callable[[str], Any], Any, str]
"""Name, what it takes, what reads that, default, help."""

_SERVER: tuple[_Option, ...] = (
    ("address", "HOST:PORT", str, "localhost:8500", "of the server's gRPC"),
    ("model", "NAME", str, "encoder", "its name on the server"),
    ("version", "N", int, None, "of the model; the newest unless given"),
    ("label", "NAME", str, None, "the server's name for a version, instead of --version"),
    ("timeout", "SECONDS", float, 60.0, "that one request may take, its retries included"),
    ("max_message_mb", "N", int, 64, "MiB of a request or reply, at most"),
)
_TLS: tuple[_Option, ...] = (
    ("tls_ca", "PEM", str, None, "who may vouch for the server"),
    ("tls_cert", "PEM", str, None, "this client's own certificate"),
    ("tls_key", "PEM", str, None, "the key to it"),
)
_PORTIONS: tuple[_Option, ...] = (
    ("batch_size", "N", int, 64, "images in a request, at most"),
    ("concurrency", "N", int, 4, "requests at a time"),
)
_OUT = """FILE.npy: the embeddings [N, D]
FILE.npz: embedding and variance [N, D], inconsistency and paths [N], version"""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_INITIALISER = "__saved_model_init_op"
"""The signature by which TensorFlow 2 tells a loader what to run; nothing to ask for."""

_NAMED = 3
"""How many of the least consistent images are named."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 where the input is at fault, 1 where the server
    is, or the time."""
    try:
        given = _parser().parse_args(arguments)
        return given.run(given)
    except ServingError as error:
        _print(f"error: {error}", sys.stderr)
        return 2 if isinstance(error, InvalidRequest | NotFound) else 1
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        _print(f"error: cannot use{place}: {error.strerror or error}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        _print("\nstopped", sys.stderr)
        return 130


def _print(text: str, to: TextIO | None = None, end: str = "\n") -> None:
    """Writes to a stream, standard output unless given: what its encoding lacks is escaped, and
    a reader who is gone has all that was wanted.

    Raises:
        OSError: standard output cannot be written.
    """
    stream: Any = to or sys.stdout
    if stream is None:  # as it is where a process starts with the descriptor closed
        return
    text, encoding = text + end, getattr(stream, "encoding", None)
    if encoding:
        try:
            text.encode(encoding, stream.errors or "strict")
        except UnicodeEncodeError:
            # Also file names that are no text, which Python holds as characters of no encoding.
            text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        # Or Python would try again as it exits.
        if any(stream is own for own in (sys.__stdout__, sys.__stderr__)):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror or str(error), "standard output") from error


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, **options: Any):
        lines = argparse.RawTextHelpFormatter
        super().__init__(**options, allow_abbrev=False, formatter_class=lines)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        _print(message, file or sys.stderr, end="")


def _parser() -> _Parser:
    server = _Parser(add_help=False)
    group = server.add_argument_group("server")
    _add(group, _SERVER)
    group.add_argument("--tls", action="store_true", help="speak TLS; so does each of the next")
    _add(group, _TLS)

    parser = _Parser(
        prog="python -m serving.client",
        description="Asks a TensorFlow Serving server for robust embeddings.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    embed = commands.add_parser("embed", parents=[server], help="embed image files")
    embed.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="PNG, JPEG, WebP or BMP files, or folders of them",
    )
    embed.add_argument("--out", metavar="FILE", required=True, help=_OUT)
    _add(embed, _PORTIONS)
    embed.set_defaults(run=_embed)
    status = commands.add_parser(
        "status", parents=[server], help="the model's versions; exit code 1 if none is available"
    )
    status.add_argument("--wait", metavar="SECONDS", type=float, help="until one is available")
    status.set_defaults(run=_status)
    commands.add_parser(
        "metadata", parents=[server], help="what the model takes and gives"
    ).set_defaults(run=_metadata)
    return parser


def _add(group: argparse._ActionsContainer, options: Sequence[_Option]) -> None:
    for name, metavar, kind, default, text in options:
        flag = "--" + name.replace("_", "-")
        text += "" if default is None else f" [{default}]"
        group.add_argument(flag, metavar=metavar, type=kind, default=default, help=text)


def _client(given: argparse.Namespace) -> EmbeddingClient:
    names = [name for name, *_ in (*_SERVER, *_TLS, *_PORTIONS) if name != "timeout"]
    options = {name: getattr(given, name) for name in ("tls", *names) if hasattr(given, name)}
    return EmbeddingClient(timeout=None, request_timeout=given.timeout, **options)


def _embed(given: argparse.Namespace) -> int:
    out = Path(given.out).expanduser()
    if out.suffix not in (".npy", ".npz"):
        raise InvalidRequest(f"--out is {given.out}; its name must end with .npy or .npz")
    if not out.parent.is_dir():
        raise InvalidRequest(f"--out is {given.out}, and {out.parent} is no folder; make it first")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise InvalidRequest(f"--out is {given.out}, which cannot be written; give another")
    paths = [file for name in given.images for file in _files(Path(name))]
    with _client(given) as client:
        found = client.embed_files(paths, _Progress())
    _write(out, found, paths)
    with contextlib.suppress(OSError):  # the file is there, whether this can be shown or not
        _summary(found, paths, given.model)
        _print(f"written: {given.out}")
    return 0


def _write(out: Path, found: Embeddings, paths: Sequence[Path]) -> None:
    """Writes the file whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=out.suffix, dir=out.parent)
    os.close(handle)
    draft = Path(name)
    try:
        if out.suffix == ".npy":
            np.save(draft, found.embedding)
        else:
            np.savez(draft, paths=[str(path) for path in paths], **vars(found))
        draft.chmod(0o644)  # mkstemp's files are private
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)


def _files(path: Path) -> list[Path]:
    """The path itself; of a folder, the images in it, by name."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not found:
        raise InvalidRequest(f"{path} holds no file that ends with one of {', '.join(_SUFFIXES)}")
    return found


def _summary(found: Embeddings, paths: Sequence[Path], model: str) -> None:
    count, dims = found.embedding.shape
    far = found.inconsistency
    images = "image" if count == 1 else "images"
    _print(f"{count:,} {images}, {dims} dimensions, {model} version {found.version}")
    _print(f"inconsistency: median {np.median(far):.4g}, max {far.max():.4g}; the largest:")
    for index in np.argsort(-far, kind="stable")[:_NAMED]:
        _print(f"  {far[index]:.4g}  {paths[index]}")


class _Progress:
    """Prints how far it is, and how long it takes, every few seconds."""

    def __init__(self, seconds: float = 5.0):
        self._seconds = seconds
        self._start = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last < self._seconds:
            return
        self._last = now
        rate = done / (now - self._start)
        minutes, seconds = divmod(round((total - done) / rate), 60)
        _print(f"{done:,}/{total:,}  {rate:.1f} images/s  {minutes}:{seconds:02d} left", sys.stderr)


def _status(given: argparse.Namespace) -> int:
    with _client(given) as client:
        if given.wait:
            client.wait_until_ready(given.wait)
        found = client.status()
    for version in found:
        _print(str(version))
    return 0 if any(version.state == "AVAILABLE" for version in found) else 1


def _metadata(given: argparse.Namespace) -> int:
    with _client(given) as client:
        found = client.metadata()
    _print(f"{given.model} version {found.version}")
    for name, signature in found.signatures.items():
        if name == _INITIALISER:
            continue
        _print(name)
        for word, tensors in (("in", signature.inputs), ("out", signature.outputs)):
            for key, info in tensors.items():
                _print(f"  {word:3}  {key}: {info}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
