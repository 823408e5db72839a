"""The figures of Table 3: ours, as far as a sweep has them, and the paper's."""

from tf_avae.evaluation.table import attacked
from tf_avae.records import damage_told
from training.sweep.cells.declaration import AGAIN
from training.sweep.cells.folder import SweepFolder
from training.sweep.models import Values, common_data, evaluated, known, made_by
from training.sweep.table3.study import MODELS, SCALES, TASKS, paper_table


def collect(sweep: SweepFolder) -> Values:
    """All of the table, JSON values: figures of the evaluations that are done, why others are
    missing, the paper's figures, and where everything comes from."""
    paper = paper_table()
    models = {name: _model(sweep, name) for name in MODELS}
    there = [model for model in models.values() if model["missing"] is None]
    evaluation = sweep.cells[evaluated(next(iter(MODELS)))].options
    return {
        "settings": sweep.declaration.settings,
        "scale": SCALES[sweep.declaration.settings["scale"]].summary,
        "evaluation": evaluation,
        "data": common_data(models),
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
        "provenance": made_by(),
    }


def _model(sweep: SweepFolder, name: str) -> Values:
    """What is known of a model: its figures, or why they are missing."""
    found, results = known(sweep, name)
    if results is None:
        return found
    record = results["encoders"][0]
    epsilon = paper_table().epsilon
    head = results["settings"]["heads"][0]
    tasks, majority = {}, {}
    with damage_told(sweep.result(evaluated(name)), AGAIN):
        for task in TASKS:
            nominal = record["probes"][task][head]
            under = attacked(record["robustness"], task, head, epsilon)
            tasks[task] = {
                **{key: nominal[key] for key in ("nominal", "balanced", "roc_auc", "converged")},
                "attacked": under["accuracy"],
                "attacked_balanced": under["balanced"],
            }
            majority[task] = {"majority": record["probes"][task]["majority"]}
    keep = ("time_factor", "reconstruction", "fid", "latents", "checks")
    return found | {
        "tasks": tasks,
        "probes": majority,
        **{key: record[key] for key in keep if key in record},
    }
