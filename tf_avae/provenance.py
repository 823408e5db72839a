"""Where a result comes from: versions, commit, machine, command."""

import hashlib
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

from tf_avae import plugins
from tf_avae.backend import tf
from tf_avae.console.commands import words

_PACKAGES = (
    "tf-avae tensorflow keras tensorflow-probability tf-keras tensorflow-datasets numpy "
    "scikit-learn scipy".split()
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


def session() -> dict[str, Any]:
    """The command that is running, as it may be shown to others, when it started, and the plugins
    that are loaded, if any are."""
    noted = {
        "command": shlex.join(map(_shareable, _without_secrets(words()))),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return noted | ({"plugins": plugins.loaded()} if plugins.loaded() else {})


def published(notes: Any) -> Any:
    """JSON values as they may be shown to others: paths without what lies above this folder, and
    commands without secrets.

    A path below this folder is shown as seen from it, one below the home folder as `~/...`, and of
    any other the last part: `.../NAME`.
    """
    if isinstance(notes, dict):
        return {
            key: _command(value)
            if key == "command" and isinstance(value, str)
            else published(value)
            for key, value in notes.items()
        }
    if isinstance(notes, list | tuple):
        return [published(value) for value in notes]
    return _shareable(notes) if isinstance(notes, str) else notes


_SECRET = re.compile(
    r"pass(word|wd|phrase|code)?\b|pwd|secret|token|credential|auth|connection[-_]?string|sas\b"
    r"|(api|access|account|private|storage|encryption|session)[-_]?key",
    re.IGNORECASE,
)
"""Names of options whose values are secret."""

_HIDDEN = "***"

ELSEWHERE = ".../"
"""It replaces the folders above, in paths outside of this and the home folder."""

_URL = re.compile(r"([a-z][a-z0-9+.-]*://)([^/?#\s]*@)?([^?#\s]*)(\?[^#\s]*)?", re.IGNORECASE)
_WHOLE = re.compile(r"([\w.-]+=)?((?:file://)?/[^/].*)")
_PATH = re.compile(r"(?<![\w.~*/-])(?:file://)?(?!//)/[^\s:,;'\"]+")


def _command(line: str) -> str:
    """A command line as it may be shown to others."""
    try:
        split = shlex.split(line)
    except ValueError:  # not one that this package wrote
        return _shareable(line)
    return shlex.join(map(_shareable, _without_secrets(split)))


def _without_secrets(given: list[str]) -> list[str]:
    """Words of a command without the values of options that are called like secrets."""
    kept: list[str] = []
    hide_next = False
    for word in given:
        name, separator, _ = word.partition("=")
        secret = bool(_SECRET.search(name)) and (word.startswith("-") or bool(separator))
        if hide_next and not word.startswith("-"):
            kept.append(_HIDDEN)
        else:
            kept.append(f"{name}={_HIDDEN}" if secret and separator else word)
        hide_next = secret and not separator
    return kept


def _shareable(text: str) -> str:
    """A text without users and queries of URLs, and with short paths."""

    def of_url(found: re.Match[str]) -> str:
        scheme, user, place, query = found.groups()
        if scheme.lower() == "file://":
            return found[0]  # a path
        return scheme + (f"{_HIDDEN}@" if user else "") + place + (f"?{_HIDDEN}" if query else "")

    whole = _WHOLE.fullmatch(text)
    if whole:
        return (whole[1] or "") + _short(whole[2])
    return _PATH.sub(lambda found: _short(found[0]), _URL.sub(of_url, text))


def _short(path: str) -> str:
    path = path.removeprefix("file://")
    for above, shown in ((Path.cwd(), ""), (Path.home(), "~/")):
        if Path(path).is_relative_to(above) and above != Path("/"):
            return shown + str(Path(path).relative_to(above))
    return f"{ELSEWHERE}{Path(path).name}"


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
    """SHA-256 over the sources of this package and of plugins."""
    digest = hashlib.sha256(repr(plugins.loaded()).encode() if plugins.loaded() else b"")
    root = Path(__file__).resolve().parent
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True)
    return done.stdout.decode(errors="replace").strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
