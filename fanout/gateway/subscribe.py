"""Subscribing, leaving, keeping subscriptions alive: the commands ``subscribe``, ``unsubscribe``, ``sub_refresh``."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from fanout.core.errors import (
    ALREADY_SUBSCRIBED,
    BAD_REQUEST,
    LIMIT_EXCEEDED,
    PERMISSION_DENIED,
    UNAVAILABLE,
    UNRECOVERABLE,
    Refused,
)
from fanout.core.limits import ROOMS_PER_SESSION_MAX
from fanout.core.messages import check_room, room_key
from fanout.gateway.edge_ledger import DropReason
from fanout.gateway.history import Page
from fanout.gateway.recovery import Resumed
from fanout.gateway.room import Room, Subscription
from fanout.protocol.centrifuge import (
    ERROR_WHEN_UNRECOVERABLE,
    NO_DATA,
    Reply,
    SubRefreshRequest,
    SubRefreshResult,
    SubscribeRequest,
    SubscribeResult,
    UnsubscribeRequest,
    UnsubscribeResult,
    raw_of,
)
from fanout.runtime.metrics import SUBSCRIPTIONS

if TYPE_CHECKING:
    from fanout.gateway.services import Services
    from fanout.gateway.session import Session

TTL_S_MAX: Final = 2**31 - 1


class Gone(Exception):
    """The session ended while its command waited; there is nobody to answer."""


class Violation(Exception):
    """The client breaks the protocol in a way that ends the connection with 3501."""


class Prepared(NamedTuple):
    """All that a subscribe had to wait for: from here on it is done in one go, or not at all."""

    room: Room
    request: SubscribeRequest
    page: Page | None
    expires_s: int


async def subscribe(
    session: Session, services: Services, request: SubscribeRequest, early: Awaitable[Prepared] | None = None
) -> Reply:
    """Answer ``subscribe``; the replay and the position are in the reply, everything later follows it.

    ``early`` is its ``prepare``, begun while the command waited for its turn.
    """
    services.authorizer.check_name(request.channel)
    _check_free(session, request.channel)
    prepared = await (prepare(session, services, request.channel, request) if early is None else early)
    return Reply(subscribe=enter(session, services, prepared))


def _check_free(session: Session, name: str) -> None:
    """Raise Refused where a session has that subscription already, or as many as one may have."""
    if name in session.subscriptions:
        raise Refused(ALREADY_SUBSCRIBED)
    if len(session.subscriptions) >= ROOMS_PER_SESSION_MAX:
        raise Refused(LIMIT_EXCEEDED, f"a session has at most {ROOMS_PER_SESSION_MAX} subscriptions")


async def prepare(
    session: Session, services: Services, name: str, request: SubscribeRequest, *, server_side: bool = False
) -> Prepared:
    """Check that a user may subscribe, and wait for what that takes; raises Refused, having changed nothing.

    It may run before the commands ahead of it are answered, so what the session is subscribed to is for ``enter``.
    """
    profile = services.authorizer.check_name(name)
    expires_s: int | None = 0
    if not server_side:
        expires_s = services.authorizer.grant(session.claims, name, request.token)
        if expires_s is None:
            await services.authorizer.check_member(session.claims, name)
    room = services.hub.open(room_key(session.claims.app, name), profile)
    await services.announcer.make_known(room)
    page = await services.recovery.prepare(room, request.epoch, request.offset) if request.recover else None
    return Prepared(room, request, page, expires_s or 0)


def enter(session: Session, services: Services, prepared: Prepared, *, server_side: bool = False) -> SubscribeResult:
    """Subscribe, and return the reply, which must be written in this turn of the loop: pushes may follow in the next.

    What the reply says and where the cursor stands are one moment's truth. Raises Refused, having changed nothing,
    or Gone.
    """
    room, request = prepared.room, prepared.request
    if session.closed:
        raise Gone
    _check_free(session, room.name)
    if services.hub.rooms.get(room.key) is not room:
        raise Refused(UNAVAILABLE, "the room was given up meanwhile; try again")
    subscription = Subscription(session, room, server_side=server_side, expires_s=prepared.expires_s)
    resumed = _place(services, subscription, request, prepared.page)
    session.subscriptions.add(subscription)
    session.note_expiry(subscription.expires_s)
    services.hub.subscribed(room)
    SUBSCRIPTIONS.inc()
    if resumed.behind:
        services.sweeper.is_behind(subscription)
    return result_of(services, subscription, resumed, request)


def _place(services: Services, subscription: Subscription, request: SubscribeRequest, page: Page | None) -> Resumed:
    if request.recover:
        resumed = services.recovery.resume(subscription, request.epoch, request.offset, page)
        if resumed is not None:
            return resumed
        if request.flag & ERROR_WHEN_UNRECOVERABLE:
            raise Refused(UNRECOVERABLE)
    return services.recovery.fresh(subscription)


def result_of(
    services: Services, subscription: Subscription, resumed: Resumed, request: SubscribeRequest
) -> SubscribeResult:
    """Return the reply to a subscribe. Every room can be recovered, so every position is told."""
    id_tag = services.profiles.of(subscription.room.name).id_tag
    expires, ttl = ttl_of(services, subscription.expires_s)
    return SubscribeResult(
        expires=expires,
        ttl=ttl,
        recoverable=True,
        positioned=True,
        epoch=resumed.epoch,
        offset=resumed.offset,
        publications=resumed.replay.publications(id_tag=id_tag),
        data=_said_of(subscription.room),
        recovered=resumed.recovered,
        was_recovering=request.recover,
    )


def _said_of(room: Room) -> msgspec.Raw:
    """Return the ``data`` of a reply to subscribe: nothing, or that the room is degraded."""
    if room.degraded is None:
        return NO_DATA
    said: dict[str, bool | int] = {"degraded": True}
    if room.degraded:
        said["history_max"] = room.degraded
    return raw_of(msgspec.json.encode(said))


def ttl_of(services: Services, expires_s: int | None) -> tuple[bool, int]:
    """Return (expires, seconds left, at least 1) of a token's end; (False, 0) where it has none."""
    if not expires_s:
        return False, 0
    left_s = expires_s - services.clock.wall_ms() // 1_000
    return True, min(max(left_s, 1), TTL_S_MAX)


def find(session: Session, name: str) -> Subscription:
    """Return a subscription of a session; raises Refused."""
    subscription = session.subscriptions.get(name)
    if subscription is None:
        raise Refused(PERMISSION_DENIED, "only for rooms that the session is subscribed to")
    return subscription


async def unsubscribe(session: Session, services: Services, request: UnsubscribeRequest) -> Reply:
    """Answer ``unsubscribe``; leaving a room twice is no error."""
    check_room(request.channel)
    subscription = session.subscriptions.get(request.channel)
    if subscription is not None:
        session.drop(subscription, DropReason.UNSUBSCRIBED)
    return Reply(unsubscribe=UnsubscribeResult())


async def sub_refresh(session: Session, services: Services, request: SubRefreshRequest) -> Reply:
    """Answer ``sub_refresh``: a new token for a subscription that was told when its old one ends."""
    subscription = find(session, request.channel)
    if not subscription.expires_s:
        raise Violation("the subscription was not announced as one that expires")
    if not request.token:
        raise Refused(BAD_REQUEST, "token: missing")
    subscription.expires_s = services.tokens.subscription(request.token, session.claims, request.channel) or 0
    session.note_expiry(subscription.expires_s)
    expires, ttl = ttl_of(services, subscription.expires_s)
    return Reply(sub_refresh=SubRefreshResult(expires=expires, ttl=ttl))
