"""Makes the demo ready: encoders, heads, and the graphs of attacks and proofs."""

from tf_avae.config import Config
from tf_avae.console.printing import say
from tf_avae.datasets import open_data
from tf_avae.datasets.color_mnist.idx import Split, load_split
from tf_avae.files import absolute
from training.demo.digits import coloured, picked
from training.demo.kept import STEPS, plain_vae
from training.demo.readers import FIRST, STEP, Reader

_SHIPPED = "colormnist-robust"
_IMAGES = 10_000  # that heads are fitted to


def ready(
    data_dir: str | None = None, steps: int = STEPS, images: int = _IMAGES
) -> tuple[list[Reader], Split]:
    """The two encoders, and the test digits.

    Args:
        data_dir: as `open_color_mnist` takes it.
        steps: of the plain VAE's training.
        images: training images that heads are fitted to.

    Raises:
        Stopped: by a signal.
        InputError: the cache or the data cannot be used.
    """
    path = plain_vae(data_dir, steps)
    data = open_data(Config(data_dir=data_dir))
    split = load_split("test", absolute(data_dir) if data_dir else None)
    readers = [
        Reader("plain VAE", path, data, images),
        Reader(_SHIPPED, _SHIPPED, data, images),
    ]
    say("making attacks and proofs ready")
    image = coloured(picked(split, 0, 0), "white")
    for reader in readers:
        for aim in (FIRST, "the digit 1"):
            reader.look(image, STEP, aim)
    return readers, split
