"""The architecture `conv-silu`: `conv` with smooth activations, which have a gradient everywhere.

A plugin, for measuring attacks on an encoder whose gradients are not hidden:

    python -m training.fit --plugin benchmarks/smooth.py --arch conv-silu ...
"""

from dataclasses import replace

from tf_avae import ARCHITECTURES

ARCHITECTURES.register(replace(ARCHITECTURES["conv"], name="conv-silu", activation="silu"))
