"""Commands of one session that wait for their turn. What a subscribe has to wait for is begun while it waits.

Answers keep the order of the commands; the attaches of a client that subscribes to a hundred cold rooms in one frame
overlap all the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from fanout.core.limits import COMMANDS_WAITING_MAX, PREPARES_AT_ONCE
from fanout.gateway.subscribe import Prepared, prepare
from fanout.protocol.centrifuge import Command, SubscribeRequest

if TYPE_CHECKING:
    from fanout.gateway.services import Services
    from fanout.gateway.session import Session

Early = asyncio.Task[Prepared]


class Turns:
    """The commands behind the one that is being answered; at most ``COMMANDS_WAITING_MAX``."""

    __slots__ = ("_places", "_services", "_session", "_waiting")

    def __init__(self, session: Session, services: Services) -> None:
        self._session, self._services = session, services
        self._waiting: deque[tuple[Command, Early | None]] = deque()
        self._places = asyncio.Semaphore(PREPARES_AT_ONCE)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, command: Command) -> bool:
        """Let a command wait; False where no more may."""
        if len(self._waiting) >= COMMANDS_WAITING_MAX:
            return False
        early: Early | None = None
        if command.subscribe is not None and self._session.connected:
            early = asyncio.get_running_loop().create_task(self._prepare(command.subscribe), name="prepare")
            early.add_done_callback(_landed)
        self._waiting.append((command, early))
        return True

    def next(self) -> tuple[Command, Early | None]:
        """Take the command whose turn it is."""
        return self._waiting.popleft()

    def clear(self) -> None:
        """Nobody is here to be answered."""
        for _, early in self._waiting:
            if early is not None:
                early.cancel()
        self._waiting.clear()

    async def _prepare(self, request: SubscribeRequest) -> Prepared:
        async with self._places:
            return await prepare(self._session, self._services, request.channel, request)


def _landed(early: Early) -> None:
    if not early.cancelled():
        early.exception()  # told when its turn has come, if there is still somebody to tell
