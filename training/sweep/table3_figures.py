"""The figures of Table 3: ours, as far as a sweep has them, and the paper's."""

from typing import Any

from tf_avae.config import read_json
from tf_avae.errors import InputError
from tf_avae.evaluation.table import attacked
from tf_avae.provenance import provenance, session
from training.sweep.folder import SweepFolder
from training.sweep.table3 import MODELS, SCALES, TASKS, evaluated, paper_table

Values = dict[str, Any]


def collect(sweep: SweepFolder) -> Values:
    """All of the table, JSON values: figures of the evaluations that are done, why others are
    missing, the paper's figures, and where everything comes from."""
    paper = paper_table()
    models = {name: _model(sweep, name) for name in MODELS}
    there = [model for model in models.values() if model["missing"] is None]
    for model in there:
        if model["data"]["checksums"] != there[0]["data"]["checksums"]:
            raise InputError(
                f"{model['name']} was evaluated on other data than {there[0]['name']}; they make "
                "no table: take the models, with --take, into a sweep of their own"
            )
    evaluation = sweep.cells[evaluated(next(iter(MODELS)))].options
    return {
        "settings": sweep.declaration.settings,
        "scale": SCALES[sweep.declaration.settings["scale"]].summary,
        "evaluation": evaluation,
        "data": there[0]["data"] if there else None,
        "paper": {
            "epsilon": paper.epsilon,
            "tasks": {
                task: {m: {"nominal": a, "attacked": b} for m, (a, b) in row.items()}
                for task, row in paper.tasks.items()
            },
            "beside": paper.beside,
        },
        "majority": {t: there[0]["probes"][t]["majority"] for t in TASKS} if there else {},
        "models": models,
        "provenance": {"command": session()["command"], **provenance()},
    }


def _model(sweep: SweepFolder, name: str) -> Values:
    """What is known of a model: its figures, or why they are missing."""
    cell, made_by = evaluated(name), sweep.cells[name]
    seconds = {"trained_in": sweep.state(name).seconds, "evaluated_in": sweep.state(cell).seconds}
    found: Values = {
        "name": name,
        "missing": None,
        "taken_from": made_by.options["path"] if made_by.kind == "taken" else None,
        "config": made_by.options if made_by.kind == "fit" else None,
        "seconds": seconds,
    }
    if not sweep.done(cell):
        state = sweep.state(cell)
        return found | {"missing": f"{cell} is {state.name} {state.reason}".strip()}
    results = read_json(sweep.result(cell))
    record = results["encoders"][0]
    epsilon = paper_table().epsilon
    head = results["settings"]["heads"][0]
    tasks = {}
    for task in TASKS:
        nominal = record["probes"][task][head]
        under = attacked(record["robustness"], task, head, epsilon)
        tasks[task] = {
            **{key: nominal[key] for key in ("nominal", "balanced", "roc_auc", "converged")},
            "attacked": under["accuracy"],
            "attacked_balanced": under["balanced"],
        }
    keep = ("config", "step", "sha256", "path", "kind", "trained_at_commit", "left_out",
            "time_factor", "reconstruction", "fid", "latents", "checks")  # fmt: skip
    return found | {
        "tasks": tasks,
        "probes": {task: {"majority": record["probes"][task]["majority"]} for task in TASKS},
        "data": results["data"],
        "results": str(sweep.result(cell).relative_to(sweep.path)),
        "evaluated_by": results["provenance"],
        **{key: record[key] for key in keep if key in record},
    }
