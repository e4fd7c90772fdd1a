"""The gateway: one port for WebSocket and HTTP, and the composition of the parts that serve it."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any, Final

import structlog

from fanout.core.errors import SHUTDOWN
from fanout.core.limits import CONNECT_S, HANDSHAKE_S, UNSWEPT_MAX
from fanout.core.profiles import Profiles
from fanout.core.records import MESSAGES
from fanout.core.room_log import Tally, plus
from fanout.gateway.admission import Admission
from fanout.gateway.announce import Announcer
from fanout.gateway.authorize import Authorizer
from fanout.gateway.chunk_reader import ChunkReader
from fanout.gateway.connection import CLOSE_S, Connection, Doorkeeper
from fanout.gateway.drain import send_away
from fanout.gateway.heartbeat import Deadlines, Heartbeat
from fanout.gateway.history import EdgeHistory
from fanout.gateway.http_door import ClosedDoor, UvicornDoor
from fanout.gateway.hub import Hub
from fanout.gateway.listener import Listener
from fanout.gateway.memory_guard import MemoryGuard
from fanout.gateway.pressure import PressureGauge
from fanout.gateway.recovery import Recovery
from fanout.gateway.services import GatewaySettings, Services
from fanout.gateway.slot_lease import SlotLease
from fanout.gateway.sweep import Sweeper
from fanout.ports import Clock, Lease, Log, Store
from fanout.runtime.descriptors import free_descriptors
from fanout.runtime.metrics import SESSIONS_MAX
from fanout.runtime.process_memory import ProcessMemory
from fanout.runtime.tokens import Tokens
from fanout.sender.sender import Sender

__all__ = ["Gateway", "GatewaySettings"]

logger = structlog.get_logger(__name__)

_START_S: Final = 5.0
_WAVES_SHARE: Final = 0.8  # of a drain; the rest is for giving up rooms and slot
_DETACH_S_MIN: Final = 1.0


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
        self._announcer.pressure = PressureGauge(
            clock=clock, slowest_s=self._sweeper.slowest_s, rooms=self.hub.rooms.values
        )
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
        self._admission = Admission(settings.connects, clock)
        self._keeper = Doorkeeper(
            Deadlines(HANDSHAKE_S), Deadlines(CONNECT_S), Deadlines(CLOSE_S), admission=self._admission
        )
        self._heartbeat = Heartbeat(
            clock=clock,
            ping_s=settings.ping_s,
            pong_s=settings.pong_s,
            deadlines=(self._keeper.handshakes, self._keeper.connects, self._keeper.closings),
            every_turn=self._every_turn,
        )
        memory = ProcessMemory(settings.memory_bytes)
        self._guard = MemoryGuard(memory, self.hub, self._admission, lambda: len(self.services.sessions))
        self._door = ClosedDoor() if http_app is None else UvicornDoor(http_app)
        self._listener: Listener | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._listener.port if self._listener is not None else self.settings.port

    async def start(self) -> None:
        """Lease a slot and listen. Without the store it listens all the same, and is not ready until that answers.

        Raises ConfigError when the port is taken, Unavailable when the log does not answer.
        """
        settings = self.settings
        self._listener = Listener(settings.host, settings.port, reuse_port=settings.reuse_port)
        try:
            await self._announcer.start()
        except BaseException:
            self._listener.close()
            raise
        self._sweeper.start()
        self._heartbeat.start()
        if not await self._slot.start(_START_S):
            logger.warning("no chunk slot yet: subscribes are refused until there is one")
        lease = self._slot.lease
        # Session ids are unique among gateways and restarts through the slot's generation.
        self.services.node = f"{lease.number}-{lease.generation:x}" if lease else f"x-{self.services.clock.wall_ms():x}"
        await self._listener.start(self.new_connection)
        sessions_max = max(0, free_descriptors())
        SESSIONS_MAX.set(sessions_max)
        logger.info("gateway listens", port=self.port, slot=lease.number if lease else None, sessions_max=sessions_max)

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
            "gateway": self._listener is not None and self._listener.is_open and not self.services.sessions.draining,
            "chunk_slot": self._slot.is_ready,
        }

    async def drain(self) -> None:
        """Stop accepting, send the sessions away with 3001 in waves, give up rooms and slot; all within ``drain_s``."""
        clock, sessions = self.services.clock, self.services.sessions
        deadline_s = clock.monotonic_s() + self.settings.drain_s
        self._stop_accepting()
        closings = [session.close for session in sessions.by_number.values()]
        await send_away(closings, self.settings.drain_s * _WAVES_SHARE, clock, random.Random())
        try:
            async with asyncio.timeout(max(_DETACH_S_MIN, deadline_s - clock.monotonic_s())):
                await self._announcer.detach_all()
        except Exception as error:
            logger.warning("rooms were not given up", error=str(error))
        await self._slot.close()

    def _stop_accepting(self) -> None:
        self.services.sessions.draining = True
        if self._listener is not None:
            self._listener.close()
        self._admission.close()

    async def close(self) -> None:
        """End everything at once."""
        self._stop_accepting()
        for session in self.services.sessions:
            session.close(SHUTDOWN)
        await self._door.close(1.0)
        await self._heartbeat.close()
        await self._slot.close()
        await self.hub.close()
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
            "sessions": len(self.services.sessions),
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

    def _every_turn(self) -> None:
        """Housekeeping, once a second."""
        self.hub.age()
        self.services.recovery.forget()
        self._guard.look()
        if self._listener is not None:
            self._listener.mind(free_descriptors())

    async def _brake(self) -> None:
        if self.hub.unswept >= UNSWEPT_MAX:
            await self._sweeper.below(UNSWEPT_MAX)
