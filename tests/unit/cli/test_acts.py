"""The acts of the demo: they fill its time, and the loud ones are loud."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from fanout.cli import acts
from fanout.cli.arrivals import Arrival


@pytest.mark.parametrize("seconds", [1.0, 40.0])
def test_acts_follow_one_another_from_the_beginning_to_the_end(seconds: float) -> None:
    played = acts.acts(seconds)
    assert played[0].begin_s == 0.0
    assert played[-1].end_s == pytest.approx(seconds)
    assert all(before.end_s == after.begin_s < after.end_s for before, after in pairwise(played))
    assert [act.name for act in played] == [acts.CALM, acts.CROWD, acts.LIKES, acts.SLOW, acts.CUT]


def test_a_moment_belongs_to_one_act() -> None:
    played = acts.acts(10.0)
    assert [acts.act_at(played, at_s).name for at_s in (0.0, 1.99, 2.0, 9.0, 99.0)] == [
        acts.CALM,
        acts.CALM,
        acts.CROWD,
        acts.CUT,
        acts.CUT,
    ]


def test_in_loud_acts_each_arrival_comes_twenty_times_from_others_in_order() -> None:
    played = acts.acts(10.0)
    arrivals = [Arrival(at_ms, number, 30) for number, at_ms in enumerate(range(0, 10_000, 50))]
    loud = acts.with_burst(arrivals, played)
    assert [arrival.at_ms for arrival in loud] == sorted(arrival.at_ms for arrival in loud)
    times = Counter(acts.act_at(played, arrival.at_ms / 1_000).name for arrival in loud)
    quiet = Counter(acts.act_at(played, arrival.at_ms / 1_000).name for arrival in arrivals)
    assert {name: times[name] / quiet[name] for name in quiet} == {
        acts.CALM: 1,
        acts.CROWD: acts.BURST,
        acts.LIKES: 1,
        acts.SLOW: acts.BURST,
        acts.CUT: 1,
    }
    assert len({arrival.sender for arrival in loud}) == len(loud)
