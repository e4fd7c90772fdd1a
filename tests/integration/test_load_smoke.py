"""The load test itself, small: real locust, real sockets, an engine of its own, the ledger reconciled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = ["--viewers", "60", "--sockets-per-user", "30", "--publishers", "2", "--messages-per-s", "30", "--seconds", "2"]


def load(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the load test; return its exit status, the JSON of its last line, and all that it printed."""
    command = [sys.executable, "-m", "loadtest", "--scenario", "live_room", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    lines = done.stdout.splitlines()
    return done.returncode, json.loads(lines[-1]) if lines else {}, done.stdout + done.stderr


def test_two_processes_of_locust_and_the_ledger_tell_the_same_story(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    status, line, printed = load(*SMALL, "--processes", "2", "--report", str(report))
    assert status == 0, printed
    assert line["passed"] is True
    assert (line["viewers"], line["accepted"]) == (60, 60)
    assert line["deliveries"] == line["written"] == line["kept"] * 60
    assert (line["lost"], line["doubled"], line["disordered"], line["ledger_error"]) == (0, 0, 0, 0)
    whole = json.loads(report.read_text())
    assert sum(whole["ledger"]["edge"]["written"].values()) == line["deliveries"]


def test_a_scenario_that_cannot_work_ends_with_2_before_anything_starts() -> None:
    status, _, printed = load("--viewers", "0")
    assert status == 2
    assert "viewers" in printed


def test_an_engine_that_is_not_there_fails_the_run() -> None:
    status, line, printed = load(*SMALL, "--url", "http://127.0.0.1:9", "--wait-s", "0.5")
    assert status == 1
    assert line == {}
    assert "nobody answers at http://127.0.0.1:9" in printed
