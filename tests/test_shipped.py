"""The encoder that comes with the package."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from picture_files import by_pillow, file_of
from serving_process import ROOT, Server

import tf_avae
from benchmarks import tables
from serving.client import EmbeddingClient
from serving.server import flags
from tf_avae.errors import InputError
from tf_avae.evaluation import table
from tf_avae.evaluation.detection import KNOWING, PGD
from tf_avae.graphs.saved_models import PROVENANCE, SavedModel
from tf_avae.objectives import OBJECTIVES
from tf_avae.saved.encoders import locate, open_encoder
from tf_avae.saved.exports import figures
from tf_avae.saved.shipped import SHIPPED, located

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


@pytest.mark.parametrize("task", ["digit", "color"])
def test_its_embeddings_tell_the_task_also_under_attack(images_and_labels, task):
    """By the nearest class mean of other images: no probe, no evaluation of this project's."""
    images, labels = images_and_labels[0], images_and_labels[1][task]
    encoder = tf_avae.load_encoder(NAME, outputs=["embedding"])
    embedding = encoder(tf.constant(images))["embedding"].numpy()
    fitted, tried = slice(0, 400), slice(400, 500)
    means = tf.constant(centroids(embedding[fitted], labels[fitted]))
    said = nearest(embedding[tried], means).numpy().argmax(1)
    assert np.mean(said == labels[tried]) > 0.75
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")

    def cross_entropy(x):
        return loss(labels[tried], nearest(encoder(x)["embedding"], means))

    attacked = tf_avae.pgd(
        cross_entropy, tf.constant(images[tried]), epsilon=0.05, steps=10, seed=tf.constant([0, 0])
    )
    said = nearest(encoder(attacked)["embedding"], means).numpy().argmax(1)
    assert np.mean(said == labels[tried]) > 0.65


def test_a_jpeg_is_the_same_as_a_file_and_as_pixels(images_and_labels):
    pixels = np.round(255 * images_and_labels[0][:8]).astype(np.uint8)
    files = [file_of(image, "JPEG", quality=95) for image in pixels]
    decoded = np.stack([by_pillow(file) for file in files]) / np.float32(255)
    saved = SavedModel(SHIPPED[NAME].path)
    of_files = saved.call("embed_bytes", image_bytes=tf.constant(files))["embedding"]
    of_pixels = saved.call("serving_default", image=tf.constant(decoded, tf.float32))["embedding"]
    np.testing.assert_allclose(of_files, of_pixels, rtol=1e-5, atol=1e-5)


def test_a_server_serves_it_with_one_word(tmp_path, images_and_labels):
    images = images_and_labels[0][:3]
    with Server(tmp_path, "--demo") as server, EmbeddingClient(server.grpc, model=NAME) as client:
        found = client.embed(images)
    expected = tf_avae.load_encoder(NAME)(tf.constant(images))
    np.testing.assert_allclose(found.embedding, expected["embedding"], rtol=1e-5, atol=1e-5)
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


def is_of_the_encoder(record, provenance):
    """Whether results are of its weights: as a run, as it is, or as it was exported before."""
    before = provenance["exported_again"]["replaces"]["sha256"]
    now = open_encoder(NAME).notes["sha256"]
    return record["sha256"] in (provenance["weights_sha256"], now, before)


def accuracies(task, head):
    """What a head reads: as they are, under `paper` and under `strong` at each ε."""
    which = "" if head == "linear" else f"_{head}"
    paper, strong = kept(f"paper{which}"), kept(f"strong{which}")
    of = {("nominal", 0): paper["encoders"][0]["probes"][task][head]["nominal"]}
    for results in (paper, strong):
        budget, epsilons = (results["settings"][name] for name in ("budget", "epsilons"))
        for epsilon in epsilons:
            robustness = results["encoders"][0]["robustness"]
            of[budget, epsilon] = table.attacked(robustness, task, head, epsilon)["accuracy"]
    return {key: table.percent(share) for key, share in of.items()}


def test_the_model_cards_figures_are_those_kept(provenance):
    card = (ROOT / "docs" / "model_card.md").read_text()
    assert tables.markdown(kept("paper"), [NAME]) in card
    files = [*(ROOT / "docs" / "results" / NAME).glob("*.json")]
    assert len(files) == 5
    for file in files:
        results = kept(file.stem)
        assert results["settings"]["budget"] == file.stem.split("_")[0]
        # Of `strong` through the first head its own number, 1,000.
        number = {"strong": None, "exhaustive": 200}.get(file.stem, 500)
        assert results["settings"]["images"] == number
        (record,) = results["encoders"]
        assert is_of_the_encoder(record, provenance)
    for task, word in (("digit", "digits"), ("color", "colours")):
        for head in ("linear", "mlp"):
            found = accuracies(task, head)
            shown = [("nominal", 0), ("paper", 0.1), ("strong", 0.1), ("strong", 0.2)]
            cells = " | ".join(found[key].line for key in shown)
            assert f"| {word}, `{head}` | {cells} |" in card


def test_the_model_card_says_what_inconsistency_was_found_to_tell(provenance):
    card = (ROOT / "docs" / "model_card.md").read_text()
    (record,) = json.loads((ROOT / "docs/results/detection_shipped.json").read_text())["encoders"]
    assert is_of_the_encoder(record, provenance)
    digits, colours = (table.told(record["detection"], task, 0.2) for task in ("digit", "color"))
    assert [attacks[PGD]["undetected"]["value"] for attacks in (digits, colours)] == [0, 0]
    unseen, also = (
        table.percent(attacks[KNOWING]["undetected"]).text for attacks in (digits, colours)
    )
    assert f"still breaks {unseen} % of the digits and {also} % of the colours unseen" in card


def test_the_readme_says_what_was_measured():
    readme = (ROOT / "README.md").read_text()
    digits, colours = (accuracies(task, "linear") for task in ("digit", "color"))

    def both(*key):
        return digits[key].text, colours[key].text

    for words, key in (
        ("reads {} % of the digits and {} % of the colours", ("nominal", 0)),
        ("at ε 0.1 it keeps {} and {} % (first 500 test images)", ("paper", 0.1)),
        ("a wider search (`strong`, first 1,000) leaves {} and {} %", ("strong", 0.1)),
        ("at ε 0.2, twice what it was trained against, {} and {} %", ("strong", 0.2)),
    ):  # fmt: skip
        assert words.format(*both(*key)) in readme
    hidden = accuracies("digit", "mlp")
    nominal, paper, strong = (
        hidden[key].text for key in (("nominal", 0), ("paper", 0.1), ("strong", 0.1))
    )
    assert (
        f"One hidden layer in the place of the linear classifier reads {nominal} % of the digits "
        f"and keeps {paper} and {strong} % at ε 0.1"
    ) in readme


def test_the_model_card_has_its_provenance_and_that_has_its_figures(provenance):
    card = (ROOT / "docs" / "model_card.md").read_text()
    assert provenance["complete"]
    assert provenance["weights_sha256"] in card and provenance["trained"]["commit"] in card
    evaluated = ROOT / "docs/results" / NAME / "paper.json"
    assert provenance["evaluation"] == figures(evaluated, provenance["weights_sha256"])
    config = provenance["config"]
    used = OBJECTIVES[config["algo"]].uses
    given = ("algo", "arch", "obs_var", "steps", "latent_dim", "learning_rate", "seed", *used)
    for name in (name for name in given if config.get(name) is not None):
        assert f"`{name}` {config[name]}" in card
    for name in {"rho", "rho_se", "epsilon"} - {*used}:
        assert f"`{name}`" not in card


def test_it_is_small_and_says_nothing_of_the_machine_it_was_made_on(provenance):
    files = [path for path in SHIPPED[NAME].path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 13e6
    assert "/" not in "".join(re.findall(r'(?<=[ ="])/\w+', json.dumps(provenance)))
    assert locate(NAME)[0].parent == SHIPPED[NAME].path
