"""Asks a TensorFlow Serving server for robust embeddings. Needs grpcio, protobuf and numpy only."""

# ruff: noqa: E402 (missing modules are named before they are imported)

from tf_avae.backend import need

need({"grpc": "grpcio", "google.protobuf": "protobuf"}, "client")  # isort: split

from serving.client.asynchronous import AsyncEmbeddingClient
from serving.client.errors import (
    BadReply,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    ServingError,
    Unavailable,
    VersionChanged,
)
from serving.client.messages import (
    Boxes,
    Classifications,
    Embeddings,
    Metadata,
    Signature,
    TensorInfo,
    VersionStatus,
)
from serving.client.sync import EmbeddingClient

__all__ = [
    "AsyncEmbeddingClient",
    "BadReply",
    "Boxes",
    "Classifications",
    "DeadlineExceeded",
    "EmbeddingClient",
    "Embeddings",
    "InvalidRequest",
    "Metadata",
    "NotFound",
    "ServingError",
    "Signature",
    "TensorInfo",
    "Unavailable",
    "VersionChanged",
    "VersionStatus",
]
