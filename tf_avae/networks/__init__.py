"""Encoders and decoders: what an architecture is, and the registry of all."""

from tf_avae.networks.architecture import (
    OLD_NAME,
    Architecture,
    image_shape_of,
    policy_of,
    renamed,
)
from tf_avae.networks.layers import Build
from tf_avae.networks.rows import ARCHITECTURES

__all__ = [
    "ARCHITECTURES",
    "OLD_NAME",
    "Architecture",
    "Build",
    "image_shape_of",
    "policy_of",
    "renamed",
]
