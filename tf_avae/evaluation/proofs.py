"""How hard an evaluation looks for proofs that no image of a ball is misclassified."""

from dataclasses import dataclass

from tf_avae.registry import Registry

ALL_LAYERS = 10**6
"""More activations than any network has."""


@dataclass(frozen=True)
class Proof:
    """How hard a proof is looked for.

    Attributes:
        name: the row's name.
        summary: for `--help` and the docs.
        relaxed: `relaxed` of `Bounds.least`, one after another: each is tried on the images that
            those before it leave undecided.
    """

    name: str
    summary: str
    relaxed: tuple[int, ...]

    def costs(self, classes: int) -> dict[int, float]:
        """Gradient steps an image, about, by `relaxed`."""
        return {relaxed: classes - 1 if relaxed else 1 for relaxed in self.relaxed}


PROOFS: Registry[Proof] = Registry(
    "proof",
    Proof("interval", "intervals forward, head and last layers in one: a few forward passes", (0,)),
    Proof(
        "crown",
        "of images that stay undecided, linear relaxations back to the input too (CROWN): as many "
        "gradients as there are other classes",
        (0, ALL_LAYERS),
    ),
)
