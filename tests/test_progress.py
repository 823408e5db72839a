"""The progress line of a training, by a clock of our own."""

from types import SimpleNamespace

import pytest

from tf_avae.runs.plan import Stage
from training import session


@pytest.mark.parametrize(
    ("shorter", "rate", "said"),
    [
        ("--steps, --arch", 0.5, "take about 2.8 hours more at 0.5 steps/s; less with other --st"),
        ("--steps, --arch", 2.0, ""),  # 0.7 hours
        ("", 0.5, ""),  # somebody chose the number of steps
    ],
)
def test_hours_that_nobody_asked_for_are_said_once(monkeypatch, capsys, shorter, rate, said):
    now = [0.0]
    monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
    progress = session.Progress(Stage(0, "vae", 5000), shorter)
    for step in range(1, 40):
        now[0] = step / rate
        progress.update(step, SimpleNamespace(metrics=[]))
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert len(notes) == bool(said) and said in "".join(notes)
