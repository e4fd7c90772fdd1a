"""Tokens that are wrong, and what right ones do not allow: FAULTS cases 43, 44 and 46, on an engine with keys."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import httpx
import jwt
import pytest
import websockets

from tests.support.engine_process import ServedEngine
from tests.support.misbehaviour import API_KEY, CONNECT, TOKEN_SECRET, check_reply, closes_counted, connect
from tests.support.neighbour import eventually, neighbour, session
from tests.support.raw_socket import handshake, raw_socket, text


def segment(content: object) -> str:
    """Return one part of a token."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: object, claims: object, secret: str = TOKEN_SECRET) -> str:
    """Return a token with any header, signed with HMAC as if the header said so."""
    signed = f"{segment(header)}.{segment(claims)}"
    return f"{signed}.{segment(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"


def good(**claims: Any) -> dict[str, Any]:
    """Return claims that are right, but for the given ones; None leaves one out."""
    made = {"sub": "ann", "app": "default", "exp": int(time.time()) + 600} | claims
    return {name: value for name, value in made.items() if value is not None}


def signed(*, secret: str = TOKEN_SECRET, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """Return a token with right claims, but for the given ones."""
    return forged({"alg": "HS256", "typ": "JWT"} | (headers or {}), good(**claims), secret)


def _with_key(headers: dict[str, Any]) -> str:
    return signed(headers=headers)


TOKENS: Final[dict[str, Callable[[], str]]] = {
    "empty": lambda: "",
    "a word": lambda: "token",
    "two dots": lambda: "..",
    "not base64": lambda: "!!!.!!!.!!!",
    "not ASCII": lambda: signed() + "\u00e9",
    "NUL": lambda: signed() + "\x00",
    "a header that is no JSON": lambda: forged(b"hello", good()),
    "a header that is a list": lambda: forged([], good()),
    "claims that are a list": lambda: forged({"alg": "HS256"}, []),
    "claims that are no JSON": lambda: forged({"alg": "HS256"}, b"{"),
    "four parts": lambda: signed() + ".x",
    "no signature": lambda: signed().rpartition(".")[0] + ".",
    "another signature": lambda: signed().rpartition(".")[0] + "." + segment(b"\x00" * 32),
    "another secret": lambda: signed(secret="another-secret-of-thirty-two-bytes-and-more"),
    "the API key as secret": lambda: signed(secret=API_KEY),
    "the empty secret": lambda: signed(secret=""),
    "changed claims": lambda: ".".join(
        [signed().split(".")[0], segment(good(sub="root")), signed().split(".")[2]]
    ),
    "alg none": lambda: f"{segment({'alg': 'none'})}.{segment(good())}.",
    "alg None": lambda: f"{segment({'alg': 'None'})}.{segment(good())}.",
    "alg none with a signature": lambda: forged({"alg": "none"}, good()),
    "no alg": lambda: forged({"typ": "JWT"}, good()),
    "alg HS512": lambda: jwt.encode(good(), TOKEN_SECRET.ljust(64, "x"), "HS512"),
    "alg HS384 in the header": lambda: _with_key({"alg": "HS384"}),
    "alg RS256 in the header": lambda: _with_key({"alg": "RS256"}),
    "alg ES256 in the header": lambda: _with_key({"alg": "ES256"}),
    "alg that is a list": lambda: forged({"alg": ["HS256"]}, good()),
    "kid that is a path": lambda: _with_key({"kid": "../../../../dev/null"}),
    "kid that is SQL": lambda: _with_key({"kid": "x' UNION SELECT 'secret' --"}),
    "kid that is a URL": lambda: _with_key({"kid": "http://127.0.0.1/key"}),
    "kid that nobody has": lambda: _with_key({"kid": "other"}),
    "kid that is a number": lambda: _with_key({"kid": 1}),
    "kid that is an object": lambda: _with_key({"kid": {"a": 1}}),
    "jku": lambda: _with_key({"jku": "http://127.0.0.1/jwks.json"}),
    "jwk": lambda: _with_key({"jwk": {"kty": "oct", "k": segment(TOKEN_SECRET.encode())}}),
    "x5u": lambda: _with_key({"x5u": "http://127.0.0.1/cert"}),
    "x5c": lambda: _with_key({"x5c": ["AAAA"]}),
    "crit": lambda: _with_key({"crit": ["b64"], "b64": False}),
    "not yet": lambda: signed(nbf=int(time.time()) + 300),
    "nbf of text": lambda: signed(nbf="soon"),
    "an audience": lambda: signed(aud="somebody-else"),
    "another app": lambda: signed(app="shop"),
    "an app of another case": lambda: signed(app="Default"),
    "an app that is a list": lambda: signed(app=["default"]),
    "no app": lambda: signed(app=None),
    "no exp": lambda: signed(exp=None),
    "exp of text": lambda: signed(exp="tomorrow"),
    "exp NaN": lambda: forged({"alg": "HS256"}, b'{"sub":"ann","app":"default","exp":NaN}'),
    "exp infinity": lambda: forged({"alg": "HS256"}, b'{"sub":"ann","app":"default","exp":Infinity}'),
    "exp 1e400": lambda: forged({"alg": "HS256"}, b'{"sub":"ann","app":"default","exp":1e400}'),
    "exp of 1,000 digits": lambda: forged(
        {"alg": "HS256"}, b'{"sub":"ann","app":"default","exp":' + b"9" * 1_000 + b"}"
    ),
    "exp that is a list": lambda: signed(exp=[1]),
    "no sub": lambda: signed(sub=None),
    "an empty sub": lambda: signed(sub=""),
    "sub that is a number": lambda: signed(sub=7),
    "sub with a slash": lambda: signed(sub="a/b"),
    "sub with a space": lambda: signed(sub="a b"),
    "sub with a line break": lambda: signed(sub="ann\n"),
    "sub in Cyrillic": lambda: signed(sub="\u0430nn"),
    "sub of 65 bytes": lambda: signed(sub="a" * 65),
    "rooms of text": lambda: signed(rooms="*"),
    "rooms of numbers": lambda: signed(rooms=[1]),
    "subs of text": lambda: signed(subs="group:a"),
    "device that is a number": lambda: signed(device=7),
    "5 KB": lambda: signed(info={"a": "x" * 5_000}),
    "40 KB": lambda: signed(info={"a": "x" * 30_000}),
    "info of 1 KB and a byte": lambda: signed(info="x" * 1_024),
    "deep": lambda: forged({"alg": "HS256"}, b'{"sub":"ann","app":"default","info":' + b"[" * 1_200),
}  # fmt: skip


async def make_members(engine: ServedEngine, room: str, *users: str) -> None:
    """Make users members of a room."""
    async with httpx.AsyncClient(base_url=engine.http_url, trust_env=False, headers={"X-API-Key": API_KEY}) as http:
        answer = await http.put(f"/v1/rooms/{room}/members", json={"users": users})
        assert answer.status_code == 200, answer.text


async def test_a_token_that_is_wrong_closes_with_3500_is_counted_and_disturbs_nobody(
    keyed_engine: ServedEngine,
) -> None:
    room, wrong = f"group:{uuid.uuid4().hex[:8]}", []
    await make_members(keyed_engine, room, "ann", "bob")
    listening = neighbour(keyed_engine.http_url, keyed_engine.ws_url, room, signed(sub="bob"), API_KEY)
    async with listening as beside:
        for name, token in TOKENS.items():
            before = await closes_counted(beside, 3500)
            async with connect(keyed_engine) as socket:
                await socket.send(json.dumps({"id": 1, "connect": {"token": token()}}))
                replies: list[str] = []
                code = await closed_after(socket, replies)
            if code != 3500 or any('"connect"' in reply for reply in replies):
                wrong.append(f"{name}: {code} {replies}")
            elif await closes_counted(beside, 3500) != before + 1:
                wrong.append(f"{name}: not counted")
    assert wrong == []


async def closed_after(socket: websockets.ClientConnection, replies: list[str]) -> int | None:
    """Collect replies to the end; None where the connection stays."""
    try:
        async with asyncio.timeout(3):
            while True:
                replies.append(str(await socket.recv()))
    except websockets.ConnectionClosed:
        return socket.close_code
    except TimeoutError:
        return None


@pytest.mark.parametrize("age_s", [10, 600, 10**9])
async def test_an_expired_token_is_answered_109(keyed_engine: ServedEngine, age_s: int) -> None:
    async with connect(keyed_engine) as socket:
        await socket.send(json.dumps({"id": 1, "connect": {"token": signed(exp=int(time.time()) - age_s)}}))
        check_reply(json.loads(await socket.recv()), "token_expired")


async def test_a_token_that_is_right_is_taken(keyed_engine: ServedEngine) -> None:
    async with session(keyed_engine.ws_url, signed()) as opened:
        assert opened.closed is None
    async with session(keyed_engine.ws_url, signed(exp=time.time() + 60.5, aud=None, info={"name": "Ann"})) as opened:
        assert opened.closed is None


async def test_what_a_token_does_not_allow_is_refused(keyed_engine: ServedEngine) -> None:
    room = f"group:{uuid.uuid4().hex[:8]}"
    await make_members(keyed_engine, room, "ann", "bob")
    listening = neighbour(keyed_engine.http_url, keyed_engine.ws_url, room, signed(sub="bob"), API_KEY)
    async with listening as beside:
        async with session(keyed_engine.ws_url, signed(sub="eve")) as eve:
            check_reply(await eve.command(subscribe={"channel": room}), "not_a_member")
            check_reply(await eve.command(publish={"channel": room, "data": 1}), "permission_denied")
            check_reply(await eve.command(history={"channel": room, "limit": 10}), "permission_denied")
            reply = await eve.command(presence_stats={"channel": room})
            assert "error" in reply, reply
            check_reply(await eve.command(subscribe={"channel": "open:a"}), "unknown_namespace")
            check_reply(await eve.command(subscribe={"channel": "#bob"}), "permission_denied")
            check_reply(await eve.command(publish={"channel": "live:a", "data": 1}), "permission_denied")
        async with session(keyed_engine.ws_url, signed(sub="ann", rooms=["live:*"])) as ann:
            check_reply(await ann.command(subscribe={"channel": room}), "permission_denied")
            check_reply(await ann.command(publish={"channel": room, "data": 1}), "permission_denied")
            check_reply(await ann.command(history={"channel": room, "limit": 10}), "permission_denied")
        assert beside.session.closed is None


async def test_what_a_client_says_about_itself_is_not_believed(keyed_engine: ServedEngine) -> None:
    room = f"group:{uuid.uuid4().hex[:8]}"
    await make_members(keyed_engine, room, "ann", "bob")
    async with (
        session(keyed_engine.ws_url, signed(sub="bob")) as bob,
        session(keyed_engine.ws_url, signed(sub="ann")) as ann,
    ):
        await bob.subscribe(room)
        await ann.subscribe(room)
        for claimed in ({"sender": "bob"}, {"priority": "system"}, {"priority": "high"}, {"room": "live:other"}):
            data = {"room": room, "data": claimed, **claimed}
            reply = await ann.command(rpc={"method": "publish", "data": data})
            if "error" not in reply:  # then it has gone out as what it is
                assert reply["rpc"]["data"]["priority"] == "normal", claimed
                assert reply["rpc"]["data"]["room"] == room
        await ann.command(publish={"channel": room, "data": "last"})
        await eventually(lambda: any(one["data"] == "last" for one in bob.publications), "the last one")
        assert {one["info"]["user"] for one in bob.publications} == {"ann"}


async def test_a_user_who_publishes_too_fast_is_told_111_and_the_room_gets_what_was_accepted(
    keyed_engine: ServedEngine,
) -> None:
    room, fast = f"group:{uuid.uuid4().hex[:8]}", f"u{uuid.uuid4().hex[:8]}"
    await make_members(keyed_engine, room, fast, "bob")
    async with (
        session(keyed_engine.ws_url, signed(sub="bob")) as bob,
        session(keyed_engine.ws_url, signed(sub=fast)) as ann,
    ):
        await bob.subscribe(room)
        await ann.subscribe(room)
        accepted = []
        for number in range(40):
            reply = await ann.command(publish={"channel": room, "data": number})
            if "error" in reply:
                check_reply(reply, "too_many_requests")
            else:
                accepted.append(number)
        assert 20 <= len(accepted) < 40
        reply = await bob.command(publish={"channel": room, "data": "bob's"})
        assert "error" not in reply, "another user's rate is another one"
        await eventually(lambda: len(bob.publications) > len(accepted), "all")
        assert [one["data"] for one in bob.publications] == [*accepted, "bob's"]


async def test_a_subscription_token_that_is_wrong_lets_nobody_in(keyed_engine: ServedEngine) -> None:
    room = f"group:{uuid.uuid4().hex[:8]}"
    await make_members(keyed_engine, room, "ann", "bob")
    soon = int(time.time()) + 600
    right = {"sub": "eve", "app": "default", "room": room, "exp": soon}
    wrongs: Sequence[dict[str, Any]] = (
        {**right, "sub": "ann"},
        {**right, "room": room + "x"},
        {**right, "room": room.upper()},
        {**right, "room": ""},
        {**right, "room": [room]},
        {**right, "app": "shop"},
        {"sub": "eve", "app": "default", "exp": soon},
    )
    listening = neighbour(keyed_engine.http_url, keyed_engine.ws_url, room, signed(sub="bob"), API_KEY)
    async with listening:
        for claims in wrongs:
            assert await entry(keyed_engine, room, forged({"alg": "HS256"}, claims)) == "refused", claims
        assert await entry(keyed_engine, room, forged({"alg": "HS256"}, right, "x" * 40)) == "refused"
        assert await entry(keyed_engine, room, signed(sub="eve")) == "refused"
        assert await entry(keyed_engine, room, "x" * 10_000) == "refused"
        assert await entry(keyed_engine, room, forged({"alg": "HS256"}, {**right, "exp": soon - 1_000})) == "109"
        assert await entry(keyed_engine, room, forged({"alg": "HS256"}, right)) == "in"


async def entry(engine: ServedEngine, room: str, token: str) -> str:
    """Return how eve fares with a subscription token: in, refused (for good), or another error's code."""
    async with session(engine.ws_url, signed(sub="eve")) as eve:
        try:
            reply = await eve.command(subscribe={"channel": room, "token": token})
        except ConnectionError:
            return "refused" if eve.closed == 3500 else f"closed {eve.closed}"
        if "subscribe" in reply:
            return "in"
        code = reply["error"]["code"]
        return "refused" if code in (101, 103) else str(code)


async def test_a_user_has_20_connections_and_the_21st_is_refused(keyed_engine: ServedEngine) -> None:
    user = f"u{uuid.uuid4().hex[:8]}"
    sockets = []
    try:
        codes: list[int | None] = []
        for _ in range(21):
            socket = await connect(keyed_engine)
            sockets.append(socket)
            await socket.send(json.dumps({"id": 1, "connect": {"token": signed(sub=user)}}))
            try:
                reply = json.loads(await socket.recv())
                codes.append(reply.get("error", {}).get("code", 0))
            except websockets.ConnectionClosed:
                codes.append(socket.close_code)
        assert codes == [0] * 20 + [3504]
        others = [socket for socket in sockets[:20] if socket.close_code is not None]
        assert others == []
    finally:
        for socket in sockets:
            await socket.close()


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        ("https://good.example", 101),
        ("https://evil.example", 403),
        ("https://good.example.evil.example", 403),
        ("https://evil.example/https://good.example", 403),
        ("http://good.example", 403),
        ("https://good.example:8443", 403),
        ("null", 403),
        ("", 400),
        ("https://good.example, https://evil.example", 403),
    ],
)
async def test_only_pages_of_allowed_origins_may_connect(
    keyed_engine: ServedEngine, origin: str | None, status: int
) -> None:
    async with raw_socket(keyed_engine.port) as raw:
        more = ("Cookie: token=" + signed(),) + (() if origin is None else (f"Origin: {origin}",))
        await raw.send(handshake(more=more))
        assert (await raw.head())[0] == status


async def test_a_token_in_a_cookie_a_query_or_a_header_is_no_token(keyed_engine: ServedEngine) -> None:
    token = signed()
    for extra in (f"Cookie: token={token}", f"Authorization: Bearer {token}", f"X-Token: {token}"):
        async with raw_socket(keyed_engine.port) as raw:
            await raw.send(handshake(query=f"?token={token}", more=(extra,)))
            assert (await raw.head())[0] == 101
            await raw.send(text(CONNECT))
            assert await raw.close_code() == 3500, extra
