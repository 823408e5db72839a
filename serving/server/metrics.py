"""Metrics by TensorFlow Serving's names, as Prometheus reads them."""

import re

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram

_ROOT = ":tensorflow:serving:"
REGISTRY = CollectorRegistry()
prometheus_client.disable_created_metrics()


def _exponential(first: float, growth: float, count: int) -> list[float]:
    """Bounds of buckets, each `growth` times the one before."""
    return [first * growth**power for power in range(count)]


_MICROSECONDS = _exponential(10, 1.8, 33)
_SIZES = [2.0**power for power in range(11)]


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(_ROOT + name, text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, labels: tuple[str, ...], buckets: list[float]) -> Histogram:
    return Histogram(_ROOT + name, text, labels, buckets=buckets, registry=REGISTRY)


request_count = _counter("request_count", "The total number of requests.", "model_name", "status")
request_latency = _histogram(
    "request_latency", "Wall time of a request, microseconds.",
    ("model_name", "API", "entrypoint"), _MICROSECONDS,
)  # fmt: skip
runtime_latency = _histogram(
    "runtime_latency", "Wall time of TensorFlow's part, microseconds.",
    ("model_name", "API", "runtime"), _MICROSECONDS,
)  # fmt: skip
warm_up_latency = _histogram(
    "model_warmup_latency", "Wall time of a model's warm-up, microseconds.",
    ("model_path", "status"), _MICROSECONDS,
)  # fmt: skip
queuing_latency = _histogram(
    "batching_session:queuing_latency", "Time spent in the queue, microseconds.",
    (), _exponential(100, 1.2, 52),
)  # fmt: skip
input_batch_size = _histogram("batching_session:input_batch_size", "Rows of a request.", (), _SIZES)
processed_batch_size = _histogram(
    "batching_session:processed_batch_size", "Rows of a batch, padding included.", (), _SIZES
)
wrapped_run_count = _counter("batching_session:wrapped_run_count", "Batches computed.")


def page() -> bytes:
    """The metrics in Prometheus' text format.

    The names are older than the rule that a counter's ends in `_total`, which the library adds.
    """
    text = prometheus_client.generate_latest(REGISTRY)
    return re.sub(rb"(:tensorflow:serving:[a-z_:]+)_total\b", rb"\1", text)
