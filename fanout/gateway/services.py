"""What every session of a process works with, and which sessions there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from fanout.core.errors import DRAINING, Refused
from fanout.core.limits import CONNECTIONS_PER_USER_MAX, DRAIN_GATEWAY_S, PING_S, PONG_S
from fanout.core.profiles import Profiles
from fanout.gateway.admission import DEFAULT_RATE, ConnectRate
from fanout.gateway.announce import Announcer
from fanout.gateway.authorize import Authorizer
from fanout.gateway.history import EdgeHistory
from fanout.gateway.hub import Hub
from fanout.gateway.recovery import Recovery
from fanout.gateway.sweep import Sweeper
from fanout.ports import Clock
from fanout.runtime.tokens import Tokens
from fanout.sender.sender import Sender

if TYPE_CHECKING:
    from fanout.gateway.session import Session


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where a gateway listens and how it treats connections.

    ``origins`` are the allowed values of ``Origin`` (``*`` = any); a page of the same host and clients that send none
    are always let in. ``address`` is told to others with the lease. ``port`` 0 takes any free one. ``deflate``: clients
    that offer permessage-deflate are given it. ``connects`` bounds how many connections are let in; a drain sends the
    sessions away within ``drain_s``.
    """

    host: str = "127.0.0.1"
    port: int = 0
    ping_s: float = PING_S
    pong_s: float = PONG_S
    insecure: bool = False
    origins: tuple[str, ...] = ()
    address: str = ""
    reuse_port: bool = True
    holder: str = ""
    deflate: bool = True
    connects: ConnectRate = DEFAULT_RATE
    drain_s: float = DRAIN_GATEWAY_S


@dataclass(slots=True)
class Sessions:
    """The sessions of this process that are connected, and how many each user has."""

    by_number: dict[int, Session] = field(default_factory=dict)
    draining: bool = False
    _users: dict[tuple[str, str], int] = field(default_factory=dict)

    def is_full(self, app: str, user: str) -> bool:
        """True where the user has as many sessions here as one may; guests are not counted."""
        return bool(user) and self._users.get((app, user), 0) >= CONNECTIONS_PER_USER_MAX

    def add(self, session: Session) -> None:
        """Note a session that has connected; raises Refused where this process goes away."""
        if self.draining:
            raise Refused(DRAINING)
        self.by_number[session.number] = session
        if session.user:
            place = (session.claims.app, session.user)
            self._users[place] = self._users.get(place, 0) + 1

    def remove(self, session: Session) -> None:
        """Note that a session has ended."""
        if self.by_number.pop(session.number, None) is None or not session.user:
            return
        place = (session.claims.app, session.user)
        left = self._users.get(place, 1) - 1
        if left:
            self._users[place] = left
        else:
            self._users.pop(place, None)


@dataclass(slots=True)
class Services:
    """The parts of a gateway that commands use."""

    hub: Hub
    sweeper: Sweeper
    history: EdgeHistory
    recovery: Recovery
    announcer: Announcer
    authorizer: Authorizer
    profiles: Profiles
    tokens: Tokens
    sender: Sender
    clock: Clock
    settings: GatewaySettings
    sessions: Sessions = field(default_factory=Sessions)
    node: str = ""
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def next_number(self) -> int:
        """Return the number of the next session."""
        return next(self._numbers)
