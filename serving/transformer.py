"""An encoder as a scikit-learn transformer, from its files or from a server.

    from serving.transformer import RobustEmbedding
    make_pipeline(RobustEmbedding("models/encoder"), LogisticRegression())

From files it needs TensorFlow and no gRPC; from a server it needs the requirements of
`serving.client`, and no TensorFlow.
"""

# ruff: noqa: E402 (missing modules are named before they are imported)

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tf_avae.backend import need, tf

need({"sklearn": "scikit-learn"})  # isort: split

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags

from tf_avae.errors import InputError
from tf_avae.inputs import MARGIN, image_array

if TYPE_CHECKING:
    from serving.client import EmbeddingClient

_ADDRESS = re.compile(r"([\w.-]+|\[[0-9a-fA-F:]+\]):\d+")
_SHAPE = "[N, H, W, C]"


class RobustEmbedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Images to embeddings [N, D] float32. It learns nothing: the encoder is fixed.

    Images are an array [N, H, W, C] of floats in [0, 1] or uint8, which is divided by 255, or a
    list of image files: paths, or contents as bytes.

    `fit` records the encoder it found, and `transform` uses only that one: it raises an error if
    the files have changed or the server no longer has the version. Without `fit`, `transform` uses
    the current encoder. A process loads an encoder once, when it is first needed. A pickle does not
    hold it: the process that loads the pickle needs the same files, or the server.

    Args:
        source: a run, a SavedModel, a Keras encoder, an ONNX file, or a folder of versions; or a
            server's gRPC address, "host:port" (a file of such a name is "./host:port").
        model: the model's name on the server.
        batch_size: images at once.
        trust: whether to open encoders that may do more than compute.
        options: further arguments of `serving.client.EmbeddingClient`: label, timeout, tls ...

    Attributes:
        pinned_: the result of `fit`: the source, and the path and checksum of the encoder, or the
            server's version.
        n_features_in_: H * W * C; only if images came as an array.

    Raises:
        ValueError: the images are invalid or do not fit the encoder, or there is no encoder.
            `tf_avae.InputError` and a server's `InvalidRequest` are subclasses.
        serving.client.ServingError: the server does not answer, or time ran out.
    """

    def __init__(
        self,
        source: str | PathLike[str],
        *,
        model: str = "encoder",
        batch_size: int = 64,
        trust: bool = False,
        options: Mapping[str, Any] | None = None,
    ):
        self.source = source
        self.model = model
        self.batch_size = batch_size
        self.trust = trust
        self.options = options

    def fit(self, X: Any, y: Any = None) -> Self:
        """Checks the images and records the current encoder."""
        images = _images(X)
        self.pinned_: dict[str, Any]
        found, self._n_features_out = self._backend().look()
        self.pinned_ = {"source": fspath(self.source), **found}
        if isinstance(images, np.ndarray):
            self.n_features_in_ = int(np.prod(images.shape[1:]))
        elif hasattr(self, "n_features_in_"):
            del self.n_features_in_
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The embeddings, [N, D] float32."""
        pinned = dict(getattr(self, "pinned_", {}))
        fitted_on = pinned.pop("source", fspath(self.source))
        if fitted_on != fspath(self.source):
            raise ValueError(
                f"source is {self.source!r}, this was fitted on {fitted_on!r}, and another "
                "encoder's embeddings are others; fit again"
            )
        return self._backend().embed(_images(X), pinned or None)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _backend(self) -> "_Files | _Server":
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        source = fspath(self.source)
        if _ADDRESS.fullmatch(source):
            return _Server(source, self.model, self.batch_size, dict(self.options or {}))
        if self.options:
            raise ValueError(
                f"options are {self.options!r}, and source is {source!r}, which is a path; they "
                "are of a server: give its host:port, or leave them out"
            )
        return _Files(source, self.batch_size, self.trust)


@dataclass(frozen=True)
class _Files:
    """An encoder on this machine."""

    path: str
    batch_size: int
    trust: bool

    def look(self) -> tuple[dict[str, str], int]:
        from tf_avae.saved.encoders import locate

        path, checksum = locate(self.path)
        shape = _loaded(str(path), checksum, self.trust).image_shape
        one = np.zeros((1, *shape), np.float32)
        pinned = {"path": str(path), "checksum": checksum}
        return pinned, self.embed(one, pinned).shape[1]

    def embed(self, images: np.ndarray | list[bytes], pinned: Mapping[str, str] | None) -> Any:
        from tf_avae.saved.encoders import locate

        path, checksum = locate(pinned["path"] if pinned else self.path)
        if pinned and checksum != pinned["checksum"]:
            raise ValueError(
                f"the encoder in {path} is not the one that was there when this was fitted, and "
                "its embeddings are others; fit again"
            )
        return _loaded(str(path), checksum, self.trust).embed(images, self.batch_size)


class _Loaded:
    """An encoder in memory."""

    def __init__(self, path: str, trust: bool):
        from tf_avae.evaluation.batches import compiled, image_spec
        from tf_avae.image_files.decoding import decode_images
        from tf_avae.saved.encoders import OF_FILES, open_encoder

        encoder = open_encoder(path, trust=trust)
        if encoder.image_shape is None:
            raise ValueError(f"{path} takes images of any size; give an encoder of one size")
        self.path, shape = path, encoder.image_shape
        self.image_shape = shape
        how = {name: encoder.notes[name] for name in OF_FILES if name in encoder.notes}
        files = tf.TensorSpec([None], tf.string)
        self._of_images = compiled(image_spec(shape))(encoder.embed)
        self._of_files = compiled(files)(
            lambda files: encoder.embed(decode_images(files, shape, **how))
        )
        self._encoder = encoder  # holds the variables

    def embed(self, images: np.ndarray | list[bytes], batch_size: int) -> np.ndarray:
        from tf_avae.evaluation.batches import in_batches
        from tf_avae.image_files.converting import readable

        if isinstance(images, np.ndarray):
            if images.shape[1:] != self.image_shape:
                raise ValueError(
                    f"images have shape {list(images.shape)}; the encoder in {self.path} takes "
                    f"[N, {', '.join(map(str, self.image_shape))}]"
                )
            return in_batches(self._of_images, images, batch_size=batch_size)
        try:
            contents = np.array(list(map(readable, images)), object)
            return in_batches(self._of_files, contents, batch_size=batch_size)
        except (tf.errors.InvalidArgumentError, InputError) as error:
            raise ValueError(f"a file cannot be embedded: {error}") from error


_CACHE: dict[tuple[str, bool], tuple[str, _Loaded]] = {}
"""The encoders of this process: path, and whether it is trusted, to checksum and encoder."""


def _loaded(path: str, checksum: str, trust: bool) -> _Loaded:
    known = _CACHE.get((path, trust))
    if known is None or known[0] != checksum:
        known = _CACHE[path, trust] = (checksum, _Loaded(path, trust))
    return known[1]


@dataclass(frozen=True)
class _Server:
    """An encoder on a server. Each call opens its own connection: processes share nothing."""

    address: str
    model: str
    batch_size: int
    options: dict[str, Any]

    def look(self) -> tuple[dict[str, int], int]:
        with self._client({}) as client:
            found = client.metadata()
        there = found.signatures.get("serving_default")
        if there is None or "embedding" not in there.outputs:
            raise ValueError(
                f"{self.model!r} on {self.address} gives no embedding; name an encoder by model="
            )
        shape = there.outputs["embedding"].shape
        if shape is None or len(shape) != 2 or shape[1] is None:
            raise ValueError(
                f"{self.model!r} on {self.address} gives embeddings of shape {shape}; it must be "
                "[N, D]"
            )
        return {"version": found.version}, shape[1]

    def embed(self, images: np.ndarray | list[bytes], pinned: Mapping[str, int] | None) -> Any:
        with self._client(pinned or {}) as client:
            ask = client.embed if isinstance(images, np.ndarray) else client.embed_bytes
            return ask(images).embedding

    def _client(self, pinned: Mapping[str, int]) -> "EmbeddingClient":
        from serving.client import EmbeddingClient

        options = self.options
        if pinned:  # the label may name another version now
            options = {name: value for name, value in options.items() if name != "label"}
        return EmbeddingClient(
            self.address, self.model, batch_size=self.batch_size, **{**options, **pinned}
        )


def _images(X: Any) -> np.ndarray | list[bytes]:
    """Images as an array float32 [N, H, W, C] in [0, 1], or the contents of files."""
    if isinstance(X, str | bytes | PathLike):
        raise ValueError(f"X is one {type(X).__name__}; give a list of files, or an array {_SHAPE}")
    if not hasattr(X, "dtype") and isinstance(X, Iterable) and _are_files(X := list(X)):
        return [_content(file) for file in X]
    try:
        array = np.asarray(X)
    except ValueError as error:  # a list of unequal parts
        raise ValueError(f"X is no array {_SHAPE}: {error}") from error
    if array.ndim == 1 and array.dtype.kind in "OSU" and _are_files(array.tolist()):
        return [_content(file) for file in array.tolist()]
    if array.ndim != 4 or not len(array):
        raise ValueError(
            f"X has shape {list(array.shape)} and dtype {array.dtype}; it must be an array "
            f"{_SHAPE} of at least one image, or a list of image files"
        )
    if array.dtype == np.uint8:
        return array / np.float32(255)
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    return image_array(array, margin=MARGIN)


def _are_files(items: Sequence[Any]) -> bool:
    return len(items) > 0 and all(isinstance(item, str | bytes | PathLike) for item in items)


def _content(file: Any) -> bytes:
    if isinstance(file, bytes):
        return file
    try:
        with open(file, "rb") as opened:  # noqa: PTH123 (a path of any kind)
            return opened.read()
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {file}: {error}") from error
