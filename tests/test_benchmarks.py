"""The benchmarks' arithmetic, their processes, and what they do with peers that are not there."""

import io
import itertools
import json
import pickle
import struct
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import (
    attack,
    bounds,
    budgets,
    counts,
    cross_check,
    data,
    pairing,
    pretrained,
    train,
)
from benchmarks.ceiling import Supervised
from benchmarks.evaluation import probed
from benchmarks.network_file import ACTIVATIONS, arrays_of, probe_of
from benchmarks.pairing import Left, Peer, Worker, Workers
from benchmarks.peers.batches import inside, over
from tf_avae.config import Config
from tf_avae.errors import InputError
from tf_avae.networks import ARCHITECTURES
from tf_avae.objectives import OBJECTIVES
from tf_avae.probes import Probe
from tf_avae.runs.plan import resolve
from tf_avae.saved.encoders import locate, open_encoder
from tf_avae.saved.layers import keras_encoder
from training.rates import paired_rates

FAKE = """
import numpy as np

def prepare(settings):
    print("what a library prints")
    def broken(steps):
        raise ValueError("no such thing\\nas that")
    def over(steps):
        import os
        os._exit(3)
    return {"count": lambda steps: np.full(settings["size"], steps), "broken": broken, "over": over}

def about():
    return "a fake"
"""


@pytest.fixture
def fake(tmp_path):
    """A process that works for a made-up library."""
    (tmp_path / "fake_peer.py").write_text(FAKE)
    worker = Worker(sys.executable, "fake_peer", {"size": 3}, [tmp_path])
    yield worker
    worker.close()


def test_a_process_makes_steps_and_hands_over_what_came_of_them(fake):
    fake.ready()
    assert fake.cases == ("count", "broken", "over") and fake.about == "a fake"
    fake.steps("count")(7)
    np.testing.assert_array_equal(fake.result(), [7, 7, 7])
    assert 1e6 < fake.now() <= fake.peak() < 1e9


def test_a_failure_is_told_in_a_line_and_the_process_goes_on(fake):
    fake.ready()
    with pytest.raises(Left, match=r"^ValueError: no such thing$"):
        fake.steps("broken")(1)
    fake.steps("count")(2)
    assert fake.result()[0] == 2


def test_a_process_that_ends_is_noticed(fake):
    fake.ready()
    with pytest.raises(Left, match="ended with 3"):
        fake.steps("over")(1)
    with pytest.raises(Left, match="ended with 3"):
        fake.steps("count")(1)


def test_a_process_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    (tmp_path / "slow_peer.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(pairing, "_LIMIT", 0.5)
    worker = Worker(sys.executable, "slow_peer", {}, [tmp_path])
    with pytest.raises(Left, match="no answer"):
        worker.ready()
    assert worker._process.poll() is not None


def test_what_is_absent_is_left_out_with_a_word(tmp_path, capsys):
    (tmp_path / "needy_peer.py").write_text("import a_library_that_nobody_has\n")
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    with Workers(tmp_path) as workers:
        workers.start("one", Peer("one", "", "needy_peer", "env", ()), {}, [tmp_path])
        workers.start("two", Peer("two", "", "needy_peer", "no environment", ()), {})
        assert workers.ready(need=lambda name: False) == {}
        assert workers.left == {"one": "absent", "two": "absent"}
    assert "a_library_that_nobody_has" in capsys.readouterr().err


def test_batches_go_round_the_images():
    images, labels = np.arange(5.0), np.arange(5)
    seen = []

    def attack_one(x, y):
        np.testing.assert_array_equal(x, y)
        seen.append(list(y))
        return x + 10

    run = over(images, labels, 2, attack_one)
    np.testing.assert_array_equal(run(2), [10, 11, 12, 13, 4])
    np.testing.assert_array_equal(run(3), [10, 11, 12, 13, 14])
    assert seen[2:] == [[0, 1], [2, 3], [4, 0]]


def test_rates_are_steps_over_time_and_each_round_times_all(monkeypatch):
    clock, made = itertools.count(), []
    now = {"time": 0.0}
    monkeypatch.setattr("time.perf_counter", lambda: now["time"])

    def takes(each):
        def run(steps):
            made.append((each, steps))
            now["time"] += each * steps
            return steps

        return run

    rates = paired_rates(
        {"a": takes(0.25), "b": takes(1.0)}, rounds=3, seconds=8.0, progress=lambda n: next(clock)
    )
    assert rates == {"a": [4.0] * 3, "b": [1.0] * 3} and next(clock) == 3
    assert made[-6:] == [(0.25, 32), (1.0, 8)] * 3
    slow = paired_rates({"slow": takes(100.0)}, rounds=1, seconds=1.0)
    assert slow == {"slow": [0.01]} and made[-1] == (100.0, 1)


def test_steps_that_come_in_tens_are_all_counted(monkeypatch):
    now, made = {"time": 0.0}, []
    monkeypatch.setattr("time.perf_counter", lambda: now["time"])

    def run(steps):
        made.append(-(-steps // 10) * 10)
        now["time"] += 2.0 * made[-1]
        return made[-1]

    assert paired_rates({"a": run}, rounds=2, seconds=1.0) == {"a": [0.5] * 2}
    assert made[-2:] == [10, 10]


@pytest.mark.parametrize("arch", ["mlp", "conv"])
def test_the_arrays_say_what_the_network_is(arch):
    """Evaluated here from the file's description alone."""
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(3)
    encoder = ARCHITECTURES[arch].encoder((10, 10, 3), 5)
    for layer in encoder.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, layer.gamma.shape) for _ in range(4)])
    probe = Probe(
        rng.normal(size=5), rng.uniform(1, 2, 5), ((rng.normal(size=(5, 4)), np.ones(4)),)
    )
    arrays = arrays_of(encoder, probe)
    again = probe_of(arrays)
    np.testing.assert_array_equal(again.layers[0][0], probe.layers[0][0])
    image = rng.uniform(size=(10, 10, 3)).astype(np.float32)
    x = image
    for number, layer in enumerate(json.loads(str(arrays["layers"]))):
        weights = {n[2:] if number < 10 else n[3:]: a for n, a in arrays.items()
                   if n.startswith(f"{number}.")}  # fmt: skip
        if layer["kind"] == "flatten":
            assert x.shape == tuple(layer["shape"])
            x = x.ravel()
        elif layer["kind"] == "dense":
            x = x @ weights["kernel"] + weights["bias"]
        elif layer["kind"] == "convolution":
            assert x.shape == tuple(layer["shape"])
            x = convolved(x, layer["stride"], **weights)
        elif layer["kind"] == "batch_norm":
            scale = weights["gamma"] / np.sqrt(weights["variance"] + layer["epsilon"])
            x = (x - weights["mean"]) * scale + weights["beta"]
        elif layer["kind"] == "relu":
            x = np.maximum(x, 0)
        else:
            x = (x - weights["mean"]) / weights["scale"]
    expected = probe(encoder(image[None], training=False)["embedding"].numpy().astype(np.float64))
    np.testing.assert_allclose(x, expected[0], rtol=1e-3, atol=1e-3)


def convolved(x, stride, kernel, bias=0.0):
    """A "same" convolution by the definition in TensorFlow's documentation."""
    side, size = x.shape[0], kernel.shape[0]
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    padded = np.pad(x, [(total // 2, total - total // 2)] * 2 + [(0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))
    return np.einsum("abihw,hwio->abo", windows[::stride, ::stride], kernel) + bias


SIZE = (10, 10, 3)


def small(*layers):
    """A network of these layers and a dense one."""
    return keras.Sequential(
        [keras.Input(SIZE), *layers, keras.layers.Flatten(), keras.layers.Dense(2)]
    )


def plain_probe(width=2):
    return Probe(np.zeros(width), np.ones(width), ((np.eye(width), np.zeros(width)),))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_read_from_the_layers(name):
    layers = [keras.layers.Conv2D(2, 3, padding="same", activation=name),
              keras.layers.Activation(name)]  # fmt: skip
    arrays = arrays_of(small(*layers), plain_probe())
    kinds = [layer["kind"] for layer in json.loads(str(arrays["layers"]))]
    assert kinds == ["convolution", name, name, "flatten", "dense", "standardise", "dense"]


def test_slopes_of_leaky_layers_are_told():
    layers = [keras.layers.ReLU(negative_slope=0.1), keras.layers.LeakyReLU(0.2)]
    leaky = json.loads(str(arrays_of(small(*layers), plain_probe())["layers"]))[:2]
    assert [layer["slope"] for layer in leaky] == pytest.approx([0.1, 0.2])


def test_a_hidden_layer_of_a_probe_is_kept():
    kernels = [np.full((2, 3), 2.0), np.full((3, 4), 3.0)]
    probe = Probe(np.ones(2), np.ones(2), tuple((k, np.ones(k.shape[1])) for k in kernels))
    again = probe_of(arrays_of(small(), probe))
    assert [kernel.tolist() for kernel, _ in again.layers] == [k.tolist() for k in kernels]
    np.testing.assert_array_equal(again.mean, probe.mean)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (keras.layers.MaxPooling2D(name="pool"), r"'pool' \(MaxPooling2D\) is of a kind"),
        (keras.layers.Conv2D(2, 3, name="own", padding="same", activation="swish"), None),
        (keras.layers.Conv2D(2, 3, name="own", activation="relu"), "'own'.*padding valid"),
        (keras.layers.ReLU(6, name="six"), "'six'.*max_value 6"),
        (keras.layers.Activation(keras.activations.softmax, name="own"), "'own'.*softmax"),
    ],
)
def test_what_is_not_rebuilt_is_refused_by_name(layer, words):
    if words is None:  # another name of silu
        assert '"silu"' in str(arrays_of(small(layer), plain_probe())["layers"])
        return
    with pytest.raises(InputError, match=words):
        arrays_of(small(layer), plain_probe())


def test_layers_of_the_shipped_encoder_are_built_anew_and_say_the_same():
    images = np.random.default_rng(0).uniform(size=(2, 28, 28, 3)).astype(np.float32)
    again = keras_encoder("colormnist-robust")
    expected = open_encoder("colormnist-robust").embed(tf.constant(images))
    found = again(images, training=False)["embedding"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_what_is_inside_of_the_ball_and_of_the_range():
    images = np.full((6, 2, 2, 1), 0.05, np.float32)
    found = images.copy()
    found[1:, 0, 0, 0] = [0.15, 0.16, -0.01, np.nan, 0.05]
    assert inside(found, images, 0.1).tolist() == [True, True, False, False, False, True]


def test_outcomes_are_compared_image_by_image(tmp_path, capsys):
    ours = np.array([True, True, False, False, True, False, True, True])
    theirs = np.array([True, False, True, False, True, False, False, True])
    found = cross_check.compared(ours, theirs)
    assert found["theirs_alone"] == [1, 6] and found["ours_alone"] == [2]
    assert found["union"] == 3 / 8
    assert found["points"] == pytest.approx(25.0)
    assert found["their_points"] == pytest.approx(12.5)
    row = {
        "encoder": "mine", "task": "digit", "head": "linear", "epsilon": 0.1, "images": 8,
        "clean": 0.875, "logits_largest": 12.0, "logits_difference": 2e-6,
        "ours": {"strong": {"accuracy": 5 / 8, "seconds": 7.0}},
        "theirs": {
            "accuracy": 0.5, "suspect": True,
            "attacks": [{"name": "square", "attacked": 5, "broken": 1, "outside": 2,
                         "seconds": 3.0}],
        },
        "compared": {"strong": found},
    }  # fmt: skip
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps({"encoders": [row], "attacked": {"library": "a library 1"}}))
    assert cross_check.main(["attack", "--from", str(kept)]) == 0
    text = capsys.readouterr().out
    assert "| `strong` | 62.5 | 50.0 | 37.5 | 25.0 | 1 | 2 | 7 | 3 |" in text
    assert "`strong`: AutoAttack alone broke images 1, 6." in text
    assert "square 1 of 5 (2 outside). Unreliable by its own rule" in text


@pytest.fixture
def attacked(tmp_path):
    """A file as `attack` writes it, of a network that looks at one pixel."""
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten()])
    model.save(tmp_path / "one.keras")
    kernel = np.zeros((4, 2), np.float32)
    kernel[0] = [1, -1]
    probe = Probe(np.full(4, 0.5, np.float32), np.ones(4, np.float32), ((kernel, np.zeros(2)),))
    images = np.full((3, 2, 2, 1), 0.55, np.float32)
    points = images.copy()
    points[:2, 0, 0, 0] = 0.45
    notes = {"encoder": "one", "sha256": locate(tmp_path / "one.keras")[1], "epsilon": 0.11}
    arrays = {
        **arrays_of(model, probe), "images": images, "labels": np.zeros(3, int), "points": points,
        "broken_by": np.array([0, 3, -1]), "run": str(tmp_path / "one.keras"),
    }  # fmt: skip

    def write(**others):
        path = tmp_path / "kept.attacked.npz"
        np.savez(path, **{**arrays, "notes": json.dumps(notes), **others})
        return path

    return write


def test_attacked_images_are_judged_by_the_encoder_itself(attacked, tmp_path, capsys):
    assert cross_check.main(["judge", str(attacked())]) == 0
    assert "2 images broken, 2 of them here too" in capsys.readouterr().out
    kept = tmp_path / "kept.json"
    wrong = attacked(broken_by=np.array([0, -1, 2]))  # the third is as it was
    assert cross_check.main(["judge", str(wrong), "--json", str(kept)]) == 1
    (judged,) = json.loads(kept.read_text())["judged"]
    assert (judged["broken"], judged["hold"], judged["fail"]) == (2, 1, [2])
    far = attacked(images=np.full((3, 2, 2, 1), 0.6, np.float32))  # outside of the ball
    assert cross_check.main(["judge", str(far)]) == 1


def test_files_and_environments_that_do_not_fit_are_told(attacked, tmp_path, capsys):
    other = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(name="other")])
    other.save(tmp_path / "other.keras")
    (tmp_path / "text.npz").write_text("no arrays")
    path = str(attacked())
    for words, told in (
        (["judge", path, "--run", str(tmp_path / "other.keras")], "is not the encoder that"),
        (["judge", str(tmp_path / "text.npz")], "is not what `export` writes"),
        (["judge", str(tmp_path / "none.npz")], "none.npz"),
        (["attack", path], "make bench-peers"),
        (["attack"], "such as cross.npz"),
        (["export", "colormnist-robust", "--to", str(tmp_path / "a.txt")], "ends in .npz"),
        (["export", "colormnist-robust", "--to", path, "--budget", "stong"], "'strong'"),
        (["export", "colormnist-robust", "--to", path, "--epsilon", "2"], "epsilon is 2"),
    ):
        assert cross_check.main(words) == 2
        said = capsys.readouterr()
        assert told in said.err and said.out == ""
    for task, count, told in (
        ("shape", 1, "task is 'shape'; .*color"),
        ("digit", 0, "images is 0"),
    ):
        with pytest.raises(InputError, match=told):
            probed("nowhere", task, count)


def test_time_factors_stand_beside_those_of_the_same_model_in_the_paper():
    expected = {
        ("avae", 20): 2.2, ("se", 5): 3.1, ("se", 20): 7.8, ("se_avae", 5): 4.3,
        ("se_avae", 20): None, ("avae_ss", 20): 2.2, ("vae", 20): 1.0,
    }  # fmt: skip
    for (algo, steps), value in expected.items():
        assert train._paper(resolve(Config(algo=algo, pgd_steps=steps))) == value, algo


def test_a_table_of_training_is_made_of_its_rounds():
    rates = {"vae": [100.0, 90.0, 110.0], "ours, vae": [50.0, 50.0, 50.0], "jax, vae": [25.0] * 3}
    for name in OBJECTIVES:
        rates.setdefault(name, [50.0, 30.0, 44.0])
    config, floor = resolve(Config(algo="avae", arch="mlp")), counts.floors("mlp")["avae"]
    row = train._row("avae", config, rates, floor, 2_000_000_000)
    assert row["time_factor"] == {"value": 2.5, "low": 2.0, "high": 3.0}
    assert row["steps_per_second"] == 44.0 and row["images_per_second"] == 44.0 * 64
    assert row["floor"] == floor and row["paper"] == 2.2
    found = {
        "settings": {"arch": "mlp", "precision": "float32", "batch_size": 64, "rounds": 3},
        "device": "2 cores",
        "rows": [row],
        "peers": [
            train._peer_row("jax, vae", "vae", rates, -2000.0, 5_000_000),
            {"name": "pythae, vae", "left": "absent"},
        ],
        "about": {"jax": "jax 1", "vae": "ours"},
    }
    text = train.markdown(found)
    factor = f"{row['floor']:.2f} | {2.5 / row['floor']:.2f}"
    assert f"| `avae` | 44.0 | 2,816 | 2.50 (2.00 to 3.00) | {factor} | 2.2 | 2,000 |" in text
    assert "| jax, vae | 25.0 | 2.00 (2.00 to 2.00) | -2000.0 | 5 |" in text
    assert "| pythae, vae | absent |  |  |  |" in text and "jax: jax 1." in text


ROWS = [
    {"attacker": "ours", "case": "64", "images_per_second": 1234.0, "accuracy": 0.25,
     "ours_over_it": {"value": 1.0, "low": 1.0, "high": 1.0}, "peak_bytes": 7_000_000},
    {"attacker": "art", "case": "64", "left": "absent"},
    {"attacker": "ours", "case": "worst_case", "images_per_second": 12.0, "accuracy": 0.5,
     "ours_over_it": {"value": 1.0, "low": 1.0, "high": 1.0}, "peak_bytes": 7_000_000},
]  # fmt: skip
ATTACKED = {
    "settings": {"arch": "mlp", "run": None, "epsilon": 0.02, "pgd_steps": 40, "rounds": 3,
                 "images": 500, "restarts": 10, "worst_case_images": 100},
    "device": "2 cores", "clean": 0.75, "about": {"ours": "tensorflow"}, "rows": ROWS,
}  # fmt: skip
READ = {
    "settings": {"batch_size": 64, "batches": 200, "rounds": 3},
    "device": "2 cores",
    "rows": [
        {"dataset": "color_mnist", "arch": "mlp", "images_per_second": 5e4, "peak_bytes": 4e8,
         "over_training": {"value": 3.0, "low": 2.0, "high": 4.0},
         "bytes_before": 3e8, "bytes_after": 3.01e8},
    ],
}  # fmt: skip

BUDGET = {"encoder": "one", "task": "digit", "epsilon": 0.1, "budget": "strong", "images": 40,
          "nominal": 38, "left": 20, "candidates": []}  # fmt: skip
SEARCHED = {"rows": [
    {**BUDGET, "trials": [{"trial": "pgd", "broken": 16, "steps": 1000.4},
                          {"trial": "square", "broken": 2, "steps": 500.4}]},
    {**BUDGET, "encoder": "two", "trials": [{"trial": "square", "broken": 18, "steps": 7.0}]},
]}  # fmt: skip


BOUNDED = {"archs": [
    {"arch": "wide", "rates": {"forward pass": [8.0, 6.0, 4.0], "boxes": [2.0, 2.0, 2.0]},
     "grown": {"forward pass": 1_000_000, "boxes": 5_000_000}},
]}  # fmt: skip


def test_what_is_timed_of_bounds_are_the_bounds(monkeypatch):
    """Of an affine network, where they are sums of absolute values."""
    monkeypatch.setitem(counts.SHAPES, "linear", (4, 4, 3))
    found = bounds.cases("linear")
    images = np.random.default_rng(0).uniform(0.2, 0.8, (bounds._BATCH, 4, 4, 3))
    images = images.astype(np.float32)
    forward = found["forward pass"](images).numpy()
    # No ball leaves the range of images, so boxes are as symmetric as balls.
    np.testing.assert_allclose(found["boxes"](images), 2 * forward, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["boxes, outward"](images), 2 * forward, rtol=1e-4, atol=1e-4)
    one, other = found["head, interval"](images), found["head, crown"](images)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("benchmark", "found", "lines"),
    [
        (attack, ATTACKED,
         ["| 64: ours | 1,234.0 | 1.00 (1.00 to 1.00) | 25.0 | 7 |",
          "| 64: art | absent |  |  |  |",
          "| ours | 12.0 | 1.00 (1.00 to 1.00) | 50.0 | 7 |",
          "75.0 %", "ours: tensorflow."]),
        (data, READ,
         ["| `color_mnist`, `mlp` | 50,000 | 3.00 (2.00 to 4.00) | 300 | 301 | 400 |",
          "and 2,000 more"]),
        (bounds, BOUNDED, ["| time over a forward pass | boxes | memory grew by, MB |",
                           "| `wide` | 3.00 (2.00 to 4.00) | 5 |"]),
        (budgets, SEARCHED,
         ["| `strong` | ε | images | right | `pgd` | `square` | left |",
          "| `one`, digit | 0.1 | 40 | 95.0 | 40.0 in 1,000 | 5.0 in 500 | 50.0 in 1,501 |",
          "| `two`, digit | 0.1 | 40 | 95.0 | – | 45.0 in 7 | 50.0 in 7 |"]),
    ],
)  # fmt: skip
def test_kept_figures_make_the_table_again(tmp_path, capsys, benchmark, found, lines):
    (tmp_path / "kept.json").write_text(json.dumps(found))
    assert benchmark.main(["--from", str(tmp_path / "kept.json")]) == 0
    out = capsys.readouterr().out
    for line in lines:
        assert line in out


@pytest.mark.parametrize("adversary", ["pgd", "interval"])
def test_training_with_labels_minimises_the_worst_cross_entropy_of_an_affine_network(adversary):
    """Of two classes the worst image of a ball is known: against the sign of each weight."""
    encoder = ARCHITECTURES["linear"].encoder((2, 3, 1), 4)
    model = Supervised(encoder, 2, adversary=adversary, epsilon=0.1, pgd_steps=3, steps=100)
    kernel, head = encoder.get_layer("mean").kernel.numpy(), model.network.layers[-1].kernel.numpy()
    slope = (kernel @ head) @ [1.0, -1.0]  # of logit 0 over logit 1
    images = np.random.default_rng(0).uniform(0.3, 0.7, (8, 2, 3, 1)).astype(np.float32)
    labels = np.arange(8, dtype=np.int32) % 2
    lead = (images.reshape(8, -1) @ slope) * (1 - 2 * labels)
    clean, worst = (np.log1p(np.exp(-x)) for x in (lead, lead - 0.1 * np.abs(slope).sum()))
    found = model.loss_of(tf.constant(images), tf.constant(labels), tf.constant(100))
    expected = worst if adversary == "pgd" else (clean + worst) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if adversary == "interval":
        early = model.loss_of(tf.constant(images), tf.constant(labels), tf.constant(20))
        np.testing.assert_allclose(early, clean, rtol=1e-5)


def test_what_leaves_the_ball_is_no_attack():
    images, labels = np.full((2, 4, 4, 3), 0.5, np.float32), np.array([0, 1])

    def classify(x):
        return np.stack([1 - x[:, 0, 0, 0], x[:, 0, 0, 0]], 1)

    inside = images.copy()
    inside[:, 0, 0, 0] = [0.4, 0.45]  # both say 0
    accuracy = attack._accuracy(classify, images, labels, inside, 0.1)
    assert accuracy == 0.5
    first = inside.transpose(0, 3, 1, 2)
    assert attack._accuracy(classify, images, labels, first, 0.1) == accuracy
    with pytest.raises(Left, match="leaves the ball"):
        attack._accuracy(classify, images, labels, inside, 0.05)


@pytest.mark.parametrize(
    ("benchmark", "words", "named"),
    [
        (train, ["--rounds", "0"], "rounds is 0"),
        (train, ["--seconds", "nan"], "seconds is nan"),
        (train, ["--against", "jaxx"], "did you mean 'jax'"),
        (train, ["--arch", "linear"], "linear"),
        (train, ["--batch-size", "0"], "batch_size is 0"),
        (train, ["--from", "nowhere.json"], "nowhere.json"),
        (train, ["--from", __file__], "not JSON"),
        (attack, ["--epsilon", "2"], "epsilon is 2"),
        (attack, ["--batch-size", "501"], "batch_size is 501"),
        (attack, ["--worst-case-images", "-1"], "worst_case_images is -1"),
        (attack, ["nowhere"], "nowhere"),
        (bounds, ["--rounds", "0"], "rounds is 0"),
        (bounds, ["--arch", "convnet"], "convnet"),
        (data, ["--batches", "0"], "batches is 0"),
        (data, ["--images", "3"], "images is 3"),
        (budgets, [], "give encoders"),
        (budgets, ["--from", __file__], "not JSON"),
    ],
)
def test_bad_options_are_told_in_a_line(capsys, benchmark, words, named):
    try:
        code = benchmark.main(words)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    assert code == 2 and said.out == ""
    assert named in said.err and said.err.count("\n") == 1


def pytorch_file(tensors, monkeypatch):
    """A file as PyTorch before 1.6 wrote it, of (values, shape, strides, offset) by name."""

    class FloatStorage:
        pass

    def _rebuild_tensor_v2():
        pass

    for name, module, of in (
        ("torch", "torch", FloatStorage), ("torch._utils", "torch._utils", _rebuild_tensor_v2)
    ):  # fmt: skip
        of.__module__, of.__qualname__ = module, of.__name__
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**{of.__name__: of}))

    class Named:
        def __init__(self, *arguments):
            self.arguments = arguments

        def __reduce__(self):
            return _rebuild_tensor_v2, self.arguments

    class Stored(str):
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, Stored):
                return "storage", FloatStorage, str(value), "cpu", 0, None
            return None

    file = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(value, file, 2)
    described = {
        name: Named(Stored(name), offset, shape, strides)
        for name, (_, shape, strides, offset) in tensors.items()
    }
    Pickler(file, 2).dump(described)
    pickle.dump(list(tensors), file, 2)
    for values, *_ in tensors.values():
        file.write(struct.pack("<q", len(values)) + np.array(values, "<f4").tobytes())
    return file.getvalue()


def test_weights_of_pytorch_are_read_without_it(tmp_path, monkeypatch):
    """By their strides too: what was transposed before it was saved lies so in the file."""
    path = tmp_path / "weights.pth"
    tensors = {
        "plain": (range(6), (2, 3), (3, 1), 0), "turned": (range(10), (2, 3), (1, 2), 4),
        "number": ([7], (), (), 0),
    }  # fmt: skip
    path.write_bytes(pytorch_file(tensors, monkeypatch))
    found = pretrained.tensors(path)
    np.testing.assert_array_equal(found["plain"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["turned"], [[4, 6, 8], [5, 7, 9]])
    assert found["number"] == 7
    for content in (b"", path.read_bytes()[:-3], pickle.dumps(print)):
        path.write_bytes(content)
        with pytest.raises(InputError, match="holds no weights of PyTorch"):
            pretrained.tensors(path)
