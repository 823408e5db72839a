"""`tf-avae demo`: what the page says, what the demo keeps, and the page in a real browser."""

import os
import re
import runpy
import signal
import socket
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import uvicorn
import yaml
from fastapi.testclient import TestClient
from PIL import Image
from playwright.sync_api import sync_playwright

import tf_avae
from tests.test_readme import ROOT
from tests.test_report import CHROMIUM, UNREADABLE
from tf_avae.datasets.color_mnist.dataset import COLORS
from tf_avae.errors import InputError
from tf_avae.saved.encoders import open_encoder
from training.demo import __main__ as command
from training.demo import kept, page
from training.demo.digits import coloured, drawn, picked
from training.demo.readers import FIRST, MOST
from training.demo.ready import ready

FEW = {"steps": 4, "images": 500}


@pytest.fixture(scope="module")
def demo(few_digits, tmp_path_factory):
    """The readers and the digits to pick from, after a few steps on few images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_AVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield ready(str(few_digits), **FEW)


@pytest.fixture(scope="module")
def images(demo):
    """One each of a few digits, [4, 28, 28, 3]."""
    return np.stack([coloured(picked(demo[1], digit, 0), "cyan") for digit in (0, 3, 7, 9)])


# ---------------------------------------------------------------------- what it says


def test_at_radius_0_it_says_what_the_heads_say(demo, images):
    plain, robust = demo[0]
    embed = tf_avae.load_encoder("colormnist-robust", outputs=["embedding"])
    names = {"digit": [str(k) for k in range(10)], "color": COLORS}
    for image in images:
        seen = robust.look(image, 0, FIRST)
        for task, head in robust.heads.items():
            logits = head(embed(image[np.newaxis])["embedding"]).numpy()[0]
            for view in (seen.before, seen.after):
                assert view.readings[task].name == names[task][head.classes[logits.argmax()]]
                expected = np.exp(logits - logits.max())
                expected /= expected.sum()
                assert view.readings[task].probability == pytest.approx(expected.max(), rel=1e-4)
        np.testing.assert_array_equal(seen.after.image, image)
        assert not seen.changed and not plain.look(image, 0, FIRST).changed


@pytest.mark.parametrize("aim", [FIRST, "the digit 3"])
@pytest.mark.parametrize("epsilon", [0.05, pytest.param(MOST, marks=pytest.mark.long)])
def test_attacked_images_stay_in_the_ball_and_are_images(demo, images, aim, epsilon):
    for reader in demo[0]:
        for image in images:
            seen = reader.look(image, epsilon, aim)
            change = np.abs(seen.after.image - image).max()
            wanted = seen.before.readings["digit"].name == "3" and aim != FIRST
            assert change == 0 if wanted else 0.5 * epsilon < change <= epsilon + 1e-6
            assert seen.after.image.min() >= 0 and seen.after.image.max() <= 1
            assert seen.after.decoded.shape == image.shape


def test_what_is_proven_is_not_broken_and_what_is_not_may_be(demo, images):
    _, robust = demo[0]
    proven = broken = 0
    for image in images:
        beyond = robust.look(image, MOST, FIRST)
        for aim in (FIRST, "the digit 8"):
            seen = robust.look(image, beyond.radius, aim)
            assert seen.radius == beyond.radius and seen.proven and not seen.changed
        assert beyond.proven == (beyond.radius >= np.float32(MOST))
        proven += beyond.radius > 0
        broken += beyond.changed
    assert not robust.look(image, beyond.radius, "none, and a longer search").changed
    assert proven >= 2 and broken >= 2


@pytest.mark.long
def test_a_target_is_what_the_head_says_where_the_attack_may_do_much(demo, images):
    _, robust = demo[0]
    reached = [
        robust.look(images[3], MOST, f"the digit {digit}").after.readings["digit"].name
        == str(digit)
        for digit in (4, 5, 7, 8)
    ]
    assert sum(reached) >= 2


def test_a_drawing_becomes_an_image_as_mnist_makes_them(demo):
    """A digit drawn large, anywhere, is the digit."""
    for digit in range(10):
        image = picked(demo[1], digit, 0)
        large = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC))
        canvas = np.zeros((280, 280), np.uint8)
        canvas[50:274, 3:227] = large * (large > 40)
        found = drawn(canvas)
        assert found.shape == (28, 28) and found.dtype == np.uint8 and found.max() == 255
        assert np.corrcoef(found.ravel(), image.ravel())[0, 1] > 0.8
    faint = np.zeros((280, 280), np.uint8)
    faint[[0, -1], [0, -1]] = 60
    with pytest.raises(InputError, match="too faint"):
        drawn(faint)
    line = np.zeros((280, 280), np.uint8)
    line[100:103, 5:205] = 9  # thinner than a pixel of the image, and faint
    assert np.count_nonzero(drawn(line)) == 20


def test_bad_input_is_told(demo, images):
    readers, split = demo
    for empty in (None, np.zeros((280, 280), np.uint8)):
        with pytest.raises(InputError, match="drawing is empty; draw a digit, or pick one"):
            drawn(empty)
    for epsilon in (-0.1, 0.31, float("nan")):
        with pytest.raises(InputError, match=r"epsilon is .* from 0 to 0.3"):
            readers[0].look(images[0], epsilon, FIRST)
    with pytest.raises(InputError, match=r"aim is 'all'; choose one of none"):
        readers[0].look(images[0], 0.1, "all")
    with pytest.raises(InputError, match=r"colour is 'mauve'; it must be one of red, green"):
        page.answer(readers, picked(split, 0, 0), "mauve", 0.1, FIRST)
    with pytest.raises(InputError, match="no image of 11"):
        picked(split, 11, 0)


def test_a_question_is_answered_for_each_encoder(demo):
    readers, split = demo
    said = page.answer(readers, picked(split, 7, 0), "red", 0.2, FIRST)
    assert said.count("<section>") == 2 and said.count("<img ") == 10
    (verdict,) = re.findall(r"colormnist-robust</h3><p><span[^>]*>([^<]+)", said)
    seen = readers[1].look(coloured(picked(split, 7, 0), "red"), 0.2, FIRST)
    assert page._verdict(seen)[1] == verdict
    assert ("Proven" in verdict) == seen.proven and ("Changed" in verdict) == seen.changed


# ---------------------------------------------------------------------- what it keeps


@pytest.mark.long
def test_what_is_kept_is_not_made_again_and_what_is_damaged_is(
    few_digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("TF_AVAE_CACHE", str(tmp_path))
    data = tf_avae.DATASETS["color_mnist"].open(data_dir=str(few_digits))

    def make():
        path = kept.plain_vae(str(few_digits), steps=2)
        return path, kept.linear_heads(open_encoder(path), data, 200), capsys.readouterr()

    path, heads, (out, _) = make()
    assert "training a plain VAE" in out and "fitting heads" in out
    _, again, (out, err) = make()
    assert "training" not in out + err and "fitting" not in out
    for task, head in heads.items():
        tf.nest.map_structure(np.testing.assert_array_equal, tuple(head), tuple(again[task]))
    model, (file,) = path / "model.keras", path.parent.glob("heads-*.npz")
    for damaged, words in ((model, "training a plain VAE"), (file, "fitting heads")):
        damaged.write_bytes(damaged.read_bytes()[:-200])
        _, _, (out, err) = make()
        assert words in out and f"{damaged} is damaged" in err and "made anew" in err
        assert "note" not in make()[2].err
    (path / "result.json").unlink()  # as if it was killed before its end
    _, _, (out, _) = make()
    assert "going on with vae after step 2" in out


# ---------------------------------------------------------------------- the command


def called(*words):
    try:
        return command.main(list(words))
    except SystemExit as stop:
        return stop.code


def refused(capsys, *words):
    assert called(*words) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_a_port_in_use_is_told_before_anything_is_trained(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused(capsys, "--port", port)
    assert f"port {port} of 127.0.0.1: Address already in use; give another --port" in said
    assert "port is 65536; it must be from 0 to 65535" in refused(capsys, "--port", "65536")
    assert "no.such.host.invalid" in refused(capsys, "--host", "no.such.host.invalid")


def test_without_gradio_the_remedy_is_told(capsys, monkeypatch):
    monkeypatch.setattr("tf_avae.backend._is_installed", lambda name: name != "gradio")
    assert "not installed: Gradio; pip install 'tf-avae[demo]'" in refused(capsys)


@pytest.mark.parametrize(
    "signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_a_signal_ends_it_quietly(demo, capsys, monkeypatch, signum):
    monkeypatch.setattr("training.demo.ready.ready", lambda: demo)
    opened = []

    def open_then_end(address):
        opened.append(address)
        threading.Timer(1.0, os.kill, (os.getpid(), signum)).start()

    monkeypatch.setattr(command.webbrowser, "open", open_then_end)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert called("--port", "0") == (0 if signum == signal.SIGINT else 143)
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    out, err = capsys.readouterr()
    assert err == "" and out == f"the page is at {opened[0]}; Ctrl-C ends it\n"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", opened[0])


def test_a_hosting_space_runs_the_same_page(monkeypatch):
    folder = ROOT / "training" / "demo" / "space"
    _, header, _ = (folder / "README.md").read_text().split("---\n")
    told = yaml.safe_load(header)
    assert told["sdk"] == "gradio" and told["license"] == "apache-2.0"
    low, high = re.findall(r"gradio>=([\d.]+),<([\d.]+)", (ROOT / "setup.py").read_text())[0]
    release = [int(number) for number in told["sdk_version"].split(".")]
    assert [int(n) for n in low.split(".")] <= release < [int(n) for n in high.split(".")]
    assert (folder / "requirements.txt").read_text() == "tf-avae[demo]\n"
    asked = []
    monkeypatch.setattr(command, "main", lambda words: asked.extend(words) or 0)
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(folder / told["app_file"]), run_name="__main__")
    given = command.parser().parse_args(asked)
    assert (given.host, given.port, given.no_browser) == ("0.0.0.0", 7860, True)


@pytest.fixture
def asked_for(tmp_path, monkeypatch):
    """A client of the page as this machine alone is served it."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    with TestClient(
        page.application(page.page([], None), "127.0.0.1"), base_url="http://127.0.0.1:7860"
    ) as client:
        yield client


def test_no_request_reads_a_file_of_this_machine(asked_for, tmp_path):
    """A drawing's layers are files; only what a browser has sent is one."""
    secret = tmp_path / "secret.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(secret)
    layer = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    sketch = {"background": None, "layers": [layer], "composite": None}
    data = [page._DRAWN, 7, 0, sketch, "white", 0.1, FIRST]
    body = {"fn_index": 3, "session_hash": "one", "data": data}
    refused = asked_for.post("/gradio_api/run/predict", json=body)
    assert refused.status_code >= 400
    asked_for.post("/gradio_api/queue/join", json=body)
    with asked_for.stream("GET", "/gradio_api/queue/data?session_hash=one") as events:
        told = next(line for line in events.iter_lines() if "process_completed" in line)
    assert '"success":false' in told.replace(" ", "")
    assert "secret.png" not in refused.text + told
    assert list(tmp_path.rglob("secret.png")) == [secret]  # and no copy is where it could be had
    assert asked_for.get(f"/gradio_api/file={secret}").status_code == 403


def test_a_page_of_elsewhere_cannot_ask_under_its_own_name(asked_for):
    assert asked_for.get("/config").status_code == 200
    assert asked_for.get("/config", headers={"host": "elsewhere.example"}).status_code == 400


# ---------------------------------------------------------------------- in a browser


@pytest.fixture
def served(demo, monkeypatch):
    """Where the page is, and the hosts that its process looks up meanwhile."""
    looked_up, look_up = [], socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **words: looked_up.append(host) or look_up(
            host, *rest, **words)
    )  # fmt: skip
    listening = socket.create_server(("127.0.0.1", 0))
    app = page.application(page.page(*demo))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", looked_up
    server.should_exit = True
    thread.join()
    listening.close()


SEEN = ".seen section:nth-child(2)"  # of the encoder that ships


@pytest.mark.skipif(
    CHROMIUM is None and "REQUIRE_BROWSER" not in os.environ, reason="no chromium on this machine"
)
def test_the_page_in_a_browser(served, demo):
    address, looked_up = served
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        view = context.new_page()
        asked, complaints = [], []
        view.on("request", lambda request: asked.append(request.url))
        view.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        view.on("pageerror", lambda error: complaints.append(str(error)))
        view.goto(address)
        view.wait_for_selector(SEEN)
        for scheme, width in (("light", 1280), ("dark", 390)):
            view.emulate_media(color_scheme=scheme)
            view.set_viewport_size({"width": width, "height": 900})
            view.reload()
            view.wait_for_selector(SEEN)
            assert view.evaluate(UNREADABLE) == []
            assert view.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            ground = view.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (max(map(int, re.findall(r"\d+", ground)[:3])) < 60) == (scheme == "dark")

        def after(act):
            """What is said of the encoder that ships when something was done."""
            before = view.inner_text(SEEN) if view.query_selector(SEEN) else ""
            start = time.monotonic()
            act()
            view.wait_for_function(
                "([at, was]) => document.querySelector(at) "
                "&& document.querySelector(at).innerText !== was",
                arg=[SEEN, before],
            )
            print(f"a picture after {time.monotonic() - start:.2f} s")
            return view.inner_text(SEEN)

        said = after(lambda: view.get_by_label("2", exact=True).click())
        expected = demo[0][1].look(coloured(picked(demo[1], 2, 0), "white"), 0.1, FIRST)
        assert f"digit {expected.before.readings['digit'].name}:" in said
        assert page._verdict(expected)[1] in said
        slider = view.get_by_role("slider").first
        slider.focus()
        assert "ε is 0, so nothing changes" in after(lambda: view.keyboard.press("Home"))
        assert "Changed" in after(lambda: view.keyboard.press("End"))
        view.get_by_role("tab", name="Draw").click()
        view.wait_for_selector(".refused")
        assert "the drawing is empty" in view.inner_text(".refused")
        box = view.wait_for_selector("canvas").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

        def stroke():
            view.mouse.move(x, y - 80)
            view.mouse.down()
            view.mouse.move(x, y + 80, steps=8)
            view.mouse.up()

        assert "digit 1" in after(stroke)
        assert view.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        browser.close()
    assert complaints == []
    assert [u for u in asked if not u.startswith((f"{address}/", "data:", "blob:"))] == []
    assert set(looked_up) <= {"127.0.0.1", None}
