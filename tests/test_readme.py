"""What the README and the pages show runs, as printed."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tf_avae
from serving import client
from tests.conformance.prepare import untrained_run
from tests.in_process import run_module
from tests.serving_process import Server
from tf_avae import attacks, evaluation
from tf_avae.attacks import SCHEDULES, STARTS
from tf_avae.evaluation import BUDGETS, CHECKS
from tf_avae.evaluation.section import SECTIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
START = (ROOT / "docs" / "quick_start.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
# The same commands, shorter; and within a radius that a few steps can bear.
SHORT = (
    "--steps 4 --pretrain-steps 4 --batch-size 8 --pgd-steps 2 --log-every 2 --checkpoint-every 2 "
    "--eval-every 2 --eval-images 50 --pictures-every 4 --epsilon 0.0001"
).split()
BRIEF = (
    "--budget smoke --epsilon 0.1 --task digit --images 20 --head linear "
    "--section probes robustness"
).split()
# What the Python code says, and what is enough to see that it runs.
FEWER = {
    'tasks=("color",)': 'tasks=("color",), images=20, free_images=10',
    "data.train_images(500).take(20)": "data.train_images(100).take(3)",
    "data.held_out(500).take(2)": "data.held_out(100).take(1)",
    "steps_per_epoch=500": "steps_per_epoch=20",
    ".train_images(500)\n": ".train_images(500).take(2)\n",
    "steps_per_epoch=1000": "steps_per_epoch=20",
    "train_images(10_000)": "train_images(500)",
    "held_out(200)": "held_out(20)",
}


def blocks(language, text):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shell_commands(text):
    lines = "".join(blocks("sh", text)).replace("\\\n", " ").splitlines()
    found = (" ".join(line.split("#")[0].split()) for line in lines)
    return [command for command in found if command]


def run(words, folder):
    return subprocess.run(
        words,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def printed(command, *more):
    """What a `python -m` command prints, with more options."""
    _, _, module, *words = shlex.split(command)
    code, out, err = run_module(module, *words, *more)
    assert code == 0, f"{command}: {err}"
    return out


def of_page(name):
    return blocks("python", (ROOT / "docs" / name).read_text())


PYTHON = {
    f"{page}-{number}": block
    for page in ("quick_start", "python", "data", "theory", "evaluation", "objectives")
    for number, block in enumerate(of_page(f"{page}.md"))
}
FIRST, LAYER = blocks("python", README)


def asks_a_server(block):
    return "localhost:8500" in block


def needs_an_encoder(block):
    return '"models/encoder"' in block


def run_block(code):
    """Runs Python in this folder, with less of what takes long."""
    for much, enough in FEWER.items():
        code = code.replace(much, enough)
    Path("block.py").write_text(code)
    runpy.run_path("block.py")


@pytest.mark.parametrize(
    "name",
    [
        # A test of the data sets prepares the whole of it too.
        pytest.param(name, marks=pytest.mark.long if "tfds.load" in block else [])
        for name, block in PYTHON.items()
        if not asks_a_server(block)
    ],
)
def test_python_runs_as_printed(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    run_block(PYTHON[name])


def test_the_first_success_is_one(tmp_path, monkeypatch, capsys):
    """The README's attack of two encoders, of fewer images after fewer steps."""
    monkeypatch.chdir(tmp_path)
    run_block(FIRST)
    share, said = r"\d+\.\d(?=%)", capsys.readouterr().out
    shown = blocks("text", README)[0]
    assert re.sub(share, "", said) == re.sub(share, "", shown)
    for text in (said, shown):
        _, plain, _, robust = map(float, re.findall(share, text))
        assert robust > plain + 50


def test_what_is_made_less_is_printed():
    for much in FEWER:
        assert any(much in block for block in (*PYTHON.values(), *of_page("downstream.md"), FIRST))


def test_export_server_and_client_run_as_printed(tmp_path, monkeypatch, capsys):
    """On the quick start's run, untrained, and on other ports."""
    commands = [c for c in shell_commands(START) if c.startswith("python -m serving")]
    export, serve, *ask, bulk = commands
    untrained_run(tmp_path / export.split()[3])
    monkeypatch.chdir(tmp_path)
    printed(export)
    on_the_encoder = list(filter(needs_an_encoder, (LAYER, *of_page("downstream.md"))))
    assert len(on_the_encoder) == 4
    for block in on_the_encoder:
        run_block(block)
    (made,) = [block for block in blocks("python", START) if '"digits/{' in block]
    run_block(made)
    assert "100 embedded by encoder version 1, 0 refused" in printed(bulk)
    with Server(tmp_path, *serve.split()[3:], folder=tmp_path) as server:
        assert len(ask) == 3
        for command in ask:
            words = command.replace("python", sys.executable, 1)
            done = run(["bash", "-c", f"{words} --address {server.grpc}"], tmp_path)
            assert done.returncode == 0, f"{command}: {done.stderr}"
        assert "100 images, 8 dimensions, encoder version 1" in done.stdout
        (block,) = filter(asks_a_server, blocks("python", START))
        run_block(block.replace("localhost:8500", server.grpc))
        assert "(100, 8)" in capsys.readouterr().out


def test_the_readmes_commands_are_those_of_the_quick_start():
    """Which run below."""
    commands = [c for c in shell_commands(README) if not c.startswith("make")]
    assert len(commands) >= 5 and set(commands) <= set(shell_commands(START))


@pytest.mark.parametrize("page", [README, START], ids=["README", "quick_start"])
def test_servers_have_ports_of_their_own(page):
    """And each client asks a server that a command before it starts."""
    started = set()
    for command in shell_commands(page):
        words = shlex.split(command)
        if command.startswith("python -m serving.server"):
            (port,) = [w.split("=")[1] for w in words if w.startswith("--port=")] or ["8500"]
            assert port not in started, command
            started.add(port)
        elif command.startswith("python -m serving.client"):
            address = words[words.index("--address") + 1] if "--address" in words else ":8500"
            assert address.rpartition(":")[2] in started, command


def test_training_and_evaluation_commands_run_in_order(tmp_path, few_digits, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TF_AVAE_CACHE", str(tmp_path / "cache"))
    for number in range(20):
        file = tmp_path / "pictures" / str(number % 2) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 10 * number, np.uint8)).save(file)
    pictures = shell_commands((ROOT / "docs" / "images.md").read_text())[0]
    shorter = {
        "python -m training.fit": (SHORT, "encoder.keras", 5),
        "python -m training.evaluate": ([*BRIEF, "--data-dir", str(few_digits)], "report.html", 1),
    }
    for start, (options, words, least) in shorter.items():
        commands = [c for c in (*shell_commands(START), pictures) if c.startswith(start)]
        assert len(commands) >= least
        for command in commands:
            assert words in printed(command, *options)


def test_make_targets_exist():
    pages = "".join((README, START, (ROOT / "CONTRIBUTING.md").read_text()))
    targets = [c.split()[1] for c in shell_commands(pages) if c.startswith("make")]
    assert {"demo", "test", "lint", "serve", "conformance", "bench", "five", "robustness"} <= set(
        targets
    )
    for target in targets:
        assert run(["make", "-n", target], ROOT).returncode == 0, target


@pytest.mark.parametrize(
    ("module", "results", "page"),
    [
        ("benchmarks.terms", "docs/results/terms.json", "docs/objectives.md"),
        ("benchmarks.batch_norm", "docs/results/batch_norm.json", "docs/objectives.md"),
        ("benchmarks.serving", "docs/results/serving_mlp.json", "docs/serving.md"),
        ("benchmarks.serving", "docs/results/serving_conv.json", "docs/serving.md"),
        ("benchmarks.serving", "docs/results/serving_beside.json", "docs/serving.md"),
        ("benchmarks.serving", "docs/results/serving_beside_before.json", "docs/serving.md"),
        ("benchmarks.frozen", "docs/results/frozen.json", "docs/downstream.md"),
        ("benchmarks.demo", "docs/results/demo.json", "docs/demo.md"),
        ("benchmarks.detection", "docs/results/detection.json", "docs/detection.md"),
        ("benchmarks.detection", "docs/results/detection_shipped.json", "docs/detection.md"),
        ("benchmarks.budgets", "docs/results/budgets.json", "docs/evaluation.md"),
        ("benchmarks.cross_check attack", "docs/results/cross_check.json", "docs/evaluation.md"),
        ("benchmarks.counts", "docs/results/counts.json", "docs/performance.md"),
        ("benchmarks.bounds", "docs/results/bounds.json", "docs/performance.md"),
        ("benchmarks.step_options", "docs/results/step_options.json", "docs/performance.md"),
        ("benchmarks.train", "docs/results/train_mlp.json", "docs/performance.md"),
        ("benchmarks.train", "docs/results/train_conv.json", "docs/performance.md"),
        ("benchmarks.train", "docs/results/train_mlp_pgd5.json", "docs/performance.md"),
        ("benchmarks.train", "docs/results/train_celeba.json", "docs/performance.md"),
        ("benchmarks.train", "docs/results/train_wide.json", "docs/performance.md"),
        ("benchmarks.data", "docs/results/data.json", "docs/performance.md"),
        ("benchmarks.bulk", "docs/results/bulk.json", "docs/bulk.md"),
        ("benchmarks.attack", "docs/results/attack_mlp.json", "docs/performance.md"),
        ("benchmarks.attack", "docs/results/attack_conv.json", "docs/performance.md"),
        ("benchmarks.attack", "docs/results/attack_strong_mlp.json", "docs/performance.md"),
        ("benchmarks.attack", "docs/results/attack_strong_conv.json", "docs/performance.md"),
        ("benchmarks.attack", "docs/results/attack_restarts_0.02.json", "docs/performance.md"),
        ("benchmarks.attack", "docs/results/attack_restarts_0.1.json", "docs/performance.md"),
    ],
)
def test_tables_are_those_made_from_the_kept_results(monkeypatch, module, results, page):
    monkeypatch.chdir(ROOT)
    table = printed(f"python -m {module} --from {results}")
    assert table.strip() and table.strip() in (ROOT / page).read_text()


def test_the_reference_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text()
    for module in (tf_avae, attacks, evaluation, client):
        for name in module.__all__:
            assert re.search(rf"\b{name}\b", page), f"{module.__name__}.{name}"


def test_every_check_budget_and_start_is_in_its_page():
    page = (ROOT / "docs" / "evaluation.md").read_text()
    for check in CHECKS.values():
        assert f"| `{check.name}` | {check.must} | {check.why} |" in page
    for name in BUDGETS:
        assert f"| `{name}` |" in page
    for start in STARTS.values():
        assert f"| `{start.name}` | {start.summary} |" in page
    for schedule in SCHEDULES.values():
        assert f"`{schedule.name}` ({schedule.summary})" in page
    for name in SECTIONS:
        assert f"| `{name}` |" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_placeholder_is_left(page):
    assert not re.search(r"@[A-Z]+@", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
