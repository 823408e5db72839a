"""White-box attacks over a loss callable: images [B, H, W, C] in, one number per example out."""

from tf_avae.attacks.balls import BALLS, Ball
from tf_avae.attacks.pgd import pgd

__all__ = ["BALLS", "Ball", "pgd"]
