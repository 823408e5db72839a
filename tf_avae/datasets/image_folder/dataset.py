"""A folder of the user's own pictures, whose subfolders are classes."""

import hashlib
import os
from pathlib import Path

import numpy as np

from tf_avae.colours import WHITE
from tf_avae.config import Config
from tf_avae.console.printing import note
from tf_avae.datasets.base import check_validation
from tf_avae.datasets.image_folder.cache import PictureFile, read_pictures, state_of
from tf_avae.datasets.indexed import Indexed, IndexedImages
from tf_avae.errors import InputError, first_few
from tf_avae.files import absolute
from tf_avae.image_files.fitting import STRETCH

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Files with these endings, in small or capital letters, are taken for pictures; their content
decides the format."""

LABEL = "folder"
"""Name of the label: the subfolder that a picture is in."""

SPLITS = ("train", "test")
"""Subfolders that are the splits where both are there."""

HELD_OUT = 10
"""One picture in so many is held out where there are no subfolders for the splits."""


def open_image_folder(
    data_dir: str | Path | None = None,
    validation: int = 0,
    image_size: int | None = None,
    on_bad_image: str = "error",
    split_seed: int = 0,
    background: str = WHITE,
    fit: str = STRETCH,
) -> IndexedImages:
    """Pictures in a folder and its subfolders, resized to N x N, in colour.

    The images of each split come in an order that a hash of (split_seed, path) decides, so that
    the first or the last so many are a sample of all.

    Args:
        data_dir: the folder. Its subfolders are classes, where all pictures are in one and there
            are two or more; its subfolders `train` and `test`, if it has them, are the splits, and
            theirs are the classes.
        validation: the last so many training images are the held-out ones, instead of the test
            images, and are not trained on.
        image_size: N.
        on_bad_image: "error" to refuse files that cannot be read, "skip" to leave them out.
        split_seed: decides the order, and with it which tenth is held out where there is no `test`.
        background: the colour that transparent pictures are laid on: black, grey, white, or # and
            six hexadecimal digits.
        fit: how a picture that is not square becomes one: a row of `FITS`.

    Raises:
        InputError: a value that `Config` does not take, no folder, too few pictures, pictures that
            cannot be read, or no training image left.
    """
    if data_dir is None:
        raise InputError("data_dir is not given; say which folder holds the pictures")
    if image_size is None:
        raise InputError(
            "image_size is not given; say which height and width to resize to, such as 64"
        )
    Config(
        validation=validation, image_size=image_size, on_bad_image=on_bad_image,
        split_seed=split_seed, background=background, fit=fit,
    )  # fmt: skip
    folder = absolute(data_dir)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; it must hold pictures")
    splits = any((folder / name).is_dir() for name in SPLITS)
    files, others = find_files(folder)
    if splits:
        others = [path for path in others if _is_in_split(path)]
    if others:
        note(
            f"note: left out: {len(others):,} files whose names do not end with one of "
            f"{', '.join(SUFFIXES)}: {first_few(map(_printable, others))}"
        )
    if splits:
        files = _in_splits(folder, files)
    if not files:
        raise InputError(
            f"{folder} holds no picture; names of pictures end with one of {', '.join(SUFFIXES)}"
        )
    pictures = read_pictures(folder, files, image_size, background, fit)
    paths, checksums = pictures.paths, {"pictures": pictures.checksum}
    if pictures.unreadable:
        _tell_of(pictures.unreadable, on_bad_image, len(files))
        checksums["pictures left out"] = first_few(sorted(map(_printable, pictures.unreadable)))
    _tell_of_classes(paths, [*others, *pictures.unreadable], splits)
    train, held_out = _split(folder, paths, splits, split_seed)
    classes = _classes(folder, paths, splits, train)
    check_validation(validation, len(train))
    if validation:
        train, held_out = train[:-validation], train[-validation:]
    labels = {}
    if classes:
        number = {name: index for index, name in enumerate(classes)}
        labels[LABEL] = np.array([number[_class_of(path, splits)] for path in paths], np.int32)
    images = Indexed(pictures.fetch, labels, len(paths))
    return IndexedImages(
        name="image_folder",
        image_shape=(image_size, image_size, 3),
        train_split=images.select(train),
        held_out_split=images.select(held_out),
        class_names={name: tuple(map(_printable, classes)) for name in labels},
        tasks=tuple(labels),
        checksums=checksums,
    )


def find_files(folder: Path) -> tuple[list[PictureFile], list[str]]:
    """The files under a folder that may be pictures, and the paths of the others; sorted by path.

    Hidden files and folders are passed over. Links are followed; a folder that is reached in
    several ways is read once.

    Raises:
        InputError: a folder cannot be read.
    """
    found: list[PictureFile] = []
    others: list[str] = []
    seen = set()
    ahead = [("", folder)]
    while ahead:
        prefix, place = ahead.pop()
        try:
            about = place.stat()
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            # Entries, not paths: those know what they are, and a folder may have 100,000.
            entries = [entry for entry in os.scandir(place) if not entry.name.startswith(".")]
            inner = [entry.name for entry in entries if _is_folder(entry)]
        except OSError as error:
            raise InputError(
                f"cannot read the folder {place}: {error.strerror or error}; change its "
                "permissions, or move it away"
            ) from error
        ahead += [(f"{prefix}{name}/", place / name) for name in sorted(inner, reverse=True)]
        folders = set(inner)
        for entry in entries:
            if entry.name in folders:
                continue
            if entry.name.lower().endswith(SUFFIXES):
                found.append(PictureFile(prefix + entry.name, state_of(entry)))
            else:
                others.append(prefix + entry.name)
    return sorted(found), sorted(others)


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether it is a folder, or a link to one; an entry raises where links go in a circle."""
    return Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()


def _in_splits(folder: Path, files: list[PictureFile]) -> list[PictureFile]:
    """The files of the two splits, each of which must have some."""
    counts = {name: sum(f.path.startswith(f"{name}/") for f in files) for name in SPLITS}
    if not all(counts.values()):
        listed = " and ".join(f"{count} in {name}/" for name, count in counts.items())
        raise InputError(
            f"{folder} has {listed} of its {len(files)} pictures; it must have some in both, or "
            "neither subfolder: rename the one that is there, or name it as the folder"
        )
    if beside := len(files) - sum(counts.values()):
        note(f"note: {beside:,} pictures outside train/ and test/ are not used")
    return [file for file in files if _is_in_split(file.path)]


def _is_in_split(path: str) -> bool:
    return path.startswith(tuple(f"{name}/" for name in SPLITS))


def _tell_of(unreadable: dict[str, str], on_bad_image: str, total: int) -> None:
    """Names the files that cannot be read: in an error, or in a note where they are left out."""
    reasons = [f"{_printable(path)} ({reason})" for path, reason in sorted(unreadable.items())]
    named = first_few(reasons, separator="; ")
    text = f"{len(unreadable):,} of {total:,} pictures cannot be read: {named}"
    if on_bad_image == "error":
        raise InputError(
            f"{text}. Repair or remove them, or leave them out with --on-bad-image skip"
        )
    note(f"note: {text}. They are left out")


def _tell_of_classes(paths: list[str], left_out: list[str], splits: bool) -> None:
    """Notes the subfolders that hold files, and no picture: they are no classes."""
    there = {_class_folder(path, splits) for path in paths}
    gone = {_class_folder(path, splits) for path in left_out} - there - {""}
    if gone and "" not in there:  # otherwise there are no classes at all
        names = list(map(_printable, sorted(gone)))
        note(f"note: no classes, for want of a picture in them: {first_few(names)}")


def _split(
    folder: Path, paths: list[str], splits: bool, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training and of the held-out pictures, int64, at least one each."""

    def rank(position: int) -> bytes:
        return hashlib.sha256(f"{seed}/".encode() + os.fsencode(paths[position])).digest()

    order = np.array(sorted(range(len(paths)), key=rank), np.int64)
    if splits:
        tests = np.array([paths[position].startswith("test/") for position in order], bool)
    else:
        tests = np.arange(len(order)) < max(1, round(len(order) / HELD_OUT))
    train, held_out = order[~tests], order[tests]
    if not (len(train) and len(held_out)):
        raise InputError(
            f"{folder} has {len(train)} pictures to train on and {len(held_out)} to hold out; at "
            "least 1 of each is needed"
        )
    return train, held_out


def _class_of(path: str, splits: bool) -> str:
    """The subfolder that is the class of a picture; "" where it is in none."""
    folders = path.split("/")[1 if splits else 0 : -1]
    return folders[0] if folders else ""


def _class_folder(path: str, splits: bool) -> str:
    """The path of the subfolder that is the class of a file; "" where it is in none."""
    name = _class_of(path, splits)
    return f"{path.partition('/')[0]}/{name}" if splits and name else name


def _classes(folder: Path, paths: list[str], splits: bool, train: np.ndarray) -> list[str]:
    """The classes in order; none unless each picture is in one and there are several."""
    found = [_class_of(path, splits) for path in paths]
    loose = found.count("")
    if loose < len(found) and loose:
        note(f"note: no labels: {loose:,} of {len(found):,} pictures are in no subfolder")
    if loose or len(set(found)) < 2:
        return []
    unknown = sorted(set(found) - {found[position] for position in train}) if splits else []
    if unknown:
        raise InputError(
            f"{folder}/test has classes that {folder}/train has not: "
            f"{first_few(map(_printable, unknown))}; remove them, or add pictures to train/"
        )
    return sorted(set(found))


def _printable(name: str) -> str:
    """A name with "?" for letters that cannot be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
