"""Bounds of what an encoder can say of every image in a ball, which no attack can leave:

    bounds = Bounds(model.encoder)
    box = bounds(ball(images, 0.1))["embedding"]

The embedding of each image of the ball lies between box.lower and box.upper, [B, D].
"""

from tf_avae.bounds.boxes import Box, ball
from tf_avae.bounds.logits import lead
from tf_avae.bounds.network import Bounds

__all__ = ["Bounds", "Box", "ball", "lead"]
