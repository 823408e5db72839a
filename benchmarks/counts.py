"""The multiply-adds that a training step needs, and those that TensorFlow's graph does.

`python -m benchmarks.counts` prints, for each architecture and objective: what the definition
requires, in millions an image, by kind of work; hence the least time factor over the VAE; and how
many multiply-adds the traced training step does, which should be as many. A convolution counts
every tap of its kernel at every output, padding included; what is not a product of matrices or a
convolution (activations, densities, Adam) is not counted.
"""

import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from benchmarks import pairing
from tf_avae.backend import keras, tf
from tf_avae.config import Config
from tf_avae.console.commands import Parser, run_command
from tf_avae.model import AVAE
from tf_avae.objectives import ADVERSARIAL, DECODER, GENERATED, OBJECTIVES
from tf_avae.runs.plan import build_model, resolve
from tf_avae.types import ImageShape

SHAPES: dict[str, ImageShape] = {
    "mlp": (28, 28, 3), "conv": (28, 28, 3), "celeba": (64, 64, 3), "resnet": (64, 64, 3),
    **dict.fromkeys(("shallow", "wide", "compact", "compact_bn", "leaky"), (28, 28, 3)),
}  # fmt: skip
"""The images of each architecture: of the paper's experiments, and of ours."""


class Work(NamedTuple):
    """Multiply-adds for one image.

    Attributes:
        forward: passes through networks.
        weights: gradients with respect to weights.
        inputs: gradients with respect to what goes into layers.
    """

    forward: int
    weights: int
    inputs: int

    @property
    def total(self) -> int:
        return sum(self)


def multiplies(network: keras.Model) -> tuple[int, int]:
    """The multiply-adds of one pass of one image: all, and those of the layer next to the input."""
    counts = [count for layer in network.layers if (count := _layer(layer))]
    return sum(counts), counts[0]


def _layer(layer: keras.Layer) -> int:
    kernel = getattr(layer, "kernel", None)
    if kernel is None:
        return 0
    if isinstance(layer, keras.layers.Conv2DTranspose):
        _, height, width, _ = layer.input.shape  # every input meets every tap
    elif isinstance(layer, keras.layers.Conv2D):
        _, height, width, _ = layer.output.shape
    else:
        height = width = 1
    return math.prod(kernel.shape) * height * width


def required(model: AVAE) -> Work:
    """What a training step needs by the definition of its objective, for one image.

    Nothing twice: x~ is the picture that the reconstruction needs anyway; an attack needs no
    gradients of weights, and its first pass over x is that of training unless batch normalisation
    tells them apart; what is stopped is not differentiated.
    """
    objective = model.objective
    encoder, encoder_first = multiplies(model.encoder)
    decoder, _ = multiplies(model.decoder)
    passes = 1 + len(objective.auxiliaries)
    forward = passes * encoder + decoder
    weights = passes * encoder
    inputs = passes * (encoder - encoder_first) + decoder  # images need none; z does
    if DECODER in objective.trains:
        weights += decoder
    if objective.encodes == GENERATED:
        forward += decoder
    if ADVERSARIAL in objective.auxiliaries:
        if model.adversary.bounds:
            # A pass of centers and one of radii, in the place of one over x^a.
            forward, weights, inputs = (
                forward + encoder, weights + encoder, inputs + encoder - encoder_first
            )  # fmt: skip
        else:
            # A gradient a step, and the loss where the last step went.
            forward += (model.pgd_steps + 1) * encoder
            inputs += model.pgd_steps * encoder
        if _normalises(model.encoder):
            forward += encoder
    if objective.decodes_adversarial:
        forward, weights, inputs = forward + decoder, weights + decoder, inputs + decoder
    return Work(forward, weights, inputs)


def _normalises(network: keras.Model) -> bool:
    return any(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers)


def floors(arch: str, pgd_steps: int | None = None) -> dict[str, float]:
    """The least time factor of each objective over the VAE, if time were multiply-adds.

    Args:
        arch: a row of `SHAPES`.
        pgd_steps: iterations of the attack; the architecture's unless given.
    """
    return _over_vae({algo: required(_model(algo, arch, pgd_steps)) for algo in OBJECTIVES})


def _over_vae(works: dict[str, Work]) -> dict[str, float]:
    return {algo: work.total / works["vae"].total for algo, work in works.items()}


def _model(
    algo: str, arch: str, pgd_steps: int | None = None, image_shape: ImageShape | None = None
) -> AVAE:
    config = resolve(Config(algo=algo, arch=arch, pgd_steps=pgd_steps))
    return build_model(config, image_shape or SHAPES[arch])


# ---------------------------------------------------------------------- in the graph

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_LOOPS = ("While", "StatelessWhile")
_BRANCHES = ("If", "StatelessIf")
_UNCOUNTED = ("Einsum", "BatchMatMul", "Conv3D", "DepthwiseConv2dNative", "Case")


def in_graph(model: AVAE) -> float:
    """The multiply-adds for one image of the training step that TensorFlow runs."""
    batch = 4
    images = tf.TensorSpec((batch, *model.image_shape), tf.float32)
    step = tf.function(model.train_step, autograph=False).get_concrete_function(images)
    return _executed(step.graph) / batch


def _executed(graph: Any) -> int:
    """Multiply-adds of one run of a traced function."""
    return sum(map(_operation, _needed(graph)))


def _needed(graph: Any) -> Iterator[tf.Operation]:
    """The operations that the outputs and the side effects of a traced function need: TensorFlow
    drops the others before it runs anything."""
    left: list[tf.Operation] = [tensor.op for tensor in graph.outputs] + graph.control_outputs
    seen = set()
    while left:
        operation = left.pop()
        if operation not in seen:
            seen.add(operation)
            yield operation
            left += [tensor.op for tensor in operation.inputs] + operation.control_inputs


def _operation(operation: tf.Operation) -> int:
    kind = operation.type
    if kind == "MatMul":
        left, output = operation.inputs[0].shape, operation.outputs[0].shape
        inner = left[0] if operation.get_attr("transpose_a") else left[1]
        return math.prod(output) * inner
    if kind == "Conv2D":
        return math.prod(operation.inputs[1].shape[:3]) * math.prod(operation.outputs[0].shape)
    if kind == "Conv2DBackpropInput":
        return math.prod(operation.inputs[1].shape[:3]) * math.prod(operation.inputs[2].shape)
    if kind == "Conv2DBackpropFilter":
        return math.prod(operation.outputs[0].shape[:3]) * math.prod(operation.inputs[2].shape)
    if kind in _CALLS:
        return _executed(_function(operation, "f"))
    if kind in _LOOPS:
        # Keras' and our loops say how often they run at most, and none of them ends early.
        times = tf.get_static_value(operation.inputs[1])
        return int(times) * _executed(_function(operation, "body"))
    if kind in _BRANCHES:  # at most
        return max(_executed(_function(operation, f"{side}_branch")) for side in ("then", "else"))
    if kind.startswith(_UNCOUNTED):  # none is in a step today; passed over, it would be missed
        raise NotImplementedError(f"the multiply-adds of {kind} ({operation.name})")
    return 0


def _function(operation: tf.Operation, attribute: str) -> Any:
    return operation.graph._get_function(operation.get_attr(attribute).name).graph


# ---------------------------------------------------------------------- the table


def rows(archs: Iterable[str]) -> list[dict[str, Any]]:
    """A row for each architecture and objective."""
    found = []
    for arch in archs:
        models = {algo: _model(algo, arch) for algo in OBJECTIVES}
        works = {algo: required(model) for algo, model in models.items()}
        found += [
            {"arch": arch, "algo": algo, "pgd_steps": models[algo].pgd_steps, **work._asdict()}
            | {"floor": _over_vae(works)[algo], "in_graph": in_graph(models[algo])}
            for algo, work in works.items()
        ]
    return found


def named(algo: str, pgd_steps: int | None) -> str:
    """An objective in a table, with the steps of its attack where it is one of steps."""
    objective = OBJECTIVES[algo]
    attack = f", PGD-{pgd_steps}" if objective.attack and objective.adversary == "pgd" else ""
    return f"`{algo}`{attack}"


def markdown(found: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| architecture | objective | forward | to weights | to inputs | all | in the graph "
        "| least time factor |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        total = row["forward"] + row["weights"] + row["inputs"]
        name = named(row["algo"], row["pgd_steps"])
        cells = [row["forward"], row["weights"], row["inputs"], total, row["in_graph"]]
        figures = " | ".join(f"{cell / 1e6:,.2f}" for cell in cells)
        lines.append(f"| {row['arch']} | {name} | {figures} | {row['floor']:.2f} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = Parser(prog="python -m benchmarks.counts", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--arch", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    pairing.add_files(parser)
    return run_command(
        lambda: parser,
        argv,
        lambda given: pairing.report(
            given, lambda: {"rows": rows(given.arch)}, lambda found: markdown(found["rows"])
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
