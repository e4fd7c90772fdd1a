"""Arrivals of the demo: read from a trace, or drawn from a profile that has the trace's figures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fanout.cli.arrivals import Arrival, compress, draw, fit, load_profile, read_trace
from fanout.core.errors import ConfigError


def test_a_trace_is_read_in_order(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("t_ms,sender,bytes\n0,0,25\n14,1,64\n")
    assert read_trace(trace) == [Arrival(0, 0, 25), Arrival(14, 1, 64)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("time,who,size\n", "first line must be"),
        ("", "first line must be"),
        ("t_ms,sender,bytes\n0,0,x\n", "line 2"),
        ("t_ms,sender,bytes\n0,0\n", "line 2"),
        ("t_ms,sender,bytes\n5,0,1\n4,0,1\n", "line 3"),
        ("t_ms,sender,bytes\n5,-1,1\n", "line 2"),
    ],
)
def test_a_broken_trace_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_trace(trace)


def test_a_missing_trace_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.csv"):
        read_trace(tmp_path / "nothing.csv")


def test_the_shipped_profile_has_two_busy_minutes() -> None:
    profile = load_profile()
    assert len(profile.per_second) == 120
    assert max(profile.per_second) == 50


def test_drawn_arrivals_are_the_same_for_the_same_seed_and_have_the_count_of_every_second() -> None:
    profile = load_profile()
    arrivals = draw(profile, seed=7)
    assert arrivals == draw(profile, seed=7)
    assert arrivals != draw(profile, seed=8)
    per_second = Counter(arrival.at_ms // 1000 for arrival in arrivals)
    assert [per_second[second] for second in range(120)] == profile.per_second


def test_a_profile_fitted_to_drawn_arrivals_has_nearly_the_figures_it_was_drawn_from() -> None:
    profile = load_profile()
    again = fit(draw(profile, seed=3), "drawn")
    assert again.per_second == profile.per_second
    assert abs(again.length_quantiles[10] - profile.length_quantiles[10]) <= 3
    assert abs(again.sender_shares[0] - profile.sender_shares[0]) < 0.05


def test_the_busiest_part_of_a_trace_is_chosen() -> None:
    quiet = [Arrival(second * 1000, second, 10) for second in range(300)]
    busy = [Arrival(150_000 + n, n, 10) for n in range(0, 1000, 10)]
    assert max(fit(sorted(quiet + busy), "made", seconds=10).per_second) == 101


def test_compression_divides_times() -> None:
    assert compress([Arrival(3000, 1, 2)], 3.0) == [Arrival(1000, 1, 2)]
