"""Figures over seeds, and the cell of a sweep that times training steps."""

import json

import numpy as np
import pytest
import scipy.stats

from tf_avae.config import Config, read_json
from tf_avae.runs.plan import resolve
from training.sweep import timing
from training.sweep.seeds import differs, over_seeds, paired

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
RATES = {"float32": [10.0, 20.0, 30.0], "mixed_bfloat16": [20.0, 30.0, 30.0],
         "mixed_float16": [5.0, 5.0, 10.0]}  # fmt: skip


def test_intervals_over_seeds_are_scipys():
    figures = dict(enumerate([0.3, 1.7, 0.9, 2.2]))
    found, values = over_seeds(figures), list(figures.values())
    expected = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected))
    assert found["value"] == pytest.approx(np.mean(values)) and found["count"] == 4
    assert not differs(found) and scipy.stats.ttest_1samp(values, 0.0).pvalue > 0.05
    assert differs(over_seeds({s: v + 0.1 for s, v in figures.items()}))
    assert scipy.stats.ttest_1samp(np.add(values, 0.1), 0.0).pvalue < 0.05
    other = {0: 0.2, 2: 1.0, 3: 2.6, 7: 9.0}  # of seeds 0, 2 and 3 both have one
    found = paired(figures, other)
    result = scipy.stats.ttest_rel([0.3, 0.9, 2.2], [0.2, 1.0, 2.6])
    assert (found["low"], found["high"]) == pytest.approx(tuple(result.confidence_interval(0.95)))
    assert not differs(found) and result.pvalue > 0.05
    assert over_seeds({}) is None and paired({0: 1.0}, {1: 1.0}) is None
    one = over_seeds({5: 3.0})
    assert (one["value"], one["low"], one["high"]) == (3.0, None, None) and not differs(one)
    assert not differs(paired({0: 0.0, 1: 0.0}, {0: 0.0, 1: 0.0}))


def test_timings_are_of_the_configs(tmp_path, monkeypatch):
    """What is timed is what is trained, and what is found is what is written."""
    seen = {}

    def rates(timed, *, rounds, seconds):
        policies = {
            name: model.encoder.layers[1].dtype_policy.name for name, model in timed.items()
        }
        seen.update(timed=policies, rounds=rounds, seconds=seconds)
        return RATES

    monkeypatch.setattr(timing, "paired_rates", rates)
    monkeypatch.setattr(timing, "fit_steps", lambda model, batches: model)
    config = resolve(Config(algo="vae", batch_size=8)).to_dict()
    options = {"configs": {p: config | {"precision": p} for p in PRECISIONS}, "rounds": 4,
               "seconds": 0.5}  # fmt: skip
    (tmp_path / "options.json").write_text(json.dumps(options))
    words = [str(tmp_path / "options.json"), "--out", str(tmp_path / "timing.json")]
    assert timing.main(words) == 0
    assert seen == {"timed": {p: p for p in PRECISIONS}, "rounds": 4, "seconds": 0.5}
    assert read_json(tmp_path / "timing.json")["rates"] == RATES


def test_timings_need_their_options(tmp_path, capsys):
    path = tmp_path / "options.json"
    for content, words in (
        ("{}", "has no configs"), ('{"configs": {"a": {}}, "seconds": 1}', "has no rounds"),
        ('{"configs": {"a": {}}, "rounds": 1, "seconds": 1}', "algo is not given"),
    ):  # fmt: skip
        path.write_text(content)
        assert timing.main([str(path), "--out", str(tmp_path / "x")]) == 2
        assert words in capsys.readouterr().err
