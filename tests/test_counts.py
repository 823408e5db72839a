"""Multiply-adds: counted by hand, by definition, and in the graph that TensorFlow runs."""

import pytest
import tensorflow as tf

from benchmarks import counts
from tf_avae.networks import ARCHITECTURES
from tf_avae.objectives import OBJECTIVES

D, PIXELS = 64, 28 * 28 * 3
ENCODER_FIRST = PIXELS * 200
ENCODER = ENCODER_FIRST + 3 * 200 * 200 + 200 * 2 * D  # App. F's MLP, mean and variance
DECODER = D * 200 + 3 * 200 * 200 + 200 * PIXELS


def model(algo, arch="mlp", shape=None, pgd_steps=3):
    return counts._model(algo, arch, pgd_steps, shape)


def test_the_mlp_by_hand():
    built = model("vae")
    assert counts.multiplies(built.encoder) == (ENCODER, ENCODER_FIRST)
    assert counts.multiplies(built.decoder) == (DECODER, D * 200)
    assert counts.required(built) == (
        ENCODER + DECODER, ENCODER + DECODER, ENCODER - ENCODER_FIRST + DECODER
    )  # fmt: skip


def test_time_factors_by_hand():
    vae = 3 * (ENCODER + DECODER) - ENCODER_FIRST
    again = 3 * ENCODER - ENCODER_FIRST  # another encoder pass, forward and back
    attack = (2 * 20 + 1) * ENCODER
    # Its decoder makes the images too, and learns nothing.
    self_supervised = 3 * ENCODER - ENCODER_FIRST + again + 3 * DECODER
    floors = counts.floors("mlp")
    for algo, total in {
        "vae": vae, "avae": vae + again, "se": vae + again + attack,
        "se_avae": vae + 2 * again + attack, "avae_ss": self_supervised,
        "adversarial_elbo": vae + again + attack + 3 * DECODER,
        "certified_elbo": vae + 2 * again,
    }.items():  # fmt: skip
        assert floors[algo] == pytest.approx(total / vae, rel=1e-12)


def test_convolutions_agree_with_tensorflows_own_count():
    """Of forward passes; the profiler counts a multiply-add as two, and the biases too."""
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    architecture = ARCHITECTURES["conv"]
    for network in (architecture.encoder((12, 12, 3), 8), architecture.decoder((12, 12, 3), 8)):
        run = tf.function(lambda x, network=network: network(x))
        graph = run.get_concrete_function(tf.TensorSpec((1, *network.input.shape[1:]))).graph
        counted = profiler.profile(graph, options=options.with_empty_output().build())
        expected = counted.total_float_ops / 2
        assert counts.multiplies(network)[0] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("algo", OBJECTIVES)
def test_the_graph_does_what_is_required_and_no_more(algo):
    built = model(algo)
    assert counts.in_graph(built) == counts.required(built).total


@pytest.mark.parametrize("algo", ["avae_ss", "se_avae"])
def test_so_does_that_of_convolutions(algo):
    built = model(algo, "conv", (12, 12, 3))
    assert counts.in_graph(built) == counts.required(built).total


def test_what_is_done_twice_is_counted():
    built = model("se")
    built._attack_shares_pass = False
    assert counts.in_graph(built) == counts.required(built).total + ENCODER


def test_the_table():
    row = {"arch": "conv", "algo": "se", "pgd_steps": 20, "forward": 3e6, "weights": 2e6}
    table = counts.markdown([row | {"inputs": 1.25e6, "floor": 2.345, "in_graph": 7e6}])
    assert table.splitlines()[2] == (
        "| conv | `se`, PGD-20 | 3.00 | 2.00 | 1.25 | 6.25 | 7.00 | 2.35 |"
    )
    with pytest.raises(SystemExit, match="2"):
        counts.main(["--arch", "transformer"])
