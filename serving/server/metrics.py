"""Metrics by TensorFlow Serving's names, as Prometheus reads them."""

import re

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram

_ROOT = ":tensorflow:serving:"
REGISTRY = CollectorRegistry()
prometheus_client.disable_created_metrics()

# Upper bounds of buckets.
_MICROSECONDS = [10 * 1.8**power for power in range(33)]
_QUEUED = [100 * 1.2**power for power in range(52)]
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
    "batching_session:queuing_latency", "Time spent in the queue, microseconds.", (), _QUEUED
)
input_batch_size = _histogram("batching_session:input_batch_size", "Rows of a request.", (), _SIZES)
processed_batch_size = _histogram(
    "batching_session:processed_batch_size", "Rows of a batch, padding included.", (), _SIZES
)
wrapped_run_count = _counter("batching_session:wrapped_run_count", "Batches computed.")


_models: set[str] = set()


def know_model(name: str) -> None:
    """Lets a model's name be a label."""
    _models.add(name)


def label(name: str) -> str:
    """The label of a model's name; empty if no config names the model, because requests may name
    anything, and a label's memory is never freed."""
    return name if name in _models else ""


def forget_model(name: str) -> None:
    """Drops the counts of a model that is gone."""
    _models.discard(name)
    for metric in (request_count, request_latency, runtime_latency):
        metric.remove_by_labels({"model_name": name})


def forget_path(path: str) -> None:
    """Drops the counts of a version that is unloaded."""
    warm_up_latency.remove_by_labels({"model_path": path})


def page() -> bytes:
    """The metrics in Prometheus' text format, without the suffix `_total` that the library adds:
    TensorFlow Serving's names are older than that rule."""
    text = prometheus_client.generate_latest(REGISTRY)
    return re.sub(rb"(:tensorflow:serving:[a-z_:]+)_total\b", rb"\1", text)
