"""A run as a SavedModel: the model's own numbers, whole versions or none, bad files refused."""

import io
import json
import os
import re
import signal
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from picture_files import READABLE
from PIL import Image

from serving import export
from tests.conformance.prepare import untrained_run
from tf_avae.backend import import_tensorflow
from tf_avae.config import Config
from tf_avae.datasets import DATASETS
from tf_avae.errors import InputError
from tf_avae.graphs.saved_models import PROVENANCE, SavedModel
from tf_avae.image_files.decoding import MOST_SCANS, decode_images
from tf_avae.runs.run import load_trained
from tf_avae.saved import exports, versions
from tf_avae.saved.contract import CERTIFY_SIGNATURES, SIGNATURES
from tf_avae.saved.encoders import open_encoder
from tf_avae.saved.exports import _decoder, _of_files, export_run, served_encoder
from tf_avae.saved.versions import Served, Trial, warm_up_requests

SHAPE = (12, 12, 3)


def pixels(height=12, width=12, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width, height):
    """A PNG that says it is of this size, and holds ten rows of ten pixels at the most."""
    rows = b"\0" * (min(height, 10) * (1 + 3 * min(width, 10)))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def jpeg_header(width, height):
    """A small JPEG that says it is of this size."""
    file = tf.io.encode_jpeg(pixels()).numpy()
    sides = file.index(b"\xff\xc0") + 5
    return file[:sides] + struct.pack(">HH", height, width) + file[sides + 4 :]


def jpeg_scans(count):
    """A progressive JPEG of so many scans, all but the first few of which are the same."""
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, "JPEG", progressive=True)
    start = b"\xff\xda\0"
    # A scan ends where the tables of the next begin. Those of the first are needed only once.
    head, *scans = file.getvalue().split(start)
    again = start + scans[0].split(b"\xff\xc4")[0]
    return head + again * (count - len(scans)) + start + start.join(scans)


@pytest.fixture(scope="module")
def decode():
    return tf.function(
        lambda files: decode_images(files, SHAPE),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )


def test_a_file_of_the_right_size_keeps_its_pixels(decode):
    x = pixels()
    grey = pixels(channels=1)
    opaque = np.concatenate([x, np.full((12, 12, 1), 255, np.uint8)], -1)
    files = [tf.io.encode_png(image).numpy() for image in (x, grey, opaque)]
    found = decode(files).numpy()
    for image, expected in zip(found, (x, np.repeat(grey, 3, -1), x), strict=True):
        np.testing.assert_allclose(image, expected / 255, atol=1e-7)
    assert decode(np.zeros([0], object)).shape == (0, *SHAPE)


@pytest.mark.parametrize("size", [(36, 24), (7, 30), (6, 6)])
def test_resizing_is_pillows(decode, size):
    """Both average over the pixels that fall together; Pillow rounds to 256 steps."""
    y, x = np.mgrid[: size[0], : size[1]]
    waves = np.stack([np.sin(y / 3), np.cos(x / 4), np.sin((x + y) / 5)], -1)
    image = (127.5 + 127.5 * waves).astype(np.uint8)
    found = decode([tf.io.encode_png(image).numpy()]).numpy()[0]
    expected = np.asarray(Image.fromarray(image).resize(SHAPE[1::-1], Image.Resampling.BILINEAR))
    assert np.abs(found - expected / 255).max() < 2 / 255


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "neither PNG nor JPEG"),
        (b"\xff", "neither PNG nor JPEG"),
        (b"\xff\xd8\xff", "Invalid JPEG data"),
        (b"\x89PNG\r\n\x1a\n", "neither PNG nor JPEG"),
        # The size is where a decoder that goes past the unknown chunk would not look for it.
        (
            png_header(5000, 5000).replace(
                b"\x1a\n", b"\x1a\n" + chunk(b"teSt", struct.pack(">II", 10, 10)), 1
            ),
            "neither PNG nor JPEG",
        ),
        (jpeg_scans(MOST_SCANS + 1), rf"more than {MOST_SCANS} scans; .*\[{MOST_SCANS + 1}\]"),
        (jpeg_scans(2000), r"more than 100 scans; counted, up to 1000:\] \[1000\]"),
        (b"GIF89a" + bytes(50), "a GIF or TIFF, which no served model reads"),
        (b"BM" + bytes(60), r"not above 0 .* \[0 0\]"),
        (png_header(4097, 4096), "at most 16777216 pixels"),
        (png_header(2**31 - 1, 2**31 - 1), r"\[2147483647 2147483647\]"),
        (png_header(2**32 - 1, 1), "at most 16777216 pixels"),
        (png_header(0, 5), r"\[5 0\]"),
        (jpeg_header(65500, 65000), r"\[65000 65500\]"),
        (png_header(100, 100), "Invalid PNG data"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "Invalid JPEG data"),
        (tf.io.encode_png(pixels(200, 200)).numpy()[:20_000], "Invalid PNG data"),
        (tf.io.encode_jpeg(pixels(200, 200)).numpy()[:9_000], "Invalid JPEG data"),
    ],
)
def test_bad_files_are_refused(decode, file, words):
    good = tf.io.encode_png(pixels()).numpy()
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        decode([good, file])


def test_scans_are_counted_and_not_what_looks_like_them(decode):
    few = jpeg_scans(MOST_SCANS)
    assert few.count(b"\xff\xda\0") == MOST_SCANS
    film = few + b"\xff\xda\1" * 1000  # behind the image
    noise = tf.io.encode_png(pixels()).numpy() + b"\xff\xda\0" * 1000
    assert decode([few, film, noise]).shape == (3, *SHAPE)


@pytest.mark.parametrize(
    ("arch", "precision"),
    [
        ("mlp", "float32"),
        pytest.param("mlp", "mixed_float16", marks=pytest.mark.long),
        ("conv", "mixed_bfloat16"),
    ],
)
def test_graph_gives_the_models_numbers_in_float32(
    tmp_path, make_model, small_images, arch, precision
):
    model = make_model("avae", arch=arch, precision=precision, compiled=False)
    versions._write(served_encoder(model), tmp_path / "1", "small", (1, 4))
    saved = SavedModel(tmp_path)
    twin = make_model("avae", arch=arch, compiled=False)
    twin.set_weights(model.get_weights())
    expected = twin.predict(small_images[:8], verbose=0)
    found = saved.call("serving_default", image=tf.constant(small_images[:8]))
    assert set(found) == {"embedding", "variance", "inconsistency"}
    for name, value in expected.items():
        assert found[name].dtype == tf.float32
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6)
    latents = found["embedding"]
    np.testing.assert_allclose(
        saved.call("decode", latent=latents)["image"],
        twin.decoder(latents), rtol=1e-6, atol=1e-6,
    )  # fmt: skip
    whole, files = whole_pixels(small_images[:3])
    by_file = saved.call("embed_bytes", image_bytes=tf.constant(files))
    by_pixel = saved.call("serving_default", image=tf.constant(whole))
    for name in expected:
        np.testing.assert_allclose(by_file[name], by_pixel[name], rtol=1e-5, atol=1e-6)


def test_the_served_graph_makes_of_files_what_training_makes_of_them(tmp_path, monkeypatch):
    """To the bit, of every kind of file, by a graph that was written and read again."""
    monkeypatch.setenv("TF_AVAE_CACHE", str(tmp_path / "cache"))
    background = "#123456"
    function, spec = _of_files(
        lambda images: {"image": images}, _decoder(SHAPE, background, "stretch")
    )
    served = Served([], {"embed_bytes": (function, spec)}, SHAPE, tuple)
    tf.saved_model.save(served, str(tmp_path / "served"), signatures=served.functions)
    (tmp_path / "pictures").mkdir()
    for number, content in enumerate(READABLE.values()):
        (tmp_path / "pictures" / f"{number:02d}.png").write_bytes(content)
    data = DATASETS["image_folder"].open(
        tmp_path / "pictures", image_size=SHAPE[0], background=background
    )
    trained = [x for split in (data.train_images, data.held_out)
               for batch, _ in split(7).as_numpy_iterator() for x in batch]  # fmt: skip
    found = SavedModel(tmp_path / "served").call(
        "embed_bytes", image_bytes=tf.constant([*READABLE.values()])
    )
    assert len(trained) == len(READABLE)
    assert {x.tobytes() for x in found["image"].numpy()} == {x.tobytes() for x in trained}


def test_pixels_must_be_numbers_between_0_and_1(make_model):
    served = served_encoder(make_model(compiled=False)).functions["serving_default"]
    good = np.full((2, *SHAPE), 0.5, np.float32)
    served(tf.constant(good))
    served(tf.constant(np.stack([0 * good[0], 2 * good[1]])))  # 0 and 1 themselves
    for bad in (np.nan, np.inf, -0.1, 1.1, 255):
        images = good.copy()
        images[1, 3, 4, 0] = bad
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"finite numbers in \[0, 1\]"):
            served(tf.constant(images))


def whole_pixels(images):
    """The images that files of 256 levels hold, and the files."""
    pixels = np.round(255 * images).astype(np.uint8)
    return pixels / np.float32(255), [tf.io.encode_png(image).numpy() for image in pixels]


def test_certified_bounds_hold_the_embeddings_of_the_ball(tmp_path, make_model, small_images):
    model = make_model(arch="mlp", precision="mixed_float16", compiled=False)
    versions._write(served_encoder(model), tmp_path / "1", "small", (1,))
    saved = SavedModel(tmp_path)  # and its graph does nothing but compute
    images, files = whole_pixels(small_images[:6])
    images[0, 0, 0] = 1.0005, -0.0005, 0.5  # as resizing leaves them
    radii = np.array([0, 0, 1e-3, 0.01, 0.1, 1], np.float32)
    found = {k: v.numpy() for k, v in saved.call("certify", image=images, epsilon=radii).items()}
    given = saved.call("serving_default", image=tf.constant(images))["embedding"]
    np.testing.assert_allclose(found["embedding"], given, rtol=1e-6, atol=1e-6)

    def assert_inside(embedding):
        assert (found["lower"] <= embedding).all() and (embedding <= found["upper"]).all()

    assert_inside(found["embedding"])
    rng = np.random.default_rng(0)
    corners = images + radii[:, None, None, None] * rng.choice([-1, 1, 0.5], (20, *images.shape))
    corners = np.clip(corners, 0, 1).astype(np.float32).reshape(-1, *SHAPE)
    assert_inside(model(corners)["embedding"].numpy().reshape(20, 6, -1))
    # To each image its own radius.
    assert (np.diff((found["upper"] - found["lower"]).max(1)[1:]) > 0).all()
    of_files = saved.call("certify_bytes", image_bytes=tf.constant(files), epsilon=radii)
    for name in ("lower", "upper"):
        np.testing.assert_allclose(of_files[name][1:], found[name][1:], rtol=1e-5, atol=1e-6)
        one = saved.call("certify", image=images[3:4], epsilon=radii[3:4])[name]
        np.testing.assert_allclose(one, found[name][3:4], rtol=1e-5, atol=1e-6)


def test_radii_must_be_numbers_of_at_least_0(make_model):
    certify = served_encoder(make_model(compiled=False)).functions["certify"]
    good = tf.fill((2, *SHAPE), 0.5)
    for bad, words in (
        ([0.1, np.nan], r"\[nan\] \[2\] \[2\]"),
        ([-0.5, 0.1], r"\[-0.5\] \[2\] \[2\]"),
        ([np.inf, -1], r"\[inf\] \[2\] \[2\]"),
        ([0.1], r"\[\] \[1\] \[2\]"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="of at least 0, one an.*" + words):
            certify(good, tf.constant(bad, tf.float32))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"finite numbers in \[0, 1\]"):
        certify(3 * good, tf.constant([0.1, 0.1]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("exports") / "run")


def test_versions_are_numbered_and_whole(tmp_path, run, capsys):
    base = tmp_path / "models" / "encoder"
    assert export.main([str(run), "--to", str(base), "--batch-sizes", "1", "2"]) == 0
    said = capsys.readouterr().out
    assert "version 1 of encoder" in said and "image float32 [N, 28, 28, 3]" in said
    certify = "epsilon float32 [N], image float32 [N, 28, 28, 3] -> embedding, lower, upper"
    assert certify in said
    assert export_run(run, base, version=7, batch_sizes=(1, 2)).name == "7"
    folder = export_run(run, base, batch_sizes=(1, 2))
    assert sorted(path.name for path in base.iterdir()) == ["1", "7", "8"]

    notes = json.loads((folder / PROVENANCE).read_text())
    assert notes["algorithm"] == "avae" and notes["config"]["rho"] == Config(algo="avae").rho
    assert notes["image_shape"] == [28, 28, 3] and notes["complete"] is False
    assert notes["weights_sha256"] == open_encoder(run).notes["sha256"]
    assert notes["exported"]["versions"]["tensorflow"] == tf.__version__
    assert notes["trained"]["data"]

    requests = warm_up_requests(folder)
    asked = [(r.model_spec.signature_name, tf.make_ndarray(next(iter(r.inputs.values()))).shape[0])
             for r in requests]  # fmt: skip
    assert asked == [(name, size) for name in (*SIGNATURES, *CERTIFY_SIGNATURES) for size in (1, 2)]
    # An evaluation opens it as any other encoder.
    model = load_trained(run)
    x = tf.random.stateless_uniform((2, 28, 28, 3), (0, 0))
    np.testing.assert_allclose(open_encoder(base).embed(x), model(x)["embedding"], atol=1e-6)


def test_an_encoder_without_bounds_is_exported_without_certificates(
    tmp_path, run, monkeypatch, capsys
):
    def quantised(path):
        model = load_trained(path)
        model.encoder.quantize("int8")
        return model

    monkeypatch.setattr(exports, "load_trained", quantised)
    assert export.main([str(run), "--to", str(tmp_path / "encoder"), "--batch-sizes", "1"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"without certify: no bounds: layer .* \(Dense\) is quantised to int8", said)
    saved = SavedModel(tmp_path / "encoder")
    assert "decode" in saved and "certify" not in saved and "certify_bytes" not in saved
    left_out = json.loads((saved.path / PROVENANCE).read_text())["left_out"]
    assert left_out.keys() == set(CERTIFY_SIGNATURES)
    assert left_out["certify"].startswith("no bounds: layer")


def doubling():
    """The least that can be served: how a version is published does not depend on what it is."""
    factor, image = tf.Variable(2.0), tf.ones([1, 2, 2, 1])

    def double(image):
        return {"doubled": factor * image}

    spec = tf.TensorSpec([None, *image.shape[1:]], tf.float32, "image")
    return Served(
        [factor], {"serving_default": (double, spec)}, image.shape[1:],
        lambda: [Trial("serving_default", {"image": image}, double(image))],
    )  # fmt: skip


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    base = tmp_path / "encoder"
    versions.publish(doubling(), base, {}, batch_sizes=(1,))
    seen = []

    def broken(model, draft):
        seen.append(sorted(path.name for path in base.iterdir()))
        raise KeyboardInterrupt

    monkeypatch.setattr(versions, "_verify", broken)
    with pytest.raises(KeyboardInterrupt):
        versions.publish(doubling(), base, {}, batch_sizes=(1,))
    # While it was written, no reader of integers could see it; afterwards it is gone.
    assert [name for name in seen[0] if name.isdigit()] == ["1"]
    assert [path.name for path in base.iterdir()] == ["1"]


def test_a_graph_that_differs_is_not_published(tmp_path, monkeypatch):
    write = versions._write

    def other_weights(served, *rest):
        write(served, *rest)
        (factor,) = served._model_variables
        factor.assign(factor + 0.01)

    monkeypatch.setattr(versions, "_write", other_weights)
    with pytest.raises(RuntimeError, match="differs from the model's"):
        versions.publish(doubling(), tmp_path / "encoder", {}, batch_sizes=(1,))
    assert not (tmp_path / "encoder").exists()


def test_a_number_taken_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    base = tmp_path / "encoder"
    verify = versions._verify

    def somebody_else_is_faster(model, draft):
        verify(model, draft)
        (base / "1").mkdir()
        (base / "1" / "theirs").touch()

    monkeypatch.setattr(versions, "_verify", somebody_else_is_faster)
    with pytest.raises(InputError, match="1 exists"):
        versions.publish(doubling(), base, {}, version=1, batch_sizes=(1,))
    assert [path.name for path in (base / "1").iterdir()] == ["theirs"]
    monkeypatch.setattr(versions, "_verify", verify)
    assert versions.publish(doubling(), base, {}, batch_sizes=(1,)).name == "2"


@pytest.fixture
def empty_versions(monkeypatch):
    """Versions without a graph, which take no time."""
    monkeypatch.setattr(
        versions, "_write", lambda _, draft, *rest: (draft / "assets.extra").mkdir()
    )
    monkeypatch.setattr(versions, "_verify", lambda *_: None)


def test_numbers_are_read_as_servers_read_them(tmp_path, run, empty_versions):
    base = tmp_path / "encoder"
    base.mkdir()
    (base / "1").touch()
    for name in ("007", str(2**63), "9" * 200, "٩", "12a", "-20"):
        (base / name).mkdir()
    assert export_run(run, base).name == "8"
    assert (base / "1").read_bytes() == b""
    for taken in (1, 7, 8):
        with pytest.raises(InputError, match=f"{taken} exists"):
            export_run(run, base, version=taken)
    with pytest.raises(InputError, match=f"at most {2**63 - 1}"):
        export_run(run, base, version=2**63)
    assert export_run(run, base, version=2**63 - 1).name == str(2**63 - 1)
    with pytest.raises(InputError, match="give a --version"):
        export_run(run, base)


def test_a_file_that_takes_the_number_meanwhile(tmp_path, run, empty_versions, monkeypatch):
    base = tmp_path / "encoder"
    monkeypatch.setattr(versions, "_verify", lambda *_: (base / "1").touch())
    with pytest.raises(InputError, match="1 exists"):
        export_run(run, base, version=1)
    number, taken = versions._number, []

    def late(*given):
        found = number(*given)
        if len(taken) < 2:  # looked at first, and once more when it is published
            taken.append(found)
            (base / str(found)).touch()
        return found

    monkeypatch.setattr(versions, "_number", late)
    assert export_run(run, base).name == "4" and taken == [2, 3]


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_a_server_run_by_another_user_reads_all_of_it(tmp_path, umask):
    before = os.umask(umask)
    try:
        versions.publish(doubling(), tmp_path / "models" / "encoder", {}, batch_sizes=(1,))
    finally:
        os.umask(before)
    paths = [tmp_path / "models", *(tmp_path / "models").rglob("*")]
    assert len(paths) > 7
    for path in paths:
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_sigterm_leaves_no_draft(tmp_path, run, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    drafts = []

    def stopped(model, draft, *_):
        drafts.append(draft)
        assert draft.is_dir()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(versions, "_write", stopped)
    with pytest.raises(SystemExit) as stop:
        export.main([str(run), "--to", str(tmp_path / "encoder")])
    assert stop.value.code == 143 and len(drafts) == 1
    assert not (tmp_path / "encoder").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_tensorflow_is_imported_with_standard_error_closed(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    monkeypatch.setattr(sys, "stderr", None)  # as it is in such a process
    kept = os.dup(2)
    os.close(2)
    try:
        import_tensorflow()
        # Not left to the next file, which messages would then be written to.
        assert Path("/proc/self/fd/2").resolve() == Path(os.devnull)
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def evaluation(path, checksum):
    interval = {"value": 0.9, "low": 0.8, "high": 0.95, "count": 100}
    made = [{"name": "noise-weaker", "passed": True, "found": "so"},
            {"name": "gradient-free", "passed": False, "found": "Square breaks 27 %"}]  # fmt: skip
    group = {"task": "color", "head": "linear", "epsilon": 0.2, "checks": made}
    record = {"name": "mine", "sha256": checksum, "left_out": {}, "probes": interval,
              "checks": {"groups": [group]}}  # fmt: skip
    results = {"encoders": [record], "settings": {"budget": "paper", "tasks": [], "epsilons": []},
               "data": {"test_images": 100}}  # fmt: skip
    path.write_text(json.dumps(results))
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("{run} --to {tmp}/file", ["file is a file", "folder"]),
        ("{run} --to {tmp}/m --version 0", ["version is 0", "at least 1"]),
        ("{run} --to {tmp}/m --version one", ["--version", "'one'"]),
        ("{run} --to {tmp}/there --version 3", ["3 exists", "--version"]),
        ("{run} --to {tmp}/m --batch-sizes 0", ["batch sizes are [0]", "at least 1"]),
        ("{run} --to {tmp}/m --evaluation {tmp}/none.json", ["cannot read", "none.json"]),
        ("{run} --to {tmp}/m --evaluation {tmp}/other.json", ["other weights", "mine"]),
        ("{run} --to {tmp}/m --evaluation {tmp}/strange.json", ["no results.json"]),
        ("{tmp} --to {tmp}/m", ["holds no run"]),
        ("{run}", ["--to"]),
    ],
)
def test_bad_input_costs_one_line_and_publishes_nothing(tmp_path, run, capsys, arguments, words):
    (tmp_path / "file").touch()
    (tmp_path / "there" / "3").mkdir(parents=True)
    evaluation(tmp_path / "other.json", "0" * 64)
    (tmp_path / "strange.json").write_text('{"encoders": 3}')
    try:
        code = export.main(arguments.format(run=run, tmp=tmp_path).split())
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1
    for word in words:
        assert word in said
    assert not list(tmp_path.rglob("saved_model.pb"))
    assert not list(tmp_path.rglob(".tmp-*"))


def test_figures_of_an_evaluation_travel_with_the_model(tmp_path, run):
    checksum = open_encoder(run).notes["sha256"]
    folder = export_run(
        run, tmp_path / "encoder", batch_sizes=(1,),
        evaluation=evaluation(tmp_path / "results.json", checksum),
    )  # fmt: skip
    kept = json.loads((folder / PROVENANCE).read_text())["evaluation"]
    assert kept == [
        {"group": "beside it", "figure": "checks passed", "value": "1 of 2"},
        {"group": "failed check", "figure": "color, linear, ε 0.2, gradient-free",
         "value": "Square breaks 27 %"},
        {"group": "protocol", "figure": "budget", "value": "paper"},
    ]  # fmt: skip
