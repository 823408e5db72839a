"""The command line: tensorflow_model_server's own flags, and the text files they name."""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from serving.protocol import BatchingParameters, MonitoringConfig, SSLConfig
from serving.server.budget import LARGEST_REQUEST
from serving.server.model_configs import ModelConfigList, folder_of
from serving.server.status import StatusError
from tf_avae.backend import Lazy
from tf_avae.console.commands import Parser, add_trust
from tf_avae.errors import InputError
from tf_avae.saved.shipped import SHIPPED

model_server_config_pb2 = Lazy("tensorflow_serving.config.model_server_config_pb2")
AnyMessage = TypeVar("AnyMessage", bound=Message)

METRICS_PATH = "/monitoring/prometheus/metrics"
# Flags that the container takes and that change nothing here.
WITHOUT_EFFECT = (
    "rest_api_num_threads", "grpc_max_threads", "num_unload_threads", "flush_filesystem_caches",
    "per_process_gpu_memory_fraction", "remove_unused_fields_from_bundle_metagraph",
    "enable_signature_method_name_check", "enable_profiler", "enable_grpc_healthcheck_service",
    "skip_initialize_tpu", "xla_cpu_compilation_enabled", "xla_gpu_compilation_enabled",
    "prefer_tflite_model", "num_tflite_pools", "num_tflite_interpreters_per_pool",
)  # fmt: skip
# Flags that would change the answers and are not supported here.
ONLY_THERE = (
    "enable_per_model_batching_parameters", "tensorflow_session_config_file", "mixed_precision",
    "platform_config_file", "thread_pool_factory_config_file", "use_alts_credentials", "version",
)  # fmt: skip
_RANGES = {"port": (0, 65535), "rest_api_port": (0, 65535), "max_request_mib": (1, 2000)}
_NOT_NEGATIVE = (
    "file_system_poll_wait_seconds", "model_config_file_poll_wait_seconds", "num_load_threads",
    "max_num_load_retries", "tensorflow_session_parallelism", "rest_api_timeout_in_ms",
    "tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism",
    "num_request_iterations_for_warmup",
)  # fmt: skip


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m serving.server",
        description="Serves exported models as tensorflow_model_server does, with its flags. For "
        "laptops, tests and machines without Docker; production is the container.",
    )

    def flag(name: str, kind: Any, default: object, text: str) -> None:
        options: dict[str, Any] = {"type": kind}
        shown = str(default)
        if kind is bool:
            options = {"type": _truth, "nargs": "?", "const": True, "metavar": "BOOL"}
            shown = shown.lower()
        made.add_argument(
            f"--{name}", default=default, help=f"{text} [{shown}]" if shown else text, **options
        )

    listed = ", ".join(SHIPPED)
    made.add_argument(
        "--demo", action="store_true",
        help=f"serve what comes with the package ({listed}), under that name; no flag of the "
        "container",
    )  # fmt: skip
    add_trust(made)
    flag("host", str, "127.0.0.1", "address to listen on; no flag of the container: it takes all")
    flag(
        "max_request_mib", int, LARGEST_REQUEST >> 20,
        "what one request may take, counted by its shapes with its outputs, MiB; no flag of the "
        "container",
    )  # fmt: skip
    flag("port", int, 8500, "port for gRPC; 0: none")
    flag("grpc_socket_path", str, "", "UNIX socket for gRPC")
    flag("rest_api_port", int, 0, "port for REST and metrics; 0: none")
    flag("rest_api_timeout_in_ms", int, 30000, "timeout of REST calls")
    flag("rest_api_enable_cors_support", bool, False, "CORS headers in REST replies")
    flag("model_name", str, "default", "name of the one model, without --model_config_file")
    flag("model_base_path", str, "", "folder of its versions")
    flag("model_config_file", str, "", "text ModelServerConfig: several models, policies, labels")
    flag("model_config_file_poll_wait_seconds", int, 0, "seconds between looks at it; 0: one look")
    flag("file_system_poll_wait_seconds", int, 1, "seconds between looks for versions; 0: one look")
    flag("allow_version_labels_for_unavailable_models", bool, False,
         "let a new label name a version that is not available yet")  # fmt: skip
    flag("enable_batching", bool, False, "merge requests")
    flag("batching_parameters_file", str, "", "text BatchingParameters")
    flag("enable_model_warmup", bool, True,
         "replay a version's warm-up requests before it is available")  # fmt: skip
    flag("num_request_iterations_for_warmup", int, 1, "times that each is replayed")
    flag("num_load_threads", int, 0, "versions loaded at once; 0: one")
    flag("max_num_load_retries", int, 5, "times that loading is tried again")
    flag("load_retry_interval_micros", int, 60_000_000, "time between those")
    flag("tensorflow_session_parallelism", int, 0, "threads of a session; 0: automatic")
    flag("tensorflow_intra_op_parallelism", int, 0, "threads of an operation; 0: automatic")
    flag("tensorflow_inter_op_parallelism", int, 0, "operations at once; 0: automatic")
    flag("ssl_config_file", str, "", "text SSLConfig: TLS for gRPC")
    flag("monitoring_config_file", str, "", "text MonitoringConfig: metrics for Prometheus")
    flag("grpc_channel_arguments", str, "", "comma-separated key=value")
    flag("enable_serialization_as_tensor_content", bool, False, "replies in tensor_content")
    flag("saved_model_tags", str, "serve", "only serve is served here")
    for name in WITHOUT_EFFECT:
        made.add_argument(f"--{name}", nargs="?", const="true", help="no effect here")
    for name in ONLY_THERE:
        made.add_argument(f"--{name}", nargs="?", const="true", help="only in the container")
    return made


def _truth(word: str) -> bool:
    if word.lower() in ("true", "1", "t"):
        return True
    if word.lower() in ("false", "0", "f"):
        return False
    raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")


def check(given: argparse.Namespace) -> None:
    """Raises `InputError` if a flag is out of range or flags contradict one another."""
    for name in ONLY_THERE:
        if getattr(given, name) is not None:
            raise InputError(f"--{name} is not supported here; leave it out, or use the container")
    for name, (low, high) in _RANGES.items():
        if not low <= getattr(given, name) <= high:
            raise InputError(f"--{name} is {getattr(given, name)}; it must be from {low} to {high}")
    for name in _NOT_NEGATIVE:
        if getattr(given, name) < 0:
            raise InputError(f"--{name} is {getattr(given, name)}; it must be at least 0")
    if not given.port and not given.grpc_socket_path:
        raise InputError("--port is 0 and there is no --grpc_socket_path; give one of them")
    if given.port and given.port == given.rest_api_port:
        raise InputError(f"--rest_api_port is {given.port}, as --port is; give another one")
    named = bool(given.model_base_path or given.model_config_file)
    if given.demo and named:
        raise InputError(
            "--demo serves what comes with the package; leave it out, or --model_base_path and "
            "--model_config_file"
        )
    if not given.demo and not named:
        raise InputError(
            "both --model_base_path and --model_config_file are empty; give one, or --demo"
        )
    if given.batching_parameters_file and not given.enable_batching:
        raise InputError("--batching_parameters_file is set without --enable_batching")
    if given.saved_model_tags != "serve":
        raise InputError(f"--saved_model_tags is {given.saved_model_tags!r}; it must be serve")


def read_models(given: argparse.Namespace) -> ModelConfigList:
    """The models that the flags name; raises `InputError` if the config file does not parse, or the
    one model's folder does not exist or is on another kind of storage."""
    if given.model_config_file:
        config = _read(given.model_config_file, model_server_config_pb2.ModelServerConfig())
        if config.WhichOneof("config") != "model_config_list":
            raise InputError(f"{given.model_config_file} has no model_config_list")
        return config.model_config_list
    if given.demo:
        return _models({name: shipped.path for name, shipped in SHIPPED.items()})
    try:
        base = folder_of(given.model_base_path).expanduser().absolute()
    except StatusError as error:
        raise InputError(f"--model_base_path: {error.message}") from error
    if not base.is_dir():
        raise InputError(
            f"--model_base_path {base} is not a folder; export a model into it: "
            f"python -m serving.export RUN --to {shlex.quote(given.model_base_path)}"
        )
    return _models({given.model_name: base})


def _models(folders: dict[str, Path]) -> ModelConfigList:
    """Models by name, each the newest version in its folder."""
    models = model_server_config_pb2.ModelConfigList()
    for name, folder in folders.items():
        models.config.add(name=name, base_path=str(folder), model_platform="tensorflow")
    return models


def read_batching(path: str) -> Any:
    """A batching file; the defaults if there is none."""
    return _read(path, BatchingParameters()) if path else BatchingParameters()


def read_tls(path: str) -> Any:
    """A TLS file."""
    config = _read(path, SSLConfig())
    for name in ("server_key", "server_cert"):
        if not getattr(config, name):
            raise InputError(f"{path} has no {name}; put the PEM text of one there")
    if config.client_verify and not config.custom_ca:
        raise InputError(
            f"{path} asks for client certificates (client_verify) and has no custom_ca to check "
            "them by; put the PEM text of one there"
        )
    return config


def read_metrics_path(path: str) -> str | None:
    """The path of the metrics' page; None if the file does not enable it."""
    config = _read(path, MonitoringConfig()) if path else MonitoringConfig()
    if not config.prometheus_config.enable:
        return None
    return config.prometheus_config.path or METRICS_PATH


def channel_arguments(text: str) -> dict[str, int | str]:
    """The pairs of `key=value,key=value`; whole numbers become `int`."""
    found: dict[str, int | str] = {}
    for part in filter(None, text.split(",")):
        key, separator, value = part.partition("=")
        if not separator:
            raise InputError(f"--grpc_channel_arguments has {part!r}; each must be key=value")
        found[key] = value
        if re.fullmatch(r"-?[0-9]+", value):
            found[key] = int(value)
            if not -(2**31) <= int(value) < 2**31:
                raise InputError(
                    f"--grpc_channel_arguments has {part!r}; numbers must be of 32 bits"
                )
    return found


def _read(path: str, message: AnyMessage) -> AnyMessage:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
        return text_format.Parse(text, message)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        kind = message.DESCRIPTOR.name
        raise InputError(f"{path} is not a {kind} in text format: {error}") from error
