"""What a client does, without doing it: each call is a generator that says what to ask next.

A plan yields a `Round` of requests, or a `Pause`. Who runs it (`serving.client.sync` or
`serving.client.asynchronous`) sends the requests, some at a time, puts what the replies say into
the round's results and goes on, or throws the error of the first to fail into the plan. So the
two clients differ in how they wait and in nothing else.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from serving import protocol
from serving.client import messages
from serving.client.errors import (
    BadReply,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    ServingError,
    Unavailable,
    VersionChanged,
)
from serving.client.messages import Classifications, Embeddings, Metadata, VersionStatus

T = TypeVar("T")
S = TypeVar("S", Embeddings, Classifications)
Progress = Callable[[int, int], None]
"""Told how many images are done, of how many."""

_POLL = 0.2
"""Seconds between two looks at whether a model is ready."""

_NAMED = 5  # versions in an error, at most

_BESIDE_ALL, _BESIDE_EACH = 4096, 16
"""Bytes of a request that are no content, at most: of all images together, and of each."""


@dataclass(frozen=True)
class Method:
    """A method of the server: where it is, and what makes a message of its reply."""

    path: str
    reply: Callable[[bytes], Any]


_PREDICT = Method(
    "/tensorflow.serving.PredictionService/Predict", protocol.PredictResponse.FromString
)
_METADATA = Method(
    "/tensorflow.serving.PredictionService/GetModelMetadata",
    protocol.GetModelMetadataResponse.FromString,
)
_STATUS = Method(
    "/tensorflow.serving.ModelService/GetModelStatus", protocol.GetModelStatusResponse.FromString
)


@dataclass(frozen=True)
class Ask:
    """A request, and what becomes of its reply."""

    method: Method
    request: Any
    parse: Callable[[Any], Any]


@dataclass
class Round:
    """Requests that need nothing of one another. Each is made when its turn comes.

    Attributes:
        asks: the requests.
        done: told the place of each request that was answered.
        results: what became of the replies, by the place of the request.
        last: the place of the request that ended last; where one failed, of that one.
    """

    asks: Iterator[Ask]
    done: Callable[[int], None] = lambda place: None
    results: dict[int, Any] = field(default_factory=dict)
    last: int = 0

    def take(self, place: int, ask: Ask, reply: bytes) -> None:
        """Notes a reply.

        Raises:
            BadReply: it makes no sense.
        """
        try:
            message = ask.method.reply(reply)
        except DecodeError as error:
            raise BadReply(
                "the reply is no message of TensorFlow Serving's; is it another server?"
            ) from error
        self.results[place] = ask.parse(message)
        self.done(place)


@dataclass(frozen=True)
class Pause:
    """So many seconds of waiting."""

    seconds: float


Step = Round | Pause
Plan = Generator[Step, None, T]


def advance(plan: Plan[T], error: ServingError | None = None) -> tuple[Step | None, T | None]:
    """The next step of a plan, whose last one ended with an error if one is given; or None and what
    the plan came to."""
    try:
        return (next(plan) if error is None else plan.throw(error)), None
    except StopIteration as end:
        return None, end.value


@dataclass(frozen=True)
class Target:
    """What is asked, and in what portions.

    Attributes:
        spec: the ModelSpec: model, and version or label.
        batch_size: images in a request, at most.
        max_bytes: size of a request or a reply, and of the arrays in a reply, at most.
    """

    spec: Any
    batch_size: int
    max_bytes: int


@dataclass(frozen=True)
class _Input:
    """N things to send to a signature.

    Attributes:
        signature: its name.
        name: of its one input.
        sizes: bytes of each of the N.
        values: some of them, as `messages.predict` takes them.
        parse: what becomes of a reply, its number of rows and the bytes that its arrays may take
            at most; it has a `version`.
        title: of the i-th, where the server may refuse one for what it is; None where not.
        progress: told how many of the N are done.
    """

    signature: str
    name: str
    sizes: Sequence[int]
    values: Callable[[range], np.ndarray | list[bytes]]
    parse: Callable[[Any, int, int], Any]
    title: Callable[[int], str] | None = None
    progress: Progress | None = None


class Use(NamedTuple, Generic[S]):
    """What images are sent for.

    Attributes:
        images, files: the signatures that take `image` and `image_bytes`.
        parse: as of an `_Input`.
    """

    images: str
    files: str
    parse: Callable[[Any, int, int], S]


EMBED = Use("serving_default", "embed_bytes", messages.embeddings)
CLASSIFY = Use("classify", "classify_bytes", messages.classifications)


def of_images(target: Target, use: Use[S], images: Any) -> Plan[S]:
    """What is said of images [N, H, W, C], in [0, 1] or uint8.

    Raises:
        InvalidRequest: there are none, or they are of another dtype or rank.
    """
    array = _array(images, "images", "[N, H, W, C]", (np.floating, np.uint8))
    parts = yield from _predict(target, _of_rows(array, use.images, "image", use.parse))
    return messages.join(parts)


def of_bytes(target: Target, use: Use[S], images: Iterable[bytes]) -> Plan[S]:
    """What is said of the contents of image files.

    Raises:
        InvalidRequest: there are none, or they are not bytes.
    """
    contents = [images] if isinstance(images, str) else list(images)
    for index, content in enumerate(contents):
        if not isinstance(content, bytes):
            raise InvalidRequest(
                f"image {index} is {type(content).__name__}; give a list of bytes, each the "
                "content of an image file"
            )
    parts = yield from _predict(
        target,
        _Input(
            use.files,
            "image_bytes",
            [len(content) for content in contents],
            lambda part: contents[part.start : part.stop],
            use.parse,
            title="image {}".format,
        ),
    )
    return messages.join(parts)


def of_files(
    target: Target,
    use: Use[S],
    paths: Iterable[str | os.PathLike[str]],
    progress: Progress | None,
) -> Plan[S]:
    """What is said of image files. Each is read when its turn comes.

    Raises:
        InvalidRequest: there are none, or one cannot be read.
    """
    if isinstance(paths, (str, bytes, os.PathLike)):
        raise InvalidRequest(f"paths is one path, {str(paths)!r}; give a list of them")
    files = [Path(path) for path in paths]
    parts = yield from _predict(
        target,
        _Input(
            use.files,
            "image_bytes",
            [_of_file(file, lambda file: file.stat().st_size) for file in files],
            lambda part: [_of_file(files[index], Path.read_bytes) for index in part],
            use.parse,
            title=lambda index: str(files[index]),
            progress=progress,
        ),
    )
    return messages.join(parts)


def decode(target: Target, latents: Any) -> Plan[np.ndarray]:
    """The images float32 [N, H, W, C] that latents [N, D] decode to.

    Raises:
        InvalidRequest: there are none, or they are of another dtype or rank.
    """
    array = _array(latents, "latents", "[N, D]", (np.floating,))
    parts = yield from _predict(target, _of_rows(array, "decode", "latent", messages.images))
    return messages.join(parts).images


def status(target: Target) -> Plan[list[VersionStatus]]:
    """The versions of the model."""
    return (yield from _single(_status(target.spec)))


def metadata(target: Target) -> Plan[Metadata]:
    """The signatures of the model."""
    return (yield from _single(_metadata(target.spec)))


def wait_until_ready(target: Target, timeout: float) -> Plan[int]:
    """The newest available version, once there is one. Who runs the plan keeps the time.

    Raises:
        DeadlineExceeded: it took longer than `timeout` seconds; with what was seen last.
    """
    seen = "no answer"
    while True:
        try:
            found = yield from _single(_status(target.spec))
            for version in found:
                if version.state == "AVAILABLE":
                    return version.version
            seen = "; ".join(str(version) for version in found) or "no version"
        except (Unavailable, NotFound) as error:
            seen = str(error)
        except DeadlineExceeded as error:
            raise DeadlineExceeded(
                f"{target.spec.name!r} is not ready after {timeout:g} s; last seen: {seen}",
                error.code,
                error.details,
            ) from error
        yield Pause(_POLL)


def explained(target: Target, plan: Plan[T]) -> Plan[T]:
    """The same plan; where its end is NotFound, that says what there is instead.

    Raises:
        NotFound: as the plan does.
    """
    try:
        return (yield from plan)
    except NotFound as error:
        name = target.spec.name
        try:
            there = yield from _single(_status(messages.model_spec(name, None, None)))
        except ServingError:  # what is known by now has to do
            there = []
        if there:
            words = f"of {name!r} there is: {'; '.join(map(str, there[:_NAMED]))}"
        else:
            words = f"is {name!r} the model's name on the server, in its --model_name or config?"
        raise NotFound(f"{error}; {words}", error.code, error.details) from error


def split(sizes: Sequence[int], batch_size: int, max_bytes: int) -> list[range]:
    """Consecutive parts of things of these sizes: none of more things, and none larger unless it
    is one thing."""
    parts, start, total = [], 0, 0
    for index, size in enumerate(sizes):
        if index > start and (index - start == batch_size or total + size > max_bytes):
            parts.append(range(start, index))
            start, total = index, 0
        total += size
    parts.append(range(start, len(sizes)))
    return parts


def _predict(target: Target, given: _Input) -> Plan[list[Any]]:
    """What becomes of all of the input, part by part, by one version of the model."""
    if not given.sizes:
        raise InvalidRequest("there is nothing to send: N is 0; give at least one")
    sizes = [size + _BESIDE_EACH for size in given.sizes]
    parts = split(sizes, target.batch_size, target.max_bytes - _BESIDE_ALL)
    results = yield from _round(target, given, target.spec, parts, 0)
    newest = max(result.version for result in results)
    old = [index for index, result in enumerate(results) if result.version != newest]
    if not old:
        return results
    # The server changed versions in between. One embedding space is not another.
    pinned = messages.model_spec(target.spec.name, newest, None)
    left = [parts[index] for index in old]
    changed = f"{target.spec.name!r} changed to version {newest} during the call"
    try:
        again = yield from _round(target, given, pinned, left, len(sizes) - sum(map(len, left)))
    except NotFound as error:
        raise VersionChanged(
            f"{changed}, which then was gone; call again", error.code, error.details
        ) from error
    if any(result.version != newest for result in again):
        raise VersionChanged(f"{changed}, and the server did not keep to it; call again")
    for index, result in zip(old, again, strict=True):
        results[index] = result
    return results


def _round(
    target: Target, given: _Input, spec: Any, parts: list[range], before: int
) -> Plan[list[Any]]:
    """What becomes of some parts, after so many things that are done."""
    count = before

    def done(place: int) -> None:
        nonlocal count
        count += len(parts[place])
        if given.progress:
            given.progress(count, len(given.sizes))

    asked = Round((_ask(target, given, spec, part) for part in parts), done)
    try:
        yield asked
    except InvalidRequest as refused:
        if refused.code is grpc.StatusCode.INVALID_ARGUMENT and given.title:
            yield from _accuse(target, given, spec, parts[asked.last], refused)
        raise
    return [asked.results[place] for place in range(len(parts))]


def _accuse(
    target: Target, given: _Input, spec: Any, part: range, refused: InvalidRequest
) -> Plan[None]:
    """Says which things of a refused part are at fault: those that are refused alone too.

    Raises:
        InvalidRequest: some are; or it is the model's version or label that is refused.
    """
    bad = {}
    try:
        yield from _single(_metadata(spec))
        for index in part:
            try:
                yield Round(iter([_ask(target, given, spec, range(index, index + 1))]))
            except InvalidRequest as error:
                bad[index] = error
    except InvalidRequest:
        raise
    except ServingError:
        pass  # what is known by now has to do
    if bad and given.title:
        names = [given.title(index) for index in bad]
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        first = next(iter(bad.values()))
        raise InvalidRequest(f"{listed}: {first}", first.code, first.details) from refused


def _single(ask: Ask) -> Plan[Any]:
    asked = Round(iter([ask]))
    yield asked
    return asked.results[0]


def _ask(target: Target, given: _Input, spec: Any, part: range) -> Ask:
    request = messages.predict(spec, given.signature, given.name, given.values(part))

    def parse(reply: Any) -> Any:
        return given.parse(messages.of_model(reply, target.spec), len(part), target.max_bytes)

    return Ask(_PREDICT, request, parse)


def _status(spec: Any) -> Ask:
    request = protocol.GetModelStatusRequest(model_spec=spec)
    return Ask(_STATUS, request, lambda reply: messages.statuses(reply, spec))


def _metadata(spec: Any) -> Ask:
    request = protocol.GetModelMetadataRequest(
        model_spec=spec, metadata_field=[messages.SIGNATURES]
    )
    return Ask(_METADATA, request, lambda reply: messages.metadata(messages.of_model(reply, spec)))


def _of_rows(
    array: np.ndarray, signature: str, name: str, parse: Callable[[Any, int, int], Any]
) -> _Input:
    """The rows of an array; where they are bytes, as fractions of 255."""

    def values(part: range) -> np.ndarray:
        rows = array[part.start : part.stop]
        return rows / np.float32(255) if array.dtype == np.uint8 else rows

    sizes = [4 * array[0].size] * len(array) if len(array) else []
    return _Input(signature, name, sizes, values, parse)


def _array(values: Any, what: str, shape: str, dtypes: tuple[type[np.generic], ...]) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidRequest(f"{what} make no array {shape}: {error}") from error
    if not any(np.issubdtype(array.dtype, dtype) for dtype in dtypes):
        allowed = " or ".join("float" if d is np.floating else d.__name__ for d in dtypes)
        raise InvalidRequest(f"{what} are {array.dtype}; they must be {allowed}")
    if array.ndim != len(shape.split(",")):
        raise InvalidRequest(f"{what} have the shape {list(array.shape)}; it must be {shape}")
    return array


def _of_file(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except (OSError, ValueError) as error:  # ValueError: a path that cannot be one
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"cannot read {path}: {reason}") from error
