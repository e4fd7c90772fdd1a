"""A session that must notice nothing: it sits in a room while others misbehave, and everything arrives in order.

What clients see is read off the wire (JSON); what the engine counted is read off ``/metrics``. Nothing here knows
the engine's code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import websockets

ARRIVE_S = 20.0
PACE_S = 0.02

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Session:
    """One connection that keeps what it is told; it resubscribes with its position as a stock SDK does."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._next = 1
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())
        self.publications: list[dict[str, Any]] = []
        self.joins: list[dict[str, Any]] = []
        self.unsubscribed: list[int] = []
        self.closed: int | None = None
        self._again: set[asyncio.Task[None]] = set()

    async def command(self, timeout_s: float = 15.0, **command: Any) -> dict[str, Any]:
        """Send a command and return its reply."""
        number, self._next = self._next, self._next + 1
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, **command}))
        async with asyncio.timeout(timeout_s):
            reply: dict[str, Any] = await answer
        return reply

    async def subscribe(self, room: str, **fields: Any) -> dict[str, Any]:
        """Subscribe, keep the replayed publications, return the reply; temporary errors are repeated as SDKs do."""
        deadline = time.monotonic() + 60.0
        while True:
            reply = await self.command(subscribe={"channel": room, **fields})
            if not reply.get("error", {}).get("temporary") or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        assert "subscribe" in reply, reply
        joined: dict[str, Any] = reply["subscribe"]
        self.joins.append({**joined, "asked": fields.get("offset", 0), "received_before": len(self.publications)})
        self.publications.extend(joined.get("publications", []))
        return joined

    @property
    def position(self) -> dict[str, Any]:
        """What a stock SDK would come back with: the last offset that it processed, and the epoch of its last join."""
        last = self.joins[-1]
        seen = [one["offset"] for one in self.publications[last["received_before"] :] if "offset" in one]
        return {"recover": True, "epoch": last["epoch"], "offset": seen[-1] if seen else last.get("offset", 0)}

    async def close(self) -> None:
        """Leave."""
        await self._socket.close()
        for task in (self._reader, *self._again):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, AssertionError):
                await task

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                for line in str(message).split("\n"):
                    await self._take(json.loads(line))
        except websockets.ConnectionClosed:
            pass
        finally:
            self.closed = self._socket.close_code or 0
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ConnectionError(f"closed with {self.closed}"))
                    answer.exception()  # nobody may be waiting for it any more

    async def _take(self, reply: dict[str, Any]) -> None:
        if not reply:
            await self._socket.send("{}")
        elif "id" in reply:
            answer = self._answers.pop(reply["id"])
            if not answer.done():
                answer.set_result(reply)
        elif "pub" in reply["push"]:
            self.publications.append(reply["push"]["pub"])
        elif "unsubscribe" in reply["push"]:
            code = reply["push"]["unsubscribe"]["code"]
            self.unsubscribed.append(code)
            if code >= 2500:
                task = asyncio.create_task(self._resubscribe(reply["push"]["channel"]))
                self._again.add(task)

    async def _resubscribe(self, room: str) -> None:
        await self.subscribe(room, **self.position)


@contextlib.asynccontextmanager
async def session(ws_url: str, token: str = "") -> AsyncIterator[Session]:
    """Connect with a token (or as a guest)."""
    async with websockets.connect(ws_url, proxy=None, ping_interval=None) as socket:
        opened = Session(socket)
        try:
            reply = await opened.command(connect={"token": token})
            assert "connect" in reply, reply
            yield opened
        finally:
            await opened.close()


@dataclass
class Neighbour:
    """A room with one session in it, and a publisher that never stops; ``sent`` is what was accepted, in order."""

    http: httpx.AsyncClient
    session: Session
    room: str
    sent: list[int] = field(default_factory=list)

    async def publish(self) -> None:
        """Publish the next number; it must be accepted."""
        number = len(self.sent) + 1
        answer = await self.http.post("/v1/publish", json={"room": self.room, "data": number})
        assert answer.status_code == 200, answer.text
        self.sent.append(number)

    async def check(self) -> None:
        """Everything arrived, in order, once; room, history and ledger hold the neighbour's messages only."""
        await self.publish()
        await eventually(lambda: len(self.session.publications) >= len(self.sent), "all to arrive")
        assert [one["data"] for one in self.session.publications] == self.sent
        offsets = [one["offset"] for one in self.session.publications]
        assert offsets == sorted(set(offsets))
        assert (self.session.closed, self.session.unsubscribed) == (None, [])
        assert [item["data"] for item in await history(self.http, self.room)] == self.sent
        ledger = (await self.http.get(f"/v1/rooms/{self.room}/ledger")).json()
        assert sum(ledger["accepted"].values()) == len(self.sent)


@contextlib.asynccontextmanager
async def neighbour(
    http_url: str, ws_url: str, room: str = "", token: str = "", api_key: str = ""
) -> AsyncIterator[Neighbour]:
    """Sit in a room while the body of the ``with`` misbehaves; at its end nothing may have been noticed."""
    headers = {"X-API-Key": api_key} if api_key else {}
    room = room or f"open:{uuid.uuid4().hex[:12]}"
    async with (
        httpx.AsyncClient(base_url=http_url, headers=headers, timeout=20.0, trust_env=False) as http,
        session(ws_url, token) as listening,
    ):
        await listening.subscribe(room)
        beside = Neighbour(http, listening, room)
        await beside.publish()
        stop = asyncio.Event()
        publisher = asyncio.create_task(_publish_until(beside, stop))
        try:
            yield beside
        finally:
            stop.set()
            await publisher
        await beside.check()


async def _publish_until(beside: Neighbour, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await beside.publish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PACE_S):
                await stop.wait()


async def history(http: httpx.AsyncClient, room: str) -> list[dict[str, Any]]:
    """Return all stored publications of a room, oldest first."""
    items: list[dict[str, Any]] = []
    while True:
        after = items[-1]["offset"] if items else 0
        answer = await http.get(f"/v1/rooms/{room}/history", params={"after": after, "limit": 1000})
        if answer.status_code == 404:
            return items
        assert answer.status_code == 200, answer.text
        page: list[dict[str, Any]] = answer.json()["items"]
        items += page
        if len(page) < 1000:
            return items


async def eventually(is_so: Callable[[], bool], what: str, timeout_s: float = ARRIVE_S) -> None:
    """Wait until ``is_so``; fails with ``what`` was waited for."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        await asyncio.sleep(0.02)


class Counts:
    """The counters of an engine at one moment."""

    def __init__(self, text: str) -> None:
        self._samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for line in text.splitlines():
            sample = _SAMPLE.match(line)
            if sample:
                labels = frozenset(_LABEL.findall(sample[2] or ""))
                self._samples[sample[1], labels] = float(sample[3])

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that carry these labels; 0 where there are none."""
        wanted = set(labels.items())
        return sum(value for (metric, has), value in self._samples.items() if metric == name and wanted <= has)


async def counts(http: httpx.AsyncClient) -> Counts:
    """Read ``/metrics``."""
    answer = await http.get("/metrics")
    assert answer.status_code == 200
    return Counts(answer.text)
