"""ColorMNIST as a TFDS builder: importing this module makes `tfds.load("color_mnist")` work.

The same files and the same colours as the seeded pipeline: training images in their colours of
seed 0 and epoch 0, test images in the colours they always have. Nothing is downloaded.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tf_avae.backend import tf
from tf_avae.datasets.color_mnist.dataset import COLORS, open_color_mnist


class ColorMnist(tfds.core.GeneratorBasedBuilder):
    """MNIST digits in the seven non-empty subsets of the RGB channels."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (the name and form TFDS asks for)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=(
                "MNIST digits, each in one of seven colours, with two labels: digit and color."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 3)),
                    "digit": tfds.features.ClassLabel(num_classes=10),
                    "color": tfds.features.ClassLabel(names=COLORS),
                }
            ),
            supervised_keys=("image", {"digit": "digit", "color": "color"}),
            homepage="https://arxiv.org/abs/2012.03715",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        data = open_color_mnist()
        return {
            "train": self._generate_examples(data.train_images(1000)),
            "test": self._generate_examples(data.held_out(1000)),
        }

    def _generate_examples(
        self, batches: "tf.data.Dataset"
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        key = 0
        for images, labels in batches.as_numpy_iterator():
            pixels = np.round(images * 255).astype(np.uint8)
            for image, digit, color in zip(pixels, labels["digit"], labels["color"], strict=True):
                yield key, {"image": image, "digit": digit, "color": color}
                key += 1
