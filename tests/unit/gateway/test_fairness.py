"""Apps share the writes by weight, however many rooms they have and however large those are."""

from __future__ import annotations

from collections import Counter

from fanout.core.profiles import Profiles
from fanout.gateway.fairness import QUANTUM, FairTurns
from fanout.gateway.room import Room


def room(key: str) -> Room:
    return Room(key, Profiles().of("live:r"), 0, 1)


def shares(turns: FairTurns, writes: dict[str, int], rounds: int) -> Counter[str]:
    """Take rooms out and queue them again; return the writes of each app."""
    used: Counter[str] = Counter()
    for _ in range(rounds):
        taken = turns.next()
        used[taken.app] += writes[taken.key]
        turns.add(taken)
        turns.charge(taken.app, writes[taken.key])
    return used


def test_rooms_of_one_app_take_turns() -> None:
    turns = FairTurns(lambda app: 1)
    rooms = [room(f"a/live:{number}") for number in range(3)]
    for one in rooms:
        turns.add(one)
    assert len(turns) == 3
    taken = []
    while turns:
        taken.append(turns.next())
        turns.charge("a", 1)
    assert taken == rooms


def test_a_huge_room_takes_no_more_than_its_apps_share() -> None:
    turns = FairTurns(lambda app: 1)
    huge, small = room("huge/live:r"), room("small/live:r")
    turns.add(huge)
    turns.add(small)
    used = shares(turns, {huge.key: 10_000, small.key: 10}, 20_000)
    assert 0.8 < used["huge"] / used["small"] < 1.25


def test_many_rooms_of_an_app_share_what_one_room_of_another_has_alone() -> None:
    turns = FairTurns(lambda app: 1)
    many = [room(f"many/live:{number}") for number in range(50)]
    one = room("one/live:r")
    for each in (*many, one):
        turns.add(each)
    used = shares(turns, dict.fromkeys([each.key for each in (*many, one)], 100), 4_000)
    assert 0.9 < used["many"] / used["one"] < 1.1


def test_a_weight_of_three_is_three_times_the_writes() -> None:
    turns = FairTurns({"a": 3, "b": 1}.__getitem__)
    heavy, light = room("a/live:r"), room("b/live:r")
    turns.add(heavy)
    turns.add(light)
    used = shares(turns, {heavy.key: 50, light.key: 50}, 8_000)
    assert 2.8 < used["a"] / used["b"] < 3.2


def test_what_an_app_did_not_use_is_not_saved_for_later() -> None:
    turns = FairTurns(lambda app: 1)
    rare, busy = room("rare/live:r"), room("busy/live:r")
    turns.add(busy)
    for _ in range(100):  # rare comes and goes, with a write each time
        turns.add(rare)
        while turns.next() is not rare:
            turns.add(busy)
            turns.charge("busy", QUANTUM)
        turns.charge("rare", 1)
    turns.add(rare)
    used = shares(turns, {rare.key: QUANTUM, busy.key: QUANTUM}, 10)
    assert abs(used["rare"] - used["busy"]) <= 2 * QUANTUM


def test_alone_an_app_owes_nothing() -> None:
    turns = FairTurns(lambda app: 1)
    alone, other = room("alone/live:r"), room("other/live:r")
    for _ in range(5):
        turns.add(alone)
        assert turns.next() is alone
        turns.charge("alone", 1_000_000)
    turns.add(alone)
    turns.add(other)
    taken = {turns.next()}
    turns.charge(next(iter(taken)).app, 1)
    assert taken | {turns.next()} == {alone, other}
