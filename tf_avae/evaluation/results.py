"""What `python -m training.evaluate` wrote, read back."""

from pathlib import Path
from typing import Any

from tf_avae.records import damaged, read_record

_SHAPE = {
    "settings": dict,
    "data": {"checksums": {str: str}},
    "encoders": [dict],
    "provenance": dict,
}


def read_results(path: str | Path, remedy: str) -> dict[str, Any]:
    """The results of an evaluation, of one encoder or more.

    Args:
        path: its `results.json`.
        remedy: what to do about a file that is none.

    Raises:
        InputError: there is no such file, or it is no evaluation's; with the remedy.
    """
    results = read_record(path, _SHAPE, remedy)
    if not results["encoders"]:
        raise damaged(path, "it has no encoders", remedy)
    return results
