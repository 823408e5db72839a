"""`python -m training.sweep colormnist`: its cells and its command line."""

import itertools
import json

import pytest
from sweep_results import write
from test_table3 import printed, tables

from tests.colormnist.made_up import RATES, SEEDS, created, declare, finish_all
from tf_avae.config import Config, read_json
from tf_avae.runs.plan import resolve
from training import evaluate, fit
from training.sweep import timing
from training.sweep.colormnist import page as colormnist_page
from training.sweep.colormnist.grids import GRIDS, models


@pytest.mark.parametrize("grid", GRIDS)
def test_cells_are_commands_that_the_others_understand(tmp_path, grid):
    there = dict.fromkeys(algo for block in GRIDS[grid].blocks for algo in block.algos)
    algos = tuple(a for a in ("vae", "certified_elbo", "se", "avae_ss") if a in there)
    words = ["--grid", grid, "--seeds", 2, "--learning-rate", 5e-4, "--algo", *algos]
    sweep = created(tmp_path / "s", *words)
    row, rows = GRIDS[grid], sweep.declaration.settings["models"]
    starts = {f"{m['name']}-s{s}": m["starts_from"] and f"{m['starts_from']}-s{s}"
              for m in rows for s in range(2)}  # fmt: skip
    measured = []
    for cell in sweep.declaration.cells:
        module, *words = sweep.words(cell.name)[1:]
        if cell.kind == "fit":
            assert module == "training.fit"
            arguments = fit.parser().parse_args(words)
            config = resolve(Config.from_dict(read_json(arguments.config)))
            assert config.to_dict() == cell.options and cell.name.endswith(f"-s{config.seed}")
            assert (config.dataset, config.learning_rate) == ("color_mnist", 5e-4)
            made = next(m for m in rows if f"{m['name']}-s{config.seed}" == cell.name)
            asked = {**row.common, **row.own.get(made["algo"], {}), **made["differs"]}
            assert config.steps == asked["steps"] and config.arch == asked["arch"]
            assert config.validation == row.common.get("validation", 0)
            source = starts.pop(cell.name)
            assert cell.needs == ((source,) if source else ())
            if source:
                assert arguments.init_from == str(sweep.output(source))
                assert sweep.cells[source].options["seed"] == config.seed
                assert sweep.cells[source].options["algo"] == "vae"
            else:
                assert "init_from" not in arguments
        elif cell.kind == "evaluate":
            assert module == "training.evaluate"
            arguments = evaluate.parser().parse_args(words)
            (training,) = cell.needs
            assert cell.name == f"{training}-{arguments.budget}"
            assert arguments.encoder == [f"{training}={sweep.output(training)}"]
            (attacks,) = [a for a in row.attacks if a.budget == arguments.budget]
            assert tuple(arguments.epsilon) == (attacks.radii or row.radii)
            first = attacks == row.attacks[0]
            # Through the heads after the first under the first budget alone.
            assert tuple(arguments.head) == (row.heads if first else row.heads[:1])
            assert tuple(arguments.task or ()) == row.tasks
            assert arguments.certify == ("crown" if "certified" in row.sections else "interval")
            assert arguments.images == attacks.images
            # Otherwise images held out in training would be evaluated on as training images.
            assert arguments.validation == row.common.get("validation", 0)
            assert tuple(arguments.section) == (row.sections if first else ("robustness",))
            measured.append(cell.name)
        else:
            assert module == "training.sweep.timing"
            configs = read_json(timing.parser().parse_args(words).options)["configs"]
            assert sorted(config["algo"] for config in configs.values()) == sorted(algos)
    assert starts == {}
    assert sorted(measured) == sorted(
        f"{m['name']}-s{s}-{b}" for m in rows for s in range(2) for b, *_ in row.attacks
    )


def test_flags_of_axes_are_those_of_the_models(tmp_path):
    words = ["--arch", "mlp", "conv", "--rho", 0.9, 0.975, "--rho-se", 0.95, "--epsilon", 0.1, 0.2]
    axes = {"arch": ("mlp", "conv"), "rho": (0.9, 0.975), "epsilon": (0.1, 0.2)}
    found = declare(tmp_path / "s", *words, "--latent-dim", 8)
    # An axis of one value is what all have: no model differs by it.
    expected = models(GRIDS["objectives"], {"latent_dim": 8, "rho_se": 0.95}, axes)
    assert [row["name"] for row in found.settings["models"]] == [model.name for model in expected]
    configs = {cell.name: cell.options for cell in found.cells if cell.kind == "fit"}
    for model, seed in itertools.product(expected, range(SEEDS)):
        assert configs.pop(f"{model.name}-s{seed}") == model.config.to_dict() | {"seed": seed}
    assert configs == {}


def test_budgets_images_and_radii_of_the_evaluations(tmp_path):
    def of(*words):
        found = declare(tmp_path / "s", "--seeds", 1, "--algo", "vae", *words)
        cells = [cell for cell in found.cells if cell.kind == "evaluate"]
        assert [cell.name for cell in cells] == [f"vae-s0-{c.options['budget']}" for c in cells]
        assert found.settings["budgets"] == [cell.options["budget"] for cell in cells]
        return [(c.options["budget"], c.options.get("images"), c.options["section"]) for c in cells]

    every, attacks = GRIDS["objectives"].sections, ("robustness",)
    assert of() == [("paper", None, every), ("strong", 1000, attacks)]
    assert of("--images", 300) == [("paper", 300, every), ("strong", 300, attacks)]
    assert of("--images", 5000) == [("paper", 5000, every), ("strong", 1000, attacks)]
    assert of("--budget", "strong", "paper") == [("strong", 1000, every), ("paper", None, attacks)]
    assert of("--budget", "smoke") == [("smoke", 200, every)]
    assert of("--budget", "strong") == [("strong", 1000, every)]

    def radii(*words):
        cells = [c for c in declare(tmp_path / "s", *words).cells if c.kind == "evaluate"]
        return {cell.options["budget"]: cell.options["epsilon"] for cell in cells}

    every = GRIDS["objectives"].radii
    assert radii() == {"paper": every, "strong": (0.1, 0.2, 0.3)}
    assert radii("--radii", 0.2, 0.01) == {"paper": (0.2, 0.01), "strong": (0.2, 0.01)}
    assert radii("--budget", "smoke") == {"smoke": every}


def test_the_command_lists_prints_and_writes(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = printed(capsys, "colormnist", "--algo", "vae", "--dry-run")
    assert "sweeps/colormnist-objectives: 0 of 10 cells done" in listed
    assert list(tmp_path.iterdir()) == []
    words = ["colormnist", "--algo", "vae", "--seeds", 1, "--budget", "paper", "--out", "s"]
    sweep = created(tmp_path / "s", *words[1:])
    finish_all(sweep)
    write(sweep, "timing", {"rates": {"vae": RATES["vae"]}, "provenance": {}})
    out = printed(capsys, *words)  # all is done, so nothing is trained
    page = (sweep.path / "colormnist.md").read_text()
    values = json.loads((sweep.path / "colormnist.json").read_text())
    assert page == colormnist_page.page(values) and page in out
    assert (sweep.path / "colormnist.png").read_bytes().startswith(b"\x89PNG")
    assert tables(printed(capsys, "colormnist", "--out", "s", "--table")) == tables(page)
    complaint = printed(capsys, *words, "--rho", 0.9, "--steps", 7, code=2)
    assert "holds another sweep: here cells." in complaint


def test_bad_input_is_one_line_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, expected in (
        (["--grid", "objective"], ["unknown grid 'objective'", "did you mean 'objectives'"]),
        (["--seeds", "0"], ["seeds is 0", "at least 1"]),
        (["--seeds", "x"], ["--seeds"]),
        (["--algo", "vea"], ["unknown objective 'vea'", "did you mean 'vae'"]),
        (["--algo", "vae", "vae"], ["vae is given twice"]),
        (["--rho", "0.9", "0.90"], ["0.9 is given twice"]),
        (["--budget", "paper", "paper"], ["paper is given twice"]),
        (["--budget", "huge"], ["unknown budget 'huge'"]),
        (["--arch", "cnn"], ["unknown architecture 'cnn'"]),
        (["--arch", "mlp", "celeba"], ["28"]),
        (["--rho", "0.9", "1"], ["rho is 1", "below 1"]),
        (["--rho-se", "-0.1"], ["rho_se is -0.1"]),
        (["--epsilon", "nan"], ["epsilon is nan"]),
        (["--coupling", "both"], ["unknown coupling 'both'"]),
        (["--obs-var", "0"], ["obs_var is 0"]),
        (["--steps", "0"], ["steps is 0"]),
        (["--radii", "-1"], ["-1"]),
        (["--radii", "0.1", "0.1"], ["(0.1, 0.1)", "differ"]),
        (["--images", "0"], ["images is 0"]),
        (["--validation", "10"], ["--validation"]),
        (["--data-dir", "none"], ["none"]),
        (["--only", "vae"], ["unknown cell 'vae'"]),
        (["--table"], ["holds no sweep"]),
    ):
        complaint = printed(capsys, "colormnist", *words, code=2)
        for word in expected:
            assert word in complaint
    assert list(tmp_path.iterdir()) == []
