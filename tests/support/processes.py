"""Processes of their own: the command line, and Python in one of the surroundings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.surroundings import CannotMake, surrounded

ROOT = Path(__file__).parents[2]


def vilamp(*args: str, cwd: Path = ROOT, timeout_s: float = 240, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, without VILAMP_ settings except those given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VILAMP_")}
    env = {**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environ}
    command = [sys.executable, "-m", "agent.cli", *args]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)


def python_in(surrounding: str, code: str) -> str:
    """Run Python code in a surrounding and return what it prints. Skips the test if the surrounding cannot be made."""
    try:
        with surrounded(surrounding, [sys.executable, "-c", code]) as run:
            env = {**run.env, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(run.argv, env=env, cwd=run.folder, capture_output=True, text=True, check=False)
    except CannotMake as error:
        pytest.skip(f"{surrounding}: {error}")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
