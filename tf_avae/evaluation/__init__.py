"""Measuring representations: takes callables and arrays, never the model class."""

from tf_avae.evaluation.robustness import BUDGETS, Budget, Outcomes, Trial, worst_case

__all__ = ["BUDGETS", "Budget", "Outcomes", "Trial", "worst_case"]
