"""The bench of a reconnect herd, with a small one: nothing is lost, and its figures are there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize("options", [["--seconds", "0.5", "--rate", "20"], ["--rate", "0", "--tokens", "--at-once"]])
def test_a_small_herd_is_back_and_misses_nothing(options: list[str]) -> None:
    command = [sys.executable, "-m", "bench", "herd", "--sessions", "220", "--stay", "20", *options]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert finished.returncode == 0, finished.stderr
    figures = json.loads(finished.stdout.splitlines()[-1])
    assert (figures["bench"], figures["sessions"], figures["cut"], figures["lost"]) == ("herd", 220, 200, 0)
    assert figures["counts"] == {}
    assert 0 < figures["back_s"] <= figures["caught_up_s"]
    assert figures["refused"] == 0
