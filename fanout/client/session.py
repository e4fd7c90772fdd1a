"""The client itself: a session that reconnects, its calls and its rooms."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import msgspec

from fanout.client.subscription import OnPublication, OnSubscribed, Subscription
from fanout.client.wire import ABNORMAL, Disconnected, Rejected, Wire, backoff_s
from fanout.core.errors import FanoutError, ProtocolError
from fanout.protocol import json_codec
from fanout.protocol.centrifuge import (
    Command,
    ConnectRequest,
    ConnectResult,
    HistoryRequest,
    HistoryResult,
    PublishRequest,
    Push,
    RefreshRequest,
    Reply,
    RPCRequest,
    StreamPosition,
    UnsubscribeRequest,
    raw_of,
)
from fanout.protocol.websocket import INVALID_DATA, NORMAL_CLOSURE, endpoint

Token: TypeAlias = str | Callable[[], Awaitable[str]]

CALL_TIMEOUT_S: Final = 10.0
PING_GRACE_S: Final = 10.0  # silence beyond the announced ping interval
REFRESH_RETRY_S: Final = 5.0
TOKEN_EXPIRED: Final = 109


class Client:
    """A session that stays: reconnects with jittered backoff, joins its rooms again, answers pings.

    ``url`` is a gateway, or several: after a cut the next one is tried. ``token`` is a JWT, or an async callable that
    fetches one (asked at every connect and when the token runs out); None = guest. ``data`` is told to the server at
    connect. ``closed`` is done when the client will not come back.
    """

    def __init__(
        self, url: str | Sequence[str], token: Token | None = None, *, name: str = "fanout-py", data: object = None
    ) -> None:
        urls = [url] if isinstance(url, str) else url
        self._endpoints = deque(endpoint(each) for each in urls)
        self._token = token
        self._name = name
        self._data = raw_of(b"" if data is None else msgspec.json.encode(data))
        self._wire: Wire | None = None
        self._ready = asyncio.Event()
        self._calls: dict[int, tuple[asyncio.Future[Reply], Callable[[Reply], None] | None]] = {}
        self._last_id = 0
        self._rooms: dict[str, Subscription] = {}
        self._task: asyncio.Task[None] | None = None
        self.closed: asyncio.Future[FanoutError] | None = None
        self.session: ConnectResult | None = None
        self.connects = 0
        self.unrouted = 0  # publications of rooms that nobody here has subscribed to

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Start the session and wait for it. Raises Rejected or Disconnected where trying again is no use."""
        if self._task is None:
            self.closed = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(self.closed), name="fanout client")
        await self.ready()

    async def close(self) -> None:
        """Leave with a close frame; handlers that run are cancelled."""
        why = Disconnected(NORMAL_CLOSURE, "closed by the client")
        if self.closed is not None and not self.closed.done():
            self.closed.set_result(why)
        if self._wire is not None:
            self._wire.end(why.code, why.reason)
        if self._task is not None:
            await _stop(self._task)
        for subscription in list(self._rooms.values()):
            await self._drop(subscription)

    async def subscribe(
        self,
        room: str,
        on_publication: OnPublication,
        *,
        on_subscribed: OnSubscribed | None = None,
        position: StreamPosition | None = None,
        token: str = "",
    ) -> Subscription:
        """Join a room, from ``position`` where given, and wait for the answer. Raises Rejected, Disconnected.

        ``on_subscribed`` is called at every join, before the publications that the join recovered. Publications are
        handled one after the other; an exception of a handler ends the subscription.
        """
        if room in self._rooms:
            raise ValueError(f"{room} is subscribed already")
        subscription = Subscription(self, room, on_publication, on_subscribed, position, token)
        self._rooms[room] = subscription
        try:
            await asyncio.shield(subscription.joined)
        except asyncio.CancelledError:
            await self._drop(subscription)
            raise
        return subscription

    async def unsubscribe(self, room: str) -> None:
        """Leave a room; what waits for its handler is dropped."""
        subscription = self._rooms.get(room)
        if subscription is not None:
            await self._drop(subscription)
            if self._wire is not None:
                await self.call(Command(unsubscribe=UnsubscribeRequest(channel=room)), wire=self._wire)

    async def publish(self, room: str, data: object) -> None:
        """Publish ``data`` (anything JSON, or ``msgspec.Raw``); returns when it is on the log. Raises as ``call``."""
        raw = data if isinstance(data, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(data))
        await self.call(Command(publish=PublishRequest(channel=room, data=raw)))

    async def rpc(self, method: str, data: object = None) -> Any:
        """Call a method of the server; returns its decoded answer, None where it is empty. Raises as ``call``."""
        raw = raw_of(b"" if data is None else msgspec.json.encode(data))
        reply = await self.call(Command(rpc=RPCRequest(method=method, data=raw)))
        answer = b"" if reply.rpc is None else bytes(reply.rpc.data)
        return msgspec.json.decode(answer) if answer else None

    async def history(
        self, room: str, *, limit: int = 100, since: StreamPosition | None = None, reverse: bool = False
    ) -> HistoryResult:
        """Return up to ``limit`` publications of a room and its position. Raises as ``call``."""
        request = HistoryRequest(channel=room, limit=limit, since=since, reverse=reverse)
        reply = await self.call(Command(history=request))
        return reply.history or HistoryResult()

    async def call(
        self, command: Command, *, on_reply: Callable[[Reply], None] | None = None, wire: Wire | None = None
    ) -> Reply:
        """Send a command on ``wire`` (or as soon as there is one) and return its reply; its ``id`` is set here.

        Raises Rejected (the server said no), Disconnected (nobody knows), TimeoutError after 10 s. ``on_reply`` runs
        before anything that came after the reply is looked at.
        """
        async with asyncio.timeout(CALL_TIMEOUT_S):
            wire = wire or await self.ready()
            self._last_id = command.id = self._last_id + 1
            answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            self._calls[command.id] = (answer, on_reply)
            try:
                wire.send(json_codec.encode_command(command))
                await asyncio.wait((answer, wire.ended), return_when=asyncio.FIRST_COMPLETED)
            finally:
                del self._calls[command.id]
        if not answer.done():
            raise wire.ended.result()
        reply = answer.result()
        if reply.error is not None:
            raise Rejected(reply.error)
        return reply

    async def ready(self) -> Wire:
        """Wait for a connection whose session is open; raises what has closed the client for good."""
        if self.closed is None:
            raise Disconnected(NORMAL_CLOSURE, "connect() was not called")
        while (wire := self._wire) is None:
            if self.closed.done():
                raise self.closed.result()
            opening = asyncio.ensure_future(self._ready.wait())
            try:
                await asyncio.wait((opening, self.closed), return_when=asyncio.FIRST_COMPLETED)
            finally:
                opening.cancel()
        return wire

    def forget(self, subscription: Subscription) -> None:
        """Let go of a subscription that has ended."""
        if self._rooms.get(subscription.room) is subscription:
            del self._rooms[subscription.room]

    async def _drop(self, subscription: Subscription) -> None:
        self.forget(subscription)
        if not subscription.joined.done():
            subscription.joined.cancel()
        await _stop(subscription.task)

    async def _run(self, closed: asyncio.Future[FanoutError]) -> None:
        """Keep a session up until the server or the owner ends it for good."""
        attempt = 0
        while not closed.done():
            before = self.connects
            how = await self._stay()
            self._wire = None
            self._ready.clear()
            for subscription in list(self._rooms.values()):
                subscription.on_disconnected()
            if isinstance(how, Rejected) or not how.reconnect:
                closed.set_result(how)
                for subscription in list(self._rooms.values()):
                    subscription.end(how)
                return
            self._endpoints.rotate(-1)
            attempt = 0 if self.connects > before else attempt + 1
            await asyncio.sleep(backoff_s(attempt))

    async def _stay(self) -> Disconnected | Rejected:
        """Connect once, stay as long as it goes, and return how it ended."""
        wire = Wire(self._endpoints[0], self._on_text)
        try:
            token = await self._fetch_token()
            await wire.open()
            request = ConnectRequest(token=token, name=self._name, data=self._data)
            reply = await self.call(Command(connect=request), wire=wire)
            self.session = reply.connect or ConnectResult()
            self._wire, self.connects = wire, self.connects + 1
            self._ready.set()
            await self._keep(wire, self.session)
        except Rejected as error:
            wire.end(ABNORMAL, str(error))
            if not error.temporary and not (error.code == TOKEN_EXPIRED and callable(self._token)):
                return error
        except (Disconnected, TimeoutError) as error:
            wire.abort(str(error) or "no answer to connect")
        except asyncio.CancelledError:
            wire.abort("closed by the client")
            raise
        return wire.ended.result()

    async def _keep(self, wire: Wire, session: ConnectResult) -> None:
        """Watch over a session until its connection has ended: silence, and a token that runs out."""
        loop = asyncio.get_running_loop()
        silence_s = session.ping + PING_GRACE_S if session.ping else float("inf")
        refresh_s = loop.time() + session.ttl if session.expires and callable(self._token) else float("inf")
        while not wire.ended.done():
            if loop.time() >= wire.heard_s + silence_s:
                wire.abort(f"nothing was heard for {silence_s:.0f} s")
            elif loop.time() >= refresh_s:
                refresh_s = loop.time() + await self._refresh(wire)
            else:
                due_s = min(wire.heard_s + silence_s, refresh_s)
                timeout_s = None if due_s == float("inf") else due_s - loop.time()
                await asyncio.wait((wire.ended,), timeout=timeout_s)

    async def _refresh(self, wire: Wire) -> float:
        """Show the server a new token; return in how many seconds the next one is due."""
        try:
            reply = await self.call(Command(refresh=RefreshRequest(token=await self._fetch_token())), wire=wire)
        except Rejected as error:
            if not error.temporary:
                raise
            return REFRESH_RETRY_S
        return reply.refresh.ttl if reply.refresh is not None and reply.refresh.expires else float("inf")

    async def _fetch_token(self) -> str:
        if not callable(self._token):
            return self._token or ""
        try:
            return await self._token()
        except Exception as error:  # a token service that fails is tried again like a server that does
            raise Disconnected(ABNORMAL, f"no token: {error}") from error

    def _on_text(self, wire: Wire, data: bytes) -> None:
        try:
            replies = json_codec.decode_replies(data)
        except ProtocolError as error:
            wire.give_up(INVALID_DATA, str(error))
            return
        for reply in replies:
            if reply.push is not None:
                self._on_push(wire, reply.push)
            elif reply.is_ping:
                wire.send(json_codec.ping)
            elif (waiting := self._calls.get(reply.id)) is not None:
                answer, on_reply = waiting
                if on_reply is not None:
                    on_reply(reply)
                if not answer.done():
                    answer.set_result(reply)

    def _on_push(self, wire: Wire, push: Push) -> None:
        subscription = self._rooms.get(push.channel)
        if push.disconnect is not None:
            wire.end(push.disconnect.code, push.disconnect.reason)
        elif push.pub is not None and subscription is not None:
            subscription.on_publication(push.pub)
        elif push.pub is not None:
            self.unrouted += 1
        elif push.unsubscribe is not None and subscription is not None:
            subscription.on_unsubscribed(push.unsubscribe.code, push.unsubscribe.reason)


async def _stop(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end; a task that stops itself only gets the cancellation."""
    task.cancel()
    if task is not asyncio.current_task():
        await asyncio.wait((task,))
