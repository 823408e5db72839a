"""The encoders that come with the package."""

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
from training.sweep.colormnist.measures import accuracy_measure
from training.sweep.pages import worded

NAME, FIRST = "colormnist-robust", "colormnist-robust-1"


@pytest.fixture(scope="module")
def images_and_labels():
    images, labels = next(tf_avae.DATASETS["color_mnist"].open().held_out(500).as_numpy_iterator())
    return images, labels


def provenance(name):
    (version,) = SHIPPED[name].path.glob("[0-9]*")
    return json.loads((version / PROVENANCE).read_text())


def centroids(embedding, labels):
    """The mean embedding of each class, [K, D]."""
    return np.stack([embedding[labels == k].mean(0) for k in range(labels.max() + 1)])


def nearest(embedding, means):
    distances = tf.reduce_sum((embedding[:, None] - means[None]) ** 2, axis=2)
    return -distances


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("task", ["digit", "color"])
def test_its_embeddings_tell_the_task_also_under_attack(images_and_labels, task, name):
    """By the nearest class mean of other images: no probe, no evaluation of this project's."""
    images, labels = images_and_labels[0], images_and_labels[1][task]
    encoder = tf_avae.load_encoder(name, outputs=["embedding"])
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


@pytest.mark.parametrize("name", SHIPPED)
def test_a_jpeg_is_the_same_as_a_file_and_as_pixels(images_and_labels, name):
    pixels = np.round(255 * images_and_labels[0][:8]).astype(np.uint8)
    files = [file_of(image, "JPEG", quality=95) for image in pixels]
    decoded = np.stack([by_pillow(file) for file in files]) / np.float32(255)
    saved = SavedModel(SHIPPED[name].path)
    of_files = saved.call("embed_bytes", image_bytes=tf.constant(files))["embedding"]
    of_pixels = saved.call("serving_default", image=tf.constant(decoded, tf.float32))["embedding"]
    np.testing.assert_allclose(of_files, of_pixels, rtol=1e-5, atol=1e-5)


def test_a_server_serves_it_with_one_word(tmp_path, images_and_labels):
    images = images_and_labels[0][:3]
    with Server(tmp_path, "--demo") as server:
        for name in SHIPPED:
            with EmbeddingClient(server.grpc, model=name) as client:
                found = client.embed(images)
            given = tf_avae.load_encoder(name)(tf.constant(images))
            np.testing.assert_allclose(found.embedding, given["embedding"], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(
                found.inconsistency, given["inconsistency"], rtol=1e-4, atol=1e-5
            )


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


def kept(file, name=NAME):
    return json.loads((ROOT / "docs/results" / name / f"{file}.json").read_text())


def card_of(name):
    page = {NAME: "model_card.md", FIRST: "model_card_1.md"}[name]
    return (ROOT / "docs" / page).read_text()


def is_of_the_encoder(record, name):
    """Whether results are of its weights: as a run, as it is, or as it was exported before."""
    notes = provenance(name)
    before = notes.get("exported_again", {}).get("replaces", {}).get("sha256")
    now = open_encoder(name).notes["sha256"]
    return record["sha256"] in (notes["weights_sha256"], now, before)


# What holds the figures of a head.
FILES = {
    "linear": ("strong",),
    "mlp": ("strong", "strong_mlp_proofs"),
    "interval": ("strong_interval",),
}


def accuracies(task, head, name=NAME, files=None):
    """What a head reads: as they are, under each budget at each ε, and what is verified."""
    results = [kept(file, name) for file in files or FILES[head]]
    of = {("nominal", 0): results[0]["encoders"][0]["probes"][task][head]["nominal"]}
    for result in results:
        (encoder,) = result["encoders"]
        for row in encoder.get("robustness", {}).get("rows", []):
            if (row["task"], row["head"]) == (task, head):
                of[result["settings"]["budget"], row["epsilon"]] = row["accuracy"]
        for row in encoder.get("certified", {}).get("rows", []):
            if (row["task"], row["head"]) == (task, head):
                of["verified", row["epsilon"]] = row["verified"]
    return {key: table.percent(share) for key, share in of.items()}


def rows(cells, heads=tuple(FILES)):
    """The rows of a table, a task and head each; `cells` gives those of one."""
    return [
        f"| {word}, `{head}` | {' | '.join(cells(task, head))} |"
        for task, word in (("digit", "digits"), ("color", "colours"))
        for head in heads
    ]


def shown(found, how):
    """The cells of `COLUMNS`; a dash where nothing was measured."""
    return [getattr(found[key], how) if key in found else "–" for key in COLUMNS]


COLUMNS = [("nominal", 0), ("strong", 0.1), ("verified", 0.1), ("strong", 0.2), ("verified", 0.2)]
COLUMNS_OF_THE_FIRST = [("nominal", 0), ("paper", 0.1), ("strong", 0.1), ("strong", 0.2)]


def test_the_model_cards_figures_are_those_kept():
    card = card_of(NAME)
    for file in (ROOT / "docs" / "results" / NAME).glob("*.json"):
        results = kept(file.stem)
        assert results["settings"]["budget"] == file.stem.split("_")[0]
        (record,) = results["encoders"]
        assert is_of_the_encoder(record, NAME)
    for row in rows(lambda task, head: shown(accuracies(task, head), "line")):
        assert row in card
    checks = [
        check
        for file in ("strong", "strong_interval")
        for group in kept(file)["encoders"][0]["checks"]["groups"]
        for check in group["checks"]
    ]
    assert all(check["passed"] for check in checks)
    assert f"**All {len(checks)} honesty checks passed.**" in card


def test_a_wider_search_broke_no_more():
    left = []
    for epsilon in (0.1, 0.2):
        strong, wider = (
            table.attacked(kept(file)["encoders"][0]["robustness"], "digit", "linear", epsilon)
            for file in ("strong", "exhaustive")
        )
        outcomes = strong["outcomes"][:200], wider["outcomes"]
        assert outcomes[0].count(".") == outcomes[1].count(".")
        left.append(f"{outcomes[1].count('.') / 2:.1f}")
    words = f"leaves {left[0]} and {left[1]} % of the first 200 digits at ε 0.1 and 0.2"
    assert words in card_of(NAME)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("pgd-0.1", "PGD, ε 0.1"),
        ("interval-0.1", "bounds, ε 0.1"),
        ("interval-0.2", "bounds, ε 0.2"),
    ],
)
def test_what_labels_would_add_is_in_the_files(file, words):
    found = accuracies("digit", "linear", "ceilings", (file,))
    row = f"| {words} ([file](results/ceilings/{file}.json)) | "
    page = (ROOT / "docs" / "beyond.md").read_text()
    assert row + " | ".join(shown(found, "text")) + " |" in page


def test_the_model_card_has_three_seeds():
    values = json.loads((ROOT / "docs/results/hold/colormnist.json").read_text())
    (model,) = values["models"].values()
    assert len(model["trainings"]) == 3
    of, card = model["over_seeds"], card_of(NAME)

    def cells(task, head):
        for how, epsilon in COLUMNS:
            proof = "crown" if how == "verified" else ""
            name = accuracy_measure(task, head, "strong", epsilon, proof=proof)["name"]
            yield worded(of[name], 1) if name in of else "–"

    for row in rows(cells, ("linear", "mlp")):
        assert row in card


def test_the_first_ones_card_has_the_figures_kept():
    card = card_of(FIRST)
    assert tables.markdown(kept("paper", FIRST), [FIRST]) in card
    files = [*(ROOT / "docs" / "results" / FIRST).glob("*.json")]
    assert len(files) == 5
    for file in files:
        results = kept(file.stem, FIRST)
        assert results["settings"]["budget"] == file.stem.split("_")[0]
        # Of `strong` through the first head its own number, 1,000.
        number = {"strong": None, "exhaustive": 200}.get(file.stem, 500)
        assert results["settings"]["images"] == number
        (record,) = results["encoders"]
        assert is_of_the_encoder(record, FIRST)

    def cells(task, head):
        which = "" if head == "linear" else f"_{head}"
        found = accuracies(task, head, FIRST, (f"paper{which}", f"strong{which}"))
        return [found[key].line for key in COLUMNS_OF_THE_FIRST]

    for row in rows(cells, ("linear", "mlp")):
        assert row in card


def test_the_first_ones_card_says_what_inconsistency_was_found_to_tell():
    (record,) = json.loads((ROOT / "docs/results/detection_shipped.json").read_text())["encoders"]
    assert is_of_the_encoder(record, FIRST)
    digits, colours = (table.told(record["detection"], task, 0.2) for task in ("digit", "color"))
    assert [attacks[PGD]["undetected"]["value"] for attacks in (digits, colours)] == [0, 0]
    unseen, also = (
        table.percent(attacks[KNOWING]["undetected"]).text for attacks in (digits, colours)
    )
    words = f"still breaks {unseen} % of the digits and {also} % of the colours unseen"
    assert words in card_of(FIRST)


def test_the_readme_says_what_was_measured():
    readme = (ROOT / "README.md").read_text()
    for row in rows(lambda task, head: shown(accuracies(task, head), "text")):
        assert row in readme
    before = accuracies("digit", "linear", FIRST)
    read, kept_1, kept_2 = (before[key].text for key in COLUMNS if key in before)
    assert f"reads {read} %, and `strong` leaves {kept_1} and {kept_2} at" in card_of(NAME)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_model_card_has_its_provenance_and_that_has_its_figures(name):
    card, notes = card_of(name), provenance(name)
    assert notes["complete"]
    assert notes["weights_sha256"] in card and notes["trained"]["commit"] in card
    evaluated = {NAME: "strong", FIRST: "paper"}[name]
    file = ROOT / "docs/results" / name / f"{evaluated}.json"
    assert notes["evaluation"] == figures(file, notes["weights_sha256"])
    config = notes["config"]
    used = OBJECTIVES[config["algo"]].uses
    given = ("algo", "arch", "obs_var", "steps", "latent_dim", "learning_rate", "seed", *used)
    for field in (field for field in given if config.get(field) not in (None, "")):
        assert f"`{field}` {config[field]}" in card
    for field in {"rho", "rho_se", "epsilon"} - {*used}:
        assert f"`{field}`" not in card


@pytest.mark.parametrize(("name", "largest"), [(NAME, 6e6), (FIRST, 13e6)])
def test_it_is_small_and_says_nothing_of_the_machine_it_was_made_on(name, largest):
    files = [path for path in SHIPPED[name].path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < largest
    assert "/" not in "".join(re.findall(r'(?<=[ ="])/\w+', json.dumps(provenance(name))))
    assert locate(name)[0].parent == SHIPPED[name].path
