"""A new owner decides by the policies and budgets that stood at each place of the log, wherever the old one ended."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from fanout.adapters.memory import MemoryState
from fanout.adapters.memory_store import MemoryEpochs
from fanout.core.messages import Priority
from fanout.core.policies import InForce, encode_policies
from fanout.core.profiles import Policy, Profiles
from fanout.core.records import BUDGET, POLICY, Budget, PolicyChange, encode
from fanout.ports import RoomMeta
from tests.support.rooms import Rec, attach, message
from workers import decide
from workers.commits import Ticket
from workers.partition import Partition, where_to_start
from workers.turn import Ownership, Turn

ROOMS = ("app/live:stage", "app/live:hall", "news/live:stage")
TYPES = ("", "typing", "join")
T = TypeVar("T")

slots = st.integers(0, 4)
records = st.one_of(
    st.tuples(st.sampled_from(ROOMS), st.builds(message, st.sampled_from([Priority.NORMAL, Priority.HIGH]))),
    st.tuples(st.sampled_from(ROOMS), st.builds(message, st.just(Priority.NORMAL), type_=st.sampled_from(TYPES))),
    st.tuples(st.sampled_from(ROOMS), st.builds(attach, st.integers(1, 2))),
    st.builds(
        lambda app, version, most: (
            "",
            encode(
                POLICY,
                PolicyChange(
                    app,
                    version,
                    encode_policies({"live": Policy(reserved_slots=1, shared_slots_min=0, shared_slots_max=most)}),
                ),
            ),
        ),
        st.sampled_from(["app", "news"]),
        st.integers(1, 6),
        slots,
    ),
    st.builds(
        lambda room, most, degraded: ("", encode(BUDGET, Budget({room: (most, 9)}, degraded))),
        st.sampled_from(ROOMS),
        slots,
        st.lists(st.sampled_from(ROOMS), max_size=2),
    ),
)
logs = st.lists(records, min_size=1, max_size=40).map(
    lambda steps: [
        Rec(offset, value, key.encode() if key else None, timestamp=1_000_000 + 40 * offset)
        for offset, (key, value) in enumerate(steps)
    ]
)


def now(step: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine of a twin returns: it never waits."""
    try:
        step.send(None)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]
    raise AssertionError("it waited")


@dataclass
class Stored:
    """The store of a partition, and the commit."""

    epochs: MemoryEpochs = field(default_factory=lambda: MemoryEpochs(MemoryState()))
    rooms: dict[bytes, RoomMeta] = field(default_factory=dict)
    committed: int = 0


class Owner:
    """One ownership of the partition. ``rooms`` come as late as the test says."""

    def __init__(self, stored: Stored, log: list[Rec]) -> None:
        self.stored = stored
        claim = now(stored.epochs.claim(0, len(log), 1, "e1"))
        self.start = where_to_start(stored.committed, 0, len(log), claim.highest).offset
        ownership = Ownership(0, claim.owner, claim.epoch)
        self.partition = Partition(ownership, self.start, 1, Profiles(), InForce(claim.policies, self.start))
        self.turns: list[Turn] = []
        self.tickets: list[tuple[Any, Ticket]] = []

    def decide(self, records: list[Rec], *, load: bool) -> None:
        """Take records in one turn; the rooms that are held are loaded behind them, or in a later turn."""
        turn = Turn(len(self.turns) + 1, 0.0)
        self.partition.take(turn, records)
        if load:
            self._load(turn)
        decide.close(turn)
        self.turns.append(turn)

    def finish(self) -> None:
        """Load what is still held, and store everything."""
        turn = Turn(len(self.turns) + 1, 0.0)
        self._load(turn)
        decide.close(turn)
        self.turns.append(turn)
        for one in self.turns:
            self.store(one)

    def _load(self, turn: Turn) -> None:
        keys = self.partition.ask(100)
        # What earlier turns of this owner did to the room stands in the store before it is asked, or the room is here.
        self.partition.loaded(turn, {key: self.stored.rooms.get(key) for key in keys}, lambda _: False)

    def store(self, turn: Turn, changes: int | None = None) -> None:
        """Store a turn as the history line does; with ``changes`` it ends after so many rooms, not finished."""
        owner = self.partition.ownership.owner
        for _, at in turn.policies:
            now(self.stored.epochs.keep_policy(0, owner, at))
        for change in turn.changes[:changes]:
            batch, key = change.batch, change.batch.key.encode()
            before = self.stored.rooms.get(key)
            if before is None or batch.applied >= before.applied:
                self.stored.rooms[key] = RoomMeta(
                    batch.epoch, batch.head, batch.last, 0, batch.n, batch.applied, owner, batch.state
                )
        if changes is None:
            for commits, ticket in turn.tickets:
                commits.finish(ticket)
            self.stored.committed = max(self.stored.committed, self.partition.commits.next_offset)
            now(self.stored.epochs.saw(0, owner, self.stored.committed))


def cut(log: list[Rec], start: int, sizes: list[int]) -> list[list[Rec]]:
    turns: list[list[Rec]] = []
    rest = log[start:]
    while rest:
        size = sizes[len(turns) % len(sizes)]
        turns.append(rest[:size])
        rest = rest[size:]
    return turns


@settings(max_examples=150)
@given(
    log=logs,
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    loads=st.lists(st.booleans(), min_size=1, max_size=4),
    stored_turns=st.integers(0, 12),
    stored_rooms=st.integers(0, 3),
)
def test_a_crash_at_any_place_leaves_the_policies_that_stood_there(
    log: list[Rec], sizes: list[int], loads: list[bool], stored_turns: int, stored_rooms: int
) -> None:
    straight = Owner(Stored(), log)
    for records in cut(log, 0, [1]):
        straight.decide(records, load=True)
    straight.finish()

    stored = Stored()
    first = Owner(stored, log)
    for number, records in enumerate(cut(log, 0, sizes)):
        first.decide(records, load=loads[number % len(loads)])
    for turn in first.turns[:stored_turns]:
        first.store(turn)
    for turn in first.turns[stored_turns : stored_turns + 1]:
        first.store(turn, stored_rooms)

    second = Owner(stored, log)
    for number, records in enumerate(cut(log, second.start, sizes[::-1])):
        second.decide(records, load=loads[-number % len(loads)])
    second.finish()

    assert {key: meta.state for key, meta in stored.rooms.items()} == {
        key: meta.state for key, meta in straight.stored.rooms.items()
    }
    for key, room in straight.partition.rooms.items():
        policy = straight.partition.policies.of(key.decode(), Policy())
        assert room.policy == policy == second.partition.policies.of(key.decode(), Policy())
