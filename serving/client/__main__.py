"""`python -m serving.client`: embeds and certifies image files, and shows what a server serves.

It runs where TensorFlow is not installed.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.client import (
    Boxes,
    EmbeddingClient,
    Embeddings,
    InvalidRequest,
    NotFound,
    ServingError,
)
from tf_avae.console.commands import USAGE_ERROR, Parser, run_command
from tf_avae.console.printing import answer, note, say
from tf_avae.console.progress import Counter
from tf_avae.files import replacing

_Option = tuple[str, str, Callable[[str], Any], Any, str]
"""Name, metavar, type, default, help."""

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
FILE.npz: embedding and variance [N, D], inconsistency and paths [N], version; of encoders without
a decoder embedding, paths and version"""

_BOXES_OUT = """FILE.npy: lower and upper, [2, N, D]
FILE.npz: embedding, lower and upper [N, D], paths [N], epsilon, version"""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_INITIALISER = "__saved_model_init_op"
"""A signature of TensorFlow's own loader, which no client calls."""

_NAMED = 3
"""How many of the least consistent images are named."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 if the input is at fault, 1 if the server is, or
    time ran out."""
    return run_command(_parser, arguments, _ask, with_plugins=False)


def _ask(given: argparse.Namespace) -> int:
    try:
        return given.run(given)
    except ServingError as error:
        note(f"error: {error}")
        return USAGE_ERROR if isinstance(error, InvalidRequest | NotFound) else 1


class _Parser(Parser):
    """Without plugins: a client has no rows to look up."""

    def __init__(self, **kwargs: Any):
        super().__init__(plugins=False, **kwargs)


def _parser() -> Parser:
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
    certify = commands.add_parser(
        "certify", parents=[server],
        help="embed image files, and bound the embeddings of all images near them",
    )  # fmt: skip
    certify.add_argument(
        "--epsilon", metavar="EPS", type=float, required=True,
        help="how far a pixel value may be from the image's; they go from 0 to 1",
    )  # fmt: skip
    for command, out, ask in ((embed, _OUT, _embed), (certify, _BOXES_OUT, _certify)):
        kinds = "PNG, JPEG, WebP or BMP files, or folders of them"
        command.add_argument("images", nargs="+", metavar="IMAGE", help=kinds)
        command.add_argument("--out", metavar="FILE", required=True, help=out)
        _add(command, _PORTIONS)
        command.set_defaults(run=ask)
    status = commands.add_parser(
        "status", parents=[server], help="the model's versions; exit code 1 if none is available"
    )
    status.add_argument("--wait", metavar="SECONDS", type=float, help="until one is available")
    status.set_defaults(run=_status)
    told = commands.add_parser("metadata", parents=[server], help="what the model takes and gives")
    told.set_defaults(run=_metadata)
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
    out, paths = _out(given.out), _all_files(given.images)
    counter = Counter("embedding", len(paths))
    with _client(given) as client:
        found = client.embed_files(paths, lambda done, total: counter.update(done))
    there = {name: value for name, value in vars(found).items() if value is not None}
    _write(out, found.embedding, paths, there)
    _summary(found, paths, given.model)
    say(f"written: {given.out}")
    return 0


def _certify(given: argparse.Namespace) -> int:
    out, paths = _out(given.out), _all_files(given.images)
    counter = Counter("certifying", len(paths))
    with _client(given) as client:
        found = client.certify_files(paths, given.epsilon, lambda done, total: counter.update(done))
    _write(
        out, np.stack([found.lower, found.upper]), paths, {**vars(found), "epsilon": given.epsilon}
    )
    say(_counts(found, given.model))
    width = (found.upper - found.lower).mean(1)
    say(
        f"mean width within {given.epsilon:g}: median {np.median(width):.4g}, max {width.max():.4g}"
    )
    say(f"written: {given.out}")
    return 0


def _out(name: str) -> Path:
    """The file to write, checked before the work."""
    out = Path(name).expanduser()
    if out.suffix not in (".npy", ".npz"):
        raise InvalidRequest(f"--out is {name}; its name must end with .npy or .npz")
    if not out.parent.is_dir():
        raise InvalidRequest(f"--out is {name}, and {out.parent} is no folder; make it first")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise InvalidRequest(f"--out is {name}, which cannot be written; give another")
    return out


def _write(out: Path, array: np.ndarray, paths: Sequence[Path], arrays: Mapping[str, Any]) -> None:
    with replacing(out) as draft:
        if out.suffix == ".npy":
            np.save(draft, array)
        else:
            np.savez(draft, paths=[str(path) for path in paths], **arrays)


def _all_files(names: Sequence[str]) -> list[Path]:
    return [file for name in names for file in _files(Path(name))]


def _files(path: Path) -> list[Path]:
    """The path itself; of a folder, the images in it, by name."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not found:
        raise InvalidRequest(f"{path} holds no file that ends with one of {', '.join(_SUFFIXES)}")
    return found


def _summary(found: Embeddings, paths: Sequence[Path], model: str) -> None:
    say(_counts(found, model))
    if (far := found.inconsistency) is None:
        return
    say(f"inconsistency: median {np.median(far):.4g}, max {far.max():.4g}; the largest:")
    for index in np.argsort(-far, kind="stable")[:_NAMED]:
        say(f"  {far[index]:.4g}  {paths[index]}")


def _counts(found: Boxes | Embeddings, model: str) -> str:
    count, dims = found.embedding.shape
    images = "image" if count == 1 else "images"
    return f"{count:,} {images}, {dims} dimensions, {model} version {found.version}"


def _status(given: argparse.Namespace) -> int:
    with _client(given) as client:
        if given.wait:
            client.wait_until_ready(given.wait)
        found = client.status()
    for version in found:
        answer(str(version))
    return 0 if any(version.state == "AVAILABLE" for version in found) else 1


def _metadata(given: argparse.Namespace) -> int:
    with _client(given) as client:
        found = client.metadata()
    answer(f"{given.model} version {found.version}")
    for name, signature in found.signatures.items():
        if name == _INITIALISER:
            continue
        answer(name)
        for word, tensors in (("in", signature.inputs), ("out", signature.outputs)):
            for key, info in tensors.items():
                answer(f"  {word:3}  {key}: {info}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
