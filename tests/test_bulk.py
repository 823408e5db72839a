"""Bulk embedding on Beam's direct runner: the server's numbers, each path once, nothing lost."""

import errno
import functools
import gzip
import importlib.util
import io
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image

from benchmarks import bulk as benchmark
from serving.bulk import encoder, job, sources
from serving.bulk.__main__ import main
from serving.server.servable import Servable
from tf_avae.errors import InputError
from tf_avae.graphs.saved_models import SavedModel

KINDS = ("PNG", "JPEG", "WEBP", "BMP")
BATCH = 8


def file_of(number):
    """A picture of noise, of one of the kinds in turn."""
    out = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (15, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, KINDS[number % len(KINDS)])
    return out.getvalue()


BAD = {"b/text.png": b"no picture\0", "b/cut.jpg": file_of(1)[:200], "c/empty.bmp": b""}
GOOD = {f"{'abc'[n % 3]}/{n:02d}.img": file_of(n) for n in range(21)}


@pytest.fixture(scope="module")
def base(small_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    return shutil.copytree(small_encoder, folder / "3").parent


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for name, content in (GOOD | BAD).items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    return root


def embed(base, pattern, output, *words):
    return main(["--model", str(base), "--input", str(pattern), "--output", str(output),
                 "--batch-size", str(BATCH), *words])  # fmt: skip


@pytest.fixture(scope="module")
def done(base, pictures, tmp_path_factory):
    output = tmp_path_factory.mktemp("output") / "new"
    assert embed(base, pictures / "**", output) == 0
    return output


def rows(output):
    return pq.read_table(output / "embeddings").to_pylist()


def refusals(output):
    lines = (output / "refused.jsonl").read_text().splitlines()
    return {line["path"]: line["error"] for line in map(json.loads, lines)}


def manifest(output):
    return json.loads((output / "manifest.json").read_text())


@pytest.fixture(scope="module")
def by_server(base):
    """The server's outputs for files, one batch."""
    servable = Servable(base / "3", tf.compat.v1.ConfigProto())
    names = tuple(sorted(encoder.OUTPUTS))

    def run(files):
        found = servable.run("embed_bytes", names, [np.array(files, object)])
        return dict(zip(names, found, strict=True))

    yield run
    servable.close()


def assert_same(found, expected):
    for name in encoder.OUTPUTS:
        values = np.array([row[name] for row in found], np.float32)
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_numbers_are_the_servers(done, pictures, by_server):
    found = {row["path"]: row for row in rows(done)}
    assert found.keys() == {str(pictures / name) for name in GOOD}
    assert len(rows(done)) == len(GOOD)
    found = [found[str(pictures / name)] for name in GOOD]
    assert np.std([row["embedding"] for row in found], axis=0).min() > 1e-3  # they differ
    assert_same(found, by_server(list(GOOD.values())))


def test_boxes_are_columns_on_request(base, pictures, tmp_path, capsys):
    """A bad picture among them, and the server's numbers."""
    assert embed(base, pictures / "b" / "*", tmp_path / "out", "--certify", "0.1") == 0
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    names = [name for name in GOOD if name.startswith("b/")]
    assert found.keys() == {str(pictures / name) for name in names}
    assert refusals(tmp_path / "out").keys() == {str(pictures / n) for n in BAD if n[0] == "b"}
    files = tf.constant([GOOD[name] for name in names])
    served = SavedModel(base).call("certify_bytes", image_bytes=files, epsilon=tf.fill([7], 0.1))
    for column, values in served.items():
        written = [found[str(pictures / name)][column] for name in names]
        np.testing.assert_allclose(np.float32(written), values, rtol=1e-5, atol=1e-5)
    (file,) = (tmp_path / "out" / "embeddings").iterdir()
    assert json.loads(pq.read_schema(file).metadata[b"tf_avae"])["epsilon"] == 0.1
    assert embed(base, pictures / "**", tmp_path / "no", "--certify", "-1") == 2
    assert "epsilon is -1; it must be" in capsys.readouterr().err


def test_what_cannot_be_read_is_noted_and_costs_no_neighbour(done, pictures):
    assert refusals(done).keys() == {str(pictures / name) for name in BAD}
    errors = {Path(path).name: error for path, error in refusals(done).items()}
    assert errors["text.png"].startswith("a file that is neither PNG nor JPEG, WebP or BMP")
    assert "Invalid JPEG data" in errors["cut.jpg"]
    assert not any("\n" in error or "{{" in error for error in errors.values())


def test_columns_and_where_they_come_from(done, base):
    (file,) = (done / "embeddings").iterdir()
    schema = pq.read_schema(file)
    assert {field.name: str(field.type) for field in schema} == {
        "path": "string",
        "embedding": "list<element: float not null>",
        "variance": "list<element: float not null>",
        "inconsistency": "float",
    }
    model = json.loads(schema.metadata[b"tf_avae"])
    assert (model["name"], model["version"]) == ("small", 3)
    assert model["sha256"] == SavedModel(base).checksum
    about = manifest(done)
    assert (about["embedded"], about["refused"]) == (len(GOOD), len(BAD))
    assert about["model"] == model
    assert about["files"] == [str(file.relative_to(done))]
    assert {path.name for path in done.iterdir()} == {
        "embeddings", "refused.jsonl", "manifest.json",
    }  # fmt: skip


def example(**features):
    made = tf.train.Example()
    for name, value in features.items():
        made.features.feature[name].bytes_list.value.extend(value)
    return made.SerializeToString()


def test_records_by_several_workers(base, tmp_path, by_server):
    files = list(GOOD.values())[:6]
    good = [example(picture=[file], label=[b"3"]) for file in files]
    for name, records in {
        "a": [*good[:3], b"no example", example(other=[files[0]]), example(picture=files[:2])],
        "b": good[3:],
    }.items():
        with tf.io.TFRecordWriter(str(tmp_path / name)) as writer:
            for record in records:
                writer.write(record)
    whole = (tmp_path / "b").read_bytes()
    (tmp_path / "b").write_bytes(whole[:-3])
    (tmp_path / "c.gz").write_bytes(gzip.compress(whole))
    output = tmp_path / "output"
    words = ("--format", "tfrecord", "--feature", "picture")
    workers = ("--direct_running_mode", "multi_threading", "--direct_num_workers=2")
    assert embed(base, tmp_path / "*", output, *words, *workers) == 0
    found = {row["path"]: row for row in rows(output)}
    at = functools.partial(os.path.join, tmp_path)
    names = ["a#0", "a#1", "a#2", "b#0", "b#1", "c.gz#0", "c.gz#1", "c.gz#2"]
    assert found.keys() == set(map(at, names))
    contents = [*files[:3], *files[3:5], *files[3:]]
    assert_same([found[at(name)] for name in names], by_server(contents))
    errors = refusals(output)
    assert errors.keys() == set(map(at, ("a#3", "a#4", "a#5", "b#2")))
    assert errors[at("a#3")] == "no tf.train.Example"
    assert "no feature 'picture' of one bytes value; its features: other" in errors[at("a#4")]
    assert errors[at("b#2")].startswith("unreadable from here on: ")


def test_shards(base, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("serving.bulk.pipeline._ROWS_AT_ONCE", 2)  # so that there is for each
    output = tmp_path / "output"
    assert embed(base, pictures / "a" / "*", output, "--shards", "3") == 0
    counts = [pq.read_metadata(file).num_rows for file in output.rglob("*.parquet")]
    expected = {str(pictures / name) for name in GOOD if name.startswith("a/")}
    assert len(counts) == 3
    assert min(counts) > 0
    assert {row["path"] for row in rows(output)} == expected
    assert sum(counts) == len(expected)
    assert refusals(output) == {}


def test_patterns_of_this_folder(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.png").write_bytes(file_of(0))
    for pattern in ("*/b.png", "a*/*.png", "**/*.png", "~/a/b.*", "a/b.png"):
        (found,) = job.matching(pattern)
        assert Path(found.path).samefile(tmp_path / "a" / "b.png")


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"--input": "nothing/*"}, "which no file matches"),
        ({"--input": "."}, "a folder; all files in it are './**'"),
        ({"--input": "gs://bucket/*"}, "cannot look for gs://bucket/*"),
        ({"--model": "nowhere"}, "holds no SavedModel"),
        ({"--output": "used"}, "is not empty; give another, or remove it"),
        ({"--output": "used/file"}, "a file; give a folder"),
        ({"--output": "a[1]"}, "must be without any of * ? ["),
        ({"--batch-size": "0"}, "the batch size is 0; it must be at least 1"),
        ({"--shards": "0"}, "the number of shards is 0; it must be at least 1"),
        ({"--format": "tar"}, "invalid choice: 'tar'"),
        ({"--shrads": "3"}, "--shrads is no option"),
        ({"more.png": None}, "'more.png' belongs to no option; a pattern must be in quotes"),
        ({"--runner": "Nonsense"}, "the runner Nonsense cannot be used"),
        ({"--direct_num_workers": "x"}, "invalid int value: 'x'"),
    ],
)
def test_bad_input(changed, complaint, base, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(file_of(0))
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("kept")
    words = {"--model": str(base), "--input": "*.png", "--output": "new"} | changed
    try:
        code = main([word for pair in words.items() for word in pair if word is not None])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err.strip()
    assert (code, said.count("\n")) == (2, 0), said
    assert complaint in said
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "used" / "file").read_text() == "kept"


def test_without_beam(base, pictures, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "apache_beam" else find(name)
    )
    assert embed(base, pictures / "**", tmp_path / "new") == 2
    assert "pip install '.[beam]'" in capsys.readouterr().err


def test_another_kind_of_model(tmp_path, pictures, capsys):
    module = tf.Module()
    spec = tf.TensorSpec([None], tf.string, "image_bytes")
    module.f = tf.function(lambda image_bytes: {"code": image_bytes}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"embed_bytes": module.f})
    assert embed(tmp_path / "model", pictures / "**", tmp_path / "new") == 2
    assert "takes image_bytes and gives code; it must" in capsys.readouterr().err


def test_a_model_without_certificates(base, monkeypatch):
    monkeypatch.setattr(encoder, "CERTIFY", "absent")
    encoder.check(SavedModel(base))
    with pytest.raises(InputError, match=r"without certificates; export .* leave out --certify"):
        encoder.check(SavedModel(base), 0.1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped(number, code, base, pictures, tmp_path, monkeypatch, capsys):
    """By a signal that comes with the first batch, while others are to come."""
    told = threading.Event()

    def stop(counter, count):
        if count == BATCH:
            os.kill(os.getpid(), number)
            assert told.wait(60)

    def abandon():
        encoder.abandon()
        told.set()

    monkeypatch.setattr(job.Counter, "update", stop)
    monkeypatch.setattr(job, "abandon", abandon)
    output = tmp_path / "output"
    try:
        found = embed(base, pictures / "**", output)
    except SystemExit as stopped:
        found = stopped.code
    assert found == code
    assert f"{output} is not whole: it has no manifest.json" in capsys.readouterr().err
    assert not any((output / "embeddings").glob("*.parquet"))
    assert not {"manifest.json", "refused.jsonl"} & {path.name for path in output.iterdir()}
    monkeypatch.undo()
    assert embed(base, pictures / "**", output) == 2  # what is there is not written over


def test_a_model_that_changes_meanwhile(base, pictures, tmp_path, monkeypatch, capsys):
    load = encoder.Encoder.load_model

    def changed(self):
        self._checksum = "of another"
        return load(self)

    monkeypatch.setattr(encoder.Encoder, "load_model", changed)
    assert embed(base, pictures / "**", tmp_path / "output") == 2
    assert "is another model on this worker" in capsys.readouterr().err
    assert not (tmp_path / "output" / "manifest.json").exists()


@pytest.mark.parametrize("place", [(pq.ParquetWriter, "write_table"), (job, "write_json")])
def test_a_full_disk_is_one_line(place, base, pictures, tmp_path, monkeypatch, capsys, caplog):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*place, full)
    output = tmp_path / "output"
    assert embed(base, pictures / "a" / "*", output) == 2
    unfinished, said = capsys.readouterr().err.strip().splitlines()[-2:]
    assert unfinished == f"{output} is not whole: it has no manifest.json; remove it to try again"
    assert said.startswith(f"error: cannot use {output}") and "No space left on device" in said
    assert "Traceback" not in caplog.text and not (output / "manifest.json").exists()


def test_halves(base):
    """Every subset of bad ones among few, and a content that ends with zeros."""
    model = SavedModel(base)
    files = list(GOOD.values())[:3] + [file_of(1) + bytes(3)]
    expected = encoder.embed(model, files)
    for mask in range(16):
        bad = [bool(mask >> at & 1) for at in range(4)]
        mixed = [b"bad" if is_bad else file for is_bad, file in zip(bad, files, strict=True)]
        found = encoder.embed(model, mixed)
        assert [isinstance(one, str) for one in found] == bad
        kept = [one for one in found if not isinstance(one, str)]
        true = [one for one, is_bad in zip(expected, bad, strict=True) if not is_bad]
        if kept:
            assert_same(kept, {n: np.array([one[n] for one in true]) for n in encoder.OUTPUTS})


def test_every_input_is_embedded_or_named(base, tmp_path):
    """Beside good files: links of all kinds, folders, names that are no text."""
    root = tmp_path / "in"
    (root / "deep" / "folder").mkdir(parents=True)
    (root / "deep" / "a.png").write_bytes(file_of(0))
    (root / "broken.png").symlink_to("gone.png")
    (root / "loop.png").symlink_to("loop.png")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    (root / "deep" / "up").symlink_to("..")
    (root / "link.png").symlink_to("deep/a.png")
    strange = os.fsencode(root) + b"/\xff.png"
    os.link(root / "deep" / "a.png", strange)
    output = tmp_path / "output"
    assert embed(base, root / "**", output) == 0
    at = functools.partial(os.path.join, root)
    assert {row["path"] for row in rows(output)} == {at("deep/a.png"), at("link.png")}
    assert refusals(output) == {
        at("broken.png"): "a link that leads nowhere: No such file or directory",
        **dict.fromkeys(
            map(at, ("loop.png", "one", "two")),
            "a link that leads nowhere: Too many levels of symbolic links",
        ),
        at("deep/up"): "a link to a folder; links are not entered",
        at("\\xff.png"): "the name is not UTF-8; rename it",
    }
    assert (manifest(output)["embedded"], manifest(output)["refused"]) == (2, 6)
    (only,) = job.matching(str(root / "broken.png"))
    assert only.fault.startswith("a link that leads nowhere")


@pytest.mark.parametrize(
    ("pattern", "named"),
    [("/in/**", True), ("/in/*/x.png", True), ("/in/lo*/a/**", True), ("/in/*.png", False),
     ("/in/a*/*", False), ("/in/locked/**/x", True)],
)  # fmt: skip
def test_folders_that_may_not_be_read_are_named(pattern, named, tmp_path, monkeypatch):
    (tmp_path / "in" / "locked").mkdir(parents=True)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(sources.listed(f"{tmp_path}{pattern}"))
    why = "a folder that cannot be read: Permission denied"
    assert found == ([(f"{tmp_path}/in/locked", b"", why)] if named else [])


def test_a_batch_of_large_files_is_smaller():
    size = functools.partial(encoder.weight, most=8)
    assert size(("a", b"")) == size(("a", bytes(2**22 - 1))) == 1
    assert size(("a", bytes(2**22))) == 2
    assert size(("a", bytes(9 * 2**22))) == 8


def test_files_that_are_none(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    read = {path.name: path for path in (tmp_path / "pipe", tmp_path / "gone")}
    faults = {name: next(sources.read_file(str(p), 0, "")).fault for name, p in read.items()}
    assert faults == {"pipe": "not a file", "gone": "No such file or directory"}
    found = next(sources.read_file(str(tmp_path / "huge"), sources.MOST_BYTES + 1, ""))
    assert found.fault == "268,435,457 bytes; at most 268,435,456 are read"


def test_the_benchmark(base, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "_BATCH", 3)
    for name in (benchmark.IN_PROCESS, "Beam, two threads"):
        timing = benchmark.CASES[name](str(base), pictures / "a")
        assert timing.rate > 0
        assert timing.before > 0
    row = {"images_per_second": {"value": 1234.5}, "seconds_before": {"value": 2.0}}
    row["over_in_process"] = {"value": 0.5, "low": 0.25, "high": 0.75}
    row |= {"case": "SavedModel in process", "peak_bytes": 900 * 2**20}
    (tmp_path / "figures.json").write_text(json.dumps({"images": 2000, "rows": [row]}))
    assert benchmark.main(["--from", str(tmp_path / "figures.json")]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[2] == "| SavedModel in process | 1,234 | 0.50 (0.25 to 0.75) | 2.0 | 900 |"
    assert table[0].startswith("| 2,000 images |")
    assert len(table) == 3
    monkeypatch.undo()
    for words in ([], [str(base), "--images", "127"], [str(base), "--rounds", "0"]):
        assert benchmark.main(words) == 2
