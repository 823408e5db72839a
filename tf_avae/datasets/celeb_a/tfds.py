"""CelebA at 64x64 as a TFDS builder: importing this module makes `tfds.load("celeb_a64")` work.

The images, splits and order of the seeded pipeline, from the official files in TFDS's manual
folder. Unlike the `celeb_a` of TFDS it holds a thousand 64x64 images in memory at most.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tf_avae.datasets.celeb_a.files import INSTRUCTIONS, Stream, read_official
from tf_avae.datasets.celeb_a.images import SHAPE, cropped
from tf_avae.datasets.celeb_a.tasks import ATTRIBUTES

_SHARD = 1000  # images; TFDS holds a shard in memory


class CelebA64(tfds.core.ShardBasedBuilder):
    """Aligned CelebA, the middle 148x148 pixels at 64x64, with its 40 attributes.

    Written shard by shard: what TFDS's usual writer shuffles it holds in memory, up to a gigabyte.
    """

    name = "celeb_a64"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (the name and form TFDS asks for)
    MANUAL_DOWNLOAD_INSTRUCTIONS = INSTRUCTIONS

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="Aligned photographs of celebrities at 64x64, each with 40 attributes.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=SHAPE),
                    "attributes": dict.fromkeys(ATTRIBUTES, np.bool_),
                }
            ),
            homepage="http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
            disable_shuffling=True,  # in the order of the official list
        )

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> Mapping[str, Sequence[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
        stream = read_official(Path(dl_manager.manual_dir))
        return {
            split: [
                functools.partial(_examples, stream, split, start)
                for start in range(0, count, _SHARD)
            ]
            for split, count in stream.counts.items()
        }


def _examples(stream: Stream, split: str, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The images of a shard."""
    key = start
    for images, attributes in cropped(stream.records(split, start, start + _SHARD)):
        for image, present in zip(images, attributes, strict=True):
            yield key, {"image": image, "attributes": dict(zip(ATTRIBUTES, present, strict=True))}
            key += 1
