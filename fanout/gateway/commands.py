"""What the other commands do: publish, rpc, history, presence, ping, send."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fanout.core.errors import (
    BAD_REQUEST,
    METHOD_NOT_FOUND,
    NOT_AVAILABLE,
    UNAVAILABLE,
    UNRECOVERABLE,
    RecordError,
    Refused,
    Unavailable,
)
from fanout.core.ledger import listening
from fanout.core.limits import HISTORY_PAGE_MAX
from fanout.core.publish import Publish, decode_publish
from fanout.gateway.connect import refresh
from fanout.gateway.recovery import REPLY_BYTES
from fanout.gateway.skipped import skipped
from fanout.gateway.subscribe import find, sub_refresh, subscribe, unsubscribe
from fanout.gateway.wires import WIRE_CODECS
from fanout.protocol.centrifuge import (
    HistoryRequest,
    HistoryResult,
    PingRequest,
    PingResult,
    PresenceRequest,
    PresenceStatsRequest,
    PresenceStatsResult,
    PublishRequest,
    PublishResult,
    Reply,
    RPCRequest,
    RPCResult,
    SendRequest,
    publication_of,
)

if TYPE_CHECKING:
    from fanout.gateway.services import Services
    from fanout.gateway.session import Session

Handler = Callable[["Session", "Services", Any], Awaitable[Reply]]


async def publish(session: Session, services: Services, request: PublishRequest) -> Reply:
    """Answer ``publish`` when the log has the message; who may is the token's and the namespace's to say."""
    services.authorizer.check_room(session.claims, request.channel)
    await services.sender.publish(
        session.claims.app,
        Publish(room=request.channel, data=request.data),
        from_client=True,
        client_user=session.user,
        subscribed=request.channel in session.subscriptions,
    )
    return Reply(publish=PublishResult())


async def rpc(session: Session, services: Services, request: RPCRequest) -> Reply:
    """Answer ``rpc`` by the table of methods."""
    method = RPC_METHODS.get(request.method)
    if method is None:
        raise Refused(METHOD_NOT_FOUND, f"rpc methods are {', '.join(RPC_METHODS)}")
    return Reply(rpc=RPCResult(data=msgspec.Raw(await method(session, services, bytes(request.data)))))


async def rpc_publish(session: Session, services: Services, data: bytes) -> bytes:
    """``publish``: the body of ``POST /v1/publish``; returns what the API returns, id and position included."""
    body = decode_publish(data)
    services.authorizer.check_room(session.claims, body.room)
    published = await services.sender.publish(
        session.claims.app,
        body,
        from_client=True,
        client_user=session.user,
        subscribed=body.room in session.subscriptions,
    )
    return msgspec.json.encode(published)


RPC_METHODS: Final[dict[str, Callable[[Session, Services, bytes], Awaitable[bytes]]]] = {
    "publish": rpc_publish,
    "skipped": skipped,
}


async def send(session: Session, services: Services, request: SendRequest) -> Reply:
    """Take ``send``, which has no reply; no method of this version is called that way."""
    raise Refused(NOT_AVAILABLE, "nothing is called by send")


async def ping(session: Session, services: Services, request: PingRequest) -> Reply:
    """Answer ``ping``."""
    return Reply(ping=PingResult())


async def presence(session: Session, services: Services, request: PresenceRequest) -> Reply:
    """Refuse ``presence``: lists of who is here do not exist at this size."""
    raise Refused(NOT_AVAILABLE, "presence lists are not offered; presence_stats are")


async def presence_stats(session: Session, services: Services, request: PresenceStatsRequest) -> Reply:
    """Answer ``presence_stats`` for a room of the session: ≤ 2 s old for this gateway, ≤ 10 s for the others.

    Without the store it is this gateway alone. Users on several gateways count once on each.
    """
    room = find(session, request.channel).room
    subscriptions, users = 0, room.users_at(int(services.clock.monotonic_s() * 1_000))
    with contextlib.suppress(Unavailable, RecordError):
        meta = (await services.history.page(room.key, room.known_log.epoch, after=0, limit=0, bytes_max=0)).meta
        if meta is not None:
            subscriptions, others = listening(meta.state, without_slot=services.announcer.slot)
            users += others
    return Reply(presence_stats=PresenceStatsResult(num_clients=subscriptions + room.subscriptions, num_users=users))


async def history(session: Session, services: Services, request: HistoryRequest) -> Reply:
    """Answer ``history`` for a room of the session: its position, and a page of what is stored.

    A page of a degraded room is small: most who ask have just joined, and there are many of them.
    """
    room = find(session, request.channel).room
    log = room.known_log
    since = request.since
    if since is not None and since.epoch and since.epoch != log.epoch:
        raise Refused(UNRECOVERABLE, "that position is of another epoch of the room")
    if request.limit < -1:
        raise Refused(BAD_REQUEST, "limit: -1 (all), 0 (position only) or more")
    if request.limit == 0:
        return Reply(history=HistoryResult(epoch=log.epoch, offset=log.head))
    most = room.degraded or HISTORY_PAGE_MAX
    limit = most if request.limit < 0 else min(request.limit, most)
    try:
        page = await services.history.page(
            room.key,
            log.epoch,
            after=since.offset if since else 0,
            limit=limit,
            bytes_max=REPLY_BYTES,
            reverse=request.reverse,
        )
    except Unavailable as error:
        raise Refused(UNAVAILABLE, "the history does not answer; try again") from error
    id_tag = services.profiles.of(room.name).id_tag
    representable = WIRE_CODECS[session.wire].representable
    publications = [publication_of(entry, id_tag=id_tag) for entry in page.entries if representable(entry)]
    return Reply(history=HistoryResult(publications=publications, epoch=log.epoch, offset=log.head))


HANDLERS: Final[dict[str, Handler]] = {
    "subscribe": subscribe,
    "unsubscribe": unsubscribe,
    "publish": publish,
    "rpc": rpc,
    "history": history,
    "presence_stats": presence_stats,
    "presence": presence,
    "refresh": refresh,
    "sub_refresh": sub_refresh,
    "ping": ping,
    "send": send,
}
