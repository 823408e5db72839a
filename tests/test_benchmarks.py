"""The benchmarks' arithmetic, their processes, and what they do with peers that are not there."""

import itertools
import json
import sys

import keras
import numpy as np
import pytest

from benchmarks import attack, counts, data, pairing, train
from benchmarks.network_file import arrays_of, probe_of
from benchmarks.pairing import Left, Peer, Worker, Workers
from benchmarks.peers.batches import over
from tf_avae.config import Config
from tf_avae.networks import ARCHITECTURES
from tf_avae.objectives import OBJECTIVES
from tf_avae.probes import Probe
from tf_avae.runs.plan import resolve
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
    ],
)  # fmt: skip
def test_kept_figures_make_the_table_again(tmp_path, capsys, benchmark, found, lines):
    (tmp_path / "kept.json").write_text(json.dumps(found))
    assert benchmark.main(["--from", str(tmp_path / "kept.json")]) == 0
    out = capsys.readouterr().out
    for line in lines:
        assert line in out


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
        (data, ["--batches", "0"], "batches is 0"),
        (data, ["--images", "3"], "images is 3"),
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
