"""What an idle session costs the engine in memory: anonymous, and with everything that a token brings.

Thousands of sessions connect to an engine of their own (twins) and subscribe to one room; the engine's resident memory
is read before and after, once it has settled. Shapes: ``anonymous`` (no token, one subscription), ``token`` (user,
device, expiry, one subscription), ``token_and_subs`` (the same with one more, which the server made from the token's
``subs``). Each shape has an engine of its own. Bounded by the open files of a process: 8,000 sessions here.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from bench._edge_client import settled_bytes
from bench.engines import engine
from fanout.core.errors import FanoutError
from fanout.protocol import websocket
from fanout.runtime.apps import DEV_APP, DEV_SECRET
from fanout.runtime.tokens import mint

ROOM = "live:idle"
SHAPES = ("anonymous", "token", "token_and_subs")


def main(arguments: Sequence[str]) -> int:
    """Print KB a session for each shape as one JSON object."""
    parser = argparse.ArgumentParser(prog="session_memory", description=__doc__)
    parser.add_argument("--sessions", type=int, default=8_000)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    options = parser.parse_args(arguments)
    found = {f"{shape}_kb": round(_kb(shape, options.sessions), 2) for shape in options.shapes}
    print(json.dumps({"bench": "session_memory", "sessions": options.sessions, **found}))
    return 0


def _kb(shape: str, sessions: int) -> float:
    with engine("memory", "memory") as process:
        port = urlsplit(process.url).port or 0
        warm = [open_session(port, shape, -1 - number) for number in range(200)]  # pools and caches that all share
        before = settled_bytes(process.pid)
        sockets = [open_session(port, shape, number) for number in range(sessions)]
        grown = settled_bytes(process.pid) - before
        for connection in warm + sockets:
            connection.close()
    return grown / 1_024 / sessions


def open_session(port: int, shape: str, number: int) -> socket.socket:
    """Return a socket whose session has subscribed, its replies read; raises FanoutError with what was answered."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10.0)
    try:
        _join(connection, port, shape, number)
    except BaseException:
        connection.close()
        raise
    return connection


def _join(connection: socket.socket, port: int, shape: str, number: int) -> None:
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        f"GET /connection/websocket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = _read_until(connection, b"\r\n\r\n")
    if b" 101 " not in answer:
        raise FanoutError(f"the engine answered {answer.decode(errors='replace')}")
    hello = {"id": 1, "connect": {"token": _token(shape, number)} if shape != "anonymous" else {}}
    join = {"id": 2, "subscribe": {"channel": ROOM}}
    text = f"{json.dumps(hello)}\n{json.dumps(join)}".encode()
    connection.sendall(websocket.masked_frame(websocket.TEXT, text, os.urandom(4)))
    _read_until(connection, b'"id":2')


def _token(shape: str, number: int) -> str:
    subs = ("live:idle-too",) if shape == "token_and_subs" else ()
    expires_s = int(time.time()) + 3_600
    return mint(
        DEV_SECRET, app=DEV_APP, user=f"user-{number}", device=f"phone-{number}", expires_s=expires_s, subs=subs
    )


def _read_until(connection: socket.socket, wanted: bytes) -> bytes:
    got = b""
    while wanted not in got:
        more = connection.recv(4_096)
        if not more or b'"error"' in got:
            raise FanoutError(f"the engine answered {got[-400:].decode(errors='replace')}")
        got += more
    return got
