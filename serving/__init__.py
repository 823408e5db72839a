"""Serving robust embeddings: export, server, clients."""

import importlib.util


def require(extra: str, **modules: str) -> None:
    """Raises if modules are not installed; the message says what installs them.

    Args:
        extra: the package's own extra that installs them.
        modules: name of each module, with "__" for a dot, to that of its distribution.

    Raises:
        ModuleNotFoundError: some are not installed.
    """
    missing = [name for name in modules if not _is_there(name.replace("__", "."))]
    if missing:
        raise ModuleNotFoundError(
            f"not installed: {', '.join(modules[name] for name in missing)}; in a checkout: "
            f"pip install '.[{extra}]'",
            name=missing[0],
        )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that the module is in
        return False
