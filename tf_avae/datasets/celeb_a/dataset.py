"""CelebA at 64x64: the official splits, the paper's 17 tasks and the 40 attributes."""

from pathlib import Path

import numpy as np

from tf_avae.datasets.base import ImageData
from tf_avae.datasets.celeb_a.files import INSTRUCTIONS, official_source
from tf_avae.datasets.celeb_a.images import SHAPE
from tf_avae.datasets.celeb_a.stock import data_folder, stock_source
from tf_avae.datasets.celeb_a.store import Store, open_store
from tf_avae.datasets.celeb_a.tasks import TASKS, class_names, labels_of
from tf_avae.datasets.indexed import Indexed, IndexedImages
from tf_avae.errors import InputError
from tf_avae.files import absolute


def open_celeb_a(data_dir: str | Path | None = None, validation: int = 0) -> ImageData:
    """CelebA from its official files, or from TFDS's `celeb_a` where that is prepared already.

    The first to open it crops the images, minutes for the official archive, and keeps them in the
    folder `celeb_a-64x64` beside the files.

    Args:
        data_dir: folder of the three official files, or TFDS data directory in which `celeb_a` is
            prepared; unless given, TFDS's own data directory, with the files in its
            `downloads/manual`. The files come first where both are there.
        validation: the held-out images are the first so many of the official validation split,
            instead of the test split. The training split stays whole.

    Raises:
        InputError: missing, damaged or unfitting files, a folder that cannot be written, or too
            large a validation part.
    """
    if data_dir is None:
        tfds = data_folder()
        home = tfds / "downloads" / "manual"
    else:
        tfds = home = absolute(data_dir)
        if not home.is_dir():
            raise InputError(f"{home} is not a folder; make it, and {INSTRUCTIONS}")
    store = open_store(home, official_source(home) or stock_source(tfds))
    if store is None:
        raise InputError(
            f"{home} holds none of CelebA's files, and {tfds} no celeb_a prepared by TFDS; "
            f"{INSTRUCTIONS}"
        )
    available = len(store.images["validation"])
    if not 0 <= validation <= available:
        raise InputError(
            f"validation is {validation}; it must be at least 0 and at most the {available} images "
            "of the official validation split"
        )
    held_out = _split(store, "validation" if validation else "test")
    if validation:
        held_out = held_out.select(np.arange(validation))
    return IndexedImages(
        name="celeb_a",
        image_shape=SHAPE,
        train_split=_split(store, "train"),
        held_out_split=held_out,
        class_names=class_names(),
        tasks=tuple(TASKS),
        checksums=store.checksums,
    )


def _split(store: Store, split: str) -> Indexed:
    images = store.images[split]
    return Indexed(lambda index: images[index], labels_of(store.attributes[split]), len(images))
