"""What the README shows runs, as printed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conformance.prepare import untrained_run
from tests.serving_process import Server
from tf_avae.evaluation import BUDGETS, CHECKS
from tf_avae.evaluation.sections import SECTIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
# The same commands, shorter.
SHORT = (
    "--steps 4 --pretrain-steps 4 --batch-size 8 --pgd-steps 2 --log-every 2 --checkpoint-every 2 "
    "--eval-every 2 --eval-images 50 --pictures-every 4"
).split()
BRIEF = (
    "--budget smoke --epsilon 0.1 --task digit --images 20 --free-images 10 --distance mean_l2"
).split()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def shell_commands():
    lines = "".join(blocks("sh")).splitlines()
    return [line.split("#")[0].strip() for line in lines if line.strip()]


def run(words, folder):
    return subprocess.run(
        words,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def asks_a_server(block):
    return "localhost:8500" in block


@pytest.mark.parametrize(
    "number", [n for n, block in enumerate(blocks("python")) if not asks_a_server(block)]
)
def test_python_runs_as_printed(tmp_path, number):
    (tmp_path / "block.py").write_text(blocks("python")[number])
    done = run([sys.executable, "block.py"], tmp_path)
    assert done.returncode == 0, done.stderr


def test_export_server_and_client_run_as_printed(tmp_path):
    """On the README's run, untrained, and on other ports."""
    export, serve, *ask = [c for c in shell_commands() if c.startswith("python -m serving")]
    untrained_run(tmp_path / export.split()[3])
    done = run([sys.executable, *export.split()[1:]], tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "digits").mkdir()
    for number in range(3):
        file = tmp_path / "digits" / f"{number}.png"
        Image.fromarray(np.full((28, 28, 3), 50 * number, np.uint8)).save(file)
    with Server(tmp_path, *serve.split()[3:], folder=tmp_path) as server:
        assert len(ask) == 3
        for command in ask:
            words = command.replace("python", sys.executable, 1)
            done = run(["bash", "-c", f"{words} --address {server.grpc}"], tmp_path)
            assert done.returncode == 0, f"{command}: {done.stderr}"
        assert "3 images, 8 dimensions, encoder version 1" in done.stdout
        (block,) = filter(asks_a_server, blocks("python"))
        (tmp_path / "block.py").write_text(block.replace("localhost:8500", server.grpc))
        done = run([sys.executable, "block.py"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert "(100, 8)" in done.stdout


def test_training_and_evaluation_commands_run_in_order(tmp_path, few_digits):
    shorter = {
        "python -m training.fit": (SHORT, "encoder.keras", 4),
        "python -m training.evaluate": ([*BRIEF, "--data-dir", str(few_digits)], "report.html", 1),
    }
    for start, (options, words, least) in shorter.items():
        commands = [c for c in shell_commands() if c.startswith(start)]
        assert len(commands) >= least
        for command in commands:
            done = run([sys.executable, *shlex.split(command)[1:], *options], tmp_path)
            assert done.returncode == 0, f"{command}: {done.stderr}"
            assert words in done.stdout


def test_make_targets_exist():
    targets = [c.split()[1] for c in shell_commands() if c.startswith("make")]
    assert {"demo", "test", "lint", "serve", "conformance", "bench", "five", "robustness"} <= set(
        targets
    )
    for target in targets:
        assert run(["make", "-n", target], ROOT).returncode == 0, target


@pytest.mark.parametrize(
    ("module", "results", "page"),
    [
        ("benchmarks.terms", "docs/results/objectives.json", "README.md"),
        ("benchmarks.batch_norm", "docs/results/batch_norm.json", "docs/objectives.md"),
        ("benchmarks.serving", "docs/results/serving_mlp.json", "docs/serving.md"),
        ("benchmarks.serving", "docs/results/serving_conv.json", "docs/serving.md"),
    ],
)
def test_tables_are_those_made_from_the_kept_results(module, results, page):
    done = run([sys.executable, "-m", module, "--from", results], ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in (ROOT / page).read_text()


def test_every_check_and_budget_is_in_its_page():
    page = (ROOT / "docs" / "evaluation.md").read_text()
    for check in CHECKS.values():
        assert f"| `{check.name}` | {check.must} | {check.why} |" in page
    for name in BUDGETS:
        assert f"| `{name}` |" in page
    for name in SECTIONS:
        assert f"| `{name}` |" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_placeholder_is_left(page):
    assert not re.search(r"@[A-Z]+@", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
