"""Recovery: what a client that names a position has missed, and where its cursor goes on.

``recovered`` means: same epoch, and everything reliable after the client's offset is in the reply or follows by the
cursor; recent publications as far as they go. Else nothing is replayed at all: never a part (PROTOCOL §4). First
``prepare`` waits for the history where the ring does not reach back; then ``resume`` decides and joins without a pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple

from fanout.core.errors import UNAVAILABLE, Refused, Unavailable
from fanout.core.limits import REPLAY_BYTES_MAX, REPLAY_ENTRIES_MAX
from fanout.core.messages import Kind
from fanout.core.records import Entry
from fanout.core.room_log import STORED_KINDS, Publication, RoomLog
from fanout.gateway.history import EdgeHistory, Page
from fanout.gateway.replay import NO_REPLAY, Replay, Replays
from fanout.gateway.room import Room, Subscription
from fanout.gateway.wires import WIRE_CODECS
from fanout.ports import Clock
from fanout.runtime.metrics import RESUBSCRIBED

_RECOVERED: Final = RESUBSCRIBED.labels("true")
_NOT_RECOVERED: Final = RESUBSCRIBED.labels("false")
_READS_PER_ROOM: Final = 4  # of resumes that the ring cannot serve; the others wait, and mostly find it filled then
_ENVELOPE_BYTES: Final = 128  # around a publication's payload in a reply
REPLY_BYTES: Final = REPLAY_BYTES_MAX - 65_536  # envelopes included a reply stays below 1 MiB, where clients give up


class Resumed(NamedTuple):
    """What the reply to a subscribe says. ``behind``: the cursor has to be brought up after the reply."""

    recovered: bool
    offset: int
    epoch: str
    replay: Replay
    behind: bool

    @property
    def entries(self) -> Sequence[Entry]:
        """What is replayed in the reply."""
        return self.replay.entries


class Recovery:
    """Resumes for one process."""

    def __init__(self, history: EdgeHistory, clock: Clock) -> None:
        self._history = history
        self._clock = clock
        self._replays = Replays()

    def forget(self) -> None:
        """Let go of what nobody may ask for again; to be called every second or so."""
        self._replays.forget()

    async def prepare(self, room: Room, epoch: str, offset: int) -> Page | None:
        """Return what the history has after an offset, where the ring does not say enough by itself; raises Refused.

        What fits is put in front of the ring, so that the next one who comes from about there needs no history.
        """
        if not _needs_history(room.known_log, epoch, offset):
            return None
        if room.turn is None:
            room.turn = asyncio.Semaphore(_READS_PER_ROOM)
        try:
            async with room.turn:
                log = room.known_log
                if not _needs_history(log, epoch, offset):
                    return None
                page = await self._history.page(
                    room.key, epoch, after=offset, limit=REPLAY_ENTRIES_MAX, bytes_max=REPLY_BYTES
                )
                self._warm(room, page, epoch, offset)
                return page
        except Unavailable as error:
            if room.known_log.chain_covers(offset):
                return None  # all that is reliable is here; recent ones go only as far as they go
            raise Refused(UNAVAILABLE, "the history does not answer; try again") from error

    def _warm(self, room: Room, page: Page, epoch: str, offset: int) -> None:
        """Put a page in front of the ring if it reaches it without a missing link."""
        log = room.known_log
        if page.meta is None or page.meta.epoch != epoch or log.epoch != epoch or offset < page.meta.floor:
            return
        if offset >= log.oldest_offset:
            return  # somebody from further back was faster: all of the page is in the ring
        entries = [entry for entry in page.entries if entry.offset <= log.oldest_offset]
        linked = max([offset, *(entry.offset for entry in entries if entry.kind == Kind.RELIABLE.value)])
        if linked >= log.oldest_last and (len(entries) < len(page.entries) or not page.truncated):
            room.warm(entries, offset, int(self._clock.monotonic_s() * 1_000))

    def resume(self, subscription: Subscription, epoch: str, offset: int, page: Page | None) -> Resumed | None:
        """Join a subscription at the client's position; None (and not joined) where that cannot be recovered.

        Raises Refused ``unavailable``, having joined nothing then: ``prepare`` was too long ago.
        """
        room = subscription.room
        log = room.known_log
        outcome = None
        if epoch == log.epoch:
            if log.is_ahead(offset):
                room.join_ahead(subscription, offset)
                outcome = Resumed(True, offset, epoch, NO_REPLAY, False)
            elif log.chain_covers(offset):
                outcome = self._from_ring(subscription, log, offset)
            else:
                outcome = self._from_page(subscription, log, offset, page)
        (_RECOVERED if outcome else _NOT_RECOVERED).inc()
        return outcome

    def fresh(self, subscription: Subscription) -> Resumed:
        """Join at the head, without a replay."""
        room = subscription.room
        log = room.known_log
        behind = room.join(subscription, log.end)
        return Resumed(False, log.head, log.epoch, NO_REPLAY, behind)

    def _from_ring(self, subscription: Subscription, log: RoomLog, offset: int) -> Resumed:
        room, wire = subscription.room, subscription.session.wire
        key = (room.key, log.epoch, log.first, log.end, offset, wire)
        replay = self._replays.get(key) or self._replays.keep(key, _read(log, offset, wire))
        room.ledger.replay(replay.counts)
        behind = room.join(subscription, replay.sent)
        return Resumed(True, offset, log.epoch, replay, behind)

    def _from_page(self, subscription: Subscription, log: RoomLog, offset: int, page: Page | None) -> Resumed | None:
        if page is None:
            raise Refused(UNAVAILABLE, "the room has moved on meanwhile; try again")
        if page.meta is None or page.meta.epoch != log.epoch or offset < page.meta.floor:
            return None
        page = page.up_to(log.head)
        room = subscription.room
        reached = page.entries[-1].offset if page.entries else offset
        if log.chain_covers(reached):
            behind = room.join(subscription, log.sequence_at(reached))
        elif page.truncated:
            room.join_from_history(subscription, reached)
            behind = True
        else:
            raise Refused(UNAVAILABLE, "the history has not been written up to here; try again")
        replay = Replay(_shown(subscription.session.wire, page.entries))
        room.ledger.replay(replay.counts)
        return Resumed(True, offset, log.epoch, replay, behind)


def _needs_history(log: RoomLog, epoch: str, offset: int) -> bool:
    return epoch == log.epoch and not log.is_ahead(offset) and not log.covers(offset)


def _read(log: RoomLog, offset: int, wire: int) -> Replay:
    """Return what the ring has after an offset, as much as a reply may hold."""
    read = log.read(
        log.sequence_at(offset),
        entries_max=REPLAY_ENTRIES_MAX,
        bytes_max=REPLY_BYTES,
        size=_size,
        kinds=STORED_KINDS,
    )
    return Replay(_shown(wire, (publication.entry for publication in read.publications)), read.sent)


def _shown(wire: int, entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries that a wire format can show."""
    representable = WIRE_CODECS[wire].representable
    return [entry for entry in entries if representable(entry)]


def _size(publication: Publication) -> int:
    entry = publication.entry
    tags = sum(map(len, chain.from_iterable(entry.tags.items()))) + 8 * len(entry.tags) if entry.tags else 0
    return len(entry.data) + len(entry.sender) + tags + _ENVELOPE_BYTES
