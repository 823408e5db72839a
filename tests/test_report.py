"""The report, in a real browser without a network, wide and narrow."""

import copy
import io
import os
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from playwright.sync_api import sync_playwright

from tf_avae.distributions import Posterior
from tf_avae.evaluation import Encoder, Settings, charts, evaluate
from tf_avae.evaluation.report import page
from tf_avae.evaluation.table import broken_by

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
    kernel = keras.layers.Dense(6, use_bias=False)
    shift = keras.layers.Rescaling(1.0, -0.5)
    layers = keras.Sequential([keras.Input((8, 8, 3)), shift, keras.layers.Flatten(), kernel])
    kernel.kernel.assign(WEIGHTS)
    whole = Encoder(
        "linear", lambda x: posterior(x).mean, posterior, decode, observation_variance=0.1,
        rho=0.9, network=lambda: layers,
    )  # fmt: skip
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


def test_pictures_name_the_attack_and_what_a_head_reads(evaluation):
    for encoder, sheets in zip(evaluation.results["encoders"], evaluation.pictures, strict=True):
        broken, moved = sheets
        epsilon = float(broken.heading.rpartition("= ")[2])
        rows = encoder["robustness"]["rows"]
        outcomes = next(r for r in rows if r["head"] == "linear" and r["epsilon"] == epsilon)
        letters = outcomes["outcomes"][:50]
        at = [n for n, letter in enumerate(letters) if letter not in "x."][:10]
        attacks, read = zip(*broken.captions, strict=True)
        assert attacks == ("pgd-10",) * len(at)
        before, after = zip(*(words.split(" → ") for words in read), strict=True)
        assert before == tuple(str(n % 3) for n in at)
        assert all(b != a for b, a in zip(before, after, strict=True))
        assert len(moved.captions) == len(moved.rows["x"])


def test_attacks_are_counted_by_the_images_they_broke(evaluation):
    row = {"trials": ["pgd-40/0", "pgd-40/1", "square/0"], "accuracy": {"count": 10}}
    assert broken_by(row | {"accuracy_after": [0.9, 0.6, 0.5, 0.5]}) == {"pgd-40": 4, "square": 0}
    for encoder in evaluation.results["encoders"]:
        for row in encoder["robustness"]["rows"]:
            assert broken_by(row) == {"pgd-10": row["outcomes"].count("0")}


def test_one_radius_shows_each_encoder_beside_the_other(evaluation):
    results = copy.deepcopy(evaluation.results)
    results["settings"]["epsilons"] = (0.1,)
    for encoder in results["encoders"]:
        of = encoder["representation"]
        of["rows"] = [row for row in of["rows"] if row["epsilon"] == 0.1]
    axes = charts.shift(results).axes[0]
    assert axes.get_xlabel() == "ε = 0.1"
    points = [line.get_xydata()[0] for line in axes.lines]
    assert len(points) == 2 and points[0][0] != points[1][0]
    assert all(y < axes.get_ylim()[1] for _, y in points)


UNREADABLE = """() => {
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => numbers(c).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    const c = numbers(getComputedStyle(e).backgroundColor);
    return c.length < 4 || c[3] > 0 ? getComputedStyle(e).backgroundColor
      : e.parentElement ? behind(e.parentElement) : "rgb(255, 255, 255)";
  };
  const words = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  return [...document.body.querySelectorAll("*")].filter(words).filter(e => {
    if (!e.getClientRects().length) return false;
    const style = getComputedStyle(e);
    const [low, high] = [light(style.color), light(behind(e))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05) < 4.5 || parseFloat(style.fontSize) < 11;
  }).map(e => e.outerHTML.slice(0, 200));
}"""
"""Elements with words of less contrast than WCAG 2 asks of text (level AA), or too small ones."""


@pytest.mark.skipif(
    CHROMIUM is None and "REQUIRE_BROWSER" not in os.environ, reason="no chromium on this machine"
)
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_it_opens_in_a_browser(written, width, scheme):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(
            viewport={"width": width, "height": 900}, offline=True, color_scheme=scheme
        )
        view = context.new_page()
        asked, complaints = [], []
        view.on("request", lambda request: asked.append(request.url))
        view.on("console", lambda message: complaints.append(message.text))
        view.goto(written.as_uri())
        broken = view.evaluate(
            "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        )
        pictures = view.evaluate("document.images.length")
        overflow = view.evaluate("document.documentElement.scrollWidth - innerWidth")
        tall = view.evaluate(
            "[...document.querySelectorAll('.charts img')].map(i => i.height / i.width)"
        )
        captions = view.eval_on_selector_all(
            ".strips figure", "all => all.map(f => f.innerText.trim())"
        )
        chart = view.query_selector(".charts img").screenshot()
        for summary in view.query_selector_all("summary"):
            summary.click()
        shown = view.inner_text("body")
        wide = view.evaluate("document.documentElement.scrollWidth - innerWidth")
        unreadable = view.evaluate(UNREADABLE)
        browser.close()
    assert broken == 0 and pictures >= 6
    assert unreadable == []
    assert len(captions) == 40 and all(words.startswith("pgd-10") for words in captions)
    levels = np.asarray(Image.open(io.BytesIO(chart)).convert("L"))
    if scheme == "dark":
        assert np.median(levels) < 50 and levels.max() > 200
    else:
        assert np.median(levels) > 250 and levels.min() < 50
    assert overflow <= 0 and wide <= 0
    assert all(0.4 < ratio < 1.1 for ratio in tall)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert complaints == []
    for words in ("Accuracy, nominal and under attack", "Can these figures be trusted?",
                  "Attack by attack", "What attacks do", "Attacks on the representation",
                  "Self-consistency", "<b>steps, likelihood", "linear, verified, ε 0.3",
                  "verified by interval bounds", "<b>steps, certified – no bounds: its layers",
                  "PGD is at least as strong as random noise"):  # fmt: skip
        assert words in shown
