"""The client that blocks."""

import os
import threading
import time
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any, Self, cast

import grpc
import numpy as np

from serving.client import plans
from serving.client.base import BaseClient, Clock
from serving.client.errors import ServingError
from serving.client.messages import Boxes, Classifications, Embeddings, Metadata, VersionStatus
from serving.client.plans import Ask, Pause, Plan, Progress, Step, T, advance


class EmbeddingClient(BaseClient):
    """Asks a TensorFlow Serving server for embeddings. Threads may share one client.

    `BaseClient` describes the arguments.

    A call that fails raises a `ServingError`: the request cannot be sent or is refused
    (`InvalidRequest`), there is no such model or version (`NotFound`), no server answers
    (`Unavailable`, after five attempts; `status` makes one), time ran out (`DeadlineExceeded`), the
    reply makes no sense (`BadReply`), or the client was closed. All results of a call are of one
    version of the model, also if it takes many requests and the server changes the version in
    between; where that is not possible, the call raises `VersionChanged`.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._channel: grpc.Channel = self._open(grpc)

    def embed(self, images: Any) -> Embeddings:
        """Embeds an array of images [N, H, W, C]: floats in [0, 1], or uint8, which is divided by
        255. The model sets H, W and C."""
        return self._run(plans.of_images(self._target, plans.EMBED, images))

    def embed_bytes(self, images: Iterable[bytes]) -> Embeddings:
        """Embeds the contents of N PNG, JPEG, WebP or BMP files: the server decodes and resizes.

        If the server refuses some, the error names them by their index.
        """
        return self._run(plans.of_bytes(self._target, plans.EMBED, images))

    def embed_files(
        self, paths: Iterable[str | os.PathLike[str]], progress: Progress | None = None
    ) -> Embeddings:
        """Embeds N PNG, JPEG, WebP or BMP files. Only the files under way are in memory.

        If the server refuses some, the error names them. `progress` is called with the number of
        images that are done, and N.
        """
        return self._run(plans.of_files(self._target, plans.EMBED, paths, progress))

    def certify(self, images: Any, epsilon: Any) -> Boxes:
        """Embeds an array of images, as `embed` takes them, and bounds the embeddings of all images
        that differ from one of them by at most `epsilon` in every pixel value.

        `epsilon` is a number of at least 0, or one for each image, where pixel values go from 0 to
        1. The model must have been exported with certificates.
        """
        return self._run(plans.of_images(self._target, plans.CERTIFY, images, epsilon))

    def certify_bytes(self, images: Iterable[bytes], epsilon: Any) -> Boxes:
        """The same for the contents of N files, as `embed_bytes` takes them. The images near one
        are those near what the server makes of the file."""
        return self._run(plans.of_bytes(self._target, plans.CERTIFY, images, epsilon))

    def certify_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        epsilon: Any,
        progress: Progress | None = None,
    ) -> Boxes:
        """The same for N files, as `embed_files` takes them."""
        return self._run(plans.of_files(self._target, plans.CERTIFY, paths, progress, epsilon))

    def classify(self, images: Any) -> Classifications:
        """Classifies an array of images, as `embed` takes them. The model must be a classifier that
        `python -m training.classify --to` exported."""
        return self._run(plans.of_images(self._target, plans.CLASSIFY, images))

    def classify_bytes(self, images: Iterable[bytes]) -> Classifications:
        """Classifies the contents of N files, as `embed_bytes` takes them."""
        return self._run(plans.of_bytes(self._target, plans.CLASSIFY, images))

    def classify_files(
        self, paths: Iterable[str | os.PathLike[str]], progress: Progress | None = None
    ) -> Classifications:
        """Classifies N files, as `embed_files` takes them."""
        return self._run(plans.of_files(self._target, plans.CLASSIFY, paths, progress))

    def decode(self, latents: Any) -> np.ndarray:
        """Decodes latents [N, D] to images float32 [N, H, W, C]."""
        return self._run(plans.decode(self._target, latents))

    def status(self) -> list[VersionStatus]:
        """The versions of the model that the server knows, the newest first."""
        return self._run(plans.status(self._target))

    def metadata(self) -> Metadata:
        """What the model takes and gives: its signatures."""
        return self._run(plans.metadata(self._target))

    def wait_until_ready(self, timeout: float = 60.0) -> int:
        """Waits until a version of the model is available, or the client's own version if it has
        one, and returns its number. No server or no model is an error only after `timeout`
        seconds."""
        return self._run(plans.wait_until_ready(self._target, timeout), timeout)

    def close(self) -> None:
        """Ends the connection, and with an error the calls under way."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _connected(self) -> grpc.Channel:
        return self._channel

    def _run(self, plan: Plan[T], timeout: float | None = None) -> T:
        clock, plan = self._clock(timeout), plans.explained(self._target, plan)
        step, result = advance(plan)
        while step is not None:
            error = None
            try:
                self._do(step, clock)
            except ServingError as caught:
                error = caught
            step, result = advance(plan, error)
        return cast(T, result)

    def _do(self, step: Step, clock: Clock) -> None:
        if isinstance(step, Pause):
            time.sleep(clock.pause(step.seconds))
            return
        ended: SimpleQueue[Any] = SimpleQueue()
        waiting: dict[Any, tuple[int, Ask]] = {}

        def finish() -> None:
            call = ended.get()
            step.last, ask = waiting.pop(call)
            step.take(step.last, ask, call.result())

        try:
            for place, ask in enumerate(step.asks):
                if len(waiting) == self._concurrency:
                    finish()
                waiting[self._send(ask, clock.left(), ended.put)] = (place, ask)
            while waiting:
                finish()
        except grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            for call in waiting:
                call.cancel()

    def _send(self, ask: Ask, timeout: float, ended: Callable[[Any], None]) -> Any:
        """Begins a request; `ended` is called with it when it is over.

        A thread begins it: Ctrl-C raises KeyboardInterrupt in the main thread, and if that happened
        while gRPC began a request, the channel would never close.
        """
        begun: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()

        def begin() -> None:
            try:
                call = self._method(ask).future(ask.request, timeout=timeout)
                call.add_done_callback(ended)
                begun.put((call, None))
            except Exception as error:
                begun.put((None, error))

        threading.Thread(target=begin, daemon=True).start()
        call, error = begun.get()
        if isinstance(error, ValueError):  # the channel is closed
            raise self._error() from error
        if error is not None:
            raise error
        return call
