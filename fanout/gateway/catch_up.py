"""Those who are not in step: each is served from its own cursor, from the ring or from history, when its socket allows.

Reliable publications all reach them, droppable ones only while they are young: what a session could not take in two
seconds it would not read. Beyond the history a client is told to come back with its position (2500). Nothing is copied
for them while they wait, and nobody is closed because a room is loud.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from fanout.core.errors import Unavailable
from fanout.core.limits import DROPPABLE_AGE_S, FRAME_BYTES_MAX, FRAME_MESSAGES_MAX
from fanout.core.messages import Kind
from fanout.core.room_log import tally
from fanout.gateway.edge_ledger import Written
from fanout.gateway.history import EdgeHistory, Page
from fanout.gateway.room import Behind, Subscription
from fanout.gateway.wires import joined
from fanout.ports import Clock

if TYPE_CHECKING:
    from fanout.gateway.hub import Hub

logger = structlog.get_logger(__name__)

_HISTORY_TRIES_MAX: Final = 20
_HISTORY_RETRY_S: Final = 0.1
_DROPPABLE_AGE_MS: Final = int(DROPPABLE_AGE_S * 1_000)


class CatchUp:
    """Serves one frame at a time; ``again`` queues a subscription for its next one. ``hub`` is set before use."""

    hub: Hub

    def __init__(
        self, *, history: EdgeHistory, clock: Clock, written: Written, again: Callable[[Subscription], None]
    ) -> None:
        self._history = history
        self._clock = clock
        self._written = written
        self._again = again
        self._pages: set[asyncio.Task[None]] = set()

    @property
    def is_idle(self) -> bool:
        """True where no page of history is awaited."""
        return not self._pages

    async def close(self) -> None:
        """Stop; what is pending stays pending."""
        tasks = list(self._pages)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def serve(self, subscription: Subscription) -> None:
        """Give a subscription its next frame; what goes wrong with one is not the business of the others."""
        try:
            self._serve(subscription)
        except Exception:
            logger.exception("serving a session that was behind failed", room=subscription.room.key)
            self._resync(subscription)

    def _serve(self, subscription: Subscription) -> None:
        """Give one frame to a subscription from its own cursor: reliable all, droppable only what is young."""
        behind = subscription.behind
        if behind is None:
            return
        behind.queued = False
        session, room = subscription.session, subscription.room
        log = room.known_log
        if session.paused:
            return
        if behind.from_history or log.is_behind_ring(subscription.sent):
            self._start_page(subscription, behind)
            return
        if not room.catch_up(subscription):
            now_ms = int(self._clock.monotonic_s() * 1_000)
            held_since_ms = now_ms + 1 if self.hub.is_shedding else now_ms - _DROPPABLE_AGE_MS
            frame = room.frame(subscription.sent, session.wire, droppable_since_ms=held_since_ms)
            if frame.data:
                session.write(frame.data)
            room.advance(subscription, behind, frame)
            self._written.count(frame.data, sum(frame.written), 1)
            if not room.catch_up(subscription):
                self._again(subscription)  # a socket that is full now is queued when it has room again

    def _start_page(self, subscription: Subscription, behind: Behind) -> None:
        """Continue from history, in a task of its own; ``queued`` holds others off until it is done."""
        room = subscription.room
        room.leave_ring(subscription, behind)
        if room.known_log.chain_covers(behind.offset):  # all that left the ring was droppable
            room.enter_ring(subscription, behind)
            self._again(subscription)
            return
        behind.queued = True
        task = asyncio.get_running_loop().create_task(self._page(subscription, behind), name="page from history")
        self._pages.add(task)
        task.add_done_callback(self._pages.discard)

    async def _page(self, subscription: Subscription, behind: Behind) -> None:
        """Give one page of history; whatever goes wrong, the subscription does not wait for ever."""
        try:
            await self._page_or_resync(subscription, behind)
        except Exception:
            logger.exception("serving a session from history failed", room=subscription.room.key)
            if subscription.behind is behind:
                self._resync(subscription)

    async def _page_or_resync(self, subscription: Subscription, behind: Behind) -> None:
        room = subscription.room
        epoch = room.known_log.epoch
        try:
            page = await self._history.page(
                room.key, epoch, after=behind.offset, limit=FRAME_MESSAGES_MAX, bytes_max=FRAME_BYTES_MAX
            )
        except Unavailable:
            page = None
        if subscription.behind is not behind:
            return
        behind.queued = False
        if subscription.session.paused:
            return  # full again meanwhile: nothing is kept for it, and the page is asked for anew when it drains
        if page is None or page.meta is None or page.meta.epoch != epoch or behind.offset < page.meta.floor:
            self._resync(subscription)  # beyond history: the client is told, and comes back with its position
            return
        page = page.up_to(room.known_log.head)
        self._write_page(subscription, behind, page)
        if not self._continue(subscription, behind, page):
            await self._later(subscription, behind)

    def _write_page(self, subscription: Subscription, behind: Behind, page: Page) -> None:
        oldest_ms = self._clock.wall_ms() - _DROPPABLE_AGE_MS
        room, session = subscription.room, subscription.session
        encode = room.encoders[session.wire]
        due = [one for one in page.entries if one.kind == Kind.RELIABLE.value or one.at_ms >= oldest_ms]
        shown = [(one, push) for one in due if (push := encode(one))]
        data = joined(session.wire, [push for _, push in shown])
        if data:
            session.write(data)
        if page.entries:
            behind.offset = page.entries[-1].offset
            behind.tries = 0
        given = tally(one for one, _ in shown)
        room.ledger.replay(given)
        room.touched = True
        self._written.count(data, sum(given), 1)

    def _continue(self, subscription: Subscription, behind: Behind, page: Page) -> bool:
        """Go on in the ring, or with the next page; False where the history does not have yet what comes next."""
        room = subscription.room
        if room.known_log.chain_covers(behind.offset):
            room.enter_ring(subscription, behind)
        elif not page.truncated:
            return False
        self._again(subscription)
        return True

    async def _later(self, subscription: Subscription, behind: Behind) -> None:
        """The store lags behind the chunks: ask again shortly, and not for ever."""
        behind.tries += 1
        if behind.tries > _HISTORY_TRIES_MAX:
            self._resync(subscription)
            return
        await asyncio.sleep(_HISTORY_RETRY_S)
        if subscription.behind is behind:
            self._again(subscription)

    def _resync(self, subscription: Subscription) -> None:
        self.hub.resync_one(subscription)
