"""The `celeb_a` that TFDS has prepared already, as a source of the same images.

It holds the official JPEG files unchanged, so that the crops are the same; within a split they come
in TFDS's order, not in that of the official list.
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from tf_avae.backend import Lazy, tf
from tf_avae.datasets.celeb_a.files import SPLITS, Record, Source, Stream
from tf_avae.datasets.celeb_a.tasks import ATTRIBUTES
from tf_avae.errors import InputError, reason
from tf_avae.files import absolute

tfds = Lazy("tensorflow_datasets")


def data_folder() -> Path:
    """TFDS's data directory: TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return absolute(tfds.core.constants.DATA_DIR)


def stock_source(folder: Path) -> Source | None:
    """The newest version of `celeb_a` in a TFDS data directory; none where there is none."""
    found = (path.parent for path in (folder / "celeb_a").glob("*.*.*/dataset_info.json"))
    versions = [path for path in found if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    if not versions:
        return None
    newest = max(versions, key=lambda path: tuple(map(int, path.name.split("."))))
    files = sorted(path for path in newest.iterdir() if path.is_file())
    return Source(tuple(files), lambda: _read(newest))


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(f"{folder} is damaged ({reason(error)}); prepare it again with TFDS")


def _read(folder: Path) -> Stream:
    try:
        builder = tfds.builder_from_directory(folder)
        counts = {split: builder.info.splits[split].num_examples for split in SPLITS}
    except (ValueError, KeyError) as error:
        raise _damaged(folder, error) from error

    def records(split: str, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        examples = builder.as_dataset(
            split=split,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
        )
        try:
            for number, example in enumerate(
                islice(examples.as_numpy_iterator(), start, stop), start + 1
            ):
                present = np.array([example["attributes"][name] for name in ATTRIBUTES], bool)
                yield Record(f"{folder}: {split} image {number}", example["image"], present)
        except tf.errors.DataLossError as error:
            raise _damaged(folder, error) from error

    return Stream(counts, records)
