"""``python -m scripts.parts``: what ``up`` leaves running, ``down`` ends, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.parts import ROOT, install_kafka, install_redis
from tests.support.parts import need

pytestmark = pytest.mark.real


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Run a command with notes of this test's own; whatever is left at the end is stopped."""
    need(install_kafka)
    need(install_redis)
    environment = {**os.environ, "FANOUT_RUN": str(tmp_path / "run")}

    def run(command: str) -> str:
        arguments = [sys.executable, "-m", "scripts.parts", command]
        done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    run("down")
    run("stop")


def test_down_ends_what_up_started(parts: Callable[[str], str]) -> None:
    assert "up in" in parts("up")
    assert "does not run" not in parts("status")
    assert "runs already" in parts("up")
    parts("down")
    assert parts("status").count("does not run") == 3


def test_down_leaves_parts_that_ran_before_up(parts: Callable[[str], str]) -> None:
    parts("start")
    assert parts("up").count("runs already") == 2
    parts("down")
    status = parts("status")
    assert status.count("does not run") == 1
    assert "engine      does not run" in status
    parts("stop")
    assert parts("status").count("does not run") == 3


def test_an_unknown_command_is_answered_with_the_known_ones() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.parts", "fly"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "install | start | stop" in done.stderr
