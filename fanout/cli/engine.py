"""One process of the engine: opens the log and the store, starts its roles, drains them in order.

With no servers named, all roles run on the in-memory twins. The order of a drain: publishes stop, the worker finishes
(on the twins: reads to the end), then the gateway's waves, then the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from litestar import Litestar

from fanout.adapters import open_log, open_store
from fanout.cli.http_server import HttpServer
from fanout.cli.pulse import pulse
from fanout.control.ops import build_ops
from fanout.core.errors import Unavailable
from fanout.core.limits import DRAIN_WORKER_S
from fanout.core.profiles import Profiles
from fanout.core.records import MESSAGES
from fanout.gateway.admission import ConnectRate
from fanout.gateway.server import Gateway, GatewaySettings
from fanout.ports import Clock, Log, Store, Topics
from fanout.runtime.apps import Apps
from fanout.runtime.clock import SystemClock
from fanout.runtime.policies import Policies
from fanout.runtime.process_memory import limit_bytes
from fanout.runtime.settings import ServeSettings
from fanout.runtime.tokens import Tokens
from fanout.sender.api import build_api, build_bare_api
from fanout.sender.config import PolicyConfig
from fanout.sender.config_api import config_handlers
from fanout.sender.http import ApiKeys
from fanout.sender.sender import Sender
from workers.member_worker import MemberWorker
from workers.room_worker import RoomWorker

logger = structlog.get_logger(__name__)


class Engine:
    """The roles of one process. ``start`` returns when all of them serve; ``stop`` drains."""

    def __init__(self, settings: ServeSettings, *, apps: Apps, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.profiles = Profiles(insecure=settings.insecure)
        self.apps = apps
        self.holder = f"{socket.gethostname()}:{os.getpid()}"
        self._draining = False
        self._log: Log | None = None
        self._store: Store | None = None
        self._sender: Sender | None = None
        self._policies: Policies | None = None
        self._config: PolicyConfig | None = None
        self._workers: list[RoomWorker | MemberWorker] = []
        self.gateway: Gateway | None = None
        self._http: HttpServer | None = None
        self._pulse: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that serves HTTP and, with a gateway, WebSocket."""
        server = self.gateway or self._http
        assert server is not None, "the engine has not been started"
        return server.port

    async def start(self) -> None:
        """Open the servers and start the roles; raises Unavailable or ConfigError, and leaves nothing behind then."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        settings = self.settings
        topics = Topics(prefix=settings.prefix)
        self._log = log = await open_log(settings.log, topics=topics, clock=self.clock)
        self._store = store = await open_store(settings.store, prefix=settings.prefix, clock=self.clock)
        if "worker" in settings.roles:
            self._workers = [
                RoomWorker(
                    log=log,
                    store=store,
                    profiles=self.profiles,
                    clock=self.clock,
                    quota=self.apps.deliveries_per_s_of,
                ),
                MemberWorker(log=log, store=store, clock=self.clock),
            ]
            for worker in self._workers:
                await worker.start()
        if "sender" in settings.roles or "gateway" in settings.roles:
            await self._start_sender(log, store)
        app = self._http_app(log, store)
        if "gateway" in settings.roles:
            await self._start_gateway(log, store, app)
        else:
            self._http = HttpServer(app, settings.host, settings.port, reuse_port=settings.processes > 1)
            await self._http.start()
        self._pulse = asyncio.create_task(pulse(self.readiness), name="pulse")

    async def _start_sender(self, log: Log, store: Store) -> None:
        self._policies = Policies(store.configs, self.profiles)
        await self._policies.start()
        self._sender = Sender(
            log=log,
            store=store,
            profiles=self.profiles,
            clock=self.clock,
            holder=self.holder,
            policy_of=self._policies.of,
        )
        await self._sender.start()
        if "sender" in self.settings.roles:
            self._config = PolicyConfig(
                log=log,
                configs=store.configs,
                writer=self._sender.writer,
                profiles=self.profiles,
                policies=self._policies,
                clock=self.clock,
            )
            await self._config.start()

    async def _start_gateway(self, log: Log, store: Store, app: Litestar) -> None:
        assert self._sender is not None
        settings = self.settings
        self.gateway = Gateway(
            log=log,
            store=store,
            profiles=self.profiles,
            tokens=Tokens(self.apps, self.clock),
            sender=self._sender,
            clock=self.clock,
            settings=GatewaySettings(
                host=settings.host,
                port=settings.port,
                insecure=settings.insecure,
                origins=settings.origins,
                deflate=settings.deflate,
                address=settings.address,
                reuse_port=settings.processes > 1,
                connects=ConnectRate(settings.connects_per_s, settings.connect_burst),
                drain_s=settings.drain_s,
                memory_bytes=limit_bytes(settings.memory_mb, settings.processes),
            ),
            http_app=app,
        )
        await self.gateway.start()

    def _http_app(self, log: Log, store: Store) -> Litestar:
        ops: Sequence[Any] = build_ops(self.readiness)
        if "sender" in self.settings.roles:
            assert self._sender is not None and self._config is not None
            return build_api(
                sender=self._sender,
                store=store,
                log=log,
                apps=self.apps,
                profiles=self.profiles,
                clock=self.clock,
                extra_handlers=[*config_handlers(self._config, ApiKeys(self.apps)), *ops],
            )
        return build_bare_api(ops)

    async def readiness(self) -> dict[str, bool]:
        """Return each dependency and role with whether it can do its work; a drain makes ``serving`` False."""
        ready = {"serving": not self._draining, "log": False, "store": False}
        for name, part in (("log", self._log), ("store", self._store.backend if self._store else None)):
            if part is not None:
                with contextlib.suppress(Unavailable):
                    await part.ping()
                    ready[name] = True
        for role in (self._sender, *self._workers, self.gateway):
            if role is not None:
                ready.update(role.readiness())
        return ready

    async def drain(self) -> None:
        """Stop taking, finish what is here, send the clients elsewhere."""
        self._draining = True
        logger.info("draining", roles=",".join(self.settings.roles))
        steps: list[Callable[[], Awaitable[None]]] = []
        if self._sender is not None:
            steps.append(self._sender.drain)
        if self.settings.on_twins and self._workers:
            steps.append(self._read_to_the_end)
        steps += [worker.drain for worker in self._workers]
        if self.gateway is not None:
            steps.append(self.gateway.drain)
        for step in steps:
            await _guarded(step)

    async def _read_to_the_end(self) -> None:
        """On the twins nobody else will read what was accepted, so the worker reads it all before it leaves."""
        assert self._log is not None
        room_worker = next(worker for worker in self._workers if isinstance(worker, RoomWorker))
        partitions = range(self._log.partitions(MESSAGES))
        deadline = self.clock.monotonic_s() + DRAIN_WORKER_S
        while self.clock.monotonic_s() < deadline:
            ends = await self._log.ends(MESSAGES, partitions)
            if all(room_worker.position(partition) >= end for partition, (_, end) in ends.items()):
                return
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """End everything; what was not drained is left to the next owner."""
        if self._pulse is not None:
            self._pulse.cancel()
            await asyncio.gather(self._pulse, return_exceptions=True)
        backend = self._store.backend if self._store else None
        senders = (self._config, self._policies, self._sender)
        parts = (self.gateway, self._http, *self._workers, *senders, self._log, backend)
        for part in parts:
            if part is not None:
                await _guarded(part.close)


async def _guarded(step: Callable[[], Awaitable[None]]) -> None:
    """Take a step of the end; one that fails, with the log away for instance, does not keep the others from theirs."""
    try:
        await step()
    except Exception:
        logger.exception("a step of the shutdown failed", step=getattr(step, "__qualname__", ""))
