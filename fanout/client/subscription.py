"""One room of a client: joins, hands over publications, comes back with its position."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeAlias

from fanout.client.wire import Disconnected, Rejected, Wire, backoff_s
from fanout.protocol.centrifuge import (
    Command,
    Publication,
    Reply,
    StreamPosition,
    SubscribeRequest,
    SubscribeResult,
    UnsubscribeRequest,
)

OnPublication: TypeAlias = Callable[[Publication], Awaitable[None] | None]
OnSubscribed: TypeAlias = Callable[[SubscribeResult], None]

QUEUE_MAX: Final = 1_024  # publications of one room that wait for its handler
RESYNC_FROM: Final = 2500  # unsubscribe codes from here on ask the client to come back with its position


class Session(Protocol):
    """What a subscription needs of its client."""

    async def ready(self) -> Wire:
        """Wait for a connection; raises what has closed the client for good."""

    async def call(
        self, command: Command, *, on_reply: Callable[[Reply], None] | None = None, wire: Wire | None = None
    ) -> Reply:
        """Send a command and return its reply; raises Rejected, Disconnected, TimeoutError."""

    def forget(self, subscription: Subscription) -> None:
        """Let go of a subscription that has ended."""


class Subscription:
    """One room. ``position`` is that of the last processed publication, None before the first join.

    ``gaps`` counts the joins that could not recover, ``skipped`` the publications without a position that came while
    the handler was too far behind. ``failed`` is what ended it: the exception of its handler, Rejected, Disconnected.
    """

    def __init__(
        self,
        session: Session,
        room: str,
        handler: OnPublication,
        on_subscribed: OnSubscribed | None,
        position: StreamPosition | None,
        token: str,
    ) -> None:
        self._session = session
        self._handler = handler
        self._on_subscribed = on_subscribed
        self._token = token
        self._waiting: deque[Publication | SubscribeResult] = deque()
        self._changed = asyncio.Event()
        self._accepting = False  # publications go to the queue: joined, and not fallen behind since
        self._joined_on: Wire | None = None
        self.room = room
        self.position = position
        self.gaps = 0
        self.skipped = 0
        self.failed: Exception | None = None
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._run(), name=f"subscription to {room}")

    async def ended(self) -> None:
        """Wait until the subscription is over and raise what ended it; returns after ``unsubscribe`` or ``close``."""
        await asyncio.wait((self.task,))
        if self.failed is not None:
            raise self.failed

    # What the connection's reader tells; these never wait.

    def on_publication(self, publication: Publication) -> None:
        """Queue a publication, or fall behind."""
        if self._accepting and len(self._waiting) < QUEUE_MAX:
            self._waiting.append(publication)
        else:
            self._accepting = False
            self.skipped += not publication.offset
        self._changed.set()

    def on_unsubscribed(self, code: int, reason: str) -> None:
        """Come back with the position, or end where the server says so."""
        self._accepting, self._joined_on = False, None
        if code < RESYNC_FROM:
            self.end(Disconnected(code, reason))
        self._changed.set()

    def on_disconnected(self) -> None:
        """Join again on the next connection."""
        self._accepting, self._joined_on = False, None
        self._changed.set()

    def end(self, error: Exception) -> None:
        """End for good; what waits for the handler is still handed over."""
        if self.failed is None:
            self.failed, self._accepting = error, False
        if not self.joined.done():
            self.joined.set_exception(error)
        self._session.forget(self)

    def _on_reply(self, reply: Reply) -> None:
        if reply.subscribe is not None:
            self._waiting.append(reply.subscribe)
            self._waiting.extend(reply.subscribe.publications)
            self._accepting = True

    # The subscription's own task: one thing after the other.

    async def _run(self) -> None:
        attempt = 0
        while True:
            self._changed.clear()
            if self._waiting:
                await self._handle(self._waiting.popleft())
            elif self.failed is not None:
                await self._leave()
                return
            elif self._accepting:
                await self._changed.wait()
            else:
                attempt = await self._join(attempt)

    async def _join(self, attempt: int) -> int:
        """Subscribe on the connection there is; return how often the server has refused in a row."""
        try:
            wire = await self._session.ready()
            if self._joined_on is wire:  # fallen behind: the server must forget before it can recover
                await self._leave()
            self._joined_on = wire
            await self._session.call(Command(subscribe=self._request()), on_reply=self._on_reply, wire=wire)
        except Rejected as error:
            self._joined_on = None
            if not error.temporary:
                self.end(error)
                return 0
            await asyncio.sleep(backoff_s(attempt))
            return attempt + 1
        except Disconnected as error:
            self._joined_on = None
            if not error.reconnect:
                self.end(error)
            await asyncio.sleep(0)  # the client is about to notice as well
        except TimeoutError:
            await asyncio.sleep(backoff_s(attempt))  # the server may have done it: leave first, then try again
            return attempt + 1
        return 0

    async def _leave(self) -> None:
        wire, self._joined_on = self._joined_on, None
        if wire is None:
            return
        try:
            await self._session.call(Command(unsubscribe=UnsubscribeRequest(channel=self.room)), wire=wire)
        except (Rejected, Disconnected, TimeoutError):
            return  # then the server knows already, or never will

    def _request(self) -> SubscribeRequest:
        request = SubscribeRequest(channel=self.room, token=self._token)
        if self.position is not None:
            request.recover, request.epoch, request.offset = True, self.position.epoch, self.position.offset
        return request

    async def _handle(self, item: Publication | SubscribeResult) -> None:
        try:
            if isinstance(item, SubscribeResult):
                self._take_position(item)
            else:
                result = self._handler(item)
                if inspect.isawaitable(result):
                    await result
                if item.offset and self.position is not None:
                    self.position = StreamPosition(item.offset, self.position.epoch)
        except Exception as error:  # whatever a handler raises ends its own subscription and nothing else
            self._waiting.clear()
            self.end(error)

    def _take_position(self, result: SubscribeResult) -> None:
        self.gaps += result.was_recovering and not result.recovered
        if self.position is None or not result.recovered:
            self.position = StreamPosition(result.offset, result.epoch)
        if not self.joined.done():
            self.joined.set_result(None)
        if self._on_subscribed is not None:
            self._on_subscribed(result)
