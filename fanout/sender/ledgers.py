"""What became of messages: the ledger of a room, that of an app, and the outcome of one message."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Final

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from fanout.core import ledger as ledgers
from fanout.core.errors import BAD_REQUEST, UNKNOWN_MESSAGE, UNKNOWN_NAMESPACE, UNKNOWN_ROOM, Refused
from fanout.core.ids import ID_MAX
from fanout.core.ledger_spans import View, since_ms, span_of, sum_of, view
from fanout.core.limits import LEDGER_ROOMS_AT_ONCE, LEDGER_ROOMS_PER_CALL, OUTCOME_S, OUTCOME_SAMPLE
from fanout.core.messages import PRIORITIES, check_room, room_key
from fanout.core.outcome import Outcome
from fanout.core.profiles import Profiles
from fanout.core.records import MESSAGES, decode_body
from fanout.ports import SLOTS, Clock, Log, Store
from fanout.sender.http import ApiKeys, ApiRequest, errors
from sharding.placement import partition_of

_ID: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)

Since = Annotated[str, QueryParameter(description="1m to 60m, or 1h: only what happened since; left out: everything")]


class OutcomeAnswer(msgspec.Struct, omit_defaults=True):
    """The fate of one message: ``kept``, ``merged``, ``dropped`` (``stage`` and ``reason`` say why) or ``pending``.

    ``at_ms``: when the log took it. ``offset`` is left out where it has none. ``deliveries`` is the number of
    subscriptions that gateways had last reported when it was kept.
    """

    id: str
    room: str
    at_ms: int
    outcome: str
    class_: str = msgspec.field(name="class")
    offset: int = 0
    stage: str = ""
    reason: str = ""
    deliveries: int = 0


class LedgerReader:
    """Reads ledgers for the API; an app's in pages of about ``rooms_max``."""

    def __init__(
        self, *, store: Store, log: Log, profiles: Profiles, clock: Clock, rooms_max: int = LEDGER_ROOMS_PER_CALL
    ) -> None:
        self._rooms_max = rooms_max
        self._store, self._log, self._profiles, self._clock = store, log, profiles, clock

    async def room(self, app: str, room: str, since: str) -> dict[str, Any]:
        """Return the ledger of a room; raises Refused, Unavailable."""
        self._profiles.of(check_room(room))
        now_ms, from_ms = self._from(since)
        key = room_key(app, room)
        epoch = await self._store.epochs.current(partition_of(key.encode(), self._log.partitions(MESSAGES)))
        stored = (await self._store.ledgers.read([(key, epoch)]))[0] if epoch is not None else None
        if stored is None:
            raise Refused(UNKNOWN_ROOM, "nothing has been published there yet")
        found = view(stored.state, stored.openings, from_ms, await self._leased())
        return {"room": room, "epoch": epoch, **_times(found, now_ms), **ledgers.shown(found.ledger)}

    async def app(self, app: str, since: str, cursor: int) -> dict[str, Any]:
        """Return the sum over the app's rooms in the partitions from ``cursor`` on; raises Refused, Unavailable.

        ``next`` is the cursor of the rest, where there is one: whole partitions are read until there are
        ``rooms_max`` rooms or more.
        """
        now_ms, from_ms = self._from(since)
        leased = await self._leased()
        rooms, following = 0, None
        found = View(ledgers.Ledger(), span_of(from_ms) if from_ms is not None else 0, 0)
        for partition in range(cursor, self._log.partitions(MESSAGES)):
            if rooms >= self._rooms_max:
                following = str(partition)
                break
            async for some in self._views(app, partition, from_ms, leased):
                rooms += len(some)
                found = _joined(found, some, is_recent=from_ms is not None)
        times = _times(found, now_ms)
        return {"app": app, "rooms": rooms, "next": following, **times, **ledgers.shown(found.ledger)}

    async def outcome(self, app: str, text: str) -> OutcomeAnswer:
        """Return the outcome of a message; raises Refused, Unavailable."""
        id_ = int(text) if _ID.fullmatch(text) else 0
        if not 0 < id_ <= ID_MAX:
            raise Refused(BAD_REQUEST, "id: the id of a message, as decimal text")
        encoded = await self._store.ledgers.outcome(app, id_)
        if encoded is None:
            raise Refused(
                UNKNOWN_MESSAGE,
                f"nothing is known of message {text}: outcomes are kept for {OUTCOME_S // 60} minutes, of messages "
                f"published with track: true and of one in {OUTCOME_SAMPLE} of the others",
            )
        found = decode_body(encoded, Outcome)
        return OutcomeAnswer(
            id=text,
            room=found.room,
            at_ms=found.at_ms,
            outcome=found.fate,
            class_=PRIORITIES[found.class_].word,
            offset=found.offset,
            stage=found.stage,
            reason=found.reason,
            deliveries=found.deliveries,
        )

    async def _views(
        self, app: str, partition: int, from_ms: int | None, leased: Mapping[int, int]
    ) -> AsyncIterator[list[View]]:
        """Yield the views of the app's rooms in a partition, some at a time."""
        epoch = await self._store.epochs.current(partition)
        if epoch is None:
            return
        keys = await self._store.ledgers.rooms(app, epoch, span_of(from_ms) if from_ms is not None else 0)
        for start in range(0, len(keys), LEDGER_ROOMS_AT_ONCE):
            stored = await self._store.ledgers.read(
                [(key, epoch) for key in keys[start : start + LEDGER_ROOMS_AT_ONCE]]
            )
            yield [view(one.state, one.openings, from_ms, leased) for one in stored if one is not None]
            await asyncio.sleep(0)  # a store in memory never waits, and others want their turn

    def _from(self, since: str) -> tuple[int, int | None]:
        now_ms = self._clock.wall_ms()
        return now_ms, now_ms - since_ms(since) if since else None

    async def _leased(self) -> dict[int, int]:
        return {slot: lease.generation for slot, lease in (await self._store.leases.table(SLOTS)).items()}


def ledger_handlers(
    *, keys: ApiKeys, store: Store, log: Log, profiles: Profiles, clock: Clock
) -> list[HTTPRouteHandler]:
    """Return the handlers of ``/v1/rooms/{room}/ledger``, ``/v1/ledger`` and ``/v1/messages/{id}/outcome``."""
    reader = LedgerReader(store=store, log=log, profiles=profiles, clock=clock)

    @get("/v1/rooms/{room:str}/ledger", responses=errors(UNKNOWN_NAMESPACE, UNKNOWN_ROOM), tags=["rooms"])
    async def room_ledger(request: ApiRequest, room: FromPath[str], since: Since = "") -> dict[str, Any]:
        """Return exact counts of what became of the room's messages: accepted = kept + merged + dropped.

        ``from``, ``to``, ``as_of`` are Unix ms: the counts begin with the first record at ``from`` (the room's first,
        or the beginning of a span of five minutes), were read at ``to``; ``as_of`` is the newest message among them.
        """
        return await reader.room(keys.app_of(request.scope), room, since)

    @get("/v1/ledger", responses=errors(), tags=["rooms"])
    async def app_ledger(
        request: ApiRequest,
        since: Since = "",
        cursor: Annotated[int, QueryParameter(ge=0, le=1 << 16, description="`next` of a page")] = 0,
    ) -> dict[str, Any]:
        """Return the sum of the ledgers of the app's rooms, about 10,000 a page; ``next`` says that more are to add."""
        return await reader.app(keys.app_of(request.scope), since, cursor)

    @get("/v1/messages/{id:str}/outcome", responses=errors(UNKNOWN_MESSAGE), tags=["messages"])
    async def outcome(request: ApiRequest, id: FromPath[str]) -> OutcomeAnswer:
        """Return what became of a message that was published with ``track``, for ten minutes."""
        return await reader.outcome(keys.app_of(request.scope), id)

    return [room_ledger, app_ledger, outcome]


def _times(found: View, now_ms: int) -> dict[str, int]:
    return {"from": found.from_ms, "to": now_ms, "as_of": found.as_of_ms}


def _joined(found: View, some: list[View], *, is_recent: bool) -> View:
    """Return the sum; a page without ``since`` begins with its oldest room."""
    from_ms = found.from_ms
    if not is_recent:
        from_ms = min((one.from_ms for one in (found, *some) if one.from_ms), default=0)
    as_of_ms = max(one.as_of_ms for one in (found, *some))
    return View(sum_of((found.ledger, *(one.ledger for one in some))), from_ms, as_of_ms)
