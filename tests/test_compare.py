"""What one attack does to encoders: the picture is what the evaluation attacked and read."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.conformance.prepare import untrained_run
from tf_avae.datasets import DATASETS
from tf_avae.probes import HEADS
from tf_avae.runs.run import load_trained
from tf_avae.saved.encoders import open_encoder
from training import compare

QUICK = ("--images", "20", "--epsilon", "0.2")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("runs") / "run")


def command(capsys, *words):
    code = compare.main([str(word) for word in words])
    return code, *capsys.readouterr()


def test_the_picture_is_of_what_was_attacked_and_read(
    run, few_digits, tmp_path, capsys, monkeypatch
):
    drawn = {}

    def sheet(rows, heading, words):
        drawn.update(rows=rows, words=words)
        return draw(rows, heading, words)

    draw = compare.sheet
    monkeypatch.setattr(compare, "sheet", sheet)
    out = tmp_path / "picture.png"
    options = (*QUICK, "--data-dir", few_digits, "--out", out)
    code, said, _ = command(capsys, f"mine={run}", f"again={run}", *options)
    assert code == 0 and Image.open(out).width > 800
    names = ["mine", "again"]
    assert list(drawn["rows"]) == [
        "images", *(f"{n}\n{what}" for n in names for what in ("attacked", "decoded, read"))
    ]  # fmt: skip
    images = drawn["rows"]["images"]
    data = DATASETS["color_mnist"].open(few_digits)
    train = [(x, of["digit"]) for x, of in data.train_images(500).as_numpy_iterator()]
    held_out = next(data.held_out(12).as_numpy_iterator())
    np.testing.assert_array_equal(images, held_out[0])
    for name in names:
        encoder = open_encoder(run)
        attacked = drawn["rows"][f"{name}\nattacked"]
        assert 0.1 < np.abs(attacked - images).max() <= 0.2 + 1e-6
        embedding = encoder.embed(tf.constant(attacked))
        np.testing.assert_allclose(
            drawn["rows"][f"{name}\ndecoded, read"], encoder.decode(embedding), atol=1e-5
        )
        embeddings = np.concatenate([encoder.embed(tf.constant(x)) for x, _ in train])
        probe, _ = HEADS["linear"].fit(embeddings, np.concatenate([y for _, y in train]), 0)
        read = np.asarray(probe(embedding)).argmax(1)
        words = drawn["words"][f"{name}\ndecoded, read"]
        assert words == [(str(n), n == y) for n, y in zip(read, held_out[1]["digit"], strict=True)]
        assert f"{name}: of 20 images, " in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("RUN", "--out", "picture.jpg"), "must end in .png"),
        (("RUN", "--out", "a.png", "--epsilon", "0.1", "0.2"), "2 radii are given"),
        (("alone.keras", "--out", "a.png"), "alone has no decoder; give a run"),
        (("RUN", "RUN", "--out", "a.png"), "tell them apart by NAME=PATH"),
    ],
)
def test_bad_options_are_told_in_a_line(run, tmp_path, capsys, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    load_trained(run).encoder.save("alone.keras")
    code, _, complaint = command(capsys, *(word.replace("RUN", str(run)) for word in words))
    assert code == 2 and told in complaint and complaint.count("\n") == 1
    assert not list(tmp_path.glob("*.png"))
