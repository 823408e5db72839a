"""The encoder that comes with the package."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from serving_process import ROOT, Server

import tf_avae
from serving.client import EmbeddingClient
from serving.server import flags
from tf_avae.encoders import locate, open_encoder
from tf_avae.errors import InputError
from tf_avae.evaluation import table
from tf_avae.saved_models import PROVENANCE
from tf_avae.shipped import SHIPPED, located

NAME = "colormnist-robust"


@pytest.fixture(scope="module")
def images_and_labels():
    images, labels = next(tf_avae.DATASETS["color_mnist"].open().held_out(500).as_numpy_iterator())
    return images, labels


@pytest.fixture(scope="module")
def provenance():
    (version,) = SHIPPED[NAME].path.glob("[0-9]*")
    return json.loads((version / PROVENANCE).read_text())


def centroids(embedding, labels):
    """The mean embedding of each class, [K, D]."""
    return np.stack([embedding[labels == k].mean(0) for k in range(labels.max() + 1)])


def nearest(embedding, means):
    distances = tf.reduce_sum((embedding[:, None] - means[None]) ** 2, axis=2)
    return -distances


def test_its_embeddings_tell_digits_and_colours_and_colours_under_attack(images_and_labels):
    """By the nearest class mean of other images: no probe, no evaluation of this project's."""
    images, labels = images_and_labels
    encoder = tf_avae.load_encoder(NAME, outputs=["embedding"])
    embedding = encoder(tf.constant(images))["embedding"].numpy()
    fitted, tried = slice(0, 400), slice(400, 500)
    for task, least in (("digit", 0.6), ("color", 0.9)):
        means = tf.constant(centroids(embedding[fitted], labels[task][fitted]))
        said = nearest(embedding[tried], means).numpy().argmax(1)
        assert np.mean(said == labels[task][tried]) > least
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")

    def cross_entropy(x):
        return loss(labels["color"][tried], nearest(encoder(x)["embedding"], means))

    attacked = tf_avae.pgd(
        cross_entropy, tf.constant(images[tried]), epsilon=0.05, steps=10, seed=tf.constant([0, 0])
    )
    said = nearest(encoder(attacked)["embedding"], means).numpy().argmax(1)
    assert np.mean(said == labels["color"][tried]) > 0.9


def test_a_server_serves_it_with_one_word(tmp_path, images_and_labels):
    images = images_and_labels[0][:3]
    with Server(tmp_path, "--demo") as server, EmbeddingClient(server.grpc, model=NAME) as client:
        found = client.embed(images)
    expected = tf_avae.load_encoder(NAME)(tf.constant(images))
    np.testing.assert_allclose(found.mean, expected["embedding"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.inconsistency, expected["inconsistency"], rtol=1e-4, atol=1e-5)


def test_what_is_at_a_path_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located(NAME) == SHIPPED[NAME].path
    assert open_encoder(NAME).notes["config"]["dataset"] == "color_mnist"
    (tmp_path / NAME).mkdir()
    with pytest.raises(InputError, match=r"holds no|is neither"):
        open_encoder(NAME)
    with pytest.raises(InputError, match=NAME):
        tf_avae.load_encoder("colormnist-robbust")


def test_demo_and_a_model_of_ones_own_exclude_each_other():
    given = flags.parser().parse_args(["--demo", "--model_base_path=models/mine"])
    with pytest.raises(InputError, match="--demo serves what comes with the package"):
        flags.check(given)
    with pytest.raises(InputError, match="give one, or --demo"):
        flags.check(flags.parser().parse_args([]))


def kept(name):
    return json.loads((ROOT / "docs/results" / NAME / f"{name}.json").read_text())


def line(*cells):
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


@pytest.mark.parametrize("name", ["paper", "strong_digit", "strong_color"])
def test_the_model_cards_figures_are_those_kept(provenance, name):
    results = kept(name)
    assert results["settings"]["budget"] == name.split("_")[0]
    (record,) = results["encoders"]
    assert record["sha256"] == provenance["weights_sha256"]
    card = (ROOT / "docs" / "model_card.md").read_text()
    for row in table.rows(results):
        assert line(row.group, row.label, row.cells[0].line) in card


def test_the_readme_says_what_was_measured():
    readme = (ROOT / "README.md").read_text()

    def percent(name, task, epsilon):
        (record,) = kept(name)["encoders"]
        rows = [record["probes"][task]["linear"]["nominal"]] if not epsilon else [
            row["accuracy"] for row in record["robustness"]["rows"]
            if (row["task"], row["head"], row["epsilon"]) == (task, "linear", epsilon)
        ]  # fmt: skip
        return f"{100 * rows[0]['value']:.1f}"

    digits, colours = (percent("paper", task, 0) for task in ("digit", "color"))
    assert f"reads {digits} % of the digits and {colours} % of the colours" in readme
    digits, colours = (percent("paper", task, 0.1) for task in ("digit", "color"))
    assert f"at ε 0.1 it keeps {digits} and {colours} %" in readme
    digits, colours = (percent(f"strong_{task}", task, 0.1) for task in ("digit", "color"))
    assert f"does not make {digits} and {colours} %, at ε 0.3 nothing" in readme
    assert {percent("paper", task, 0.3) for task in ("digit", "color")} == {"0.0"}


def test_the_model_card_has_its_provenance_and_its_figures(provenance):
    card = (ROOT / "docs" / "model_card.md").read_text()
    assert provenance["complete"] and provenance["evaluation"]
    assert provenance["weights_sha256"] in card and provenance["trained"]["commit"] in card
    rows = [line(r["group"], r["figure"], r["value"]) for r in provenance["evaluation"]]
    shown = re.findall(r"^\| .* \|$", card, re.MULTILINE)
    assert [row for row in shown if row in rows] == rows
    config = provenance["config"]
    for name in ("algo", "arch", "obs_var", "rho", "rho_se", "epsilon", "pgd_steps", "steps",
                 "latent_dim", "learning_rate", "seed"):  # fmt: skip
        assert f"`{name}` {config[name]}" in card


def test_it_is_small_and_says_nothing_of_the_machine_it_was_made_on(provenance):
    files = [path for path in SHIPPED[NAME].path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 13e6
    assert "/" not in "".join(re.findall(r'(?<=[ ="])/\w+', json.dumps(provenance)))
    assert locate(NAME)[0].parent == SHIPPED[NAME].path
