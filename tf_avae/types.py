"""The shapes that travel between modules.

Everything is a float32 `tf.Tensor` unless a docstring says otherwise.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A `tf.Tensor`. TensorFlow ships no complete type information, so this name is for the reader."""

Images: TypeAlias = Tensor
"""[B, H, W, C], values in [0, 1]."""

Latents: TypeAlias = Tensor
"""[B, D]."""

PerExample: TypeAlias = Tensor
"""[B], in nats where it is a term of a bound."""

Terms: TypeAlias = dict[str, PerExample]
"""The named terms of a bound, each [B] in nats; the key "bound" is what is maximised."""

ImageLoss: TypeAlias = Callable[[Images], Any]
"""What an attack maximises: images [B, H, W, C] to one number per example [B]; or to two of them,
of which the first is climbed and the second decides which point is kept."""

ImageShape: TypeAlias = tuple[int, int, int]
"""(H, W, C)."""

OUTPUTS = ("embedding", "variance", "inconsistency")
"""What a served encoder gives: [N, D], [N, D] and [N]; one without a decoder gives fewer."""
