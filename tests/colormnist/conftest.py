"""What the tests of a grid on ColorMNIST share."""

import pytest
from sweep_results import write

from tests.colormnist.made_up import RADII, RATES, created, finish_all


@pytest.fixture
def sweep(tmp_path):
    """The five objectives; one model is not there with seed 1, one not attacked with seed 2."""
    sweep = created(tmp_path / "s", "--radii", *RADII, "--images", 300)
    finish_all(sweep)
    for cell in ("avae_ss-s1", "avae_ss-s1-paper", "avae_ss-s1-strong", "se_avae-s2-strong"):
        sweep.result(cell).unlink()
    write(sweep, "timing", {"rates": RATES, "provenance": {"commit": "c0ffee"}})
    return sweep
