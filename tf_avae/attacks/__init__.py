"""Attacks over a loss callable: images [B, H, W, C] in, one number per example out."""

from tf_avae.attacks.apgd import apgd
from tf_avae.attacks.balls import BALLS, Ball
from tf_avae.attacks.classification import cross_entropy, logit_ratio, margin, targeted_logit_ratio
from tf_avae.attacks.pgd import SCHEDULES, Schedule, pgd
from tf_avae.attacks.square import square
from tf_avae.attacks.starts import STARTS, Start

__all__ = [
    "BALLS", "SCHEDULES", "STARTS", "Ball", "Schedule", "Start", "apgd", "cross_entropy",
    "logit_ratio", "margin", "pgd", "square", "targeted_logit_ratio",
]  # fmt: skip
