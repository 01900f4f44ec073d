"""optax's own test suites, as they are installed, pass with ours in place of its own."""

import subprocess
import sys

import pytest

from tests.contract.subjects import OURS


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_optax_suites(name):
    command = [sys.executable, "-m", "tests.contract.optax_suites", name]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Ran " in run.stderr
    assert run.returncode == 0, run.stderr[-3000:]
