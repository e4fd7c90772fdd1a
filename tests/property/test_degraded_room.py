"""A room that is degraded and not, over and over: whoever decides, and however the log is cut, it decides the same."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fanout.core import ledger
from fanout.core.messages import Priority
from fanout.core.records import BUDGET, KEYED, TICK, Budget, Tick, encode
from tests.support.partitions import LIVE, OTHER, DecidedPartition, merged
from tests.support.rooms import Rec, attach, message

SLOT = 3
ROOMS = [LIVE, OTHER]
START_MS = 1_800_000_000_000
LATE_MS = 1_000_000_000  # after everything else

rooms = st.sampled_from(ROOMS)
classes = st.sampled_from([Priority.LOW, Priority.LOW, Priority.NORMAL, Priority.HIGH])
types = st.sampled_from(["join", "join", "leave", "typing", "", "chat"])
records = st.one_of(
    st.tuples(rooms, st.builds(message, classes, st.integers(1, 1 << 40), type_=types)),
    st.tuples(rooms, st.builds(message, classes, st.integers(1, 1 << 40), type_=types)),
    st.tuples(rooms, st.builds(message, classes, st.integers(1, 4), type_=types, flags=st.just(KEYED))),
    st.tuples(rooms, st.builds(merged, st.sampled_from(["join", "likes"]), st.sampled_from(["sum", "latest"]))),
    st.just((LIVE, b'{"room":"live:stage","data":1,"type":"join"}')),
    st.builds(
        lambda named, degraded: (None, encode(BUDGET, Budget(dict.fromkeys(named, (20, 9)), degraded))),
        st.lists(rooms.map(bytes.decode), max_size=2),
        st.lists(rooms.map(bytes.decode), max_size=2),
    ),
    st.just((None, encode(TICK, Tick()))),
)
steps = st.sampled_from([0, 0, 0, 0, 1, 30, 120, 200, 450, -150])


def a_log(said: list[tuple[tuple[bytes | None, bytes], int]]) -> list[Rec]:
    at_ms, log = START_MS, [Rec(offset, attach(SLOT), room, START_MS) for offset, room in enumerate(ROOMS)]
    for (key, value), step_ms in said:
        at_ms += step_ms
        log.append(Rec(len(log), value, key, at_ms))
    for room in ROOMS:  # so that no window stays open
        log.append(Rec(len(log), attach(SLOT), room, at_ms + LATE_MS))
    return log


logs = st.builds(a_log, st.lists(st.tuples(records, steps), max_size=50))
cuttings = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def play(owner: DecidedPartition, log: list[Rec], cuts: list[int], load_every: int = 1) -> DecidedPartition:
    """Decide about what an owner has not taken; rooms are loaded after some of the turns, and after the last."""
    rest, number = log[owner.partition.next_offset :], 0
    while rest:
        size = cuts[number % len(cuts)]
        owner.take(rest[:size])
        rest, number = rest[size:], number + 1
        if number % load_every == 0:
            owner.load()
    owner.load()
    return owner


@settings(max_examples=150)
@given(logs, cuttings, st.integers(1, 4), st.integers(0, 60), st.integers(0, 60))
def test_another_cut_and_another_owner_anywhere_shed_the_same(
    log: list[Rec], cuts: list[int], load_every: int, stop: int, stored: int
) -> None:
    straight = play(DecidedPartition(), log, [1])
    straight.store(len(straight.changes))
    first = play(DecidedPartition(), log[: max(1, stop)], cuts, load_every)
    first.store(stored)
    second = play(first.successor(), log, cuts, load_every)
    second.store(len(second.changes))
    assert second.partition.commits.next_offset == len(log)
    assert second.received == straight.received
    for key, meta in straight.metas.items():
        assert second.metas[key].state == meta.state
        found = ledger.report(meta.state)
        assert ledger.differences(found) == []
        assert len(straight.entries(key)) == sum(found["kept"].values()) + sum(found["folds"].values())
