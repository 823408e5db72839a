"""Bounds of what an encoder can say of every image in a ball, which no attack can leave.

bounds = Bounds(model.encoder)
box = bounds(ball(images, 0.1))["embedding"]  # box.lower and box.upper, [B, D]
"""

from tf_avae.bounds.boxes import Box, ball
from tf_avae.bounds.network import Bounds

__all__ = ["Bounds", "Box", "ball"]
