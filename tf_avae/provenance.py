"""Where a result comes from: versions, commit, machine, command."""

import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tensorflow as tf

_PACKAGES = (
    "tf-avae",
    "tensorflow",
    "keras",
    "tensorflow-probability",
    "tf-keras",
    "tensorflow-datasets",
    "numpy",
    "scikit-learn",
    "scipy",
)


def provenance() -> dict[str, Any]:
    """Versions, source commit, processors, graphics processors and platform of this process."""
    return {
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in _PACKAGES},
        "commit": source_commit(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "accelerators": accelerators(),
    }


def accelerators() -> list[str]:
    """Names of the graphics processors that TensorFlow computes on here: the same arithmetic in
    another order, so what they compute differs from a CPU's in the last bits."""
    found = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu)["device_name"] for gpu in found]


def session() -> dict[str, str]:
    """The command that is running, and when it started."""
    program = sys.argv[0]
    module = sys.modules["__main__"].__spec__
    words = (
        ["python", "-m", module.name.removesuffix(".__main__")] if module else ["python", program]
    )
    return {
        "command": shlex.join([*words, *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def source_commit() -> str | None:
    """The commit of the checkout this package runs from, with "+changes" where it was edited.

    None where the package is installed without its repository.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changed else "")


def source_checksum() -> str:
    """SHA-256 over the sources of this package: what else decides a result, beside its inputs."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
