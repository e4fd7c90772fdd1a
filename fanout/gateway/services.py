"""What every session of a process works with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from fanout.core.limits import DRAIN_GATEWAY_S, PING_S, PONG_S
from fanout.core.profiles import Profiles
from fanout.gateway.admission import DEFAULT_RATE, ConnectRate
from fanout.gateway.announce import Announcer
from fanout.gateway.authorize import Authorizer
from fanout.gateway.history import EdgeHistory
from fanout.gateway.hub import Hub
from fanout.gateway.recovery import Recovery
from fanout.gateway.sessions import Sessions
from fanout.gateway.sweep import Sweeper
from fanout.ports import Clock
from fanout.runtime.tokens import Tokens
from fanout.sender.sender import Sender


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where a gateway listens and how it treats connections.

    ``origins`` are the allowed values of ``Origin`` (``*`` = any); a page of the same host and clients that send none
    are always let in. ``address`` is told to others with the lease. ``port`` 0 takes any free one. ``deflate``: clients
    that offer permessage-deflate are given it. ``connects`` bounds how many connections are let in; a drain sends the
    sessions away within ``drain_s``. ``memory_bytes``: what the process may take, 0 = any.
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
    memory_bytes: int = 0


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
