from __future__ import annotations

from collections import Counter

import pytest

from loadtest import scenario as scenarios


def test_every_committed_scenario_can_be_loaded_and_encoded() -> None:
    for path in scenarios.FOLDER.glob("*.toml"):
        scenario = scenarios.load(path.stem)
        assert scenario.name == path.stem
        assert scenarios.decode(scenarios.encode(scenario)) == scenario


def test_sockets_are_shared_evenly_by_users_of_a_thousand() -> None:
    scenario = scenarios.load("live_room", {"viewers": 3_000})
    assert (scenario.viewer_users, scenario.sockets_each) == (3, 1_000)
    with pytest.raises(ValueError, match="cannot be shared evenly"):
        scenarios.load("live_room", {"viewers": 2_002})


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"viewers": 0}, "viewers"), ({"seconds": 0.0}, "seconds"), ({"processes": 9}, "processes")],
)
def test_a_scenario_that_cannot_work_is_refused_by_the_name_of_its_field(changes: dict[str, int], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        scenarios.load("live_room", changes)


def test_an_unknown_scenario_is_answered_with_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match="live_room"):
        scenarios.load("nowhere")


def test_classes_come_in_their_shares() -> None:
    mix = scenarios.Mix(high=0.1, low=0.2)
    assert Counter(mix.priority(number) for number in range(1_000)) == {"high": 100, "low": 200, "normal": 700}
