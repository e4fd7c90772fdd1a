"""The overload bench, with a small one: what it prints adds up, and a trace is replayed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import overload


def test_a_small_overload_keeps_all_that_is_high_and_adds_up(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("t_ms,sender,bytes\n" + "".join(f"{number * 20},{number % 40},30\n" for number in range(1_500)))
    assert overload.main(["--viewers", "20", "--trace", str(trace), "--speed", "20"]) == 0
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (figures["accepted"], figures["refused"], figures["high"]) == (1_500, 0, 30)
    assert (figures["high_lost"], figures["ledger_error"], figures["misordered"]) == (0, 0, 0)
    assert figures["dropped"]["policy window_full"] > 500
    assert 0 < figures["high_p50_ms"] <= figures["high_p99_ms"]
