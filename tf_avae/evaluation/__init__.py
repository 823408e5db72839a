"""Measuring representations: takes callables and arrays, never the model class."""

from tf_avae.evaluation.budgets import BUDGETS, Budget
from tf_avae.evaluation.checks import CHECKS
from tf_avae.evaluation.encoder import Encoder
from tf_avae.evaluation.fid import frechet_distance, open_extractor
from tf_avae.evaluation.proofs import PROOFS, Proof
from tf_avae.evaluation.representation import DISTANCES, attack_representation
from tf_avae.evaluation.robustness import Outcomes, worst_case
from tf_avae.evaluation.section import SECTIONS, Section
from tf_avae.evaluation.settings import Settings
from tf_avae.evaluation.suite import Evaluation, Shard, evaluate, evaluate_shard
from tf_avae.evaluation.trials import Trial

__all__ = [
    "BUDGETS",
    "CHECKS",
    "DISTANCES",
    "PROOFS",
    "SECTIONS",
    "Budget",
    "Encoder",
    "Evaluation",
    "Outcomes",
    "Proof",
    "Section",
    "Settings",
    "Shard",
    "Trial",
    "attack_representation",
    "evaluate",
    "evaluate_shard",
    "frechet_distance",
    "open_extractor",
    "worst_case",
]
