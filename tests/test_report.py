"""The report, in a real browser without a network, wide and narrow."""

import os
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from playwright.sync_api import sync_playwright

from tf_avae.distributions import Posterior
from tf_avae.evaluation import Encoder, Settings, evaluate
from tf_avae.evaluation.report import page

RNG = np.random.default_rng(0)
WEIGHTS = np.linalg.qr(RNG.normal(size=(192, 6)))[0].astype(np.float32)
PATTERNS = RNG.uniform(0.3, 0.7, (3, 8, 8, 3))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def batches(count):
    labels = np.arange(count) % 3
    images = PATTERNS[labels] + 0.1 * RNG.normal(size=(count, 8, 8, 3))
    images = tf.constant(np.clip(images, 0, 1), tf.float32)
    return [(images, {"kind": labels, "parity": labels % 2})]


def posterior(x):
    mean = tf.reshape(x - 0.5, [-1, 192]) @ WEIGHTS
    return Posterior(mean, tf.ones_like(mean) * 0.05)


def decode(z):
    return tf.reshape(0.5 + z @ WEIGHTS.T, [-1, 8, 8, 3])


@pytest.fixture(scope="module")
def evaluation():
    """A linear encoder that has all there is, and one whose gradient is hidden, with a name that
    must be escaped."""
    whole = Encoder(
        "linear", lambda x: posterior(x).mean, posterior, decode, observation_variance=0.1, rho=0.9
    )
    hidden = Encoder("<b>steps", lambda x: tf.floor(8.0 * posterior(x).mean) / 8.0)
    settings = Settings(
        "smoke", epsilons=(0.1, 0.3), tasks=("kind",), images=60, free_images=30, neighbours=3,
        distances=("mean_l2", "w2"), chain_steps=3, samples_images=40, samples=4,
    )  # fmt: skip
    return evaluate(
        [whole, hidden], train=batches(150), test=batches(90), settings=settings,
        data={"name": "patterns", "checksums": {}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def written(evaluation, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(evaluation), encoding="utf-8")
    return path


def test_nothing_in_it_is_fetched_or_run(written):
    text = written.read_text(encoding="utf-8")
    assert "<script" not in text and "http:" not in re.sub(r"base64,[^\"]*", "", text)
    sources = re.findall(r"(?:src|href)=\"([^\"]{0,20})", text)
    assert len(sources) > 8 and all(source.startswith("data:") for source in sources)


def test_names_are_escaped(written):
    text = written.read_text(encoding="utf-8")
    assert "&lt;b&gt;steps" in text and "<b>steps" not in text


def test_failed_checks_stand_on_top_with_their_reason(evaluation, written):
    failed = [row[2:] for row in evaluation.failed_checks if row[0] == "<b>steps"]
    assert ("linear", "gradients") in failed and ("mlp", "gradients") in failed
    assert len(failed) == len(evaluation.failed_checks)
    text = written.read_text(encoding="utf-8")
    top = text[: text.index("<h2>")]
    assert f"{len(failed)} honesty checks failed" in top
    assert "gradients are hidden" in top.lower()


@pytest.mark.skipif(
    CHROMIUM is None and "REQUIRE_BROWSER" not in os.environ, reason="no chromium on this machine"
)
@pytest.mark.parametrize("width", [1440, 390])
def test_it_opens_in_a_browser(written, width):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
        view = context.new_page()
        asked, complaints = [], []
        view.on("request", lambda request: asked.append(request.url))
        view.on("console", lambda message: complaints.append(message.text))
        view.goto(written.as_uri())
        broken = view.evaluate(
            "[...document.images].filter(i => !i.complete || i.naturalWidth < 100).length"
        )
        pictures = view.evaluate("document.images.length")
        overflow = view.evaluate("document.documentElement.scrollWidth - innerWidth")
        tall = view.evaluate(
            "[...document.querySelectorAll('.charts img')].map(i => i.height / i.width)"
        )
        for summary in view.query_selector_all("summary"):
            summary.click()
        shown = view.inner_text("body")
        wide = view.evaluate("document.documentElement.scrollWidth - innerWidth")
        browser.close()
    assert broken == 0 and pictures >= 6
    assert overflow <= 0 and wide <= 0
    assert all(0.4 < ratio < 1 for ratio in tall)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert complaints == []
    for words in ("Accuracy, nominal and under attack", "Can these figures be trusted?",
                  "What attacks do", "Attacks on the representation", "Self-consistency",
                  "<b>steps: likelihood", "PGD is at least as strong as random noise"):  # fmt: skip
        assert words in shown
