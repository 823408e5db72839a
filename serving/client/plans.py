"""The client's calls without input and output: each is a generator that yields its next step.

A plan yields a `Round` of requests, or a `Pause`. Its runner (`serving.client.sync` or
`serving.client.asynchronous`) sends the requests, some at a time, puts the parsed replies into the
round's results and continues; if a request fails, it throws the first error into the plan. So the
two clients differ only in how they wait.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from serving.client.messages import Boxes, Classifications, Embeddings, Metadata, VersionStatus
from tf_avae.certificates import float32_radii
from tf_avae.errors import InputError, first_few

T = TypeVar("T")
S = TypeVar("S", Embeddings, Boxes, Classifications)
Progress = Callable[[int, int], None]
"""Called with the number of images that are done, and the number of all."""

_POLL = 0.2
"""Seconds between two looks at whether a model is ready."""

_NAMED = 5  # versions in an error, at most

_BESIDE_ALL, _BESIDE_EACH = 4096, 16
"""Largest overhead of a request in bytes: of all images together, and of each."""


class Method(NamedTuple):
    """A method of the server: its path, and the parser of its reply."""

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
    """A request, and the function that makes a result of its reply."""

    method: Method
    request: Any
    parse: Callable[[Any], Any]


@dataclass
class Round:
    """Requests that do not depend on one another. Each is made when its turn comes.

    Attributes:
        asks: the requests; a request's place is its number here.
        done: called with the place of each request that was answered.
        results: the parsed replies by place.
        last: the place of the request that ended last, or of the one that failed.
    """

    asks: Iterator[Ask]
    done: Callable[[int], None] = lambda place: None
    results: dict[int, Any] = field(default_factory=dict)
    last: int = 0

    def take(self, place: int, ask: Ask, reply: bytes) -> None:
        """Parses a reply and keeps the result; raises `BadReply` if that fails."""
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
    """A wait, in seconds."""

    seconds: float


Step = Round | Pause
Plan = Generator[Step, None, T]


def advance(plan: Plan[T], error: ServingError | None = None) -> tuple[Step | None, T | None]:
    """The next step of a plan, or None and its result. `error` ended the step before."""
    try:
        return (next(plan) if error is None else plan.throw(error)), None
    except StopIteration as end:
        return None, end.value


@dataclass(frozen=True)
class Target:
    """The model that is asked, and the limits of a request.

    Attributes:
        spec: the ModelSpec: model, and version or label.
        batch_size: largest number of images in a request.
        max_bytes: largest size of a request, of a reply, and of the arrays in a reply.
    """

    spec: Any
    batch_size: int
    max_bytes: int


@dataclass(frozen=True)
class _Input:
    """N values for each input of a signature.

    Attributes:
        sizes: bytes of each value.
        values: a range of them, by input, as `messages.predict` takes them.
        parse: makes a result with a `version` of a reply, its number of rows and the largest size
            of its arrays.
        title: names the i-th value in an error, if the server may refuse a single one.
        absent: what to do about a model without the signature.
    """

    signature: str
    sizes: Sequence[int]
    values: Callable[[range], Mapping[str, np.ndarray | list[bytes]]]
    parse: Callable[[Any, int, int], Any]
    title: Callable[[int], str] | None = None
    progress: Progress | None = None
    absent: str = ""


class Use(NamedTuple, Generic[S]):
    """A use of images.

    Attributes:
        images, files: the signatures that take `image` and `image_bytes`.
        parse: that of their replies, as in `_Input`.
        within: whether they take a radius for each image, too.
        absent: what to do about a model without them.
    """

    images: str
    files: str
    parse: Callable[[Any, int, int], S]
    within: bool = False
    absent: str = ""


EMBED = Use("serving_default", "embed_bytes", messages.embeddings)
CERTIFY = Use(
    "certify", "certify_bytes", messages.boxes, True,
    "the model was exported without certificates: export it again with this version (python -m "
    "serving.export), which says why if its encoder has none",
)  # fmt: skip
CLASSIFY = Use("classify", "classify_bytes", messages.classifications)


def of_images(target: Target, use: Use[S], images: Any, epsilon: Any = None) -> Plan[S]:
    """The results for images [N, H, W, C] in [0, 1] or uint8, each within its radius where the
    use takes one; raises `InvalidRequest`."""
    array = _array(images, "images", "[N, H, W, C]", (np.floating, np.uint8))
    given = _of_rows(array, use.images, "image", use.parse)
    return (yield from _predict(target, _within(given, epsilon, use)))


def of_bytes(target: Target, use: Use[S], images: Iterable[bytes], epsilon: Any = None) -> Plan[S]:
    """The results for the contents of image files; raises `InvalidRequest` for other values."""
    contents = [images] if isinstance(images, str) else list(images)
    for index, content in enumerate(contents):
        if not isinstance(content, bytes):
            raise InvalidRequest(
                f"image {index} is {type(content).__name__}; give a list of bytes, each the "
                "content of an image file"
            )
    given = _Input(
        use.files, list(map(len, contents)),
        lambda part: {"image_bytes": contents[part.start : part.stop]}, use.parse,
        "image {}".format,
    )  # fmt: skip
    return (yield from _predict(target, _within(given, epsilon, use)))


def of_files(
    target: Target,
    use: Use[S],
    paths: Iterable[str | os.PathLike[str]],
    progress: Progress | None,
    epsilon: Any = None,
) -> Plan[S]:
    """The results for image files, each read when its turn comes; raises `InvalidRequest` if one
    cannot be read."""
    if isinstance(paths, (str, bytes, os.PathLike)):
        raise InvalidRequest(f"paths is one path, {str(paths)!r}; give a list of them")
    files = [Path(path) for path in paths]
    sizes = [_of_file(file, lambda file: file.stat().st_size) for file in files]
    given = _Input(
        use.files, sizes,
        lambda part: {"image_bytes": [_of_file(files[i], Path.read_bytes) for i in part]},
        use.parse, lambda index: str(files[index]), progress,
    )  # fmt: skip
    return (yield from _predict(target, _within(given, epsilon, use)))


def decode(target: Target, latents: Any) -> Plan[np.ndarray]:
    """The images float32 [N, H, W, C] decoded of latents [N, D]; raises `InvalidRequest`."""
    array = _array(latents, "latents", "[N, D]", (np.floating,))
    given = _of_rows(array, "decode", "latent", messages.images)
    return (yield from _predict(target, given)).images


def status(target: Target) -> Plan[list[VersionStatus]]:
    """The versions of the model."""
    return (yield from _single(_status(target.spec)))


def metadata(target: Target) -> Plan[Metadata]:
    """The signatures of the model."""
    return (yield from _single(_metadata(target.spec)))


def wait_until_ready(target: Target, timeout: float) -> Plan[int]:
    """The newest available version, once there is one. The runner of the plan keeps the time: its
    `DeadlineExceeded` is raised again, with `timeout` in seconds and the last answer."""
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
    """The same plan, whose `NotFound` also names the versions that there are."""
    try:
        return (yield from plan)
    except NotFound as error:
        name = target.spec.name
        try:
            there = yield from _single(_status(messages.model_spec(name, None, None)))
        except ServingError:  # the error is raised without them
            there = []
        if there:
            words = f"of {name!r} there is: {'; '.join(map(str, there[:_NAMED]))}"
        else:
            words = f"is {name!r} the model's name on the server, in its --model_name or config?"
        raise NotFound(f"{error}; {words}", error.code, error.details) from error


def split(sizes: Sequence[int], batch_size: int, max_bytes: int) -> list[range]:
    """Consecutive parts of values of these sizes, each within both limits or a single value."""
    parts, start, total = [], 0, 0
    for index, size in enumerate(sizes):
        if index > start and (index - start == batch_size or total + size > max_bytes):
            parts.append(range(start, index))
            start, total = index, 0
        total += size
    parts.append(range(start, len(sizes)))
    return parts


def _predict(target: Target, given: _Input) -> Plan[Any]:
    """The joined results of all parts of the input, by one version of the model."""
    if not given.sizes:
        raise InvalidRequest("there is nothing to send: N is 0; give at least one")
    sizes = [size + _BESIDE_EACH for size in given.sizes]
    parts = split(sizes, target.batch_size, target.max_bytes - _BESIDE_ALL)
    results = yield from _round(target, given, target.spec, parts, 0)
    newest = max(result.version for result in results)
    old = [index for index, result in enumerate(results) if result.version != newest]
    if not old:
        return messages.join(results)
    # The server changed versions in between, and the embeddings of two versions do not mix.
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
    return messages.join(results)


def _round(
    target: Target, given: _Input, spec: Any, parts: list[range], count: int
) -> Plan[list[Any]]:
    """The results of some parts; `count` values are done before."""

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
        if given.absent and f'"{given.signature}" not found' in refused.details:
            why = f"{refused}; {given.absent}"
            raise InvalidRequest(why, refused.code, refused.details) from refused
        raise
    return [asked.results[place] for place in range(len(parts))]


def _accuse(
    target: Target, given: _Input, spec: Any, part: range, refused: InvalidRequest
) -> Plan[None]:
    """Raises `InvalidRequest` that names the values of a refused part which are refused alone too,
    or that the model's version or label is refused."""
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
        pass  # only the values that are known by now are named
    if bad and given.title:
        listed = first_few(map(given.title, bad), 5)
        first = next(iter(bad.values()))
        raise InvalidRequest(f"{listed}: {first}", first.code, first.details) from refused


def _single(ask: Ask) -> Plan[Any]:
    asked = Round(iter([ask]))
    yield asked
    return asked.results[0]


def _ask(target: Target, given: _Input, spec: Any, part: range) -> Ask:
    request = messages.predict(spec, given.signature, given.values(part))

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
    """The rows of an array; uint8 is divided by 255."""

    def values(part: range) -> dict[str, np.ndarray]:
        rows = array[part.start : part.stop]
        return {name: rows / np.float32(255) if array.dtype == np.uint8 else rows}

    sizes = [4 * array[0].size] * len(array) if len(array) else []
    return _Input(signature, sizes, values, parse)


def _within(given: _Input, epsilon: Any, use: Use[Any]) -> _Input:
    """The same values, each with its radius where the use takes one."""
    given = replace(given, absent=use.absent)
    if not use.within:
        return given
    count = len(given.sizes)
    try:
        radii = np.asarray(epsilon)
    except ValueError:  # lists of different lengths
        radii = np.asarray(None)
    if radii.dtype.kind not in "fiu" or radii.shape not in ((), (count,)):
        raise InvalidRequest(
            f"epsilon is {radii.dtype} of shape {list(radii.shape)}; give a number, or one for "
            f"each of the {count:,} images"
        )
    try:
        sent = np.broadcast_to(float32_radii(radii), count)
    except InputError as error:
        raise InvalidRequest(str(error)) from error
    return replace(
        given,
        sizes=[size + sent.itemsize for size in given.sizes],
        values=lambda part: {**given.values(part), "epsilon": sent[part.start : part.stop]},
    )


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
