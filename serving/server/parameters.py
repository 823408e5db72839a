"""How requests are merged: the fields of a batching file, checked."""

from dataclasses import dataclass
from typing import Any

from tf_avae.errors import InputError


@dataclass(frozen=True)
class Parameters:
    """How requests are merged; the defaults are TensorFlow Serving's.

    Attributes:
        max_batch_size: largest number of rows in a batch.
        timeout: seconds that an open batch waits for more.
        max_enqueued_batches: batches that may wait in a queue.
        threads: batches that are computed at once.
        allowed: sizes that batches are padded to; empty: any.
        largest: largest number of rows computed at once; larger requests are split
            (`max_execution_batch_size`, with `enable_large_batch_splitting`).
    """

    max_batch_size: int = 1000
    timeout: float = 0.0
    max_enqueued_batches: int = 10
    threads: int = 2
    allowed: tuple[int, ...] = ()
    largest: int = 0  # max_batch_size

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_enqueued_batches", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        object.__setattr__(self, "largest", self.largest or self.max_batch_size)
        if self.largest > self.max_batch_size:
            raise InputError(
                f"max_execution_batch_size is {self.largest}; it must be at most max_batch_size, "
                f"{self.max_batch_size}"
            )
        if self.timeout < 0:
            raise InputError("batch_timeout_micros is below 0; it must be at least 0")
        if list(self.allowed) != sorted(set(self.allowed)):
            raise InputError("allowed_batch_sizes entries must be monotonically increasing")
        if self.allowed and self.allowed[-1] != self.largest:
            whole = self.largest == self.max_batch_size
            name = "max_batch_size" if whole else "max_execution_batch_size"
            raise InputError(
                f"Last entry in allowed_batch_sizes must match {name}; last entry was "
                f"{self.allowed[-1]}; expected {self.largest}"
            )

    @classmethod
    def of_proto(cls, proto: Any, threads: int) -> "Parameters":
        """From the `BatchingParameters` of a file; `threads` is the default."""

        def value(name: str, default: int) -> int:
            return int(getattr(proto, name).value) if proto.HasField(name) else default

        splits = value("enable_large_batch_splitting", 0)
        return cls(
            max_batch_size=value("max_batch_size", cls.max_batch_size),
            timeout=value("batch_timeout_micros", 0) / 1e6,
            max_enqueued_batches=value("max_enqueued_batches", cls.max_enqueued_batches),
            threads=value("num_batch_threads", threads),
            allowed=tuple(proto.allowed_batch_sizes),
            largest=value("max_execution_batch_size", 0) if splits else 0,
        )

    def padded(self, rows: int) -> int:
        """The smallest allowed size that holds so many rows."""
        return next((size for size in self.allowed if size >= rows), rows)
