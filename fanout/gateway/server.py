"""The gateway: one port for WebSocket and HTTP, and the composition of the parts that serve it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

import structlog

from fanout.core.errors import SHUTDOWN, ConfigError
from fanout.core.limits import CONNECT_S, DRAIN_GATEWAY_S, HANDSHAKE_S, UNSWEPT_MAX
from fanout.core.messages import Profiles
from fanout.core.records import MESSAGES
from fanout.core.room_log import Tally, plus
from fanout.gateway.announce import Announcer
from fanout.gateway.authorize import Authorizer
from fanout.gateway.chunk_reader import ChunkReader
from fanout.gateway.connection import CLOSE_S, Connection, Doorkeeper
from fanout.gateway.heartbeat import Deadlines, Heartbeat
from fanout.gateway.history import EdgeHistory
from fanout.gateway.http_door import ClosedDoor, UvicornDoor
from fanout.gateway.hub import Hub
from fanout.gateway.recovery import Recovery
from fanout.gateway.services import GatewaySettings, Services
from fanout.gateway.slot_lease import SlotLease
from fanout.gateway.sweep import Sweeper
from fanout.ports import Clock, Lease, Log, Store
from fanout.runtime.tokens import Tokens
from fanout.sender.sender import Sender

__all__ = ["Gateway", "GatewaySettings"]

logger = structlog.get_logger(__name__)

_BACKLOG: Final = 4_096
_TCP_NOTSENT_LOWAT: Final = 25  # Linux; not named by the socket module of Python 3.11
_TCP_USER_TIMEOUT_MS: Final = 60_000
_SEND_BUFFER_BYTES: Final = 131_072  # the kernel's share of a session that reads slowly
_UNSENT_BYTES: Final = 65_536
_START_S: Final = 5.0
_WAVE_S: Final = 0.25


class Gateway:
    """Sessions of clients, and the rooms they listen to. ``http_app`` is the ASGI app behind plain HTTP requests."""

    def __init__(
        self,
        *,
        log: Log,
        store: Store,
        profiles: Profiles,
        tokens: Tokens,
        sender: Sender,
        clock: Clock,
        settings: GatewaySettings,
        http_app: Any = None,
    ) -> None:
        self.settings = settings
        history = EdgeHistory(store)
        self._announcer = Announcer(log=log, history=history, clock=clock)
        self._sweeper = Sweeper(history=history, clock=clock, weight_of=tokens.apps.weight_of)
        self.hub = Hub(
            history=history,
            clock=clock,
            partitions=log.partitions(MESSAGES),
            on_work=self._sweeper.room_has_work,
            on_behind=self._sweeper.is_behind,
            on_stray=self._announcer.stray,
        )
        self._announcer.hub = self.hub
        self._sweeper.use(self.hub)
        self.services = Services(
            hub=self.hub,
            sweeper=self._sweeper,
            history=history,
            recovery=Recovery(history, clock),
            announcer=self._announcer,
            authorizer=Authorizer(log=log, store=store, profiles=profiles, tokens=tokens),
            profiles=profiles,
            tokens=tokens,
            sender=sender,
            clock=clock,
            settings=settings,
        )
        self._slot = SlotLease(
            leases=store.leases,
            clock=clock,
            holder=settings.holder or socket.gethostname(),
            address=settings.address,
            announcer=self._announcer,
        )
        self.chunk_reader = self._slot.reader = ChunkReader(
            log=log, clock=clock, apply=self.hub.apply, brake=self._brake, fenced=self._slot.fence
        )
        self._keeper = Doorkeeper(Deadlines(HANDSHAKE_S), Deadlines(CONNECT_S), Deadlines(CLOSE_S))
        self._heartbeat = Heartbeat(
            clock=clock,
            ping_s=settings.ping_s,
            pong_s=settings.pong_s,
            deadlines=(self._keeper.handshakes, self._keeper.connects, self._keeper.closings),
            every_turn=self.hub.age,
        )
        self._door = ClosedDoor() if http_app is None else UvicornDoor(http_app)
        self._server: asyncio.Server | None = None
        self._port = settings.port

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._port

    async def start(self) -> None:
        """Lease a slot and listen. Without the store it listens all the same, and is not ready until that answers.

        Raises ConfigError when the port is taken, Unavailable when the log does not answer.
        """
        listening = _listen(self.settings)
        try:
            await self._announcer.start()
        except BaseException:
            listening.close()
            raise
        self._port = listening.getsockname()[1]
        self._sweeper.start()
        self._heartbeat.start()
        if not await self._slot.start(_START_S):
            logger.warning("no chunk slot yet: subscribes are refused until there is one")
        lease = self._slot.lease
        # Session ids are unique among gateways and restarts through the slot's generation.
        self.services.node = f"{lease.number}-{lease.generation:x}" if lease else f"x-{self.services.clock.wall_ms():x}"
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self.new_connection, sock=listening, backlog=_BACKLOG)
        logger.info("gateway listens", port=self._port, slot=lease.number if lease else None)

    def new_connection(self) -> Connection:
        """Return the protocol of a connection that is about to be made."""
        return Connection(self.services, self._keeper, self._heartbeat, self._door)

    @property
    def slot(self) -> Lease | None:
        """The lease of the chunk slot in use."""
        return self._slot.lease

    def readiness(self) -> dict[str, bool]:
        """Return whether sessions are taken, and whether chunks can come."""
        return {
            "gateway": self._server is not None and not self.services.sessions.draining,
            "chunk_slot": self._slot.is_ready,
        }

    async def drain(self) -> None:
        """Stop accepting, close sessions with 3001 in waves, give up rooms and slot."""
        sessions = self.services.sessions
        sessions.draining = True
        if self._server is not None:
            self._server.close()
        await self._close_in_waves()
        try:
            async with asyncio.timeout(DRAIN_GATEWAY_S):
                await self._announcer.detach_all()
        except Exception as error:
            logger.warning("rooms were not given up", error=str(error))
        await self._slot.close()

    async def _close_in_waves(self) -> None:
        """Spread the reconnects of many sessions over the time of a drain; few are closed at once."""
        numbers = list(self.services.sessions.by_number)
        waves = max(1, round(DRAIN_GATEWAY_S / 2 / _WAVE_S))
        wave = max(200, -(-len(numbers) // waves))
        for start in range(0, len(numbers), wave):
            if start:
                await asyncio.sleep(_WAVE_S)
            for number in numbers[start : start + wave]:
                session = self.services.sessions.by_number.get(number)
                if session is not None:
                    session.close(SHUTDOWN)

    async def close(self) -> None:
        """End everything at once."""
        self.services.sessions.draining = True
        if self._server is not None:
            self._server.close()
        for session in list(self.services.sessions.by_number.values()):
            session.close(SHUTDOWN)
        await self._door.close(1.0)
        await self._heartbeat.close()
        await self._slot.close()
        await self._announcer.close()
        await self._sweeper.close()

    def stats(self) -> dict[str, Any]:
        """Return figures of this moment: sessions, rooms, subscriptions, deliveries, sums of the edge ledgers."""
        rooms = list(self.hub.rooms.values())
        offered: Tally = (0, 0, 0, 0)
        written, pending = offered, offered
        dropped: dict[str, Tally] = {}
        for room in rooms:
            offered, written = plus(offered, room.ledger.offered), plus(written, room.ledger.written)
            pending = plus(pending, room.ledger.pending)
            for reason, counts in room.ledger.dropped.items():
                dropped[reason] = plus(dropped.get(reason, (0, 0, 0, 0)), counts)
        return {
            "sessions": len(self.services.sessions.by_number),
            "rooms": len(rooms),
            "subscriptions": sum(room.subscriptions for room in rooms),
            "behind": sum(len(room.behind) for room in rooms),
            "ahead": sum(len(room.ahead) for room in rooms),
            "deliveries": self._sweeper.written.deliveries,
            "unswept": self.hub.unswept,
            "offered": sum(offered),
            "written": sum(written),
            "pending": sum(pending),
            "dropped": {reason: sum(counts) for reason, counts in dropped.items()},
            "slot": None if self._slot.lease is None else self._slot.lease.number,
        }

    async def _brake(self) -> None:
        if self.hub.unswept >= UNSWEPT_MAX:
            await self._sweeper.below(UNSWEPT_MAX)


def _listen(settings: GatewaySettings) -> socket.socket:
    """Return a bound socket; what is set here, accepted connections inherit. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if settings.reuse_port:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TCP_USER_TIMEOUT_MS)
        listening.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise ConfigError(f"--port {settings.port}: {error.strerror}; choose another or 0 for any free one") from error
    listening.setblocking(False)
    return listening
