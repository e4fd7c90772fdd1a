"""The example backend against an engine with keys: log in, form a group, talk, leave."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.engine_process import engine_process
from tests.support.wire_client import wire_client

ROOT = Path(__file__).parents[2]
KEYS = {"FANOUT_API_KEY": "k" * 32, "FANOUT_TOKEN_SECRET": "s" * 32}


@contextmanager
def backend(engine_url: str) -> Iterator[httpx.Client]:
    """Run the example as its docstring says, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "examples.im_backend.app:app", "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, **KEYS, "FANOUT_URL": engine_url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10) as client:
            for _ in range(100):
                try:
                    client.get("/")
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait(timeout=20)


def login(client: httpx.Client, user: str) -> str:
    """Log in; return the token."""
    answer = client.post("/login", json={"user": user, "password": f"{user}-password"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


@pytest.fixture(scope="module")
def im() -> Iterator[tuple[httpx.Client, str]]:
    """The backend and the WebSocket address of its engine."""
    with engine_process((), KEYS) as engine, backend(engine.http_url) as client:
        yield client, engine.ws_url


async def test_members_of_a_group_hear_one_another_and_outsiders_are_kept_out(im: tuple[httpx.Client, str]) -> None:
    client, ws_url = im
    ann, bob, eve = (login(client, user) for user in ("ann", "bob", "eve"))
    as_ann = {"Authorization": f"Bearer {ann}"}
    joined = client.put("/groups/team/members", json={"users": ["ann", "bob"]}, headers=as_ann)
    assert joined.json() == {"room": "group:team", "users": 2}
    async with wire_client(ws_url, bob, room="group:team") as listening, wire_client(ws_url, eve) as outside:
        said = client.post("/groups/team/messages", json={"text": "hello", "id": "ann-1"}, headers=as_ann)
        again = client.post("/groups/team/messages", json={"text": "hello", "id": "ann-1"}, headers=as_ann)
        assert said.json()["id"] == again.json()["id"]
        heard = await listening.publication()
        assert (heard["data"], heard["info"]["user"]) == ({"text": "hello"}, "ann")
        assert heard["tags"]["id"] == said.json()["id"]
        refused = await outside.command(subscribe={"channel": "group:team"})
        assert refused["error"]["code"] == 103
        await listening.command(publish={"channel": "group:team", "data": {"text": "hi"}})
        assert (await listening.publication())["info"]["user"] == "bob"


async def test_who_has_left_cannot_subscribe_again(im: tuple[httpx.Client, str]) -> None:
    client, ws_url = im
    bob = login(client, "bob")
    headers = {"Authorization": f"Bearer {bob}"}
    client.put("/groups/gone/members", json={"users": ["bob", "ann"]}, headers=headers)
    async with wire_client(ws_url, bob, room="group:gone"):
        pass
    assert client.request("DELETE", "/groups/gone/members", json={"users": ["bob"]}, headers=headers).status_code == 200
    async with wire_client(ws_url, bob) as back:
        assert (await back.command(subscribe={"channel": "group:gone"}))["error"]["code"] == 103


def test_what_the_backend_or_the_engine_refuses_says_why(im: tuple[httpx.Client, str]) -> None:
    client, _ = im
    assert client.post("/login", json={"user": "ann", "password": "wrong"}).status_code == 401
    assert client.post("/groups/team/messages", json={"text": "hello"}).status_code == 401
    headers = {"Authorization": f"Bearer {login(client, 'ann')}"}
    refused = client.post("/groups/team/messages", json={"text": "x" * 33_000}, headers=headers)
    assert (refused.status_code, refused.json()["extra"]["reason"]) == (413, "too_large")
