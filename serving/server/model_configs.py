"""A model's config: whether it is valid, the model's folder, and the versions it wants."""

from pathlib import Path
from typing import Any, TypeAlias

from serving.server.status import Code, StatusError, invalid
from tf_avae.backend import Lazy

model_server_config_pb2 = Lazy("tensorflow_serving.config.model_server_config_pb2")

ModelConfig: TypeAlias = Any
"""A `tensorflow_serving.config.model_server_config_pb2.ModelConfig`; the classes have no types."""

ModelConfigList: TypeAlias = Any
"""The same file's list of them."""


def check(configs: ModelConfigList) -> None:
    """Raises `StatusError`, in TensorFlow Serving's words, if a model's config is not valid."""
    seen = set()
    for config in configs.config:
        if config.name in seen:
            raise invalid(f"Illegal to list model {config.name} multiple times in config list")
        seen.add(config.name)
    for config in configs.config:
        _check_base_path(config)
    for config in configs.config:
        _check_platform(config)


def folder_of(base_path: str) -> Path:
    """The folder of a base path, which may start with `file://`; raises `StatusError` for another
    kind of storage."""
    scheme, separator, rest = base_path.partition("://")
    if separator and scheme and scheme.replace("+", "").isalnum():
        if scheme != "file":
            raise StatusError(
                Code.UNIMPLEMENTED,
                f"File system scheme '{scheme}' not implemented (file: '{base_path}'): this server "
                "reads folders of its own machine; copy the model to one and name that",
            )
        return Path(rest)
    return Path(base_path)


def _check_base_path(config: ModelConfig) -> None:
    if not folder_of(config.base_path).is_absolute() or "\0" in config.base_path:
        raise invalid(
            f"Expected model {config.name} to have an absolute path or URI; got "
            f"base_path()={config.base_path}"
        )


def _check_platform(config: ModelConfig) -> None:
    """Raises unless the old field or the new one, not both, names TensorFlow."""
    if config.model_type:
        if config.model_platform:
            raise invalid(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                f"ModelServerConfig::model_platform, model name is {config.name}"
            )
        if config.model_type != model_server_config_pb2.TENSORFLOW:
            raise invalid(
                f"ModelServerConfig::model_type choice {config.model_type} not supported."
            )
    elif not config.model_platform:
        raise invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {config.name}"
        )
    elif config.model_platform != "tensorflow":
        raise invalid(f"Model {config.name} requests unsupported platform {config.model_platform}")


def versions_in(base: Path) -> dict[int, Path]:
    """The folders in a base path whose names are numbers of 63 bits; `7` wins over `007`."""
    names = sorted(path.name for path in base.iterdir() if path.is_dir())
    numbers = {int(name): base / name for name in names if name.isascii() and name.isdigit()}
    return {number: path for number, path in numbers.items() if number < 2**63}


def wanted_of(config: ModelConfig, found: list[int]) -> set[int]:
    """The versions, of those found, that a model's policy asks for."""
    policy = config.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return set(found)
    if choice == "specific":
        return set(policy.specific.versions) & set(found)
    return set(found[-max(1, policy.latest.num_versions) :])
