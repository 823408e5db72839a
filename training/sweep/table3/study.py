"""The six models of the paper's Table 3, on CelebA: what is trained, what is measured of each."""

import argparse
import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tf_avae.config import MODEL, OBJECTIVE, OPTIMISATION, Config
from tf_avae.console.commands import Parser, add_trust
from tf_avae.console.printing import say
from tf_avae.datasets import open_data
from tf_avae.datasets.celeb_a.images import SHAPE
from tf_avae.datasets.celeb_a.tasks import TASKS
from tf_avae.datasets.drawn_faces.archive import draw_celeb_a
from tf_avae.errors import InputError
from tf_avae.evaluation import Settings, open_extractor
from tf_avae.files import absolute, clear_drafts, drafting, shown
from tf_avae.networks import ARCHITECTURES
from tf_avae.objectives import OBJECTIVES
from tf_avae.registry import Registry
from tf_avae.runs.plan import resolve
from tf_avae.runs.run import Run, holds_run
from tf_avae.saved.encoders import open_encoder
from tf_avae.types import ImageShape
from training.options import add_choice, add_config_options, given_options
from training.sweep.cells.declaration import Declaration, evaluate_cell, fit_cell, taken_cell
from training.sweep.cells.folder import SweepFolder
from training.sweep.models import check_evaluation, evaluated, open_fields

DATASET = "celeb_a"


@dataclass(frozen=True)
class PaperTable:
    """Table 3 as the paper prints it.

    Attributes:
        models: the names of its columns.
        epsilon: the radius of the attack.
        tasks: {task: {model: (nominal accuracy, that under attack)}}, percent.
        beside: {row: {model: value}} of the rows below; a model without a value is left out.
    """

    models: tuple[str, ...]
    epsilon: float
    tasks: dict[str, dict[str, tuple[float, float]]]
    beside: dict[str, dict[str, float]]


def paper_table() -> PaperTable:
    """The table, from the file that comes with the package."""
    text = Path(__file__).with_name("celeba.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    columns = [column.rsplit("_", 1) for column in rows[0] if column != "task"]
    models = tuple(dict.fromkeys(model for model, _ in columns))
    nominal, attacked = dict.fromkeys(epsilon for _, epsilon in columns)
    tasks, beside = {}, {}
    for row in rows:
        if any(row[f"{model}_{attacked}"] for model in models):
            tasks[row["task"]] = {
                m: (float(row[f"{m}_{nominal}"]), float(row[f"{m}_{attacked}"])) for m in models
            }
        else:
            found = {model: row[f"{model}_{nominal}"] for model in models}
            beside[row["task"]] = {m: float(value) for m, value in found.items() if value}
    return PaperTable(models, float(attacked), tasks, beside)


@dataclass(frozen=True)
class Model:
    """A column of the table.

    Attributes:
        name: as the paper's table has it.
        config: the fields of `Config` that make it what it is.
        starts_from: the model whose networks it starts from.
    """

    name: str
    config: dict[str, Any]
    starts_from: str | None = None


MODELS: Registry[Model] = Registry(
    "model of Table 3",
    Model("VAE", {"algo": "vae"}),
    Model("AVAE", {"algo": "avae"}),
    Model("SE5", {"algo": "se", "pgd_steps": 5}),
    Model("SE20", {"algo": "se", "pgd_steps": 20}),
    Model("SE_AVAE", {"algo": "se_avae", "pgd_steps": 5}),
    Model("AVAE_SS", {"algo": "avae_ss"}, starts_from="VAE"),
)


@dataclass(frozen=True)
class Scale:
    """How large the sweep is.

    Attributes:
        name: the row's name.
        summary: for `--help` and the table.
        config: fields of `Config` with other defaults.
        evaluation: flags of `training.evaluate` with other values.
        drawn: so many faces are drawn where no archive is given; None: it is looked for where
            the data set has it by default.
    """

    name: str
    summary: str
    config: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    drawn: int | None = None


SECTIONS = ("probes", "robustness", "checks", "reconstruction", "latents", "time_factor")

SCALES: Registry[Scale] = Registry(
    "scale",
    Scale(
        "paper",
        "the paper's networks and attack, the authors' number of steps, all test images",
        {"arch": "celeba"},
        {"budget": "paper-celeba", "section": SECTIONS},
    ),
    Scale(
        "mini",
        "to see that all runs, within minutes on 2 cores: a small network, few steps, a weak "
        "attack on few images, no honesty checks",
        {
            "arch": "mlp", "steps": 300, "batch_size": 32, "latent_dim": 32, "obs_var": 0.1,
            "learning_rate": 1e-3, "eval_every": 300, "eval_images": 100,
            "pictures_every": 300, "checkpoint_every": 100,
        },
        {
            "budget": "smoke", "images": 100,
            "section": tuple(name for name in SECTIONS if name != "checks"),
        },
        drawn=1000,
    ),
)  # fmt: skip

_OPEN = open_fields((MODEL, OBJECTIVE, OPTIMISATION), but=("arch", "pretrain_steps"))
"""The fields of `Config` that Table 3 leaves open; the others make a model that of its column, or
are the scale's."""


def add_options(parser: Parser) -> None:
    """Adds the flags of the sweep."""
    what = parser.add_argument_group("the table")
    add_choice(what, "--scale", SCALES, "paper", "how large")
    what.add_argument(
        "--take", nargs="+", default=[], metavar="MODEL=PATH",
        help="models that there are already, instead of training them: a run, a SavedModel or a "
        f".keras file; MODEL is one of {', '.join(MODELS)}",
    )  # fmt: skip
    images = [f"{s.name}: {s.evaluation.get('images', 'all')}" for s in SCALES.values()]
    what.add_argument(
        "--images", type=int, metavar="N", help=f"test images to attack [{', '.join(images)}]"
    )
    what.add_argument(
        "--attack-batch-size", type=int, default=Settings.batch_size, metavar="N",
        help=f"images attacked at once [{Settings.batch_size}]",
    )  # fmt: skip
    what.add_argument(
        "--fid", metavar="PATH",
        help="feature extractor for the FID, as of training.evaluate [none: no FID]",
    )  # fmt: skip
    add_trust(what)
    add_config_options(parser, _OPEN)


def declare(arguments: argparse.Namespace, folder: Path) -> Declaration:
    """The sweep of given options, in a folder.

    Raises:
        InputError: options or models that cannot be used.
    """
    scale, paper = SCALES[arguments.scale], paper_table()
    given = given_options(arguments)
    drawn = scale.drawn if "data_dir" not in given else None
    # Neither: the data set's own default.
    data_dir = str(folder / "data") if drawn else given.get("data_dir")
    common = {
        **scale.config, **given,
        "dataset": DATASET, "data_dir": data_dir, "epsilon": paper.epsilon,
    }  # fmt: skip
    configs = {
        name: resolve(Config.from_dict(common | model.config)) for name, model in MODELS.items()
    }
    ARCHITECTURES[configs["VAE"].arch].check(SHAPE)
    taken = _taken(arguments.take, configs, arguments.trust)
    fits = [
        taken_cell(name, taken[name])
        if name in taken
        else fit_cell(name, configs[name], model.starts_from)
        for name, model in MODELS.items()
    ]
    flags = _evaluation(arguments, scale, configs["VAE"], paper.epsilon)
    return Declaration(
        "table3",
        {
            "scale": scale.name, "drawn": drawn,
            "seed": configs["VAE"].seed, "data_dir": configs["VAE"].data_dir,
        },
        (*fits, *(evaluate_cell(evaluated(name), name, flags) for name in MODELS)),
    )  # fmt: skip


def _evaluation(
    arguments: argparse.Namespace, scale: Scale, config: Config, epsilon: float
) -> dict[str, Any]:
    """The flags of `training.evaluate`, the same for each model."""
    found = {
        "dataset": config.dataset,
        "data_dir": config.data_dir,
        "task": tuple(TASKS),
        "head": ("linear",),
        "epsilon": (epsilon,),
        "seed": config.seed,
        "batch_size": arguments.attack_batch_size,
        **scale.evaluation,
    }
    if arguments.images is not None:
        found["images"] = arguments.images
    if arguments.fid is not None:
        open_extractor(arguments.fid, trust=arguments.trust)
        found |= {"fid": str(absolute(arguments.fid)), "section": (*found["section"], "fid")}
    if arguments.trust:
        found["trust"] = True
    check_evaluation(found)
    return found


def _taken(words: list[str], configs: dict[str, Config], trust: bool) -> dict[str, str]:
    """The models that are taken: name to path.

    Raises:
        InputError: no such model, or what is at its path is not that model.
    """
    found: dict[str, str] = {}
    for word in words:
        name, separator, path = word.partition("=")
        if not separator or not path:
            raise InputError(f"--take has {word!r}; it takes MODEL=PATH, such as VAE=runs/vae")
        MODELS[name]
        if name in found:
            raise InputError(f"--take has {name} twice; give it one path")
        _check_taken(name, absolute(path), configs[name], trust)
        found[name] = str(absolute(path))
    for name, model in MODELS.items():
        source = model.starts_from
        if source in found and name not in found and not holds_run(Path(found[source])):
            raise InputError(
                f"{name} starts from {source}'s networks, which only a run holds in full; "
                f"{found[source]} is none: take {name} too, or a run as {source}"
            )
    return found


def _check_taken(name: str, path: Path, config: Config, trust: bool) -> None:
    if not holds_run(path):
        shape = open_encoder(path, trust=trust).image_shape
        if shape not in (None, SHAPE):
            raise InputError(
                f"{path} takes images of {_by(shape)}; here they are {_by(SHAPE)}: it cannot be "
                f"taken as {name}"
            )
        return
    run = Run.open(path)
    if run.result() is None:
        raise InputError(f"{path} is not complete; let its training end before it is taken")
    fields = ["dataset", "arch", "latent_dim", *MODELS[name].config]
    if OBJECTIVES[config.algo].attack:
        fields += ["epsilon", "pgd_norm"]
    theirs, ours = run.config.to_dict(), config.to_dict()
    if ours["data_dir"] is None and theirs["data_dir"] is not None:
        raise InputError(
            f"{path} was trained on the images in {theirs['data_dir']}; all models are evaluated "
            "on the same: say which with --data-dir"
        )
    for key in fields:
        if theirs[key] != ours[key]:
            raise InputError(
                f"{path} has {key} {theirs[key]}, {name} has {ours[key]} here; it cannot be taken "
                f"as {name}"
            )


def _by(shape: ImageShape) -> str:
    return "x".join(map(str, shape))


def check_data(sweep: SweepFolder) -> None:
    """Opens the data, unless they are drawn; what can be prepared of them is.

    Raises:
        InputError: there are none, or they cannot be used.
    """
    settings = sweep.declaration.settings
    if not settings["drawn"]:
        open_data(Config(dataset=DATASET, data_dir=settings["data_dir"]))


def prepare(sweep: SweepFolder) -> None:
    """Draws the faces, where the sweep draws its own and has not yet."""
    settings = sweep.declaration.settings
    folder = Path(settings["data_dir"])
    if settings["drawn"] and not folder.exists():
        with sweep.locked():
            if not folder.exists():
                clear_drafts(sweep.path, "")
                say(f"drawing {settings['drawn']:,} faces into {shown(folder)}")
                with drafting(sweep.path) as draft:
                    draft.chmod(0o755)  # mkdtemp's folders are private
                    draw_celeb_a(draft, settings["drawn"], settings["seed"])
                    draft.rename(folder)
