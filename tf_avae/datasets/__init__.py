"""Data sets: one registry, one interface, seeded `tf.data` pipelines."""

from collections.abc import Callable
from dataclasses import dataclass

from tf_avae.config import Config
from tf_avae.datasets.base import ImageData
from tf_avae.datasets.celeb_a.dataset import open_celeb_a
from tf_avae.datasets.color_mnist.dataset import open_color_mnist
from tf_avae.datasets.image_folder.dataset import open_image_folder
from tf_avae.datasets.indexed import from_arrays
from tf_avae.registry import Registry


@dataclass(frozen=True)
class DatasetRow:
    """A data set by name.

    Attributes:
        name: the row's name.
        summary: what it is, for `--help` and the docs.
        open: its options, by the names of the fields of `Config`, to the data; raises `InputError`
            on bad files. Each option has a default.
        architecture: name of its default architecture: the one that the paper uses with it.
        otherwise: name of the default for images that this one does not fit.
        options: names of the fields of `Config` that `open` takes.
    """

    name: str
    summary: str
    open: Callable[..., ImageData]
    architecture: str
    options: tuple[str, ...] = ("data_dir", "validation")
    otherwise: str = ""


DATASETS: Registry[DatasetRow] = Registry(
    "data set",
    DatasetRow(
        name="color_mnist",
        summary="MNIST digits in seven colours (App. F); MNIST ships with the package",
        open=open_color_mnist,
        architecture="mlp",
    ),
    DatasetRow(
        name="celeb_a",
        summary="CelebA at 64x64 (Table 3), from its official files: see docs/celeba.md",
        open=open_celeb_a,
        architecture="celeba",
    ),
    DatasetRow(
        name="image_folder",
        summary="one's own PNG, JPEG, WebP, BMP, GIF and TIFF files: see docs/images.md",
        open=open_image_folder,
        architecture="resnet",
        otherwise="mlp",
        options=(
            "data_dir",
            "validation",
            "image_size",
            "on_bad_image",
            "split_seed",
            "background",
            "fit",
        ),
    ),
)


def open_data(config: Config) -> ImageData:
    """The data of a config.

    Raises:
        InputError: there is no such data set, or its files are missing or damaged.
    """
    row = DATASETS[config.dataset]
    return row.open(**{name: getattr(config, name) for name in row.options})


__all__ = ["DATASETS", "DatasetRow", "ImageData", "from_arrays", "open_data"]
