"""Merging under arbitrary streams: the same as a fold over the stream, whoever folds it and however it is cut."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from fanout.core import ledger
from fanout.core.merge import value_text
from fanout.core.messages import Priority
from fanout.core.policy import WINDOW_MS
from fanout.core.records import BUDGET, KEYED, MESSAGE, TICK, Budget, Message, Tick, encode
from tests.support.partitions import GROUP, LIVE, OTHER, DecidedPartition, merged
from tests.support.rooms import Rec, attach, message

SLOT = 3
ROOMS = [LIVE, GROUP, OTHER]
START_MS = 1_800_000_000_000
LATE_MS = 1_000_000_000  # after everything else

steps = st.sampled_from([0, 0, 0, 1, 30, 120, 199, 200, 450, 5_000])
steps_back = st.sampled_from([0, 0, 0, 0, 0, 0, 1, 1, 30, 120, 200, 450, -1, -150, -400, 300_000])
ops = st.sampled_from([("sum", 1), ("latest", 1), ("top", 1), ("top", 3)])
values = st.one_of(st.just(1.0), st.integers(-5, 5).map(float), st.floats(-1e12, 1e12, allow_nan=False))


@dataclass(frozen=True)
class Like:
    """A merged message."""

    room: bytes
    key: str
    op: str
    n: int
    value: float
    number: int

    @property
    def record(self) -> bytes:
        return merged(self.key, self.op, self.value, self.n, id_=self.number, data=b"%d" % self.number)


likes = st.builds(
    lambda room, key, op, value: (room, key, *op, value),
    st.sampled_from(ROOMS),
    st.sampled_from(["likes", "score"]),
    ops,
    values,
)


def expected(stream: list[tuple[int, Like | None]]) -> dict[bytes, list[tuple[int, bytes, dict[str, str]]]]:
    """Return (offset, data, tags) by room: a plain fold over the whole stream, grouped by window, key and operation.

    ``stream`` is (record time, like or some other record); the log offsets begin at ``len(ROOMS)``.
    """
    groups: dict[tuple[bytes, int, str, str, int], list[Like]] = defaultdict(list)
    for at_ms, like in stream:
        if like is not None:
            groups[like.room, at_ms // WINDOW_MS, like.key, like.op, like.n].append(like)
    found: dict[bytes, list[tuple[int, bytes, dict[str, str]]]] = defaultdict(list)
    for (room, window, key, op, n), members in groups.items():
        closed_by = next(place for place, (at_ms, _) in enumerate(stream) if at_ms // WINDOW_MS > window)
        shown = members[-1:] if op != "top" else sorted(members, key=lambda like: -like.value)[:n]
        total = 0.0
        for like in members:
            total += like.value
        for like in shown:
            value = total if op == "sum" else like.value
            tags = {"merge_key": key, "merge_count": str(len(members)), "merge_value": value_text(value)}
            found[room].append((len(ROOMS) + closed_by + 1, b"%d" % like.number, tags))
    return found


@given(st.lists(st.tuples(steps, st.one_of(likes, st.none())), max_size=80), st.lists(st.integers(1, 20), min_size=1))
def test_what_is_sent_is_a_fold_over_the_stream_by_window_key_and_operation(
    said: list[tuple[int, tuple[bytes, str, str, int, float] | None]], cuts: list[int]
) -> None:
    at_ms, stream = START_MS, []
    for number, (step_ms, what) in enumerate(said):
        at_ms += step_ms
        stream.append((at_ms, None if what is None else Like(*what, number)))
    stream.append((at_ms + LATE_MS, None))
    log = [Rec(offset, attach(SLOT), room, START_MS) for offset, room in enumerate(ROOMS)]
    for offset, (ms, like) in enumerate(stream, len(ROOMS)):
        if like is None:
            log.append(Rec(offset, encode(TICK, Tick()), None, ms))
        else:
            log.append(Rec(offset, like.record, like.room, ms))
    owner = DecidedPartition()
    for turn in cut(log, cuts):
        owner.run(turn)
    wanted = expected(stream)
    for room in ROOMS:
        assert [(one.offset, one.data, one.tags) for one in owner.entries(room)] == wanted[room]


simple_likes = st.tuples(st.sampled_from(ROOMS), st.builds(merged, st.just("a"), st.just("sum"), values))
records = st.one_of(
    simple_likes,
    simple_likes,
    simple_likes,
    st.builds(
        lambda room, key, op, value, priority, data, flags, id_: (
            room,
            merged(key, op[0], value, op[1], priority=priority, data=data, flags=flags, id_=id_),
        ),
        st.sampled_from(ROOMS),
        st.sampled_from("ab"),
        ops,
        values,
        st.sampled_from([Priority.LOW, Priority.LOW, Priority.NORMAL, Priority.HIGH]),
        st.sampled_from([b"1", b"22", b'"' + b"x" * 20_000 + b'"']),
        st.sampled_from([0, 0, KEYED]),
        st.integers(1, 6),
    ),
    st.builds(
        lambda room, priority: (room, message(priority)), st.sampled_from(ROOMS), st.sampled_from(list(Priority))
    ),
    st.builds(lambda room, instance: (room, attach(SLOT, 1, instance)), st.sampled_from(ROOMS), st.integers(1, 2)),
    st.just((LIVE, b'{"room":"live:stage","data":1,"priority":"low","merge":{"key":"a","op":"sum","value":2}}')),
    st.just((LIVE, b"\x01")),
    st.just((None, encode(TICK, Tick()))),
    st.builds(
        lambda room, word: (room, encode(MESSAGE, Message(b"1", type=word), priority=Priority.LOW.value)),
        st.sampled_from([LIVE, OTHER]),
        st.sampled_from(["join", "join", "join", "leave", "typing"]),
    ),
    st.builds(lambda rooms: (None, budget(rooms)), st.lists(st.sampled_from(ROOMS), unique=True)),
)


def cut(log: list[Rec], cuts: list[int]) -> list[list[Rec]]:
    """Return a log in turns."""
    turns: list[list[Rec]] = []
    rest = log
    while rest:
        size = cuts[len(turns) % len(cuts)]
        turns.append(rest[:size])
        rest = rest[size:]
    return turns


def budget(degraded: list[bytes]) -> bytes:
    """Return a Budget that degrades these rooms and no others: they merge joins and leaves by themselves."""
    return encode(BUDGET, Budget({room.decode(): (20, 1) for room in ROOMS}, [room.decode() for room in degraded]))


def a_log(degraded: list[bytes], said: list[tuple[tuple[bytes | None, bytes], int]]) -> list[Rec]:
    at_ms, log = START_MS, [Rec(offset, attach(SLOT), room, START_MS) for offset, room in enumerate(ROOMS)]
    log.append(Rec(len(log), budget(degraded), None, START_MS))
    for (key, value), step_ms in said:
        at_ms += step_ms
        log.append(Rec(len(log), value, key, at_ms))
    for room in ROOMS:  # so that every room is seen to its end, and no window stays open
        log.append(Rec(len(log), attach(SLOT), room, at_ms + LATE_MS))
    return log


logs = st.builds(a_log, st.sampled_from([[], [LIVE, OTHER]]), st.lists(st.tuples(records, steps_back), max_size=50))
cuttings = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def play(owner: DecidedPartition, log: list[Rec], cuts: list[int], load_every: int = 1) -> DecidedPartition:
    """Decide about what an owner has not taken; rooms are loaded after some of the turns, and after the last."""
    for number, turn in enumerate(cut(log[owner.partition.next_offset :], cuts), 1):
        owner.take(turn)
        if number % load_every == 0:
            owner.load()
    owner.load()
    return owner


def same(one: DecidedPartition, other: DecidedPartition) -> None:
    """Both have sent the same, and their rooms stand in the store alike, with the counts of every span."""
    assert one.received == other.received
    assert one.openings == other.openings
    assert one.metas.keys() == other.metas.keys()
    for key, meta in one.metas.items():
        assert (meta.applied, meta.head, meta.n, meta.state) == (
            other.metas[key].applied,
            other.metas[key].head,
            other.metas[key].n,
            other.metas[key].state,
        )
        found = ledger.report(meta.state)
        assert ledger.differences(found) == []
        assert len(one.entries(key)) == sum(found["kept"].values()) + sum(found["folds"].values())


@settings(max_examples=200)
@given(logs, cuttings, st.integers(1, 4))
def test_how_the_log_is_cut_and_when_rooms_are_loaded_changes_nothing(
    log: list[Rec], cuts: list[int], load_every: int
) -> None:
    straight = play(DecidedPartition(), log, [1])
    other = play(DecidedPartition(), log, cuts, load_every)
    for owner in (straight, other):
        owner.store(len(owner.changes))
        assert owner.partition.commits.next_offset == len(log)
        assert not owner.partition.windows
    same(straight, other)


@settings(max_examples=300)
@given(logs, cuttings, st.integers(1, 4), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_a_new_owner_anywhere_folds_on_as_the_old_one_would_have(
    log: list[Rec], cuts: list[int], load_every: int, stop: int, stored: int, stored_again: int
) -> None:
    straight = play(DecidedPartition(), log, [1])
    straight.store(len(straight.changes))
    first = play(DecidedPartition(), log[: max(1, stop)], cuts, load_every)
    first.store(stored)
    second = play(first.successor(), log, cuts, load_every)
    second.store(stored_again)
    third = play(second.successor(), log, cuts)
    third.store(len(third.changes))
    assert third.partition.commits.next_offset == len(log)
    same(straight, third)
