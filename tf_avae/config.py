"""What a run is: one frozen, validated record that travels as strict JSON.

Each field carries its help text, its limits and where its default comes from, so the command line
and the error messages are made from this one table. Names of registries' rows (objective,
architecture, data set ...) are checked by those registries when they are looked up.
"""

import dataclasses
import functools
import json
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tf_avae.colours import colour
from tf_avae.errors import InputError
from tf_avae.registry import unknown

PAPER = "App. F"
AUTHORS = "authors' code"
OURS = "this project"


@dataclass(frozen=True)
class Option:
    """How one field of `Config` is shown and checked.

    Attributes:
        help: one sentence for `--help`.
        group: the heading under which `--help` lists it.
        source: where the default comes from.
        default: how `--help` words the default where it depends on other choices.
        low: smallest value allowed.
        above: every value must be larger than this.
        below: every value must be smaller than this.
        choices: the values allowed, where no registry has them.
        form: a text to its one normal form, which is kept; raises `InputError`.
        metavar: the name of the value in `--help`, where that of its type is too general.
        several: it is several words, of which each names a row.
    """

    help: str
    group: str
    source: str = OURS
    default: str = ""
    low: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    form: Callable[[str], str] | None = None
    metavar: str = ""
    several: bool = False

    def limit(self) -> str:
        """The range in words, for an error message."""
        bounds = {"at least": self.low, "above": self.above, "below": self.below}
        return " and ".join(
            f"{word} {value if isinstance(value, int) else format(value, 'g')}"
            for word, value in bounds.items()
            if value is not None
        )

    def check(self, name: str, value: Any) -> None:
        """Raises `InputError` where a number is not finite or out of range, or a text is not a
        choice or has another form."""
        if self.form:
            self.form(value)
        if self.choices and value not in self.choices:
            raise unknown(name, value, list(self.choices))
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if number:
            inside = (
                (isinstance(value, int) or math.isfinite(value))
                and (self.low is None or value >= self.low)
                and (self.above is None or value > self.above)
                and (self.below is None or value < self.below)
            )
            if not inside:
                shown = value if isinstance(value, int) else f"{value:g}"
                raise InputError(f"{name} is {shown}; it must be {self.limit() or 'finite'}")


def words(text: str) -> str:
    """The words of a text, with a space between them; commas count as spaces."""
    return " ".join(text.replace(",", " ").split())


def _option(value: Any, help: str, group: str, **limits: Any) -> Any:
    return dataclasses.field(default=value, metadata={"option": Option(help, group, **limits)})


WHAT, DATA, MODEL = "what to train", "data", "model"
GIVEN = "the encoder to make robust"
OBJECTIVE, ATTACK, OPTIMISATION = "objective", "adversarial images", "optimisation"
OUTPUT = "what is written"


@dataclass(frozen=True)
class Config:
    """Everything that decides the outcome of a run. `None` stands for "the default of ...".

    Raises:
        InputError: a value of the wrong type or out of range, naming the field and the limit.
    """

    algo: str = _option("", "training objective", WHAT, default="none: say which")
    init_from: str | None = _option(
        None, "run whose encoder and decoder to start from", WHAT, default="random weights"
    )

    dataset: str = _option("color_mnist", "data set", DATA, source=PAPER)
    data_dir: str | None = _option(
        None, "folder of the data set's files (color_mnist: four idx files, gzipped or not; "
        "celeb_a: the three official files; image_folder: pictures)", DATA,
        default="color_mnist: the MNIST that ships with the package",
    )  # fmt: skip
    validation: int = _option(
        0, "images to hold out for measurements instead of the test images: the last so many "
        "training images (celeb_a: the first of its own validation split)", DATA, low=0,
    )  # fmt: skip
    image_size: int | None = _option(
        None, "height and width that images are resized to (image_folder)", DATA,
        default="none: say which", low=1, below=2**12,
    )  # fmt: skip
    on_bad_image: str = _option(
        "error", "what to do with files that cannot be read (image_folder)", DATA,
        choices=("error", "skip"),
    )  # fmt: skip
    background: str = _option(
        "white", "colour that transparent pictures are laid on, and that --fit pad puts around a "
        "picture, in training and by the served model: black, grey, white, or a number such as "
        "#ffffff (image_folder)", DATA,
        form=colour, metavar="COLOUR",
    )  # fmt: skip
    fit: str = _option(
        "stretch", "how a picture that is not square becomes an image, in training and by the "
        "served model (image_folder)", DATA,
    )  # fmt: skip
    split_seed: int = _option(
        0, "which tenth of the pictures is held out where no folder test/ says so (image_folder)",
        DATA, low=0, below=2**31,
    )  # fmt: skip

    arch: str = _option(
        "", "architecture", MODEL, source=PAPER,
        default="the data set's: color_mnist mlp, celeb_a celeba, image_folder resnet, or mlp "
        "where that does not fit",
    )  # fmt: skip
    latent_dim: int = _option(64, "latent dimensions D", MODEL, source=AUTHORS, low=1, below=2**16)
    obs_var: float = _option(
        0.5, "observation variance v of p(x|z) = N(g(z), v I)", MODEL, source=AUTHORS, above=0
    )
    batch_norm: str = _option(
        "data", "what normalises encoder passes over decoded and attacked images in training: "
        "moving statistics that the pass over the data updates, the statistics of that clean "
        "batch, or those of their own batch, which all passes but the attack's then update",
        MODEL, choices=("data", "clean", "all"),
    )  # fmt: skip
    precision: str = _option(
        "float32", "Keras dtype policy; weights, heads, densities and attacks are float32 under "
        "each", MODEL, choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )  # fmt: skip
    jit: str = _option(
        "off", "whether XLA compiles the steps, of one device", MODEL, choices=("on", "off")
    )

    encoder: str | None = _option(
        None, "a run, an export, a .keras file or the name of an encoder that comes with the "
        "package; or a network of keras.applications, with --encoder-weights", GIVEN,
        default="none", metavar="ENCODER",
    )  # fmt: skip
    encoder_weights: str | None = _option(
        None, "of a network of keras.applications: its .weights.h5, or imagenet, which Keras may "
        "download", GIVEN, default="none", metavar="FILE",
    )  # fmt: skip
    pixels: str | None = _option(
        None, "what the encoder takes pixels as", GIVEN,
        default="unit; an application's own preprocess_input",
    )  # fmt: skip
    keep: float | None = _option(
        None, "least cosine similarity of the embeddings of held-out images to what they were: "
        "training ends where it falls below, with the last weights that keep it", GIVEN,
        default="none", above=0, below=1,
    )  # fmt: skip

    rho: float = _option(
        0.975, "coupling rho of (z, z') in avae, se, se_avae and avae_ss", OBJECTIVE,
        source=AUTHORS, low=0, below=1,
    )  # fmt: skip
    rho_se: float = _option(
        0.975, "coupling of the adversarial pair in se_avae", OBJECTIVE,
        source="Fig. 9", low=0, below=1,
    )  # fmt: skip
    coupling: str = _option(
        "analytic", "E log p_rho(z'|z): in closed form over q(z|x), or for the z that was decoded",
        OBJECTIVE, source="eq. 13",
    )  # fmt: skip
    reconstruction_weight: float = _option(
        1.0, "weight of log p(x|z) in avae_ss; 0 is eq. 34 as printed, which collapses", OBJECTIVE,
        low=0,
    )  # fmt: skip

    penalty_weight: float | None = _option(
        None, "weight of the penalty in adversarial_elbo (at most 1) and certified_elbo, and of "
        "attacked images in training.robustify",
        OBJECTIVE, default="the objective's: 0.5 and 2; 1", low=0, below=1e6,
    )  # fmt: skip

    adversary: str = _option(
        "", "how the worst q(z|x') of the ball is found, in objectives that attack", ATTACK,
        default="the objective's: certified_elbo interval, others pgd",
    )  # fmt: skip
    epsilon: float = _option(
        0.1, "radius of the ball, in units of pixel values in [0, 1]", ATTACK,
        source="Table 3", low=0, below=1e6,
    )  # fmt: skip
    epsilon_warmup: int | None = _option(
        None, "steps over which epsilon grows from 0 in training, as their square", ATTACK,
        default="three quarters of the steps before interval bounds, none before PGD", low=0,
        below=2**29,
    )  # fmt: skip
    pgd_norm: str = _option("linf", "norm of the ball", ATTACK, source="the paper")
    pgd_start: str = _option("ball", "where PGD starts in training", ATTACK, source="the paper")
    pgd_steps: int | None = _option(
        None, "iterations of PGD", ATTACK, source=PAPER, low=1, below=2**20,
        default="the architecture's: 20, celeba and resnet 5",
    )  # fmt: skip
    pgd_step_size: float | None = _option(
        None, "step of PGD, in units of epsilon's", ATTACK, above=0,
        default="2.5 epsilon / steps",
    )  # fmt: skip

    steps: int = _option(
        102_000, "optimiser steps", OPTIMISATION, source=AUTHORS, low=1, below=2**29
    )
    pretrain_steps: int | None = _option(
        None, "steps of the VAE that avae_ss starts from, without --init-from", OPTIMISATION,
        default="as --steps", low=1, below=2**29,
    )  # fmt: skip
    batch_size: int = _option(
        64, "images per step", OPTIMISATION, source=AUTHORS, low=1, below=2**20
    )
    augment: str = _option(
        "", "random changes of training images, one after the other: several names; values stay "
        "in [0, 1]", OPTIMISATION, default="none", form=words, several=True,
    )  # fmt: skip
    learning_rate: float = _option(
        1e-4, "Adam's learning rate", OPTIMISATION, source=PAPER, above=0
    )
    learning_rate_decay: str = _option(
        "none", "how the learning rate falls: not at all, or along half a cosine to a twentieth "
        "of it at the last step", OPTIMISATION, choices=("none", "cosine"),
    )  # fmt: skip
    learning_rate_warmup: int = _option(
        0, "steps over which the learning rate first rises from 0 in a straight line",
        OPTIMISATION, low=0, below=2**29,
    )  # fmt: skip
    ema_momentum: float | None = _option(
        None, "momentum of an exponential moving average of the weights, which is measured and "
        "saved in their place (0.999: of the last thousand steps or so)", OPTIMISATION,
        default="none", above=0, below=1,
    )  # fmt: skip
    clip_norm: float | None = _option(
        None, "largest norm of the gradient of all weights together; longer ones are shortened to "
        "it", OPTIMISATION, default="none", above=0,
    )  # fmt: skip
    seed: int = _option(
        0, "seed of weights, order, colours, noise and attacks", OPTIMISATION, low=0, below=2**31
    )

    log_every: int = _option(100, "steps between rows of metrics.jsonl", OUTPUT, low=1, below=2**31)
    checkpoint_every: int = _option(1_000, "steps between checkpoints", OUTPUT, low=1, below=2**31)
    keep_checkpoints: int = _option(3, "newest checkpoints to keep", OUTPUT, low=1, below=2**31)
    eval_every: int = _option(
        5_000, "steps between measurements on held-out images", OUTPUT, low=1, below=2**31
    )
    eval_images: int = _option(
        1_000, "held-out images to measure on during training (all at the end)", OUTPUT, low=1
    )
    pictures_every: int = _option(10_000, "steps between pictures", OUTPUT, low=1, below=2**31)
    steps_per_execution: int | None = _option(
        None, "steps between looks at signals and progress", OUTPUT, low=1, below=2**31,
        default="up to 10; 1 for objectives that attack",
    )  # fmt: skip

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in check(**given).items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """The config of a mapping from field names to values.

        Raises:
            InputError: an unknown key, or a value that its field does not take.
        """
        check_keys(values)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Field names and values, ready for JSON."""
        return dataclasses.asdict(self)

    def differences(self, other: "Config") -> dict[str, tuple[Any, Any]]:
        """The fields in which two configs differ, with both values."""
        mine, theirs = self.to_dict(), other.to_dict()
        return {key: (mine[key], theirs[key]) for key in mine if mine[key] != theirs[key]}


def fields_of(group: str) -> tuple[str, ...]:
    """The names of the fields of `Config` under a heading."""
    names = [field.name for field in dataclasses.fields(Config)]
    return tuple(name for name in names if option(name).group == group)


def check_keys(values: Mapping[str, Any]) -> None:
    """Raises `InputError` for a key that is not a field of `Config`."""
    for key in values:
        if key not in _types():
            raise unknown("config key", key, list(_types()))


def option(name: str) -> Option:
    """The `Option` of a field of `Config`."""
    return Config.__dataclass_fields__[name].metadata["option"]


def check(**values: Any) -> dict[str, Any]:
    """Values in the types of the fields of the same name, checked against their limits.

    Raises:
        InputError: a value of another type or out of range, naming it and the limit.
    """
    found = {name: typed(name, value, _types()[name]) for name, value in values.items()}
    for name, value in found.items():
        if value is not None:
            limits = option(name)
            limits.check(name, value)
            found[name] = limits.form(value) if limits.form else value
    return found


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: the file is missing, not readable, not JSON or not an object.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}; it must hold a JSON object")
    return values


@functools.cache  # resolving the hints takes longer than all checks of a config
def _types() -> dict[str, tuple[type, ...]]:
    hints = typing.get_type_hints(Config)
    return {
        name: typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        for name, hint in hints.items()
    }


def field_type(name: str) -> type:
    """The type of a field, `None` aside: what a word on the command line is converted to."""
    return next(kind for kind in _types()[name] if kind is not type(None))


def plain(value: Any) -> Any:
    """A scalar of NumPy's as Python's; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def typed(name: str, value: Any, allowed: tuple[type, ...]) -> Any:
    """The value in one of the types allowed. NumPy's scalars are taken for Python's, and an integer
    for a float; nothing else is converted.

    Raises:
        InputError: it is of another type.
    """
    value = plain(value)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise InputError(f"{name} is {value}; it must be a floating-point number") from error
    if isinstance(value, str) and not value and type(None) in allowed:
        raise InputError(f"{name} is empty; leave it out for its default, or give a path")
    if not isinstance(value, allowed) or isinstance(value, bool):
        names = " or ".join("null" if t is type(None) else t.__name__ for t in allowed)
        raise InputError(f"{name} is {value!r}; it must be of type {names}")
    return value
