"""What is measured of the models of a grid on ColorMNIST: names, units, and which is which."""

from training.sweep.models import BOUND, INCONSISTENCY, NATS, PERCENT, Values

RISE = "its rise in the last fifth"
MSE, LIKELIHOOD = "MSE: ‖x − g(μ(x))‖²", "log p(x) at least"
UNITS, DIMENSION, CHECKS = "active units", "effective dimension", "honesty checks failed"
PER_UNIT = "W2² per active unit"
OF_RUN = (BOUND, RISE)
"""Figures that a run has before it is evaluated."""

BESIDE: dict[str, str] = {
    MSE: "", BOUND: NATS, RISE: NATS, LIKELIHOOD: NATS, INCONSISTENCY: "", PER_UNIT: "", UNITS: "",
    DIMENSION: "", CHECKS: "",
}  # fmt: skip
"""The figures beside accuracies, and their units; those that a grid does not measure are left
out."""


def accuracy_measure(
    task: str, head: str, budget: str, epsilon: float, after: str = "", proof: str = ""
) -> Values:
    """An accuracy as a measure: its name, its unit, and what it is of.

    Args:
        task: what is read.
        head: through which head.
        budget: under which budget.
        epsilon: the radius; the nominal accuracy where it is 0.
        after: the attack of the budget that is the last one made; the accuracy is what the whole
            budget leaves unless given.
        proof: by which bounds images are verified; the accuracy is the share of those if given.
    """
    made = f"verified by {proof}" if proof else f"{budget} after {after}" if after else budget
    name = f"{task}, {head}, " + (f"{made}, ε {epsilon:g}" if epsilon else "nominal")
    measure = {"name": name, "unit": PERCENT, "task": task, "head": head, "budget": budget,
               "epsilon": epsilon}  # fmt: skip
    of = {"after": after, "proof": proof}
    return measure | {key: value for key, value in of.items() if value}


def accuracies(values: Values) -> list[Values]:
    """The measures that are accuracies, nominal or under a whole budget."""
    accuracies = [m for m in values["measures"] if m["unit"] == PERCENT]
    return [m for m in accuracies if "after" not in m and "proof" not in m]


def proven(values: Values) -> list[Values]:
    """The measures that are shares of images verified."""
    return [m for m in values["measures"] if "proof" in m]


def between(values: Values) -> list[Values]:
    """The measures that are accuracies after a part of a budget's attacks."""
    return [m for m in values["measures"] if "after" in m]
