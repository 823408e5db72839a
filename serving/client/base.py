"""What the two clients share: their arguments, and the channel that follows from them."""

import json
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from serving.client.errors import DeadlineExceeded, InvalidRequest, ServingError, of_rpc
from serving.client.messages import model_spec
from serving.client.plans import Ask, Target

Pem = str | Path | bytes
"""Keys or certificates in PEM: the path of a file, or its content."""

_LONGEST = 1e8
"""Seconds, three years: what is longer, gRPC takes for no time at all."""

_LARGEST_MB = 2047
"""gRPC counts bytes in 31 bits."""


class BaseClient(ABC):
    """A client without the way in which it waits.

    Args:
        address: host:port of the server's gRPC port.
        model: its name on the server.
        version: its version; the newest unless given.
        label: the server's name for a version, instead of its number.
        timeout: seconds that a call may take, however many requests it makes; None: any time.
        request_timeout: seconds that each request may take with its retries; None: the time that
            the call has left.
        batch_size: largest number of images in a request; calls are split. The server has its own
            limit, `max_batch_size`.
        concurrency: largest number of requests at a time.
        max_message_mb: largest size of a request or a reply, MiB; calls are split to keep to it.
        tls: whether to speak TLS; each of the next three means it too. Without `tls_ca`, gRPC's
            own list of authorities is trusted.
        tls_ca: certificates of the authorities that may vouch for the server.
        tls_cert: the client's certificate, for a server that asks for one (mutual TLS).
        tls_key: its key, not encrypted.
        channel_options: further channel arguments of gRPC; they replace the client's own.

    Raises:
        InvalidRequest: a value cannot be used, or a file not be read.
    """

    def __init__(
        self,
        address: str = "localhost:8500",
        model: str = "encoder",
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = 60.0,
        request_timeout: float | None = None,
        batch_size: int = 64,
        concurrency: int = 4,
        max_message_mb: int = 64,
        tls: bool = False,
        tls_ca: Pem | None = None,
        tls_cert: Pem | None = None,
        tls_key: Pem | None = None,
        channel_options: Sequence[tuple[str, Any]] = (),
    ):
        counts = {"batch_size": batch_size, "concurrency": concurrency}
        for name, count in (counts | {"max_message_mb": max_message_mb}).items():
            if count < 1:
                raise InvalidRequest(f"{name} is {count}; it must be at least 1")
        if max_message_mb > _LARGEST_MB:
            raise InvalidRequest(f"max_message_mb is {max_message_mb}; at most {_LARGEST_MB}")
        for name, value in (("timeout", timeout), ("request_timeout", request_timeout)):
            if value is not None and not value > 0:
                raise InvalidRequest(f"{name} is {value}; it must be above 0 seconds")
        self._address, self._concurrency = address, concurrency
        self._closed = False
        self._timeout, self._request_timeout = timeout, request_timeout
        max_bytes = max_message_mb << 20
        self._target = Target(model_spec(model, version, label), batch_size, max_bytes)
        with_tls = tls or any(pem is not None for pem in (tls_ca, tls_cert, tls_key))
        self._credentials = _credentials(tls_ca, tls_cert, tls_key) if with_tls else None
        self._options = list((_channel_options(max_bytes) | dict(channel_options)).items())

    @abstractmethod
    def _connected(self) -> Any:
        """The channel, of the client's own kind."""

    def _open(self, library: Any) -> Any:
        """A channel of `grpc` or `grpc.aio`."""
        if self._credentials is None:
            return library.insecure_channel(self._address, self._options)
        return library.secure_channel(self._address, self._credentials, self._options)

    def _method(self, ask: Ask) -> Any:
        """The function that sends the request."""
        return self._connected().unary_unary(
            ask.method.path,
            # Replies come as bytes: gRPC would make INTERNAL of one that is no message.
            request_serializer=lambda request: request.SerializeToString(),
        )

    def _error(self, error: grpc.RpcError | None = None) -> ServingError:
        """The error of a failed call; None: a closed channel refused it."""
        if self._closed or error is None:
            return ServingError(f"{self._address}: the client is closed")
        return of_rpc(error, self._address)

    def _clock(self, timeout: float | None) -> "Clock":
        """The time of a call: the client's, unless the call has its own."""
        if timeout is None:
            return Clock(self._address, self._timeout, self._request_timeout)
        return Clock(self._address, timeout, None)


@dataclass(frozen=True)
class Clock:
    """The time that a call to `address` has left, in seconds; None: any time."""

    address: str
    timeout: float | None
    request_timeout: float | None
    start: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds that a request that starts now may take; raises `DeadlineExceeded` at 0."""
        left = _LONGEST
        if self.timeout is not None:
            left = min(left, self.start + self.timeout - time.monotonic())
        if left <= 0:
            raise DeadlineExceeded(
                f"{self.address}: the call took longer than its {self.timeout:g} s; allow more",
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )
        return min(left, self.request_timeout or left)

    def pause(self, seconds: float) -> float:
        """Seconds to wait: as many as are asked for, or as are left."""
        return min(seconds, self.left())


def _channel_options(max_bytes: int) -> dict[str, Any]:
    retries = {
        "maxAttempts": 5,  # the first one included; gRPC makes no more
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 3,
        # What gRPC's own servers say of a request that reaches them as they close is CANCELLED. One
        # that the caller cancels is not tried again.
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    }
    # A look at the status is a look at now, so the ModelService is not asked twice.
    retried = [{"service": "tensorflow.serving.PredictionService"}]
    service = {"methodConfig": [{"name": retried, "retryPolicy": retries}]}
    return {
        "grpc.service_config": json.dumps(service),
        # A request larger than this buffer, of 256 KiB by default, is not tried again.
        "grpc.per_rpc_retry_buffer_size": max_bytes + (64 << 10),
        "grpc.max_send_message_length": max_bytes,
        "grpc.max_receive_message_length": max_bytes,
        # A server that comes up is found soon: the default waits grow to two minutes.
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 1000,
    }


def _credentials(ca: Pem | None, cert: Pem | None, key: Pem | None) -> grpc.ChannelCredentials:
    # gRPC itself says of a wrong file no more than that it cannot connect.
    if (cert is None) != (key is None):
        raise InvalidRequest("of tls_cert and tls_key one is missing; give both or neither")
    pems = (
        _pem("tls_ca", ca, _check_certificates),
        _pem("tls_key", key, _check_key),
        _pem("tls_cert", cert, _check_certificates),
    )
    if isinstance(cert, str | Path) and isinstance(key, str | Path):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key)
        except ssl.SSLError as error:
            raise InvalidRequest(
                f"tls_key {key} is not that of tls_cert {cert}: {error}"
            ) from error
    return grpc.ssl_channel_credentials(*pems)


def _pem(name: str, given: Pem | None, check: Callable[[bytes], None]) -> bytes | None:
    if given is None:
        return None
    try:
        content = given if isinstance(given, bytes) else Path(given).read_bytes()
        check(content)
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        place = "" if isinstance(given, bytes) else f" {given}"
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"{name}{place} cannot be used: {reason}") from error
    return content


def _check_certificates(content: bytes) -> None:
    text = content.decode("ascii", "ignore")  # what is around certificates may be anything
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)


def _check_key(content: bytes) -> None:
    if b"PRIVATE KEY-----" not in content:
        raise ValueError("it holds no private key in PEM")
    if b"ENCRYPTED" in content:
        raise ValueError("the key is encrypted; decrypt it first")
