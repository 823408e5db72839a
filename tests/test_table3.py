"""`python -m training.sweep table3`: its cells, its table beside the paper's, the command line."""

import csv
import json
import math
import signal
import subprocess
import sys

import keras
import pytest
import scipy.stats
from test_resume import ROOT
from test_sweep import wait_for

from tf_avae.config import Config, read_json
from tf_avae.datasets.celeb_a import images as celeb_a_images
from tf_avae.datasets.celeb_a import tasks as celeb_a_tasks
from tf_avae.datasets.celeb_a.files import IMAGES, OFFICIAL_SHA256
from tf_avae.errors import InputError
from tf_avae.files import write_json
from tf_avae.runs.plan import resolve
from training import evaluate, fit
from training.sweep import __main__ as command
from training.sweep.cells.folder import SweepFolder
from training.sweep.table3 import chart as table3_chart
from training.sweep.table3 import figures as table3_figures
from training.sweep.table3 import page as table3_page
from training.sweep.table3 import study as table3

CSV = list(csv.DictReader((ROOT / "training" / "sweep" / "table3" / "celeba.csv").open()))
TASKS = [row for row in CSV if row["VAE_0.1"]]
BESIDE = {row["task"]: row for row in CSV if not row["VAE_0.1"]}
OFFICIAL = {IMAGES: OFFICIAL_SHA256}


def declare(path, *words):
    arguments = command.parser().parse_args(["table3", "--out", str(path), *map(str, words)])
    return table3.declare(arguments, path)


def test_the_papers_table_is_that_of_the_file():
    paper = table3.paper_table()
    assert paper.models == tuple(table3.MODELS) and paper.epsilon == Config().epsilon
    assert list(paper.tasks) == list(celeb_a_tasks.TASKS) == [row["task"] for row in TASKS]
    assert paper.tasks["Hat"]["SE20"] == tuple(
        float(row[f"SE20_{e}"]) for row in CSV if row["task"] == "Hat" for e in ("0.0", "0.1")
    )
    assert {name: sorted(row) for name, row in paper.beside.items()} == {
        name: sorted(m for m in paper.models if row[f"{m}_0.0"]) for name, row in BESIDE.items()
    }


@pytest.mark.parametrize("scale", table3.SCALES)
def test_cells_are_commands_that_the_others_understand(tmp_path, scale):
    made = declare(tmp_path / "s", "--scale", scale, "--data-dir", tmp_path, "--seed", 3)
    sweep = SweepFolder.create(tmp_path / "s", made)
    algos = {}
    for cell in made.cells:
        program, module, *words = sweep.words(cell.name)
        assert program == "-m"
        if cell.kind == "fit":
            assert module == "training.fit"
            arguments = fit.parser().parse_args(words)
            config = resolve(Config.from_dict(read_json(arguments.config)))
            assert config.to_dict() == cell.options
            assert (config.epsilon, config.dataset, config.seed) == (0.1, "celeb_a", 3)
            assert config.data_dir == str(tmp_path)
            algos[cell.name] = (config.algo, config.pgd_steps)
        else:
            assert module == "training.evaluate"
            arguments = evaluate.parser().parse_args(words)
            assert arguments.task == list(celeb_a_tasks.TASKS) and arguments.head == ["linear"]
            assert arguments.epsilon == [0.1] and arguments.data_dir == str(tmp_path)
            assert arguments.encoder == [f"{cell.needs[0]}={sweep.output(cell.needs[0])}"]
            assert {"probes", "robustness", "reconstruction"} <= set(arguments.section)
    assert [algo for algo, _ in algos.values()] == ["vae", "avae", "se", "se", "se_avae", "avae_ss"]
    assert (algos["SE5"][1], algos["SE20"][1], algos["SE_AVAE"][1]) == (5, 20, 5)
    assert f"--init-from={sweep.output('VAE')}" in sweep.words("AVAE_SS")
    assert sweep.cells["AVAE_SS"].needs == ("VAE",) and sweep.cells["AVAE"].needs == ()


def estimate_of(share, count=100):
    return {"value": share, "low": share - 0.05, "high": share + 0.05, "count": count}


def figure(model, task, kind):
    """A made-up share, different for each."""
    return (0.5 + 0.025 * task + 0.002 * model) * {"nominal": 1, "attacked": 0.4, "balanced": 0.9}[
        kind
    ]


def majority(task):
    """Within 2 points of what models have for every third task."""
    return figure(0, task, "nominal") - (0.015 if task % 3 == 0 else 0.2)


def results_of(model, checksums):
    """What `training.evaluate` writes, as far as the table reads it."""
    number = list(table3.MODELS).index(model)
    names = [row["task"] for row in TASKS]
    probes, rows = {}, []
    for k, task in enumerate(names):
        head = {
            "nominal": estimate_of(figure(number, k, "nominal")), "converged": True,
            "balanced": figure(number, k, "balanced"), "roc_auc": estimate_of(0.5 + k / 100),
        }  # fmt: skip
        probes[task] = {"classes": 2, "majority": majority(k), "linear": head}
        for epsilon in (0.05, 0.1):
            share = figure(number, k, "attacked") * (1 if epsilon == 0.1 else 2)
            rows.append({"task": task, "head": "linear", "epsilon": epsilon, "balanced": share / 2,
                         "accuracy": estimate_of(share)})  # fmt: skip
    checks = [{"name": "falls", "passed": True}, {"name": "noise", "passed": False}]
    record = {
        "name": model, "config": Config(algo="vae", pgd_steps=7).to_dict(), "sha256": "ab",
        "left_out": {"fid": "no decoder"} if model == "SE5" else {}, "probes": probes,
        "robustness": {"rows": rows}, "time_factor": {"value": 1 + number / 3},
        "reconstruction": {"mean_code": {"sum": estimate_of(100 + number)}},
        "latents": {"active_units": number, "latents": 64},
        "checks": {"groups": [{"task": "Hat", "head": "linear", "checks": checks}]},
    }  # fmt: skip
    data = {"name": "celeb_a", "test_images": 1000, "checksums": checksums}
    return {"settings": {"heads": ["linear"]}, "data": data, "encoders": [record],
            "provenance": {"commit": "c0ffee"}}  # fmt: skip


def finish(sweep, model, checksums):
    for name, content in ((model, {}), (table3.evaluated(model), results_of(model, checksums))):
        path = sweep.result(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


@pytest.fixture
def sweep(tmp_path):
    """All but SE20 are done."""
    made = declare(tmp_path / "s", "--data-dir", tmp_path)
    sweep = SweepFolder.create(tmp_path / "s", made)
    for model in table3.MODELS:
        if model != "SE20":
            finish(sweep, model, OFFICIAL)
    return sweep


def tables(page):
    """The tables of a page, as rows of cells."""
    blocks, rows = [], []
    for line in [*page.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            blocks.append([rows[0], *rows[2:]])
            rows = []
    return blocks


def test_the_table_shows_each_figure_beside_the_papers(sweep):
    values = json.loads(json.dumps(table3_figures.collect(sweep), allow_nan=False))
    page = table3_page.page(values)
    main, balanced, _ = tables(page)
    columns = main[0]
    assert columns[:2] == ["task", "commonest class"]
    assert columns[2:] == [word for model in table3.MODELS for word in (model, "paper")]
    for k, (row, theirs) in enumerate(zip(main[1:], TASKS, strict=False)):
        assert row[0] == theirs["task"] and row[1] == f"{100 * majority(k):.1f}"
        for number, model in enumerate(table3.MODELS):
            ours, paper = row[2 + 2 * number], row[3 + 2 * number]
            near = float(theirs[f"{model}_0.0"]) < 100 * majority(k) + 2
            assert paper == f"{theirs[f'{model}_0.0']}{'*' * near} / {theirs[f'{model}_0.1']}"
            share = 100 * figure(number, k, "nominal")
            mark = "*" * (share < 100 * majority(k) + 2)
            if model == "SE20":
                assert ours == "– [1]"
            else:
                assert ours == f"{share:.1f}{mark} / {40 * figure(number, k, 'nominal'):.1f}"
                assert balanced[1 + k][1 + number] == (
                    f"{100 * figure(number, k, 'balanced'):.1f} / {0.5 + k / 100:.3f} / "
                    f"{20 * figure(number, k, 'nominal'):.1f}"
                )
    assert "*" in main[1][2] and "*" not in main[2][2]
    under = {row[0]: row[2:] for row in main[1 + len(TASKS) :]}
    for label, name in (("time factor", "Time Factor"), ("MSE", "MSE"), ("FID", "FID")):
        theirs = [BESIDE[name][f"{model}_0.0"] for model in table3.MODELS]
        shown = [cell.replace("–", "0") for cell in under[label][1::2]]
        assert list(map(float, shown)) == [float(value or 0) for value in theirs]
    assert under["time factor"][:4:2] == ["1.00", "1.33"] and under["MSE"][10] == "105.0"
    assert under["honesty checks passed"][0] == "1 of 2" and "Hat (noise)" in page
    assert under["FID"][0] == "– [2]" and under["FID"][4] == "– [3]"
    for words in (
        "[1] SE20-evaluation is waiting for SE20 (ready)", "[3] fid: no decoder",
        "[2] fid: no feature extractor was given",
        "1,000 test images; under attack: the first 100", "± 5.0 points",
    ):  # fmt: skip
        assert words in page
    assert "Not CelebA" not in page
    assert values["models"]["AVAE"]["tasks"]["Hat"]["nominal"]["low"] > 0
    assert values["provenance"]["versions"]["tensorflow"]
    assert values["models"]["AVAE"]["evaluated_by"]["commit"] == "c0ffee"


def test_other_images_are_named_and_the_papers_figures_are_not_marked(sweep):
    for model in table3.MODELS:
        finish(sweep, model, {IMAGES: "another"})
    page = table3_page.page(table3_figures.collect(sweep))
    assert "Not CelebA:** the archive is not the official one" in page
    main = tables(page)[0]
    assert not any("*" in cell for row in main[1:] for cell in row[3::2])
    assert "*" in main[1][2]


def test_the_picture_shows_the_same_figures(sweep):
    panels = table3_chart.chart(table3_figures.collect(sweep)).axes
    for number, (model, panel) in enumerate(zip(table3.MODELS, panels, strict=True)):
        shown = {line.get_label(): list(line.get_xdata()) for line in panel.get_lines()}
        assert shown["the paper's, ε = 0.1"] == [float(row[f"{model}_0.1"]) for row in TASKS]
        tasks = range(len(TASKS))
        assert shown["commonest class, our images"] == [100 * majority(k) for k in tasks]
        if model == "SE20":
            assert "ours, nominal" not in shown
        else:
            found = [100 * figure(number, k, "nominal") for k in tasks]
            assert shown["ours, nominal"] == pytest.approx(found)


def test_a_table_of_nothing_yet(tmp_path):
    sweep = SweepFolder.create(tmp_path / "s", declare(tmp_path / "s", "--scale", "mini"))
    page = table3_page.page(json.loads(json.dumps(table3_figures.collect(sweep))))
    assert "drawn faces" in page and "SE_AVAE-evaluation is waiting for SE_AVAE (ready)" in page
    assert tables(page)[0][1][:4:3] == ["Bald", f"{TASKS[0]['VAE_0.0']} / {TASKS[0]['VAE_0.1']}"]


def test_the_papers_mse_as_a_density():
    """By SciPy: the log-density of an image, each value of which is off by as much."""
    off, size = 0.123, math.prod(celeb_a_images.SHAPE)
    nats = -size * scipy.stats.norm.logpdf(off, scale=math.sqrt(Config().obs_var))
    assert table3_page.squared_error(nats) == pytest.approx(size * off**2)


def test_the_page_of_the_docs_is_that_of_the_kept_figures():
    kept = ROOT / "docs" / "table3"
    values = json.loads((kept / "table3.json").read_text())
    assert (kept / "table3.md").read_text() == table3_page.page(values)


def test_the_docs_say_what_the_code_does():
    text = (ROOT / "docs" / "table3.md").read_text()
    mini, base = table3.SCALES["mini"], Config()
    assert (
        f"squared error of {table3_page.squared_error(float(BESIDE['MSE']['VAE_0.0'])):.1f}" in text
    )
    assert (
        f"{mini.config['steps']} steps, batches of {mini.config['batch_size']}, "
        f"D = {mini.config['latent_dim']}, v = {mini.config['obs_var']}" in text
    )
    assert f"draws {mini.drawn:,} faces" in text
    assert f"first {mini.evaluation['images']} test images" in text
    assert (
        f"{base.steps:,} steps, batches of {base.batch_size}, D = {base.latent_dim}, "
        f"v = {base.obs_var}" in text
    )
    assert f"less than {table3_page.CLOSE:g} points" in text


# ---------------------------------------------------------------------- the command line


def printed(capsys, *words, code=0):
    try:
        found = command.main([str(word) for word in words])
    except SystemExit as stop:
        found = stop.code
    out, complaint = capsys.readouterr()
    assert found == code, complaint
    if code == 2:
        assert complaint.startswith("error: ") and complaint.count("\n") == 1, complaint
        return complaint
    return out


def test_bad_input_is_one_line_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    write_json(run / "config.json", resolve(Config(algo="avae")).to_dict())
    file = tmp_path / "file"
    file.touch()
    keras.Sequential([keras.Input((9, 9, 1)), keras.layers.Flatten()]).save("small.keras")
    before = sorted(tmp_path.rglob("*"))
    mini = ["--scale", "mini"]
    for words, expected in (
        ([], ["SWEEP"]),
        (["table4"], ["table4", "table3"]),
        (["table3", "--scale", "huge"], ["unknown scale 'huge'", "paper, mini"]),
        (["table3", *mini, "--only", "vae"], ["unknown cell 'vae'", "VAE-evaluation"]),
        (["table3", *mini, "--processes", "0"], ["processes is 0"]),
        (["table3", *mini, "--out", ""], ["--out is empty"]),
        (["table3", *mini, "--out", file], ["holds no sweep", "another --out"]),
        (["table3", *mini, "--out", file / "x"], ["cannot write the sweep's folder"]),
        (["table3", *mini, "--table"], ["holds no sweep: it has no sweep.json"]),
        (["table3", *mini, "--steps", "0"], ["steps is 0"]),
        (["table3", *mini, "--images", "0"], ["images is 0"]),
        (["table3", *mini, "--fid", "none.h5"], ["no such feature extractor"]),
        (["table3", *mini, "--take", "VAE"], ["'VAE'; it takes MODEL=PATH"]),
        (["table3", *mini, "--take", "SE=run"], ["unknown model of Table 3 'SE'", "SE20"]),
        (["table3", *mini, "--take", "VAE=none"], ["is neither a run"]),
        (["table3", *mini, "--take", "VAE=run"], ["run is not complete"]),
        (["table3", *mini, "--take", "VAE=small.keras"], ["images of 9x9x1", "64x64x3"]),
        (["table3", "--data-dir", "none"], ["none is not a folder"]),
        (["table3", "--data-dir", run], ["holds none of CelebA's files"]),
    ):  # fmt: skip
        complaint = printed(capsys, *words, code=2)
        for word in expected:
            assert word in complaint
    assert sorted(tmp_path.rglob("*")) == before


def test_a_taken_run_must_be_that_model(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "result.json").write_text(json.dumps({"held_out": {}}))
    mini = table3.SCALES["mini"].config
    base = {"dataset": "celeb_a", "data_dir": str(tmp_path)} | mini

    def take(name, *more, **options):
        write_json(run / "config.json", resolve(Config.from_dict(base | options)).to_dict())
        return declare(tmp_path / "s", "--scale", "mini", "--take", f"{name}={run}", *more)

    for name, options, words in (
        ("VAE", {"algo": "avae"}, "has algo avae, VAE has vae here; it cannot be taken as VAE"),
        ("AVAE", {"algo": "avae", "arch": "celeba"}, "has arch celeba"),
        ("AVAE", {"algo": "avae", "latent_dim": 7}, "has latent_dim 7"),
        ("AVAE", {"algo": "avae", "dataset": "color_mnist"}, "has dataset color_mnist"),
        ("SE20", {"algo": "se", "pgd_steps": 5}, "has pgd_steps 5, SE20 has 20"),
        ("SE5", {"algo": "se", "pgd_steps": 5, "epsilon": 0.3}, "has epsilon 0.3"),
    ):
        with pytest.raises(InputError, match=words):
            take(name, **options)
    made = take("VAE", algo="vae")
    kinds = {cell.name: cell.kind for cell in made.cells}
    assert kinds["VAE"] == "taken" and kinds["AVAE"] == "fit"
    sweep = SweepFolder(tmp_path / "s", made)
    assert sweep.state("VAE").name == "done"
    assert f"--init-from={run}" in sweep.words("AVAE_SS")
    assert f"VAE={run}" in sweep.words("VAE-evaluation")
    with pytest.raises(InputError, match="--take has VAE twice"):
        take("VAE", f"VAE={run}", algo="vae")
    (run / "result.json").rename(run / "away")
    run.rename(tmp_path / "moved")
    assert sweep.state("VAE").reason == f"for {run}, which is not there"


def test_avae_ss_cannot_start_from_an_encoder_alone(tmp_path):
    keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Flatten()]).save(tmp_path / "e.keras")
    with pytest.raises(InputError, match="AVAE_SS starts from VAE's networks, which only a run"):
        declare(tmp_path / "s", "--scale", "mini", "--take", f"VAE={tmp_path / 'e.keras'}")


def test_the_command_lists_prints_and_refuses(capsys, sweep, tmp_path):
    words = ["table3", "--out", sweep.path]
    listed = printed(capsys, *words, "--data-dir", tmp_path, "--dry-run")
    assert "10 of 12 cells done" in listed and "for SE20 (ready)" in listed
    some = printed(
        capsys, *words, "--data-dir", tmp_path, "--dry-run", "--only", "AVAE_SS-evaluation"
    )
    assert "3 of 3 cells done, nothing left" in some and "SE20" not in some
    shown = printed(capsys, *words, "--table")  # without the options it was begun with
    assert tables(shown) == tables(table3_page.page(table3_figures.collect(sweep)))
    complaint = printed(capsys, *words, "--data-dir", tmp_path, "--steps", 7, "--dry-run", code=2)
    assert "holds another sweep: here cells.VAE.options.steps is 7" in complaint


@pytest.mark.long
def test_the_mini_sweep_from_end_to_end(tmp_path):
    """Stopped once on the way."""
    words = [sys.executable, "-m", "training.sweep", "table3", "--scale", "mini",
             "--out", str(tmp_path / "s")]  # fmt: skip
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: (tmp_path / "s" / "cells" / "AVAE" / "run" / "metrics.jsonl").exists(), 900)
    process.send_signal(signal.SIGTERM)
    out, complaint = process.communicate(timeout=300)
    assert process.returncode == 143, complaint
    assert "To go on: " in out and "table3 --scale mini" in out
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    values = json.loads((tmp_path / "s" / "table3.json").read_text())
    page = (tmp_path / "s" / "table3.md").read_text()
    assert page == table3_page.page(values) and page in done.stdout
    assert (tmp_path / "s" / "table3.png").read_bytes().startswith(b"\x89PNG")
    main = tables(page)[0]
    assert len(main) == 1 + len(TASKS) + 6 and "drawn faces" in page
    for row in main[1 : 1 + len(TASKS)]:
        assert not any("–" in cell for cell in row)
    for model in values["models"].values():
        assert model["missing"] is None
        for task in model["tasks"].values():
            assert task["attacked"]["value"] <= task["nominal"]["value"] + 0.1
            assert task["roc_auc"] is not None
    sweep = SweepFolder.open(tmp_path / "s")
    assert [len(sweep.sessions(name)) for name in ("VAE", "AVAE", "SE5")] == [1, 2, 1]
