"""What tests of bad clients share: connections that answer nothing by themselves, and what docs/errors.md promises."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import websockets

from fanout.core.errors import PROBLEMS
from tests.support.engine_process import ServedEngine
from tests.support.neighbour import Neighbour, counts

API_KEY: Final = "key-of-the-acceptance-tests"
TOKEN_SECRET: Final = "a-secret-of-more-than-thirty-two-bytes!"
PROBLEM_BY_REASON: Final = {problem.reason: problem for problem in PROBLEMS}
CONNECT: Final = '{"id":1,"connect":{}}'


def connect(engine: ServedEngine, **options: Any) -> websockets.connect:
    """Open a WebSocket that answers no protocol pings by itself."""
    return websockets.connect(engine.ws_url, proxy=None, ping_interval=None, **options)


async def close_code_of(socket: websockets.ClientConnection) -> int | None:
    """Read to the end and return the code."""
    async with asyncio.timeout(15):
        try:
            while True:
                await socket.recv()
        except websockets.ConnectionClosed:
            return socket.close_code


async def closes_counted(beside: Neighbour, code: int) -> float:
    """Return how many connections ended with a code so far."""
    return (await counts(beside.http)).total("fanout_sessions_closed_total", code=str(code))


def check_reply(reply: dict[str, Any], reason: str) -> None:
    """The reply is the row of docs/errors.md; ``*`` is any of them or a result, as long as it is an answer."""
    if reason == "*":
        return
    assert "error" in reply, f"{reply} instead of {reason}"
    error, problem = reply["error"], PROBLEM_BY_REASON[reason]
    assert (error["code"], error["message"].partition(":")[0]) == (problem.code, reason), reply
    assert error.get("temporary", False) == problem.temporary
    assert len(error["message"]) < 500
