"""A real engine that may take little memory: it turns clients away in words, serves those it has, and takes others."""

from __future__ import annotations

import asyncio
import socket

from bench.session_memory import ROOM, open_session
from fanout.core.errors import FanoutError
from tests.support.engine_process import engine_process

SESSIONS_MAX = 12_000  # of 1.8 KB: more than fit


def open_until_refused(port: int) -> tuple[list[socket.socket], str]:
    """Return the sessions that were let in, and what the next one was answered."""
    sessions: list[socket.socket] = []
    try:
        sessions.extend(open_session(port, "anonymous", number) for number in range(SESSIONS_MAX))
    except FanoutError as error:
        return sessions, str(error)
    return sessions, ""


async def test_a_process_that_is_full_turns_clients_away_serves_those_it_has_and_takes_others_for_them() -> None:
    with engine_process(("--insecure", "--memory-mb", "100")) as engine:
        sessions, answer = await asyncio.to_thread(open_until_refused, engine.port)
        try:
            assert len(sessions) > 500
            assert "503 Service Unavailable" in answer and '"reason":"overloaded"' in answer
            await asyncio.to_thread(engine.publish, ROOM, {"n": 1})
            for session in (sessions[0], sessions[-1]):
                assert b'"n":1' in await asyncio.to_thread(session.recv, 4_096)
            for session in sessions[::4]:
                session.close()
            await asyncio.sleep(2.5)  # a look comes once a second
            sessions.append(await asyncio.to_thread(open_session, engine.port, "anonymous", SESSIONS_MAX))
        finally:
            for session in sessions:
                session.close()
        text = (await asyncio.to_thread(engine.get, "/metrics")).text
        assert 'fanout_connects_refused_total{reason="memory"}' in text
