"""Made-up results of a sweep's cells, as far as its figures read them."""

import json

TASKS = ("digit", "color")


def write(sweep, cell, content):
    """What a cell is done with."""
    path = sweep.result(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def evaluation(config, radii, accuracy, *, nominal=True, **sections):
    """The results.json of an encoder on ColorMNIST.

    Args:
        config: of its run.
        radii: of the attacks.
        accuracy: (task, radius) to percent; radius 0 for images as they are.
        nominal: whether the probes are a section.
        sections: others, beside the robustness.
    """

    def share(task, epsilon):
        return {"value": accuracy(task, epsilon) / 100}

    record = {
        "sha256": "ab", "left_out": {}, "config": config,
        "robustness": {"rows": [
            {"task": t, "head": "linear", "epsilon": e, "accuracy": share(t, e)}
            for t in TASKS for e in radii
        ]},
        **sections,
    }  # fmt: skip
    if nominal:
        record["probes"] = {t: {"linear": {"nominal": share(t, 0)}} for t in TASKS}
    return {
        "settings": {"tasks": list(TASKS), "epsilons": list(radii)}, "encoders": [record],
        "data": {"name": "color_mnist", "test_images": 10_000, "checksums": {"a": "b"}},
        "provenance": {"commit": "c0ffee"},
    }  # fmt: skip
