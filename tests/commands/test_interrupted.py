"""Ctrl-C before a run has begun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys
from ader import __main__ as program

def dispatch(words):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # what importing code may do
        return 0
    return 7

program._dispatch = dispatch
sys.exit(program.main())
"""


@pytest.mark.parametrize(("ignored", "status", "text"), [(False, 1, "ader: interrupted\n"), (True, 7, "")])
def test_it_ends_at_once_in_one_line(ignored, status, text):
    """Unless it was started to ignore it, as a shell starts what runs in the background."""
    program = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" * ignored + PROGRAM
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stderr) == (status, text)
