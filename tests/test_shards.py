"""Evaluations in shards: what becomes of each image is what it is in one piece."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_certified import AFFINE, DEEP, SETTINGS, TEST, TRAIN

from tests.in_process import run_module
from tf_avae.errors import InputError
from tf_avae.evaluation import Shard, evaluate, evaluate_shard
from tf_avae.evaluation.part_store import Part, PartStore
from tf_avae.files import replacing
from training import shards
from training.evaluate import parser
from training.shards import check_shards
from training.sweep.cells.engine import Outcome

HOW = replace(SETTINGS, epsilons=(0.05, 0.3), certify="crown")
ON = {"train": TRAIN, "test": TEST}


def parts(folder):
    """All that is known of each image, by what it is part of."""
    found = {}
    for path in folder.glob("[!.]*.npz"):
        with np.load(path) as file:
            found[path.name] = {name: file[name] for name in file.files}
    return found


def results(evaluation):
    return json.dumps(evaluation.results, sort_keys=True)


@pytest.mark.parametrize(
    ("encoders", "shards"),
    [([AFFINE, DEEP], 3), pytest.param([AFFINE], 12, marks=pytest.mark.long)],
)
def test_shards_make_the_parts_of_the_whole(tmp_path, encoders, shards):
    """Points and margins too; with more shards than batches, or than pieces of work."""
    how = replace(HOW, tasks="kind")
    whole = evaluate(encoders, settings=how, folder=tmp_path / "whole", **ON)
    joined, pieces = tmp_path / "joined", []
    for number in (0, *reversed(range(1, shards + 1))):
        shard = Shard(number, shards)
        given = {"settings": how, "folder": joined, **ON}
        pieces.append(evaluate_shard(encoders, shard, **given)[0])
    found = evaluate(encoders, settings=how, folder=joined, shards=print, **ON)
    assert results(found) == results(whole)
    mine, expected = parts(joined), parts(tmp_path / "whole")
    assert mine.keys() == expected.keys() and len(mine) > 20
    for name, arrays in expected.items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(mine[name][key], array, err_msg=f"{name}, {key}")
    # At 2 radii, in batches of 25: attacks on 60 images through a linear head, 40 through another,
    # and proofs of as many.
    assert sum(pieces[1:]) == len(encoders) * 2 * (3 + 2 + 3 + 2)
    assert max(pieces[1:]) - min(pieces[1:]) <= 1


def test_more_images_go_on_from_fewer(tmp_path):
    """Whole batches stay; the last one, which was not, is made again."""
    evaluate([AFFINE], settings=replace(HOW, images=40), folder=tmp_path, **ON)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("outcomes-*")}
    found = evaluate([AFFINE], settings=HOW, folder=tmp_path, **ON)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("outcomes-*")}
    assert all(after[name] == written for name, written in before.items())
    assert results(found) == results(evaluate([AFFINE], settings=HOW, **ON))


def test_a_part_that_is_gone_is_told_not_made_again(tmp_path):
    given = {"settings": HOW, "folder": tmp_path, **ON}
    for number in (0, 1):
        evaluate_shard([AFFINE], Shard(number, 1), **given)
    lost = sorted(tmp_path.glob("outcomes-*"))[2]
    lost.unlink()
    with pytest.raises(InputError, match=f"has no {lost.name}, though all shards are done"):
        evaluate([AFFINE], shards=print, **given)
    assert not lost.exists()


def test_the_command_does_and_joins_them(tmp_path, few_digits):
    """In processes, one after the other by hand, and in none."""
    words = (
        *("colormnist-robust", "--data-dir", few_digits, "--budget", "smoke", "--epsilon", 0.2),
        *("--task", "digit", "--images", 60, "--batch-size", 25, "--head", "linear"),
        *("--section", "robustness"),
    )

    def run(out, *more):
        code, printed, complaint = run_module(
            "training.evaluate", *words, "--out", tmp_path / out, *more
        )
        assert code == 0, complaint
        return printed

    def figures(out):
        found = json.loads((tmp_path / out / "results.json").read_text())
        assert found.pop("provenance")
        return found

    run("whole")
    printed = run("split", "--shards", 2)
    assert "heads: done in" in printed and "all 2 shards are done" in printed
    assert figures("split") == figures("whole")
    shared = ("--parts", tmp_path / "parts")
    for number in range(3):
        run(f"hand{number}", "--shard", f"{number}/2", *shared)
        assert not (tmp_path / f"hand{number}" / "results.json").exists()
    done = [json.loads((tmp_path / f"hand{n}" / "shard.json").read_text()) for n in range(3)]
    assert [each["pieces"] for each in done] == [1, 2, 1]
    run("hand", *shared)
    assert figures("hand") == figures("whole")
    # The same command again does no shard anew.
    assert "shard-1" not in run("split", "--shards", 2)


def test_shards_of_other_weights_are_done_anew_and_of_other_processors_refused(
    tmp_path, monkeypatch
):
    """What decides the outcome decides the folder; where it differs, nothing is begun."""
    there, asked = {}, []

    def run_cells(sweep, cells, **how):
        asked.append([cell.name for cell in cells if not sweep.done(cell.name)])
        for cell in cells:
            sweep.result(cell.name).parent.mkdir(parents=True, exist_ok=True)
            sweep.result(cell.name).write_text(json.dumps(there))
        return Outcome([], [])

    monkeypatch.setattr(shards, "run_cells", run_cells)
    words = parser().parse_args(["encoder", "--shards", "2", "--seed", "3"])

    def do(digest):
        shards.do_shards(words, tmp_path, tmp_path / "parts", None, None, digest)

    for digest, expected in (
        ("a", [["heads"], ["shard-1", "shard-2"]]), ("a", [[], []]),
        ("b", [["heads"], ["shard-1", "shard-2"]]),
    ):  # fmt: skip
        there["digest"] = digest
        do(digest)
        assert asked == expected
        asked.clear()
    with pytest.raises(InputError, match="other numbers where the shards run than here"):
        do("c")
    assert asked == [["heads"]]


def test_a_store_that_is_opened_leaves_what_others_write(tmp_path):
    """Half-written parts, and those that cannot be read at the moment; not those of another
    source."""
    store = PartStore(tmp_path, {"source": "a"})
    store.keep("one", {}, Part({}, {"x": np.zeros(3)}))
    with replacing(tmp_path / "two.npz") as draft:
        draft.write_bytes(b"half")
        (tmp_path / "three.npz").write_bytes(b"not to be read")
        PartStore(tmp_path, {"source": "a"})
        assert draft.exists() and store.find("one", {})
        PartStore(tmp_path, {"source": "b"})
        assert draft.exists()
        assert [path.name for path in tmp_path.glob("[!.]*")] == ["three.npz"]


def test_what_cannot_be_split_is_said(few_digits, tmp_path):
    words = ("colormnist-robust", "--data-dir", few_digits, "--out", tmp_path)
    for more, complaint in (
        (("--shards", 2, "--section", "latents"), "in shards; of these it can: robustness"),
        (("--shard", "1/2", "--strict"), "--strict is for the command that joins the shards"),
    ):
        code, _, said = run_module("training.evaluate", *words, *more)
        assert code == 2 and complaint in said


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--shards", "0"], "shards is 0; it must be at least 1"),
        (["--shards", "2", "--shard", "1/2"], "give one of them"),
        (["--cluster", "local"], "--cluster is where shards run; say how many: --shards N"),
        (["--processes", "2"], "--processes is where shards run"),
        (["--shards", "2", "--processes", "0"], "processes is 0"),
        (["--shards", "2", "--cell-gpus", "1"], "--cell-gpus is of cells on a cluster"),
    ],
)
def test_flags_that_make_no_sense_are_named(words, complaint):
    with pytest.raises(InputError, match=complaint):
        check_shards(parser().parse_args(["encoder", *words]))


@pytest.mark.parametrize("word", ["3", "3/2", "1/0", "0/0", "a/b", "-1/2", "1/2/3", "1.5/2"])
def test_a_shard_is_one_of_so_many(word, capsys):
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(["encoder", f"--shard={word}"])
    assert stop.value.code == 2
    assert "argument --shard: " in capsys.readouterr().err
