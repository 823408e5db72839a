"""A process that works when it is told to: `python -P -m peers.worker MODULE`.

The module offers `prepare(settings) -> {case: function}`, a function making so many steps and
returning an array that tells what came of them, and `about()`, a line on what does the work. The
first line of standard input holds the settings; it and each further line, JSON objects all, is
answered by one:

    {settings}                        {"cases": [...], "about": "..."}
    {"run": case, "steps": n}         {"ran": n}
    {"save": path}                    {"saved": path}, where the last array now is as npy

or by {"absent": why} where the module needs a library that is not there, or {"failed": why}.
"""

import importlib
import json
import os
import signal
import sys
from typing import Any

import numpy as np


def serve(module: str) -> None:
    """Answers until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks is interrupted, and ends this
    # What libraries print must not come between the answers.
    with os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8") as answers:
        os.dup2(2, 1)
        cases: dict[str, Any] = {}
        last: Any = None
        for line in sys.stdin:
            said = json.loads(line)
            try:
                if not cases:
                    offered = importlib.import_module(module)
                    cases = offered.prepare(said)
                    answer: dict[str, Any] = {"cases": list(cases), "about": offered.about()}
                elif "save" in said:
                    np.save(said["save"], last)
                    answer = {"saved": said["save"]}
                else:
                    last = cases[said["run"]](said["steps"])
                    answer = {"ran": said["steps"]}
            except Exception as error:  # whatever a library raises is told, not guessed at
                missing = isinstance(error, ModuleNotFoundError) and error.name != module
                kind = "absent" if missing else "failed"
                answer = {kind: f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    serve(sys.argv[1])
