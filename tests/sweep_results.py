"""Made-up results of a sweep's cells, as far as its figures read them."""

import json

TASKS = ("digit", "color")


def write(sweep, cell, content):
    """What a cell is done with."""
    path = sweep.result(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def evaluation(config, radii, accuracy, *, heads=("linear",), nominal=True, **sections):
    """The results.json of an encoder on ColorMNIST.

    Args:
        config: of its run.
        radii: of the attacks.
        accuracy: (task, head, radius) to percent; radius 0 for images as they are.
        heads: names of heads.
        nominal: whether the probes are a section.
        sections: others, beside the robustness.
    """

    def share(*where):
        return {"value": accuracy(*where) / 100}

    record = {
        "sha256": "ab", "left_out": {}, "config": config,
        "robustness": {"rows": [
            {"task": t, "head": h, "epsilon": e, "accuracy": share(t, h, e)}
            for t in TASKS for h in heads for e in radii
        ]},
        **sections,
    }  # fmt: skip
    if nominal:
        record["probes"] = {t: {h: {"nominal": share(t, h, 0)} for h in heads} for t in TASKS}
    return {
        "settings": {"tasks": list(TASKS), "heads": list(heads), "epsilons": list(radii)},
        "encoders": [record],
        "data": {"name": "color_mnist", "test_images": 10_000, "checksums": {"a": "b"}},
        "provenance": {"commit": "c0ffee"},
    }  # fmt: skip
