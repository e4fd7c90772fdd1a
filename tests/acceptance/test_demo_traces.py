"""The demo on recorded arrivals of real livestreams. They may not be copied, so they are read where they lie.

``FANOUT_TRACES`` names their folder; by default it is the one beside the project.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRACES = Path(os.environ.get("FANOUT_TRACES", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.parametrize(
    ("name", "messages", "seconds"),
    [("irl-stream-100k", 28_013, 15), ("briefing-20k", 6_685, 5), ("news-9k", 7_459, 5)],
)
def test_a_recorded_livestream_reconciles(name: str, messages: int, seconds: int) -> None:
    trace = TRACES / f"{name}.csv"
    if not trace.exists():
        pytest.skip(f"{trace} is not here: the recorded arrivals may not be distributed")
    ended = subprocess.run(
        [sys.executable, "-m", "fanout", "demo", "--trace", str(trace), "--seconds", str(seconds), "--viewers", "100"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{messages:,}" in ended.stdout
    assert "the ledger adds up" in ended.stdout
