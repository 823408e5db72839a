"""The server's requests and replies, and the results that are made of replies."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError

from serving import protocol
from serving.client import tensors
from serving.client.errors import BadReply, InvalidRequest

_FLOATS = ("float32", "float64")
_SHOWN = 8  # sides of a shape, in an error

SIGNATURES = "signature_def"
"""The one metadata field that a server knows."""

T = TypeVar("T", "Embeddings", "Boxes", "Classifications", "Images")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The embeddings of N images by one version of an encoder.

    Attributes:
        embedding: float32 [N, D]: the mean of q(z|x).
        variance: float32 [N, D], of each dimension of the embedding; None if the encoder gives
            none.
        inconsistency: float32 [N], at least 0: how far an image is from what the model would
            encode had it generated the image (a squared 2-Wasserstein distance). Do not trust an
            embedding whose inconsistency is far above that of other images. None of an encoder
            without a decoder.
        version: of the model.
    """

    embedding: np.ndarray
    variance: np.ndarray | None
    inconsistency: np.ndarray | None
    version: int

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def mean(self) -> np.ndarray:
        """The old name of `embedding`, for one release."""
        text = "Embeddings.mean goes with the next release; it is Embeddings.embedding now"
        warnings.warn(text, FutureWarning, stacklevel=2)
        return self.embedding


@dataclass(frozen=True, eq=False)
class Boxes:
    """What one version of an encoder can say of all images near N images.

    Attributes:
        embedding: float32 [N, D], of the images themselves.
        lower, upper: float32 [N, D]: the embedding of every image within the radius lies between
            them. `tf_avae.certify_linear` takes them.
        version: of the model.
    """

    embedding: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    version: int

    def __len__(self) -> int:
        return len(self.embedding)


@dataclass(frozen=True, eq=False)
class Classifications:
    """The classes of N images by one version of a classifier.

    Attributes:
        logits: float32 [N, K].
        probabilities: float32 [N, K], of the classes; their names are in the export's provenance.
        embedding: float32 [N, D], of its encoder.
        inconsistency: float32 [N], as in `Embeddings`; None if its encoder gives none.
        version: of the model.
        certified_radius: float32 [N]: no image that differs by at most so much in every pixel value
            has another class; 0 where nothing is proven. None if the model was published without.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    embedding: np.ndarray
    inconsistency: np.ndarray | None
    version: int
    certified_radius: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def classes(self) -> np.ndarray:
        """The most probable class of each image, [N] integers."""
        return self.logits.argmax(1)


@dataclass(frozen=True, eq=False)
class Images:
    """Images float32 [N, H, W, C], decoded by one version of a model."""

    images: np.ndarray
    version: int


@dataclass(frozen=True)
class VersionStatus:
    """A version of a model on the server.

    Attributes:
        version: its number.
        state: START, LOADING, AVAILABLE, UNLOADING or END.
        error: why it did not load; empty where nothing is wrong.
    """

    version: int
    state: str
    error: str

    def __str__(self) -> str:
        return f"version {self.version} {self.state}" + (f": {self.error}" if self.error else "")


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature: its dtype's name, and its shape, where None is any size
    and a shape of None any shape."""

    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of any shape"
        return f"{self.dtype} [{', '.join('N' if n is None else str(n) for n in self.shape)}]"


@dataclass(frozen=True)
class Signature:
    """The named inputs and outputs of a function of a model."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]


@dataclass(frozen=True)
class Metadata:
    """The signatures of a version of a model, by name."""

    version: int
    signatures: Mapping[str, Signature]


def model_spec(name: str, version: int | None, label: str | None) -> Any:
    """The ModelSpec of a model and its version or label; of the newest version if neither is given.

    Raises:
        InvalidRequest: both are given, or no message can hold them.
    """
    if version is not None and label is not None:
        raise InvalidRequest(f"both version {version} and label {label!r} are given; leave one out")
    try:
        spec = protocol.ModelSpec(name=name)
        if version is not None:
            spec.version.value = version
        if label is not None:
            spec.version_label = label
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            f"model {name!r}, version {version!r} or label {label!r} cannot be sent ({error}); a "
            "version is a whole number of at most 64 bits, the others are text"
        ) from error
    return spec


def predict(spec: Any, signature: str, inputs: Mapping[str, np.ndarray | Sequence[bytes]]) -> Any:
    """A request to run a signature with values of its inputs: numbers, which are sent as float32,
    or byte strings."""
    request = protocol.PredictRequest(model_spec=spec)
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        tensors.write(request.inputs[name], values)
    return request


def version(reply: Any) -> int:
    """Which version a reply is of.

    Raises:
        BadReply: it does not say.
    """
    if not reply.model_spec.HasField("version"):
        raise BadReply("the reply does not say which version of the model it is of")
    return reply.model_spec.version.value


def of_model(reply: Any, spec: Any) -> Any:
    """A reply of the model and the version in the ModelSpec that was sent; raises `BadReply` for
    others, and for replies without a version."""
    name = reply.model_spec.name
    if name and name != spec.name:
        raise BadReply(f"the reply is of the model {name[:80]!r}; {spec.name!r} was asked for")
    if spec.HasField("version") and version(reply) != spec.version.value:
        raise BadReply(
            f"the reply is of version {version(reply)}; version {spec.version.value} was asked for"
        )
    return reply


def outputs(
    reply: Any, rows: int, most_bytes: int, ranks: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """The outputs of a PredictResponse, float32.

    Raises:
        BadReply: an output in `ranks` is missing, has another number of rows or dimensions or holds
            no floats; or all arrays together take more than `most_bytes`.
    """
    found: dict[str, np.ndarray] = {}
    for name, rank in ranks.items():
        if name not in reply.outputs:
            there = ", ".join(sorted(reply.outputs)) or "nothing"
            raise BadReply(f"the reply has no output {name!r}; it has: {there}; is it an encoder?")
        tensor = reply.outputs[name]
        shape, dtype = tensors.shape_of(tensor), tensors.dtype_name(tensor.dtype)
        if len(shape) != rank or shape[0] != rows or 0 in shape or dtype not in _FLOATS:
            sides = f"{list(shape)}" if len(shape) <= _SHOWN else f"of {len(shape)} dimensions"
            raise BadReply(
                f"the reply's output {name!r} is {dtype} {sides}; it must be floats with {rank} "
                f"dimensions, the first of {rows}, none empty"
            )
        array = tensors.to_array(tensor, most_bytes, sum(a.nbytes for a in found.values()))
        with np.errstate(over="ignore"):  # of float64, what is too large is infinite
            found[name] = array.astype(np.float32, copy=False)
    return found


def embeddings(reply: Any, rows: int, most_bytes: int) -> Embeddings:
    """The embeddings in the reply to `rows` images; raises `BadReply` for another reply."""
    ranks = {"embedding": 2, **_there(reply, {"variance": 2, "inconsistency": 1})}
    none = {"variance": None, "inconsistency": None}
    found: dict[str, Any] = {**none, **outputs(reply, rows, most_bytes, ranks)}
    there, spread = found["embedding"].shape, found["variance"]
    if spread is not None and there != spread.shape:
        raise BadReply(f"embeddings {there} came with variances {spread.shape}")
    return Embeddings(**found, version=version(reply))


def _there(reply: Any, ranks: dict[str, int]) -> dict[str, int]:
    """Those of some outputs that a reply has."""
    return {name: rank for name, rank in ranks.items() if name in reply.outputs}


def boxes(reply: Any, rows: int, most_bytes: int) -> Boxes:
    """The boxes in the reply to `rows` images; raises `BadReply` for another reply, and for boxes
    that do not hold the embeddings that came with them."""
    found = outputs(reply, rows, most_bytes, {"embedding": 2, "lower": 2, "upper": 2})
    shapes = {array.shape for array in found.values()}
    if len(shapes) > 1:
        raise BadReply(f"embeddings and the ends of boxes have the shapes {sorted(shapes)}")
    inside = (found["lower"] <= found["embedding"]) & (found["embedding"] <= found["upper"])
    if not inside.all():
        raise BadReply(
            f"{np.sum(~inside.all(1)):,} of {rows} boxes do not hold the embedding that came with "
            "them, so they prove nothing; export the model again, or ask for a smaller epsilon if "
            "they are not numbers"
        )
    return Boxes(**found, version=version(reply))


def images(reply: Any, rows: int, most_bytes: int) -> Images:
    """The images in the reply to `rows` latents; raises `BadReply` for another reply."""
    return Images(outputs(reply, rows, most_bytes, {"image": 4})["image"], version(reply))


def classifications(reply: Any, rows: int, most_bytes: int) -> Classifications:
    """The classes in the reply to `rows` images; raises `BadReply` for another reply."""
    ranks = {"logits": 2, "probabilities": 2, "embedding": 2}
    ranks |= _there(reply, {"inconsistency": 1, "certified_radius": 1})
    found: dict[str, Any] = {"inconsistency": None, **outputs(reply, rows, most_bytes, ranks)}
    if found["logits"].shape != found["probabilities"].shape:
        raise BadReply(
            f"logits {found['logits'].shape} came with probabilities {found['probabilities'].shape}"
        )
    return Classifications(**found, version=version(reply))


def join(parts: Iterable[T]) -> T:
    """The results of several replies of one version as one; raises `BadReply` if their shapes
    differ."""
    parts = list(parts)
    whole: dict[str, Any] = {}
    for name in vars(parts[0]):
        arrays = [value for part in parts if isinstance(value := getattr(part, name), np.ndarray)]
        if len({array.shape[1:] for array in arrays}) > 1 or len(arrays) not in (0, len(parts)):
            raise BadReply(f"the replies to one call differ in the shape of {name!r}")
        if arrays:
            whole[name] = np.concatenate(arrays)
    return replace(parts[0], **whole)


def statuses(reply: Any, spec: Any) -> list[VersionStatus]:
    """The versions in a GetModelStatusResponse, the newest first; raises `BadReply` for another
    version than the ModelSpec asked for."""
    found = []
    for status in reply.model_version_status:
        if spec.HasField("version") and status.version != spec.version.value:
            raise BadReply(
                f"the reply tells of version {status.version}; version {spec.version.value} was "
                "asked for"
            )
        known = status.state in protocol.ModelVersionStatus.State.values()
        state = protocol.ModelVersionStatus.State.Name(status.state) if known else "UNKNOWN"
        words = " ".join(status.status.error_message.split())
        if status.status.error_code and not words:
            words = f"error code {status.status.error_code}"
        found.append(VersionStatus(status.version, state, words))
    return sorted(found, key=lambda status: -status.version)


def metadata(reply: Any) -> Metadata:
    """The signatures in a GetModelMetadataResponse; raises `BadReply` if it holds none."""
    signatures = protocol.SignatureDefMap()
    try:
        there = reply.metadata[SIGNATURES].Unpack(signatures)
    except DecodeError as error:
        raise BadReply("the reply's signatures are damaged") from error
    if not there:
        raise BadReply("the reply holds no signatures")
    return Metadata(
        version(reply),
        {
            name: Signature(_infos(found.inputs), _infos(found.outputs))
            for name, found in sorted(signatures.signature_def.items())
        },
    )


def _infos(found: Mapping[str, Any]) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(
            tensors.dtype_name(info.dtype),
            None
            if info.tensor_shape.unknown_rank
            else tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim),
        )
        for name, info in sorted(found.items())
    }
