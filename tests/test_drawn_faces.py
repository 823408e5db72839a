"""Faces drawn in CelebA's format: what is said of them is in the pictures."""

import hashlib

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from tests.test_celeb_a import ATTRIBUTE_LIST, IMAGES, PARTITION, rows
from tf_avae.datasets import DATASETS
from tf_avae.datasets.celeb_a.tasks import TASKS
from tf_avae.datasets.drawn_faces.archive import draw_celeb_a
from tf_avae.errors import InputError
from training import draw_faces

OPEN = DATASETS["celeb_a"].open
# Of the photographs, as published with them, in per cent.
FREQUENT = {
    "Male": 41.7, "Smiling": 48.2, "No_Beard": 83.5, "Black_Hair": 23.9, "Eyeglasses": 6.5,
    "Wavy_Hair": 32.0, "Wearing_Hat": 4.8,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """600 faces, drawn by the command line, with its sheet beside them."""
    folder = tmp_path_factory.mktemp("drawn") / "faces"
    sheet = folder.parent / "sheet.png"
    assert draw_faces.main([str(folder), "--seed", "1", "--sheet", str(sheet)]) == 0
    return folder


@pytest.fixture(scope="module")
def parts(folder):
    """Images and labels of the training, the validation and the test part."""
    test = OPEN(folder)
    validation = OPEN(folder, validation=59)
    return (
        rows(test.train_images(241)),
        rows(validation.held_out(59)),
        rows(test.held_out(59)),
    )


def test_parts_have_the_official_proportions_and_every_class(parts):
    assert [len(images) for images, _ in parts] == [482, 59, 59]  # of 600, as of 202,599
    for _, labels in parts:
        for task in TASKS:
            assert min(np.bincount(labels[task], minlength=2)) >= 4, task


def test_attributes_are_about_as_frequent_as_in_the_photographs(parts):
    labels = parts[0][1]
    for name, percent in FREQUENT.items():
        assert abs(100 * labels[name].mean() - percent) < 1, name
    # What cannot be together in a picture.
    assert not (labels["Bald"] & (labels["Bangs"] | labels["Hat"] | labels["Wavy Hair"])).any()
    assert (labels["Black Hair"] + labels["Blond Hair"] + labels["Brown Hair"] <= 1).all()


def test_a_linear_probe_on_pixels_sees_most_tasks(parts):
    """On faces that it was not fitted to; the tasks are neither all trivial nor impossible."""
    (images, labels), *held_out = parts
    seen = np.concatenate([images for images, _ in held_out]).reshape(118, -1) / 255
    truth = np.stack([np.concatenate([y[task] for _, y in held_out]) for task in TASKS], 1)
    fitted = np.stack([labels[task] for task in TASKS], 1)
    scores = Ridge(alpha=100).fit(images.reshape(482, -1) / 255, fitted).predict(seen)
    areas = [roc_auc_score(truth[:, task], scores[:, task]) for task in range(17)]
    accuracy = ((scores > 0.5) == truth).mean(0)
    majority = np.maximum(truth.mean(0), 1 - truth.mean(0))
    assert np.mean(areas) > 0.8 and sum(area > 0.7 for area in areas) >= 13
    assert sum(accuracy > majority) >= 9
    assert min(areas) < 0.9


def test_the_seed_decides_every_byte(tmp_path):
    def digests(name, **how):
        draw_celeb_a(tmp_path / name, images=100, **how)
        return [
            hashlib.sha256((tmp_path / name / file).read_bytes()).hexdigest()
            for file in (IMAGES, ATTRIBUTE_LIST, PARTITION)
        ]

    one, same, other = digests("a", seed=5), digests("b", seed=5), digests("c", seed=6)
    assert one == same
    assert [x == y for x, y in zip(one, other, strict=True)] == [False, False, True]


def test_the_sheet_is_a_small_picture(folder):
    path = folder.parent / "sheet.png"
    assert path.stat().st_size < 200_000
    with Image.open(path) as sheet:
        assert np.asarray(sheet.convert("RGB")).std() > 30


@pytest.mark.parametrize("images", [99, 202_600])
def test_numbers_of_images_out_of_range_are_named(tmp_path, images):
    with pytest.raises(InputError, match=f"images is {images}; it must be at least 100"):
        draw_celeb_a(tmp_path, images=images)
    assert not any(tmp_path.iterdir())


def test_no_archive_is_written_over(folder, capsys):
    before = (folder / IMAGES).stat().st_mtime_ns
    assert draw_faces.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert error == (f"error: {folder} holds img_align_celeba.zip already; give another folder\n")
    assert (folder / IMAGES).stat().st_mtime_ns == before
