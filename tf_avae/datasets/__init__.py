"""Data sets: one registry, one interface, seeded `tf.data` pipelines."""

from collections.abc import Callable
from dataclasses import dataclass

from tf_avae.datasets import color_mnist_tfds as _tfds_builder  # noqa: F401 (registers it)
from tf_avae.datasets.base import ImageData
from tf_avae.datasets.color_mnist import open_color_mnist
from tf_avae.registry import Registry


@dataclass(frozen=True)
class DatasetRow:
    """A data set by name.

    Attributes:
        name: the row's name.
        summary: what it is, for `--help` and the docs.
        open: (data_dir or None, validation) to the data; raises `InputError` on bad files.
        architecture: name of the architecture the paper uses with it.
    """

    name: str
    summary: str
    open: Callable[..., ImageData]
    architecture: str


DATASETS: Registry[DatasetRow] = Registry(
    "data set",
    DatasetRow(
        name="color_mnist",
        summary="MNIST digits in seven colours (App. F); MNIST ships with the package",
        open=open_color_mnist,
        architecture="mlp",
    ),
)

__all__ = ["DATASETS", "DatasetRow", "ImageData"]
