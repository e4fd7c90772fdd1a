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
from fanout.core.budget import afforded, next_degraded, next_slots, room_pressure
from fanout.core.errors import RecordError
from fanout.core.ledger import check_report
from fanout.core.limits import SHADOW_RECORDS_MAX
from fanout.core.messages import split_key
from fanout.core.policies import InForce, PolicyAt
from fanout.core.policy import WINDOW_MS
from fanout.core.profiles import Policy, Profile, Profiles, namespace_of
from fanout.core.records import (
    ANNOUNCE,
    ATTACH,
    BUDGET,
    DETACH,
    POLICY,
    TICK,
    Announce,
    Budget,
    Tick,
    body,
    encode,
    header,
)
from fanout.core.room_state import RoomState
from fanout.ports import LogRecord
from workers.decide import check_slot
from workers.partition import Partition
from workers.shadow_steps import Fates, Steps
from workers.turn import Ownership, Turn

# Fields of a policy whose effect is not replayed, or only in part.
AT_ADMISSION: Final = ("types", "raised_users", "raised_types", "high_per_s", "high_burst", "high_excess")
BY_WALL_CLOCK: Final = ("late_low_ms", "late_normal_ms")
_OF_BUDGETS: Final = ("room_deliveries_per_s", "shared_slots_min", "shared_slots_max", "degrade_members")
_ROUTES: Final = (ATTACH, DETACH)  # they decide nothing about a message; how many listen is announced
_TICK: Final = encode(TICK, Tick())
_REPORT_MS: Final = 120_000  # every room is announced every minute: a gateway that has missed one is gone


class Place(NamedTuple):
    """A room's partition of ``messages``: its number, how many there are, and the log offset that is read first."""

    number: int
    partitions: int
    start: int


class _Gateway(NamedTuple):
    """What a gateway announced of the room last, and when (record time)."""

    at_ms: int
    subscriptions: int
    pressure: int


class _Record(NamedTuple):
    """A ``ports.LogRecord`` that was not read as it is."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class Shadow:
    """A room under one policy: its profile's, until a record brings another; or the one that ``stored`` says.

    ``parked`` counts its records that no worker can read.
    """

    def __init__(self, key: str, profile: Profile, place: Place, stored: Sequence[PolicyAt] = ()) -> None:
        self.room = RoomState.fresh(key, profile, place.start)
        self.parked = 0
        self._seen = Fates()
        profiles = Profiles(insecure=True, namespaces={namespace_of(split_key(key)[1]): profile})
        owner, policies = Ownership(place.number, 0, ""), InForce(stored, place.start)
        self._partition = Partition(owner, place.start, place.partitions, profiles, policies)
        self.room.use(policies.of(key, profile.policy))
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
    ``records_max``. ``profile`` is that of the room's namespace, ``stored`` what the app had set at the beginning;
    changes of its policies act where they stand in the log.
    """

    def __init__(
        self,
        key: str,
        profile: Profile,
        proposed: Policy,
        place: Place,
        stored: Sequence[PolicyAt] = (),
        *,
        records_max: int = SHADOW_RECORDS_MAX,
    ) -> None:
        self.key = key
        self.records = 0
        self.first_ms = self.last_ms = 0
        self.is_cut = False
        self.steps = Steps()
        self.in_force = Shadow(key, profile, place, stored)
        self.proposed = Shadow(key, msgspec.structs.replace(profile, policy=proposed), place)
        self._encoded_key = key.encode()
        self._records_max = records_max
        self._due: tuple[list[LogRecord], list[LogRecord]] = ([], [])  # for the one in force, for the proposed one
        self._step = 0
        self._window = 0
        self._gateways: dict[int, _Gateway] = {}  # by slot

    def take(self, records: Sequence[LogRecord]) -> None:
        """Take polled records of the partition, in log order. Of those of other rooms only the time counts: the first
        one of a window ends those of merged messages before it."""
        key = self._encoded_key
        for record in records:
            window = record.timestamp // WINDOW_MS
            if window != self._window:
                self._window = window
                tick = _Record(record.offset, record.timestamp, None, _TICK)
                self._hand(tick, tick)
            if record.key is None:
                self._take_keyless(record)
            elif record.key == key and _kind(record) not in _ROUTES:
                if self.records >= self._records_max:
                    self.is_cut = True
                    break
                self._enter(record.timestamp)
                for due in self._due:
                    due.append(record)
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
        if kind in (ANNOUNCE, BUDGET):
            if self._encoded_key in (record.value or b""):  # most name other rooms; to look is quicker than to decode
                self._take_share(record, kind)
        elif kind == TICK:
            self._hand(record, record)
        elif kind == POLICY:
            self._hand(record, None)  # the proposed one stays
            self._decide()  # what a budget means to the proposed one depends on it

    def _take_share(self, record: LogRecord, kind: int | None) -> None:
        """Take this room's share of a record that names several."""
        assert record.value is not None, "it has a kind"
        try:
            if kind == BUDGET:
                self._take_budget(record, body(record.value, Budget))
            else:
                self._take_announce(record, body(record.value, Announce))
        except RecordError:
            return  # the worker parks it, and nothing has come of it

    def _take_budget(self, record: LogRecord, said: Budget) -> None:
        values = said.rooms.get(self.key)
        if values is not None:
            budget = self._budget(record, *values, self.key in said.degraded)
            self._hand(budget, budget if self._is_budget_shared() else None)

    def _take_announce(self, record: LogRecord, said: Announce) -> None:
        check_slot(said.slot, said.generation)
        for report in said.rooms:
            if report.key == self.key:
                check_report(report)
                self._gateways[said.slot] = _Gateway(record.timestamp, report.subscriptions, said.pressure)
                self._resize(record)

    def _resize(self, record: LogRecord) -> None:
        """Give the proposed policy the values that the room's size affords, as the worker would have done."""
        if self._is_budget_shared():
            return
        self._decide()  # its slots so far are part of the answer
        old_ms = record.timestamp - _REPORT_MS
        self._gateways = {slot: one for slot, one in self._gateways.items() if one.at_ms >= old_ms}
        room, members = self.proposed.room, sum(one.subscriptions for one in self._gateways.values())
        pressure = room_pressure((one.subscriptions, one.pressure) for one in self._gateways.values())
        slots = next_slots(room.shared_slots, room.policy, afforded(room.policy, members, None, pressure))
        degraded = next_degraded(room.values.degraded, room.policy, members)
        if slots != room.shared_slots or degraded != room.values.degraded:
            self._hand(None, self._budget(record, slots, members, degraded))

    def _is_budget_shared(self) -> bool:
        """True where both policies have the same budget: then the records say what the proposed one would have had.

        Those come from quotas, too, which do not stand on the log.
        """
        in_force, proposed = self.in_force.room.policy, self.proposed.room.policy
        return all(getattr(in_force, field) == getattr(proposed, field) for field in _OF_BUDGETS)

    def _budget(self, record: LogRecord, slots: int, members: int, degraded: bool) -> LogRecord:
        """Return a Budget that names this room alone: the partitions here hold no other one."""
        value = encode(BUDGET, Budget({self.key: (slots, members)}, [self.key] if degraded else []))
        return _Record(record.offset, record.timestamp, None, value)


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
