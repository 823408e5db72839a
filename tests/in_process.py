"""Commands without a process of their own, which spares a start of TensorFlow."""

import contextlib
import io
import runpy
import sys
import warnings

import pytest


def run_module(module, *words):
    """`python -m MODULE WORDS`: exit code, what was printed, what was complained."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        patch.setattr(sys, "argv", [module, *map(str, words)])
        warnings.simplefilter("ignore", RuntimeWarning)  # that it has been imported too
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = stop.code or 0
    return code, out.getvalue(), err.getvalue()
