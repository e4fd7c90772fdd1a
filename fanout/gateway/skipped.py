"""``rpc skipped``: what a client was not shown between two offsets of a room, as far as this gateway knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from fanout.core.errors import BAD_REQUEST, UNAVAILABLE, UNRECOVERABLE, Refused, Unavailable
from fanout.core.limits import HISTORY_PAGE_MAX
from fanout.core.messages import PRIORITIES, Kind, Priority
from fanout.core.publish import malformed
from fanout.core.records import Entry
from fanout.core.room_log import NONE, RoomLog, Tally, tally
from fanout.gateway.recovery import REPLY_BYTES
from fanout.gateway.room import Room
from fanout.gateway.subscribe import find

if TYPE_CHECKING:
    from fanout.gateway.services import Services
    from fanout.gateway.session import Session

_OFFSET_MAX: Final = 1 << 53
_HIGHEST: Final = (Priority.SYSTEM.value, Priority.HIGH.value)
_RELIABLE: Final = Kind.RELIABLE.value


class SkippedRequest(msgspec.Struct, forbid_unknown_fields=True, rename={"after": "from"}):
    """A room of the session, and two of its offsets; ``epoch`` is the one that they are of, where it is given."""

    room: str
    after: int
    to: int
    epoch: str = ""


class SkippedPart(msgspec.Struct, rename={"after": "from"}):
    """Counts by class of what lies after ``from`` up to ``to``."""

    after: int
    to: int
    counts: dict[str, int]


class HighItem(msgspec.Struct):
    """A reliable publication of class ``system`` or ``high``."""

    id: str
    offset: int
    priority: str


class HighPart(msgspec.Struct, rename={"after": "from"}):
    """All such publications after ``from``; ``next`` is the ``from`` to ask for the rest with, or null."""

    after: int
    items: list[HighItem]
    next: int | None


class Skipped(msgspec.Struct, rename={"after": "from"}):
    """The answer; ``from`` and ``to`` as asked, no higher than what this gateway has come to.

    ``thinned`` was shown to nobody; its range lies around the asked one where the gateway knows it. ``droppable`` are
    the publications that a session which is behind or away is not given: how many came, whoever got them. ``high``
    names those that nobody may miss.
    """

    room: str
    epoch: str
    after: int
    to: int
    thinned: SkippedPart
    droppable: SkippedPart
    high: HighPart


_REQUEST: Final = msgspec.json.Decoder(SkippedRequest)


async def skipped(session: Session, services: Services, data: bytes) -> bytes:
    """Answer ``skipped``; raises Refused."""
    asked = _decoded(data)
    room = find(session, asked.room).room
    log = room.known_log
    if asked.epoch and asked.epoch != log.epoch:
        raise Refused(UNRECOVERABLE, "those offsets are of another epoch of the room")
    after, to = min(asked.after, log.head), min(asked.to, log.head)
    thinned = _thinned(room, after, to, is_thinned=services.profiles.of(room.name).thinned)
    droppable = _droppable(log, after, to)
    high = await _high(services, room, after, to)
    return msgspec.json.encode(Skipped(asked.room, log.epoch, after, to, thinned, droppable, high))


def _decoded(data: bytes) -> SkippedRequest:
    try:
        asked = _REQUEST.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from error
    if not 0 <= asked.after <= asked.to <= _OFFSET_MAX:
        raise Refused(BAD_REQUEST, "from, to: two offsets of the room, from 0 up, the first not above the second")
    return asked


def _thinned(room: Room, after: int, to: int, *, is_thinned: bool) -> SkippedPart:
    if not is_thinned:
        return _part(after, to, NONE)
    found = room.thinned.between(after, to)
    if found is None:  # nothing has been told here yet
        return _part(to, to, NONE)
    return _part(found.after, found.upto, found.counts)


def _droppable(log: RoomLog, after: int, to: int) -> SkippedPart:
    start = max(after, log.whole_from)
    counts = tally(one for one in log.entries_between(start, to) if one.kind != _RELIABLE)
    return _part(start, max(start, to), counts)


async def _high(services: Services, room: Room, after: int, to: int) -> HighPart:
    """Name the reliable SYSTEM and HIGH out of the ring, or out of the history where they have left it."""
    log = room.known_log
    if log.chain_covers(after):
        entries, start, following = log.entries_between(after, to), after, None
    else:
        try:
            page = await services.history.page(
                room.key, log.epoch, after=after, limit=HISTORY_PAGE_MAX, bytes_max=REPLY_BYTES
            )
        except Unavailable as error:
            raise Refused(UNAVAILABLE, "the history does not answer; try again") from error
        entries = [entry for entry in page.entries if entry.offset <= to]
        start = max(after, page.meta.floor) if page.meta is not None else to
        following = entries[-1].offset if page.truncated and len(entries) == len(page.entries) and entries else None
    items = [_item(one) for one in entries if one.kind == _RELIABLE and one.priority in _HIGHEST]
    return HighPart(start, items, following)


def _item(entry: Entry) -> HighItem:
    return HighItem(str(entry.id), entry.offset, PRIORITIES[entry.priority].word)


def _part(after: int, to: int, counts: Tally) -> SkippedPart:
    return SkippedPart(after, to, {priority.word: counts[priority.value] for priority in PRIORITIES})
