"""An archive in CelebA's official format, of drawn faces."""

import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tf_avae.console.progress import Counter
from tf_avae.datasets.celeb_a.files import ATTRIBUTE_LIST, FOLDER, IMAGES, OFFICIAL, PARTITION
from tf_avae.datasets.celeb_a.tasks import ATTRIBUTES
from tf_avae.datasets.drawn_faces.face import draw_face
from tf_avae.errors import InputError
from tf_avae.files import absolute, replacing, write_text

FEWEST = 100
"""Images in an archive, at least: of the rarest attributes no less than four in every part."""

_PARTS = (162_770, 19_867, 19_962)  # of the photographs
_EACH = 4  # of either class of each task, in each part, at least
_QUALITY = 92

_EVERYBODY, _MEN, _WOMEN = "everybody", "men", "women"
_FREQUENCIES: tuple[tuple[str, float, str], ...] = (
    ("Bald", 0.022, _MEN),
    ("Wearing_Hat", 0.048, _EVERYBODY),
    ("Mustache", 0.042, _MEN),
    ("Wearing_Necktie", 0.073, _MEN),
    ("Eyeglasses", 0.065, _EVERYBODY),
    ("Smiling", 0.482, _EVERYBODY),
    ("Wearing_Lipstick", 0.472, _WOMEN),
    ("Wearing_Earrings", 0.189, _WOMEN),
    ("Wearing_Necklace", 0.123, _WOMEN),
)
"""Of attributes among the photographs, and who of the drawn faces has them."""

_MALE, _BEARD, _BANGS = 0.417, 0.165, 0.152
_HAIR = (("Black_Hair", 0.239), ("Brown_Hair", 0.205), ("Blond_Hair", 0.148), ("Gray_Hair", 0.042))
_TEXTURE = (("Wavy_Hair", 0.32), ("Straight_Hair", 0.208))


def draw_celeb_a(folder: str | Path, images: int = 600, seed: int = 0) -> None:
    """Writes the three official files, of drawn faces.

    Attributes are as frequent as among the photographs, but in every part at least four images
    have each of those that tasks are made of, and four have not. Those that no task is made of are
    absent from all (`Gray_Hair` aside). The parts have the official proportions.

    Args:
        folder: is made if need be.
        images: how many, `FEWEST` to 202,599.
        seed: decides everything.

    Raises:
        InputError: a number of images out of range, or there are such files already.
    """
    if not FEWEST <= images <= sum(_PARTS):
        raise InputError(
            f"images is {images}; it must be at least {FEWEST} and at most {sum(_PARTS)}"
        )
    folder = absolute(folder)
    for name in OFFICIAL:
        if (folder / name).exists():  # photographs, maybe
            raise InputError(f"{folder} holds {name} already; give another folder")
    sizes = [round(images * part / sum(_PARTS)) for part in _PARTS[1:]]
    sizes = [images - sum(sizes), *sizes]
    generators = (np.random.default_rng((seed, part)) for part in range(len(sizes)))
    attributes = np.concatenate(list(map(_attributes, generators, sizes)))
    counter = Counter("faces drawn", images)

    def faces() -> Iterator[bytes]:
        for index, present in enumerate(attributes):
            yield _jpeg(draw_face(present, np.random.default_rng((seed, len(sizes), index))))
            counter.update(index + 1)

    write_archive(folder, faces(), attributes, np.repeat(range(len(sizes)), sizes))


def write_archive(
    folder: str | Path, jpegs: Iterable[bytes], attributes: np.ndarray, parts: np.ndarray
) -> None:
    """Writes the three official files; the same arguments give the same bytes.

    Args:
        folder: is made if need be; files of these names in it are replaced.
        jpegs: the images, one by one.
        attributes: bool [N, 40], in the order of `ATTRIBUTES`.
        parts: [N], 0 for training, 1 for validation, 2 for testing.
    """
    folder = absolute(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:06d}.jpg" for number in range(1, len(attributes) + 1)]
    with replacing(folder / IMAGES) as path, zipfile.ZipFile(path, "w") as archive:
        for name, jpeg in zip(names, jpegs, strict=True):
            # An entry made by hand is of 1980; others would have the time of writing.
            archive.writestr(zipfile.ZipInfo(FOLDER + name), jpeg)
    lines = [f"{len(names)}\n", " ".join(ATTRIBUTES) + " \n"]
    for name, row in zip(names, attributes, strict=True):
        lines.append(" ".join([name, *(f"{1 if present else -1:2d}" for present in row)]) + "\n")
    write_text(folder / ATTRIBUTE_LIST, "".join(lines))
    lines = [f"{name} {part}\n" for name, part in zip(names, parts, strict=True)]
    write_text(folder / PARTITION, "".join(lines))


def _jpeg(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _attributes(rng: np.random.Generator, size: int) -> np.ndarray:
    """The attributes of the faces of a part, bool [size, 40]."""
    has = {name: np.zeros(size, bool) for name in ATTRIBUTES}

    def give(name: str, frequency: float, to: np.ndarray) -> None:
        """So many images of the part get an attribute, among those allowed to have it."""
        allowed = np.flatnonzero(to)
        count = min(max(round(frequency * size), _EACH), len(allowed))
        has[name][rng.choice(allowed, count, replace=False)] = True

    everybody = np.ones(size, bool)
    give("Male", _MALE, everybody)
    groups = {_EVERYBODY: everybody, _MEN: has["Male"], _WOMEN: ~has["Male"]}
    for name, frequency, group in _FREQUENCIES:
        give(name, frequency, groups[group] & ~(has["Bald"] & (name == "Wearing_Hat")))
    give("No_Beard", _BEARD, has["Male"])
    has["No_Beard"] = ~has["No_Beard"]
    for kinds in (_HAIR, _TEXTURE):
        left = ~has["Bald"]
        for name, frequency in kinds:
            give(name, frequency, left)
            left &= ~has[name]
    give("Bangs", _BANGS, ~has["Bald"] & ~has["Wearing_Hat"])
    return np.stack([has[name] for name in ATTRIBUTES], axis=1)
