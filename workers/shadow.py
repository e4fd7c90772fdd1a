"""What another policy would have kept: the records of a room decided twice, by the code that the room worker runs.

Nothing is sent and nothing is stored. A *shadow* is a room with an owner that nobody hears of: it takes the room's
records, and what changes decisions in its partition (budgets, policies, ticks), in log order. Both shadows begin with
empty windows, and without a wall clock, so that nothing is late. Memory is bounded: records are taken in, counted,
and gone. Pure.

Lives elsewhere: reading the log and showing what was found (``fanout.cli.shadow``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from fanout.core import ledger
from fanout.core.errors import RecordError
from fanout.core.limits import SHADOW_RECORDS_MAX
from fanout.core.messages import split_key
from fanout.core.policy import WINDOW_MS
from fanout.core.profiles import Policy, Profile, Profiles, namespace_of
from fanout.core.records import ANNOUNCE, ATTACH, BUDGET, DETACH, TICK, Budget, body, encode, header
from fanout.core.room_state import RoomState
from fanout.ports import LogRecord
from workers.partition import Partition
from workers.shadow_steps import Fates, Steps
from workers.turn import Ownership, Turn

# Fields of a policy whose effect is not replayed, or only in part.
AT_ADMISSION: Final = ("types", "raised_users", "raised_types", "high_per_s", "high_burst", "high_excess")
BY_WALL_CLOCK: Final = ("late_low_ms", "late_normal_ms")
_OF_BUDGETS: Final = ("room_deliveries_per_s", "shared_slots_min", "shared_slots_max")
_ROUTES: Final = (ATTACH, DETACH)  # who listens decides nothing about a message


class Place(NamedTuple):
    """A room's partition of ``messages``: its number, how many there are, and the log offset that is read first."""

    number: int
    partitions: int
    start: int


class _Record(NamedTuple):
    """A ``ports.LogRecord`` that was not read as it is."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class Shadow:
    """A room under one policy. ``parked`` counts its records that no worker can read."""

    def __init__(self, key: str, profile: Profile, place: Place) -> None:
        self.room = RoomState.fresh(key, profile, place.start)
        self.parked = 0
        self._seen = Fates()
        profiles = Profiles(insecure=True, namespaces={namespace_of(split_key(key)[1]): profile})
        self._partition = Partition(Ownership(place.number, 0, ""), place.start, place.partitions, profiles)
        self._partition.rooms[key.encode()] = self.room

    def decide(self, records: Sequence[LogRecord]) -> Fates:
        """Decide about records, whose log offsets rise from call to call; return what became of their messages."""
        if records:
            turn = Turn(1, 0.0)  # no wall clock: nothing is late
            self._partition.take(turn, records)
            for commits, ticket in turn.tickets:
                commits.finish(ticket)
            self.parked += sum(poison.record.key is not None for poison in turn.parked)
        before, self._seen = self._seen, _fates(self.room)
        return self._seen.minus(before)

    def counts(self) -> dict[str, Any]:
        """Return the messages of the room's ledger, as ``ledger.report`` has them."""
        report = ledger.report(self.room.encode())
        del report["edge"]
        return report


class Comparison:
    """A room under the policy that was in force, and under a ``proposed`` one.

    ``records`` of the room were taken, up to ``last_ms`` (record time, 0: none); ``is_cut``: there were more than
    ``records_max``. ``profile`` is that of the room's namespace; changes of its policy act where they stand in the log.
    """

    def __init__(
        self, key: str, profile: Profile, proposed: Policy, place: Place, *, records_max: int = SHADOW_RECORDS_MAX
    ) -> None:
        self.key = key
        self.records = 0
        self.first_ms = self.last_ms = 0
        self.is_cut = False
        self.steps = Steps()
        self.in_force = Shadow(key, profile, place)
        self.proposed = Shadow(key, msgspec.structs.replace(profile, policy=proposed), place)
        self._encoded_key = key.encode()
        self._records_max = records_max
        self._due: tuple[list[LogRecord], list[LogRecord]] = ([], [])  # for the one in force, for the proposed one
        self._step = 0

    def take(self, records: Sequence[LogRecord]) -> None:
        """Take polled records of the partition, in log order; those of other rooms are passed over."""
        key = self._encoded_key
        for record in records:
            if record.key is None:
                self._take_keyless(record)
            elif record.key == key and _kind(record) not in _ROUTES:
                if self.records >= self._records_max:
                    self.is_cut = True
                    break
                self._enter(record.timestamp)
                self._hand(record, record)
                self.records += 1
        self._decide()

    def _enter(self, at_ms: int) -> None:
        """A record of another step than the one before: what was said so far is counted in its own."""
        if not self.first_ms:
            self.first_ms = at_ms
        self.last_ms = max(self.last_ms, at_ms)
        step = self.steps.start_of(at_ms)
        if step != self._step:
            self._decide()
            self._step = self.steps.start_of(at_ms)

    def _hand(self, in_force: LogRecord | None, proposed: LogRecord | None) -> None:
        for due, record in zip(self._due, (in_force, proposed), strict=True):
            if record is not None:
                due.append(record)

    def _decide(self) -> None:
        (in_force, proposed), self._due = self._due, ([], [])
        fates = self.in_force.decide(in_force), self.proposed.decide(proposed)
        if self.records:
            self.steps.add(self._step, *fates)

    def _take_keyless(self, record: LogRecord) -> None:
        kind = _kind(record)
        if kind == BUDGET:
            self._take_budget(record)
        elif kind == TICK:
            self._hand(record, record)
        elif kind is not None and kind != ANNOUNCE:
            self._hand(record, None)  # a change of policy: the proposed one stays

    def _take_budget(self, record: LogRecord) -> None:
        assert record.value is not None, "it has a kind"
        try:
            values = body(record.value, Budget).rooms.get(self.key)
        except RecordError:
            return
        if values is None:
            return
        self._decide()  # which policy is in force at this place says how it is read
        slots, members = values
        self._hand(self._budget(record, slots, members), self._budget(record, self._proposed_slots(*values), members))

    def _budget(self, record: LogRecord, slots: int, members: int) -> LogRecord:
        """Return the record as if it named this room alone: the partition holds no other one."""
        value = encode(BUDGET, Budget({self.key: (slots, members)}))
        return _Record(record.offset, record.timestamp, None, value)

    def _proposed_slots(self, slots: int, members: int) -> int:
        """Return the shared slots of the proposed policy for a room of this size.

        A budget came from the policy in force, the app's quota and the pressure of gateways. Where the proposed policy
        has the same numbers it is the same; else it is what its own numbers afford, without quota and pressure.
        """
        in_force, proposed = self.in_force.room.policy, self.proposed.room.policy
        if all(getattr(in_force, field) == getattr(proposed, field) for field in _OF_BUDGETS):
            return slots
        afforded = proposed.room_deliveries_per_s * WINDOW_MS // 1_000 // max(1, members)
        return min(max(afforded, proposed.shared_slots_min), proposed.shared_slots_max)


def _kind(record: LogRecord) -> int | None:
    """Return the kind of a record of the engine; None for everything else."""
    try:
        return header(record.value or b"").kind
    except RecordError:
        return None


def _fates(room: RoomState) -> Fates:
    counted = room.ledger
    dropped = sum(sum(counts) for reasons in counted.dropped.values() for counts in reasons.values())
    return Fates(sum(counted.kept), sum(counted.merged), dropped)
