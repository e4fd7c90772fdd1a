"""Beginning a session and keeping its token alive: the commands ``connect`` and ``refresh``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from msgspec import structs

from fanout.core.errors import (
    BAD_REQUEST,
    DRAINING,
    FORBIDDEN,
    INVALID_TOKEN,
    SHUTDOWN,
    TOKEN_EXPIRED,
    CloseCode,
    Refused,
)
from fanout.gateway.subscribe import Gone, Violation, enter, prepare, ttl_of
from fanout.protocol.centrifuge import (
    ConnectRequest,
    ConnectResult,
    RefreshRequest,
    RefreshResult,
    Reply,
    SubscribeRequest,
    SubscribeResult,
)

if TYPE_CHECKING:
    from fanout.gateway.services import Services
    from fanout.gateway.session import Session
    from fanout.runtime.tokens import Claims

VERSION: Final = f"fanout {version('fanout-engine')}"
_FRESH: Final = SubscribeRequest()


class Closing(Exception):
    """The command ends the connection with this code."""

    def __init__(self, code: CloseCode) -> None:
        super().__init__(code.reason)
        self.code = code


async def connect(session: Session, services: Services, request: ConnectRequest) -> Reply:
    """Answer ``connect``: who the session is, when it must show signs of life, and what the server subscribed it to."""
    claims = _claims(services, request.token)
    refusal = services.sessions.refusal(claims, services.clock.monotonic_s())
    if refusal is not None:
        raise Closing(refusal)
    if services.sessions.draining:
        raise Closing(SHUTDOWN)
    if session.closed:  # its close frame came with the command: nobody would ever take it off the books
        raise Gone
    services.sessions.supersede(claims)
    session.open(_kept(claims))
    subs = await _server_side(session, services, request, claims.subs) if claims.subs else {}
    expires, ttl = ttl_of(services, claims.expires_s)
    native = session.native_pings
    return Reply(
        connect=ConnectResult(
            client=session.client,
            version=VERSION,
            expires=expires,
            ttl=ttl,
            subs=subs,
            ping=0 if native else max(1, round(services.settings.ping_s)),
            pong=not native,
            node=services.node,
        )
    )


async def _server_side(
    session: Session, services: Services, request: ConnectRequest, rooms: Sequence[str]
) -> dict[str, SubscribeResult]:
    """Subscribe the session to the rooms of its token: all of them at once, so that no push precedes the reply."""
    prepared = await asyncio.gather(
        *(
            prepare(session, services, room, request.subs.get(room, _FRESH), server_side=True)
            for room in dict.fromkeys(rooms)
        )
    )
    return {one.room.name: enter(session, services, one, server_side=True) for one in prepared}


def _kept(claims: Claims) -> Claims:
    """Return the claims without what only ``connect`` needs: every session holds them as long as it lives."""
    return structs.replace(claims, subs=()) if claims.subs else claims


def _claims(services: Services, token: str) -> Claims:
    """Return who the token says that this is; an invalid one ends the connection for good, an old one is exchanged."""
    try:
        return services.tokens.connect(token)
    except Refused as refused:
        if refused.problem is TOKEN_EXPIRED:
            raise
        if refused.problem is DRAINING:
            raise Closing(SHUTDOWN) from refused
        raise Closing(INVALID_TOKEN) from refused


async def refresh(session: Session, services: Services, request: RefreshRequest) -> Reply:
    """Answer ``refresh``: the same user's next token, for a session that was told when its old one ends."""
    if session.claims.expires_s is None:
        raise Violation("the session was not announced as one that expires")
    if not request.token:
        raise Refused(BAD_REQUEST, "token: missing")
    claims = _claims(services, request.token)
    if (claims.app, claims.user) != (session.claims.app, session.claims.user):
        raise Closing(FORBIDDEN)
    session.claims = _kept(claims)
    session.note_expiry(claims.expires_s or 0)
    expires, ttl = ttl_of(services, claims.expires_s)
    return Reply(refresh=RefreshResult(client=session.client, version=VERSION, expires=expires, ttl=ttl))
