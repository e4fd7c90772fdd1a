"""``fanout demo``: a livestream's arrivals into a room of real WebSocket viewers, reconciled at the end.

By itself it plays the acts of ``acts``: calm, a burst, likes by the thousand, slow viewers, a cut. With ``--trace`` the
arrivals are replayed as they are.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import uvloop
from rich.console import Console
from rich.live import Live

from fanout.cli import acts, reconcile
from fanout.cli.api_client import ApiClient
from fanout.cli.arrivals import Arrival, compress, draw, load_profile, read_trace
from fanout.cli.demo_table import Sight, live_table, print_ledger
from fanout.core.errors import ConfigError, FanoutError
from fanout.core.limits import ANNOUNCE_S, PUBLISH_BATCH_MAX
from fanout.protocol.centrifuge import Publication
from fanout.runtime.launch import EngineProcess
from fanout.runtime.settings import MEMORY
from fanout.viewers import Viewers

ROOM: Final = "live:demo"
TICK_S: Final = 0.02  # publishes that fall into one tick travel in one request
LIKES_TICK_S: Final = 0.1
SLOW_SHARE: Final = 0.75  # of their act slow viewers do not read; then they catch up
SETTLE_S: Final = 2 * ANNOUNCE_S + 10.0  # until every gateway has reported


class Said(msgspec.Struct):
    """Payload of the demo's chat: when it was sent (Unix seconds) and a text of the trace's length."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """Flags of the command."""

    viewers: int
    seconds: float
    trace: Path | None
    speed: float
    seed: int
    log: str
    store: str

    def arrivals(self) -> list[Arrival]:
        """Return what will be said, compressed to the wished duration; raises ConfigError."""
        if self.viewers < 1 or self.seconds <= 0 or self.speed < 0:
            raise ConfigError("--viewers, --seconds: at least one; --speed: 0 or more")
        arrivals = read_trace(self.trace) if self.trace else draw(load_profile(), self.seed)
        if not arrivals:
            raise ConfigError(f"--trace {self.trace}: there are no messages in it")
        recorded_s = max(1.0, arrivals[-1].at_ms / 1000)
        arrivals = compress(arrivals, self.speed or max(1.0, recorded_s / self.seconds))
        return acts.with_burst(arrivals, played) if (played := self.played) else arrivals

    @property
    def played(self) -> list[acts.Act]:
        """The acts; none where a trace is replayed."""
        return acts.acts(self.seconds) if self.trace is None else []

    def engine_flags(self) -> list[str]:
        """Return the flags of the engine that serves the demo."""
        flags = ["--insecure", "--port", "0"]
        if self.log != MEMORY or self.store != MEMORY:
            flags += ["--log", self.log, "--store", self.store]
        return flags


def run_demo(settings: DemoSettings) -> int:
    """Run it all and return 0 when the ledger adds up, else 1."""
    arrivals = settings.arrivals()
    console = Console(highlight=False)
    with tempfile.TemporaryFile() as errors:
        engine = EngineProcess(settings.engine_flags(), errors=errors)
        try:
            engine.start()
            console.print(f"engine  {engine.url}\nmetrics {engine.url}/metrics\nAPI     {engine.url}/schema")
            return uvloop.run(Demo(settings, engine, console).run(arrivals))
        except (FanoutError, ConnectionError) as error:
            console.print(f"fanout: {error}", style="red")
            _print_tail(console, errors)
            return 1
        finally:
            engine.stop()


def _print_tail(console: Console, errors: IO[bytes]) -> None:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 2_000))
    console.print(errors.read().decode(errors="replace"), markup=False)


@dataclass(slots=True)
class Demo:
    """One run: the crew of viewers, the publisher, the table."""

    settings: DemoSettings
    engine: EngineProcess
    console: Console
    sent: int = 0
    accepted: int = 0
    begun_s: float = 0.0
    room: str = field(default_factory=lambda: f"{ROOM}-{os.getpid()}-{time.time_ns() // 1_000_000}")

    async def run(self, arrivals: Sequence[Arrival]) -> int:
        """Open the viewers, publish, wait for the reports, print the ledger."""
        slow = int(acts.SLOW_SHARE * self.settings.viewers) if self.settings.played else 0
        url, viewers = self.engine.websocket_url, self.settings.viewers
        crew = Viewers(url, self.room, viewers, on_frame=sent_times, slow=slow)
        self.console.print(f"opening {self.settings.viewers:,} WebSocket viewers of {self.room}")
        await crew.open()
        try:
            self.begun_s = time.monotonic()
            watching = asyncio.create_task(self._watch(crew, arrivals))
            try:
                with ApiClient(self.engine.url) as api, ApiClient(self.engine.url) as likes:
                    await asyncio.gather(self._publish(api, arrivals), self._like(likes), self._direct(crew))
                await asyncio.sleep(1.0)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            self.console.print(f"\nwaiting for the gateway's report (every {ANNOUNCE_S:.0f} s)")
            return await self._settle(crew)
        finally:
            await crew.close()

    async def _publish(self, api: ApiClient, arrivals: Sequence[Arrival]) -> None:
        at = 0
        while at < len(arrivals):
            now_ms = (time.monotonic() - self.begun_s) * 1000
            due = at
            while due < len(arrivals) and arrivals[due].at_ms <= now_ms and due - at < PUBLISH_BATCH_MAX:
                due += 1
            if due > at:
                await self._publish_batch(api, arrivals[at:due])
                at = due
            else:
                await asyncio.sleep(TICK_S)

    async def _publish_batch(self, api: ApiClient, arrivals: Sequence[Arrival]) -> None:
        messages = [
            {
                "room": self.room,
                "sender": f"viewer-{arrival.sender}",
                "data": {"at": time.time(), "text": "x" * arrival.size},
            }
            for arrival in arrivals
        ]
        self.sent += len(messages)
        answer = await asyncio.to_thread(api.post, "/v1/publish/batch", {"messages": messages})
        self._count(answer)

    def _count(self, answer: Any) -> None:
        self.accepted += sum(1 for result in answer["results"] if "offset" in result)

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self.begun_s + at_s - time.monotonic()))

    async def _like(self, api: ApiClient) -> None:
        """Publish likes in their act, ten thousand a second, a request each tenth of one."""
        act = next((act for act in self.settings.played if act.name == acts.LIKES), None)
        if act is None:
            return
        count = int(acts.LIKES_PER_S * LIKES_TICK_S)
        like = {"room": self.room, "priority": "low", "data": {"like": 1}, "merge": {"key": "likes", "op": "sum"}}
        body = msgspec.json.encode({"messages": [like] * count})
        at_s = act.begin_s
        while at_s < act.end_s:
            await self._until(at_s)
            self.sent += count
            self._count(await asyncio.to_thread(api.post_encoded, "/v1/publish/batch", body))
            at_s += LIKES_TICK_S

    async def _direct(self, crew: Viewers) -> None:
        """Tell viewers what to do in their acts."""
        for act in self.settings.played:
            await self._until(act.begin_s)
            if act.name == acts.SLOW:
                for viewer in crew.viewers[: crew.slow]:
                    viewer.pause()
                await self._until(act.begin_s + SLOW_SHARE * (act.end_s - act.begin_s))
                for viewer in crew.viewers[: crew.slow]:
                    viewer.resume()
            elif act.name == acts.CUT:
                for viewer in crew.viewers:
                    viewer.cut()

    async def _watch(self, crew: Viewers, arrivals: Sequence[Arrival]) -> None:
        likes = sum(act.end_s - act.begin_s for act in self.settings.played if act.name == acts.LIKES)
        messages = len(arrivals) + int(likes * acts.LIKES_PER_S)
        sight = Sight(messages=messages, viewers=self.settings.viewers)
        with ApiClient(self.engine.url) as api, Live(console=self.console, refresh_per_second=4) as live:
            while True:
                ledger = await asyncio.to_thread(api.ledger, self.room)
                metrics = await asyncio.to_thread(api.text, "/metrics")
                sight.act = self._act
                sight.update(time.monotonic(), self.accepted, crew, ledger, metrics)
                live.update(live_table(sight))
                await asyncio.sleep(0.5)

    async def _settle(self, crew: Viewers) -> int:
        """Wait until everything kept has arrived and been reported; print the ledger and what does not add up."""
        with ApiClient(self.engine.url) as api:
            deadline = time.monotonic() + SETTLE_S
            while True:
                ledger = await asyncio.to_thread(api.ledger, self.room)
                witness = self._witness(crew)
                if not reconcile.errors(ledger, witness) and reconcile.reported(ledger, witness):
                    break
                if time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.25)
        return self._verdict(crew, ledger, witness)

    @property
    def _act(self) -> str:
        played = self.settings.played
        return acts.act_at(played, time.monotonic() - self.begun_s).name if played else ""

    def _witness(self, crew: Viewers) -> reconcile.Witness:
        return reconcile.Witness(
            self.accepted, self.settings.viewers, crew.deliveries, stayed=not crew.counts.reconnects
        )

    def _verdict(self, crew: Viewers, ledger: Any, witness: reconcile.Witness) -> int:
        latencies = crew.latencies
        counts = crew.counts
        print_ledger(self.console, self.room, ledger, witness)
        self.console.print(
            f"publish → received: p50 {latencies.quantile(0.5) * 1000:.1f} ms,"
            f" p99 {latencies.quantile(0.99) * 1000:.1f} ms over {latencies.samples:,} deliveries"
        )
        found = reconcile.errors(ledger, witness)
        if self.sent != self.accepted:
            found.append(f"{self.sent - self.accepted} of {self.sent} messages were refused")
        if counts.misordered or counts.gaps:
            found.append(f"{counts.misordered} positions did not rise, {counts.gaps} gaps")
        for sentence in found:
            self.console.print(f"does not add up: {sentence}", style="red")
        if not found:
            self.console.print("the ledger adds up", style="green")
        return 1 if found else 0


def sent_times(publications: Sequence[Publication]) -> list[float]:
    """Return when each of the demo's chat messages was sent; what likes were folded into says nothing of that."""
    return [
        msgspec.json.decode(publication.data, type=Said).at
        for publication in publications
        if b'"at"' in bytes(publication.data)
    ]
