"""Evaluations in shards: what becomes of each image is what it is in one piece."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_certified import AFFINE, DEEP, SETTINGS, TEST, TRAIN

from tests.in_process import run_module
from tf_avae.errors import InputError
from tf_avae.evaluation import Shard, evaluate, evaluate_shard
from training.evaluate import parser
from training.shards import check_shards

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


@pytest.mark.parametrize(("encoders", "shards"), [([AFFINE, DEEP], 3), ([AFFINE], 12)])
def test_shards_make_the_parts_of_the_whole(tmp_path, encoders, shards):
    """Points and margins too; with more shards than batches, or than pieces of work."""
    how = replace(HOW, tasks="kind")
    whole = evaluate(encoders, settings=how, folder=tmp_path / "whole", **ON)
    joined, pieces = tmp_path / "joined", []
    for number in (0, *reversed(range(1, shards + 1))):
        shard = Shard(number, shards)
        given = {"settings": how, "folder": joined, **ON}
        pieces.append(evaluate_shard(encoders, shard, **given))
    found = evaluate(encoders, settings=how, folder=joined, sharded=True, **ON)
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
        evaluate([AFFINE], sharded=True, **given)
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


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--shards", "0"], "shards is 0; it must be at least 1"),
        (["--shards", "2", "--shard", "1/2"], "give one of them"),
        (["--cluster", "local"], "--cluster is where shards run; say how many: --shards N"),
        (["--processes", "2"], "--processes is where shards run"),
        (["--shards", "2", "--processes", "0"], "processes is 0"),
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
