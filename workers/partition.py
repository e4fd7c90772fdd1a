"""One owned partition of ``messages``: which rooms are in memory, which are being loaded, how far the records are done.

Rooms never wait for one another: records of a room whose state is not here yet are *held* for it, in order, while
those of its neighbours go on. Lives elsewhere: what a record does (``decide``), all I/O (``room_worker``).
"""

from __future__ import annotations

import secrets
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

import structlog

from fanout.core.errors import RecordError, Refused
from fanout.core.ledger import check_report
from fanout.core.messages import check_app, check_room
from fanout.core.policies import InForce, PolicyAt, check_change
from fanout.core.profiles import Policy, Profile, Profiles
from fanout.core.records import (
    ANNOUNCE,
    BUDGET,
    MESSAGES,
    POLICY,
    TICK,
    Announce,
    Budget,
    PolicyChange,
    body,
    header,
)
from fanout.core.room_state import RoomState, Target, Values
from fanout.ports import Clock, Epochs, GroupReader, Log, LogRecord, RoomMeta
from sharding.placement import partition_of
from workers import decide
from workers.commits import Commits, Ticket
from workers.merging import close_folds, may_merge
from workers.poison import poison
from workers.turn import Ownership, Turn
from workers.windows import Run, Windows, is_over

_log: Final = structlog.get_logger(__name__)
_REPORT_BYTES: Final = 512  # about what a room's share of an Announce holds in memory

Action = Callable[..., None]  # (turn, room=room): a room's share of a record without key


class Start(NamedTuple):
    """Where a take-over begins to read; ``lost`` records stood there once and are not on the log any more."""

    offset: int
    lost: int


def where_to_start(committed: int | None, earliest: int, end: int, stored: int | None = None) -> Start:
    """Return the log offset to begin at; ``stored`` is what the store was told of in this epoch (None: a new one).

    Nothing is committed before the store was told, so a commit above ``stored`` means that the store has lost writes
    (a failover): they are made again. What rooms have kept of it is skipped there, and told to gateways again.
    A commit below what the log still holds is a gap. A commit above its end means that the log was cut short or made
    anew: nobody knows which of its records are new, so all are read again, under the new epoch that this brings.
    """
    if committed is None:
        return Start(earliest, 0)
    if committed > end:
        return Start(earliest, committed - end)
    due = committed if stored is None else min(committed, stored)
    return Start(max(due, earliest), max(0, earliest - due))


class TakenOver(NamedTuple):
    """What a take-over found. ``renewed``: the positions begin a new epoch."""

    ownership: Ownership
    start: Start
    renewed: bool
    policies: tuple[PolicyAt, ...] = ()


async def take_over(number: int, *, log: Log, reader: GroupReader, epochs: Epochs, clock: Clock) -> TakenOver:
    """Claim a partition (epoch and owner generation in one step with the log's end); raises Unavailable, Fenced."""
    earliest, end = (await log.ends(MESSAGES, [number]))[number]
    claim = await epochs.claim(number, end, clock.wall_ms(), secrets.token_urlsafe(6))
    ownership = Ownership(number, claim.owner, claim.epoch)
    ownership.seen = claim.highest
    stored = None if claim.renewed else claim.highest
    start = where_to_start(await reader.committed(number), earliest, end, stored)
    return TakenOver(ownership, start, claim.renewed, claim.policies)


class Held:
    """A room that is being loaded, with its records so far; ``action`` None = the record itself has the room's key.

    ``policy`` is in force at its first record; a change that comes meanwhile is an action among them.
    """

    __slots__ = ("bytes", "key", "policy", "profile", "since_s", "tickets", "work")

    def __init__(self, key: str, profile: Profile, policy: Policy, since_s: float) -> None:
        self.key = key
        self.profile = profile
        self.policy = policy
        self.since_s = since_s
        self.work: list[tuple[LogRecord, Action | None]] = []
        self.tickets: list[Ticket] = []
        self.bytes = 0


class Partition:
    """A partition under one ownership. ``next_offset`` is the log offset of the next record that it takes.

    ``policies`` are those in force at that place, ``resized`` the rooms whose budget somebody should look at.
    ``windows`` knows the rooms with open folds, ``taken_s`` when the newest records were polled (monotonic).
    """

    def __init__(
        self,
        ownership: Ownership,
        start: int,
        partitions: int,
        profiles: Profiles,
        policies: InForce | None = None,
    ) -> None:
        self.ownership = ownership
        self.number = ownership.partition
        self.commits = Commits(start)
        self.next_offset = start
        self.rooms: dict[bytes, RoomState] = {}
        self.held: dict[bytes, Held] = {}
        self.wanted: list[bytes] = []  # held, and not being asked for yet
        self.held_bytes = 0
        self.gap_at = -1
        self.policies = policies or InForce()
        self.resized: dict[bytes, None] = {}  # in the order in which they changed
        self.pressures: dict[int, int] = {}  # by slot, as announced
        self.budget_at = -1  # log offset of the last Budget from here
        self.windows = Windows()
        self.taken_s = 0.0
        self._partitions = partitions
        self._profiles = profiles

    def due(self, records: Sequence[LogRecord]) -> Sequence[LogRecord] | None:
        """Return those of polled records that were not taken before; None where some before them are missing.

        Missing ones at first mean a poll from before a seek, or one that failed half-way: read again from
        ``next_offset``. Missing twice at the same place, they are not on the log: ``gap_at`` tells, they are passed.
        """
        first = records[0].offset
        if first < self.next_offset:
            return [record for record in records if record.offset >= self.next_offset]
        if first > self.next_offset and self.gap_at != self.next_offset:
            self.gap_at = self.next_offset
            return None
        return records

    def take(self, turn: Turn, records: Sequence[LogRecord]) -> None:
        """Decide about records, room by room and each in log order; those of rooms that are not in memory are held."""
        ticket = self.commits.take(records[-1].offset + 1, 1)
        self.next_offset = ticket.next_offset
        self.taken_s = turn.begun_s
        windows = self.windows
        by_room: defaultdict[bytes, list[LogRecord]] = defaultdict(list)
        from_ms, to_ms = windows.from_ms, windows.to_ms
        begun = 0  # where those begin that the current run has of these records
        for index, record in enumerate(records):
            if not from_ms <= record.timestamp < to_ms:
                if windows or may_merge(records[begun:index]) or self._is_any_degraded(by_room):
                    self._take_rooms(turn, by_room, ticket)
                    by_room.clear()
                self._enter(turn, record, remember=bool(by_room or self.held))
                from_ms, to_ms, begun = windows.from_ms, windows.to_ms, index
            key = record.key
            if key is not None:
                by_room[key].append(record)
                continue
            self._take_rooms(turn, by_room, ticket)  # what concerns several rooms stands between their records
            by_room.clear()
            try:
                self._take_keyless(turn, record, ticket)
            except Exception as error:
                turn.parked.append(poison(self.number, record, error))
        self._take_rooms(turn, by_room, ticket)
        turn.touched[self.ownership] = ticket.next_offset
        turn.tickets.append((self.commits, ticket))

    def _take_rooms(self, turn: Turn, by_room: Mapping[bytes, Sequence[LogRecord]], ticket: Ticket) -> None:
        for key, records in by_room.items():
            room = self.rooms.get(key)
            if room is not None:
                decide.apply(turn, self.ownership, room, records, self._profiles)
                if room.folds is not None:
                    self.windows.wait(room, ticket)
                continue
            for record in records:
                try:
                    self._hold(record, key, None, ticket, turn.begun_s)
                except Exception as error:
                    turn.parked.append(poison(self.number, record, error))

    def _is_any_degraded(self, keys: Iterable[bytes]) -> bool:
        """True where one of these rooms is here and merges what nobody asked to be merged."""
        return any(room is not None and room.degraded for room in map(self.rooms.get, keys))

    def _enter(self, turn: Turn, record: LogRecord, *, remember: bool) -> None:
        """A record of another window than the one before: the folds whose window is over are sent first."""
        run = self.windows.enter(record.offset, record.timestamp, remember=remember)
        for room, ticket in self.windows.over(run):
            close_folds(turn, self.ownership, room, run.offset)
            turn.tickets.append((self.commits, ticket))

    def loaded(self, turn: Turn, metas: Mapping[bytes, RoomMeta | None], is_gone: Callable[[Target], bool]) -> None:
        """Take rooms in whose state has come from the store, and decide about the records held for them."""
        for key, meta in metas.items():
            held = self.held.pop(key)
            self.held_bytes -= held.bytes
            room = self.rooms[key] = _room(held, meta)
            for slot, generation in room.targets:
                if is_gone((slot, generation)):
                    decide.expire(turn, self.ownership, room, slot, generation)
            turn.tickets.extend((self.commits, ticket) for ticket in held.tickets)
            self._take_held(turn, room, held)

    def expire(self, turn: Turn, keys: Iterable[bytes], slot: int, generation: int) -> None:
        """Stop sending to a gateway whose lease is gone, in those of the rooms that are still here."""
        for key in keys:
            room = self.rooms.get(key)
            if room is not None:
                decide.expire(turn, self.ownership, room, slot, generation)
                self.resized[key] = None

    def ask(self, rooms_max: int) -> list[bytes]:
        """Return rooms to load, the longest waiting first; the caller answers with ``loaded`` or ``ask_again``."""
        asked, self.wanted = self.wanted[:rooms_max], self.wanted[rooms_max:]
        return asked

    def ask_again(self, keys: Iterable[bytes]) -> None:
        """Put rooms back that could not be loaded."""
        self.wanted = [*keys, *self.wanted]

    def forget(self, rooms: int, before_turn: int) -> int:
        """Forget up to ``rooms`` rooms that no turn since ``before_turn`` has touched; return how many.

        A room whose history is not stored yet stays. Those that stay go to the end of the queue (second chance), so
        that a call costs no more than four looks for each room it may forget.
        """
        forgotten = 0
        for key in list(islice(self.rooms, 4 * rooms)):
            room = self.rooms.pop(key)
            is_busy = room.loans or room.folds is not None or room.touched >= before_turn
            if is_busy or forgotten == rooms:
                self.rooms[key] = room
            else:
                forgotten += 1
        return forgotten

    def _take_held(self, turn: Turn, room: RoomState, held: Held) -> None:
        """Decide about held records as if the room had been here: its folds end with the runs that came meanwhile."""
        runs = deque(self.windows.runs())
        for record, action in held.work:
            while runs and runs[0].offset <= record.offset:
                self._pass(turn, room, runs.popleft())
            self._take_one(turn, room, record, action)
        for run in runs:
            self._pass(turn, room, run)
        if room.folds is not None:
            self.windows.wait(room, held.tickets[0])

    def _pass(self, turn: Turn, room: RoomState, run: Run) -> None:
        if is_over(room, run):
            close_folds(turn, self.ownership, room, run.offset)

    def _take_one(self, turn: Turn, room: RoomState, record: LogRecord, action: Action | None) -> None:
        if action is None:
            decide.apply(turn, self.ownership, room, (record,), self._profiles)
            return
        try:
            action(turn, room=room)
        except Exception as error:
            turn.parked.append(poison(self.number, record, error))

    def _hold(self, record: LogRecord, key: bytes, action: Action | None, ticket: Ticket, now_s: float) -> None:
        held = self.held.get(key)
        if held is None:
            text, profile = self._admit(key)
            held = self.held[key] = Held(text, profile, self.policies.of(text, profile.policy), now_s)
            self.wanted.append(key)
        size = _REPORT_BYTES if action is not None else 128 + len(record.value or b"")
        held.work.append((record, action))
        held.bytes += size
        self.held_bytes += size
        if not held.tickets or held.tickets[-1] is not ticket:
            held.tickets.append(ticket)
            ticket.parts += 1

    def _admit(self, key: bytes) -> tuple[str, Profile]:
        """Return (key, profile) of a room seen for the first time; raises RecordError."""
        if partition_of(key, self._partitions) != self.number:
            raise RecordError("wrong_partition", f"key {key!r} belongs to {partition_of(key, self._partitions)}")
        try:
            text = key.decode()
            app, _, room = text.partition("/")
            check_app(app)
            return text, self._profiles.of(check_room(room))
        except UnicodeDecodeError as error:
            raise RecordError("bad_key", f"key {key!r} is no UTF-8") from error
        except Refused as refused:
            raise RecordError("bad_key", f"key {key!r}: {refused.detail}") from refused

    def _take_keyless(self, turn: Turn, record: LogRecord, ticket: Ticket) -> None:
        if record.value is None:
            raise RecordError("no_value", "a record without key and value says nothing")
        kind = header(record.value).kind
        if kind == ANNOUNCE:
            self._take_announce(turn, record, body(record.value, Announce), ticket)
        elif kind == BUDGET:
            self._take_budget(turn, record, body(record.value, Budget), ticket)
        elif kind == POLICY:
            self._take_policy(turn, record, body(record.value, PolicyChange))
        elif kind != TICK:  # whose time has ended what was due, as that of any record does
            raise RecordError("no_key", f"a record of kind {kind} needs the key app/room")

    def _take_announce(self, turn: Turn, record: LogRecord, said: Announce, ticket: Ticket) -> None:
        decide.check_slot(said.slot, said.generation)
        for report in said.rooms:
            check_report(report)
        shares: dict[str, Action] = {
            report.key: partial(
                decide.announce,
                ownership=self.ownership,
                offset=record.offset,
                said=said,
                report=report,
                at_ms=record.timestamp,
            )
            for report in said.rooms
        }
        self.pressures[said.slot] = said.pressure
        try:
            self._share(turn, record, shares, ticket)
        finally:
            keys = (text.encode() for text in shares)
            self.resized.update((key, None) for key in keys if key in self.rooms or key in self.held)

    def _take_budget(self, turn: Turn, record: LogRecord, said: Budget, ticket: Ticket) -> None:
        degraded = set(said.degraded)
        shares: dict[str, Action] = {
            key: partial(
                decide.put_in_force,
                ownership=self.ownership,
                offset=record.offset,
                values=Values(slots, members, key in degraded),
            )
            for key, (slots, members) in said.rooms.items()
        }
        self._share(turn, record, shares, ticket)

    def _take_policy(self, turn: Turn, record: LogRecord, change: PolicyChange) -> None:
        """Put an app's policies in force: in its rooms that are here, and in those being loaded at this place."""
        app, version = change.app, change.version
        if not self.policies.take(app, version, check_change(change)):
            return
        turn.policies.append((self.ownership, PolicyAt(app, record.offset, version, change.policies)))
        prefix = f"{app}/".encode()
        for key, room in self.rooms.items():
            if key.startswith(prefix):
                room.use(self.policies.of(room.key, room.profile.policy))
                self.resized[key] = None
        for key, held in self.held.items():
            if key.startswith(prefix):
                policy = self.policies.of(held.key, held.profile.policy)
                held.work.append((record, partial(_use, policy=policy)))
                self.resized[key] = None

    def _share(self, turn: Turn, record: LogRecord, shares: Mapping[str, Action], ticket: Ticket) -> None:
        wrong: RecordError | None = None
        for text, action in shares.items():
            key = text.encode()
            room = self.rooms.get(key)
            try:
                if room is not None:
                    action(turn, room=room)
                else:
                    self._hold(record, key, action, ticket, turn.begun_s)
            except RecordError as error:
                wrong = error  # the other rooms' shares are good; the record is parked once
        if wrong is not None:
            raise wrong


def _use(_turn: Turn, room: RoomState, policy: Policy) -> None:
    room.use(policy)


def _room(held: Held, meta: RoomMeta | None) -> RoomState:
    room = _past(held, meta)
    room.use(held.policy)
    return room


def _past(held: Held, meta: RoomMeta | None) -> RoomState:
    if meta is None:
        return RoomState.fresh(held.key, held.profile, held.work[0][0].offset)
    room = RoomState(
        held.key, held.profile, head=meta.head, last=meta.last, floor=meta.floor, n=meta.n, applied=meta.applied
    )
    try:
        room.restore(meta.state, meta.keyed)
    except RecordError as error:
        # Positions are whole without it; routes come back by Announce. Only the ledger starts again, and it is said.
        _log.error("stored state of a room is unreadable", room=held.key, detail=error.detail)
    return room
