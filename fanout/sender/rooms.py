"""Reading a room: what its history holds."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, QueryParameter

from fanout.core.errors import UNKNOWN_NAMESPACE, UNKNOWN_ROOM, Refused
from fanout.core.limits import HISTORY_PAGE_MAX, REPLAY_BYTES_MAX
from fanout.core.messages import PRIORITIES, Kind, check_room, room_key
from fanout.core.profiles import Profiles
from fanout.core.records import BINARY, MESSAGES, Entry, decode_body
from fanout.ports import HistoryPage, Log, Store
from fanout.sender.http import ApiKeys, ApiRequest, errors
from sharding.placement import partition_of


class HistoryItem(msgspec.Struct, omit_defaults=True):
    """One publication. ``at_ms``: when the log took it; ``sent_ms``: the sender's clock at admission."""

    id: str
    offset: int
    priority: str
    reliable: bool
    data: Any
    at_ms: int
    sent_ms: int = 0
    sender: str = ""
    type: str = ""
    tags: dict[str, str] | None = None


class HistoryAnswer(msgspec.Struct):
    """A page; ``next`` is the ``after`` of the next one, or null. From ``floor`` on nothing reliable is missing."""

    items: list[HistoryItem]
    next: int | None
    epoch: str
    head: int
    floor: int


def room_handlers(*, keys: ApiKeys, store: Store, log: Log, profiles: Profiles) -> list[HTTPRouteHandler]:
    """Return the handler of ``/v1/rooms/{room}/history``."""

    async def read(app: str, room: str, *, after: int, limit: int, reverse: bool) -> tuple[str, HistoryPage]:
        profiles.of(check_room(room))
        key = room_key(app, room)
        epoch = await store.epochs.current(partition_of(key.encode(), log.partitions(MESSAGES)))
        if epoch is None:
            raise Refused(UNKNOWN_ROOM, "nothing has been published there yet")
        page = await store.history.read(
            key, epoch, after=after, limit=limit, bytes_max=REPLAY_BYTES_MAX, reverse=reverse
        )
        if page.meta is None:
            raise Refused(UNKNOWN_ROOM, "nothing has been published there yet")
        return epoch, page

    @get("/v1/rooms/{room:str}/history", responses=errors(UNKNOWN_NAMESPACE, UNKNOWN_ROOM), tags=["rooms"])
    async def history(
        request: ApiRequest,
        room: FromPath[str],
        after: Annotated[
            int, QueryParameter(ge=0, le=1 << 53, description="offset; reverse: below it, 0 = newest")
        ] = 0,
        limit: Annotated[int, QueryParameter(ge=1, le=HISTORY_PAGE_MAX)] = 100,
        reverse: FromQuery[bool] = False,
    ) -> HistoryAnswer:
        """Return stored publications after a position, oldest first (reverse: newest first)."""
        app = keys.app_of(request.scope)
        epoch, page = await read(app, room, after=after, limit=limit, reverse=reverse)
        assert page.meta is not None, "read has refused unknown rooms"
        items = [_item(decode_body(encoded, Entry)) for encoded in page.entries]
        following = items[-1].offset if page.truncated and items else None
        return HistoryAnswer(items, following, epoch, page.meta.head, page.meta.floor)

    return [history]


def _item(entry: Entry) -> HistoryItem:
    return HistoryItem(
        id=str(entry.id),
        offset=entry.offset,
        priority=PRIORITIES[entry.priority].word,
        reliable=entry.kind == Kind.RELIABLE.value,
        data=entry.data if entry.flags & BINARY else msgspec.Raw(entry.data),  # bytes become base64 text
        at_ms=entry.at_ms,
        sent_ms=entry.sent_ms,
        sender=entry.sender,
        type=entry.type,
        tags=entry.tags,
    )
