"""Made-up results of a sweep's cells, as far as its figures read them."""

import json

TASKS = ("digit", "color")


def write(sweep, cell, content):
    """What a cell is done with."""
    path = sweep.result(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def evaluation(
    config, radii, accuracy, *, heads=("linear",), nominal=True, trials=("pgd-40/0",), left=None,
    sha256="ab", commit="c0ffee", checksum="b", **sections,
):  # fmt: skip
    """The results.json of an encoder on ColorMNIST.

    Args:
        config: of its run.
        radii: of the attacks.
        accuracy: (task, head, radius) to percent; radius 0 for images as they are.
        heads: names of heads.
        nominal: whether the probes are a section.
        trials: the searches of an attack, in order.
        left: (task, head, radius, number of a trial) to percent that are left after it; the
            accuracy unless given.
        sha256: of the weights.
        commit: that it was evaluated at.
        checksum: of the data.
        sections: others, beside the robustness.
    """

    def share(*where):
        return {"value": accuracy(*where) / 100}

    def after(*where):
        of = left or (lambda task, head, epsilon, number: accuracy(task, head, epsilon))
        return [1.0, *(of(*where, number) / 100 for number, _ in enumerate(trials))]

    record = {
        "sha256": sha256, "left_out": {}, "config": config,
        "robustness": {"rows": [
            {"task": t, "head": h, "epsilon": e, "accuracy": share(t, h, e),
             "trials": list(trials), "accuracy_after": after(t, h, e)}
            for t in TASKS for h in heads for e in radii
        ]},
        **sections,
    }  # fmt: skip
    if nominal:
        record["probes"] = {t: {h: {"nominal": share(t, h, 0)} for h in heads} for t in TASKS}
    return {
        "settings": {"tasks": list(TASKS), "heads": list(heads), "epsilons": list(radii)},
        "encoders": [record],
        "data": {"name": "color_mnist", "test_images": 10_000, "checksums": {"a": checksum}},
        "provenance": {"commit": commit},
    }  # fmt: skip
