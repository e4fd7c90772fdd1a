"""Malformed commands, frames and handshakes: each gets its documented end, is counted, and disturbs nobody.

What comes over HTTP is in ``test_bad_input.py``, tokens are in ``test_bad_tokens.py``. FAULTS cases 38-51, as far as a
client can play them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
import time
import uuid
from typing import Any, Final

import pytest
import websockets

from fanout.protocol.deflate import deflate
from tests.support.engine_process import ServedEngine
from tests.support.misbehaviour import CONNECT, check_reply, close_code_of, closes_counted, connect
from tests.support.neighbour import Neighbour, counts, eventually, neighbour, session
from tests.support.raw_socket import KEY, RawSocket, frame, handshake, raw_socket, text

ROOM: Final = "@room@"  # stands for the neighbour's room
BOMB: Final = deflate(b" " * 50_000_000)
DEEP: Final = "[" * 10_000 + "]" * 10_000

# first message of a connection; all close with 3501
BEFORE_CONNECT: Final[dict[str, str | bytes]] = {
    "subscribe": '{"id":1,"subscribe":{"channel":"@room@"}}',
    "publish": '{"id":1,"publish":{"channel":"@room@","data":1}}',
    "history": '{"id":1,"history":{"channel":"@room@"}}',
    "rpc": '{"id":1,"rpc":{"method":"ack","data":{}}}',
    "send": '{"send":{"data":{}}}',
    "refresh": '{"id":1,"refresh":{"token":"x"}}',
    "a pong": "{}",
    "nothing": "",
    "blank": "   ",
    "a line break": "\n",
    "no JSON": "hello",
    "a list": "[]",
    "null": "null",
    "a number": "1",
    "cut short": '{"id":1,"connect":{',
    "connect without id": '{"connect":{}}',
    "connect with id 0": '{"id":0,"connect":{}}',
    "a negative id": '{"id":-1,"connect":{}}',
    "an id of text": '{"id":"1","connect":{}}',
    "an id of 2^32": '{"id":4294967296,"connect":{}}',
    "an id of 10,000 digits": '{"id":' + "9" * 10_000 + ',"connect":{}}',
    "a token that is no text": '{"id":1,"connect":{"token":1}}',
    "subs that are a list": '{"id":1,"connect":{"subs":[]}}',
    "NaN": '{"id":1,"connect":{"data":NaN}}',
    "deep": '{"id":1,"connect":{"data":' + DEEP + "}}",
    "two methods": '{"id":1,"connect":{},"subscribe":{"channel":"@room@"}}',
    "an unknown method": '{"id":1,"jump":{}}',
    "binary in a JSON session": b"\x02\x01\x02",
}
# after connect; all close with 3501
AFTER_CONNECT: Final[dict[str, str | bytes]] = {
    "no JSON": "hello",
    "cut short": '{"id":2,"subscribe":{"channel":"@room@"',
    "a list": '[{"id":2}]',
    "a command without id": '{"subscribe":{"channel":"@room@"}}',
    "a second connect": '{"id":2,"connect":{}}',
    "an unsolicited pong": "{}",
    "two documents in a line": '{"id":2,"subscribe":{"channel":"@room@"}}{"id":3}',
    "an id of text": '{"id":"2","subscribe":{"channel":"@room@"}}',
    "deep": '{"id":2,"rpc":{"method":"x","data":' + DEEP + "}}",
    "not UTF-8 in JSON": '{"id":2,"publish":{"channel":"@room@","data":"\\ud8"}}',
    "refresh without expiry": '{"id":2,"refresh":{"token":"x"}}',
    "sub_refresh without expiry": (
        '{"id":2,"subscribe":{"channel":"@room@"}}\n{"id":3,"sub_refresh":{"channel":"@room@","token":"x"}}'
    ),
    "binary in a JSON session": b"\x02\x01\x02",
}
# after connect: the command can be told by its id, so it is answered (107), and the connection goes on
WRONG_TYPES: Final[dict[str, str]] = {
    "a channel that is no text": '{"id":2,"subscribe":{"channel":7}}',
    "no channel": '{"id":2,"subscribe":[]}',
    "an offset of text": '{"id":2,"subscribe":{"channel":"@room@","recover":true,"offset":"1"}}',
    "a negative offset": '{"id":2,"subscribe":{"channel":"@room@","recover":true,"offset":-1}}',
    "an offset of 2^64": '{"id":2,"subscribe":{"channel":"@room@","recover":true,"offset":18446744073709551616}}',
    "an offset of 10,000 digits": '{"id":2,"history":{"channel":"@room@","since":{"offset":' + "9" * 10_000 + "}}}",
    "no client's word": '{"id":2,"jump":{}}',
    "no word": '{"id":2}',
    "two words": '{"id":2,"ping":{},"subscribe":{"channel":"@room@"}}',
}
# command after connect → reason of the error; the connection goes on
ERRORS: Final[tuple[tuple[dict[str, Any], str], ...]] = (
    ({"rpc": {"method": "no such thing", "data": {}}}, "method_not_found"),
    ({"rpc": {"method": "", "data": {}}}, "method_not_found"),
    ({"rpc": {"method": "m" * 5_000, "data": {}}}, "method_not_found"),
    ({"subscribe": {}}, "bad_request"),
    ({"subscribe": {"channel": ""}}, "bad_request"),
    ({"subscribe": {"channel": "open:a b"}}, "bad_request"),
    ({"subscribe": {"channel": "open:a\n"}}, "bad_request"),
    ({"subscribe": {"channel": "open:a\x00"}}, "bad_request"),
    ({"subscribe": {"channel": "dev/open:a"}}, "bad_request"),
    ({"subscribe": {"channel": "../open:a"}}, "bad_request"),
    ({"subscribe": {"channel": "open:r\u043e\u043em"}}, "bad_request"),
    ({"subscribe": {"channel": "open:" + "a" * 124}}, "bad_request"),
    ({"subscribe": {"channel": "nowhere:a"}}, "unknown_namespace"),
    ({"subscribe": {"channel": ":a"}}, "unknown_namespace"),
    ({"subscribe": {"channel": "OPEN:a"}}, "unknown_namespace"),
    ({"subscribe": {"channel": "#bob"}}, "permission_denied"),
    ({"publish": {"channel": ROOM}}, "bad_request"),
    ({"publish": {"channel": "open:a/b", "data": 1}}, "bad_request"),
    ({"publish": {"channel": "nowhere:a", "data": 1}}, "unknown_namespace"),
    ({"publish": {"channel": "#bob", "data": 1}}, "permission_denied"),
    ({"publish": {"channel": "live:show", "data": 1}}, "permission_denied"),
    ({"publish": {"channel": ROOM, "data": "x" * 32_768}}, "too_large"),
    ({"publish": {"channel": ROOM, "data": json.loads("[" * 33 + "]" * 33)}}, "bad_request"),
    ({"rpc": {"method": "publish", "data": {"channel": "#bob", "data": 1}}}, "*"),
    ({"history": {"channel": ""}}, "permission_denied"),
    ({"history": {"channel": "nowhere:a", "limit": 1}}, "permission_denied"),
    ({"history": {"channel": ROOM, "limit": 1}}, "permission_denied"),
    ({"sub_refresh": {"channel": ROOM, "token": "x"}}, "permission_denied"),
    ({"history": {"channel": "#bob", "limit": 1}}, "permission_denied"),
    ({"presence_stats": {"channel": "a b"}}, "permission_denied"),
    ({"presence": {"channel": ROOM}}, "*"),
    ({"unsubscribe": {"channel": "a b"}}, "*"),
    ({"rpc": {"method": "ack", "data": {"acks": [{"c": ROOM, "o": 2**52, "e": "x"}]}}}, "*"),
    ({"rpc": {"method": "ack", "data": {"acks": [{"c": "open:elsewhere", "o": -5, "e": ""}]}}}, "*"),
    ({"rpc": {"method": "sync", "data": "nonsense"}}, "*"),
)
# frames after connect → close code
FRAMES: Final[dict[str, tuple[bytes, int]]] = {
    "unmasked text": (frame(1, b"{}", masked=False), 1002),
    "unmasked ping": (frame(9, masked=False), 1002),
    "RSV1": (frame(1, b"{}", rsv=4), 1002),
    "RSV2": (frame(1, b"{}", rsv=2), 1002),
    "RSV3": (frame(1, b"{}", rsv=1), 1002),
    "RSV1 on a ping": (frame(9, b"", rsv=4), 1002),
    "a deflate bomb": (frame(1, b"\xec\xc1\x01\x01" + b"\x00" * 60_000, rsv=4), 1002),
    "opcode 3": (frame(3, b"x"), 1002),
    "opcode 7": (frame(7, b"x"), 1002),
    "opcode 11": (frame(11, b"x"), 1002),
    "opcode 15": (frame(15, b"x"), 1002),
    "not UTF-8": (frame(1, b'{"id":2,"rpc":{"method":"\xff"}}'), 1007),
    "a surrogate": (frame(1, b"\xed\xa0\x80"), 1007),
    "overlong": (frame(1, b"\xc0\xaf"), 1007),
    "above U+10FFFF": (frame(1, b"\xf4\x90\x80\x80"), 1007),
    "half a code point": (frame(1, b"\xe2\x82"), 1007),
    "not UTF-8 in the first of two fragments": (frame(1, b"\xff", fin=False), 1007),
    "2^63 bytes": (b"\x81\xff" + struct.pack(">Q", 2**63) + b"mask", 1002),
    "2^64-1 bytes": (b"\x81\xff" + b"\xff" * 8 + b"mask", 1002),
    "2^62 bytes": (b"\x81\xff" + struct.pack(">Q", 2**62) + b"mask", 1009),
    "2^31 bytes": (b"\x81\xff" + struct.pack(">Q", 2**31) + b"mask", 1009),
    "64 KB and a byte": (b"\x81\xff" + struct.pack(">Q", 65_537) + b"mask", 1009),
    "5 bytes in the 16-bit form": (b"\x81\xfe\x00\x05mask12345", 1002),
    "5 bytes in the 64-bit form": (b"\x81\xff" + struct.pack(">Q", 5) + b"mask12345", 1002),
    "a ping of 126 bytes": (frame(9, b"x" * 126), 1002),
    "a ping in fragments": (frame(9, b"x", fin=False), 1002),
    "a close in fragments": (frame(8, b"\x03\xe8", fin=False), 1002),
    "a continuation of nothing": (frame(0, b"x"), 1002),
    "a message inside a message": (frame(1, b"{", fin=False) + frame(1, b"}"), 1002),
    "fragments without end": (frame(1, b"{", fin=False) + frame(0, b" ", fin=False) * 200, 1009),
    "empty fragments without end": (frame(1, b"", fin=False) + frame(0, b"", fin=False) * 5_000, 1009),
    "fragments of 70 KB": (frame(1, b" " * 35_000, fin=False) + frame(0, b" " * 35_000, fin=False), 1009),
    "a close of one byte": (frame(8, b"\x03"), 1002),
    "close code 999": (frame(8, struct.pack(">H", 999)), 1002),
    "close code 1005": (frame(8, struct.pack(">H", 1005)), 1002),
    "close code 1006": (frame(8, struct.pack(">H", 1006)), 1002),
    "close code 1015": (frame(8, struct.pack(">H", 1015)), 1002),
    "close code 2999": (frame(8, struct.pack(">H", 2999)), 1002),
    "close code 5000": (frame(8, struct.pack(">H", 5000)), 1002),
    "a close reason that is not UTF-8": (frame(8, b"\x03\xe8\xff"), 1007),
}
# frames where permessage-deflate was agreed on → close code
COMPRESSED: Final[dict[str, tuple[bytes, int]]] = {
    "a deflate bomb": (frame(1, BOMB, rsv=4), 1009),
    "64 KB and a byte": (frame(1, deflate(b" " * 65_537), rsv=4), 1009),
    "a bomb in fragments": (frame(1, BOMB[:9_000], fin=False, rsv=4) + frame(9) + frame(0, BOMB[9_000:]), 1009),
    "a bomb of streams": (frame(1, b"\x01\x00\x00\xff\xff" * 12_000, rsv=4), 1007),
    "no deflate data": (frame(1, b"\xff" * 100, rsv=4), 1007),
    "not UTF-8": (frame(1, deflate(b"\xff"), rsv=4), 1007),
    "RSV1 on a ping": (frame(9, b"", rsv=4), 1002),
    "RSV1 on a close": (frame(8, b"", rsv=4), 1002),
    "RSV1 on a continuation": (frame(1, b"", fin=False, rsv=4) + frame(0, b"", rsv=4), 1002),
    "RSV1 and RSV2": (frame(1, deflate(b"{}"), rsv=6), 1002),
}
# bytes of a Protobuf session's first message; all close with 3501
PROTOBUF: Final[dict[str, bytes]] = {
    "a length beyond the message": b"\x7f\x08\x01",
    "a length without end": b"\xff" * 12,
    "a length of 2^63": b"\xff" * 9 + b"\x01",
    "an unknown wire type": b"\x02\x0f\x01",
    "a field cut short": b"\x04\x08\x01\x22\x7f",
    "a group": b"\x04\x08\x01\x23\x24",
    "a nested length beyond its message": b"\x06\x08\x01\x22\x02\x0a\x7f",
    "a token that is not UTF-8": b"\x08\x08\x01\x22\x04\x0a\x02\xff\xfe",
    "connect without id": b"\x02\x22\x00",
    "an empty message": b"",
    "a pong": b"\x00",
    "JSON": b'{"id":1,"connect":{}}',
    "zeros": b"\x00" * 10_000,
    "noise": hashlib.sha256(b"noise").digest() * 50,
}
HANDSHAKES: Final[dict[str, tuple[bytes, int]]] = {
    "no key": (handshake(leave_out="Sec-WebSocket-Key"), 400),
    "a short key": (handshake(change={"Sec-WebSocket-Key": "c2hvcnQ="}), 400),
    "a key that is no base64": (handshake(change={"Sec-WebSocket-Key": "!" * 24}), 400),
    "two keys": (handshake(more=(f"Sec-WebSocket-Key: {KEY}",)), 400),
    "no version": (handshake(leave_out="Sec-WebSocket-Version"), 426),
    "version 8": (handshake(change={"Sec-WebSocket-Version": "8"}), 426),
    "two versions": (handshake(more=("Sec-WebSocket-Version: 13",)), 426),
    "no host": (handshake(leave_out="Host"), 400),
    "two hosts": (handshake(more=("Host: elsewhere",)), 400),
    "HTTP/1.0": (handshake(first="GET {path} HTTP/1.0"), 400),
    "HTTP/3.0": (handshake(first="GET {path} HTTP/3.0"), 400),
    "POST": (handshake(first="POST {path} HTTP/1.1"), 400),
    "a header of 20 KB": (handshake(more=("X: " + "x" * 20_000,)), 400),
    "20 KB of small headers": (handshake(more=tuple(f"X-{n}: y" for n in range(2_500))), 400),
    "a folded header": (handshake(more=("X: a\r\n b",)), 400),
    "a space before the colon": (handshake(more=("X : y",)), 400),
    "NUL in a header": (handshake(more=("X: a\x00b",)), 400),
    "a bare CR in a header": (handshake(more=("X: a\rY: b",)), 400),
    "no path": (handshake(first="GET HTTP/1.1"), 400),
    "a body": (handshake(more=("Content-Length: 5",)), 400),
    "chunked": (handshake(more=("Transfer-Encoding: chunked",)), 400),
    "upgrade without Connection": (handshake(leave_out="Connection"), 400),
}


def filled(content: str | bytes, room: str) -> str | bytes:
    """Put the room in."""
    return content.replace(ROOM, room) if isinstance(content, str) else content


@pytest.mark.parametrize("case", BEFORE_CONNECT)
async def test_anything_but_a_connect_at_first_closes_with_3501(engine: ServedEngine, case: str) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        before = await closes_counted(beside, 3501)
        async with connect(engine) as socket:
            await socket.send(filled(BEFORE_CONNECT[case], beside.room))
            assert await close_code_of(socket) == 3501
            assert socket.close_reason == "bad request"
        assert await closes_counted(beside, 3501) == before + 1


@pytest.mark.parametrize("case", AFTER_CONNECT)
async def test_a_command_that_breaks_the_protocol_closes_with_3501(engine: ServedEngine, case: str) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        before = await closes_counted(beside, 3501)
        async with connect(engine) as socket:
            await socket.send(CONNECT)
            assert "connect" in json.loads(await socket.recv())
            await socket.send(filled(AFTER_CONNECT[case], beside.room))
            assert await close_code_of(socket) == 3501
        assert await closes_counted(beside, 3501) == before + 1


@pytest.mark.parametrize("case", WRONG_TYPES)
async def test_a_command_of_wrong_types_is_answered_107(engine: ServedEngine, case: str) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside, connect(engine) as socket:
        await socket.send(CONNECT)
        assert "connect" in json.loads(await socket.recv())
        before = (await counts(beside.http)).total("fanout_commands_refused_total", reason="bad_request")
        await socket.send(filled(WRONG_TYPES[case], beside.room))
        reply = json.loads(await socket.recv())
        assert reply["id"] == 2
        check_reply(reply, "bad_request")
        assert (await counts(beside.http)).total("fanout_commands_refused_total", reason="bad_request") == before + 1


async def test_a_command_that_cannot_be_done_is_answered_counted_and_the_connection_goes_on(
    engine: ServedEngine,
) -> None:
    wrong: list[str] = []
    async with neighbour(engine.http_url, engine.ws_url) as beside, session(engine.ws_url) as bad:
        for template, reason in ERRORS:
            command = json.loads(json.dumps(template).replace(ROOM, beside.room))
            before = (await counts(beside.http)).total("fanout_commands_refused_total")
            reply = await bad.command(**command)
            after = (await counts(beside.http)).total("fanout_commands_refused_total")
            try:
                check_reply(reply, reason)
                assert after == before + ("error" in reply), "not counted"
            except AssertionError as error:
                wrong.append(f"{json.dumps(command):.80}: {str(error).splitlines()[0]}")
        await bad.subscribe(beside.room)
        await eventually(lambda: bool(bad.publications), "publications on the same connection")
        assert bad.closed is None
    assert wrong == []


async def test_a_room_that_one_has_already_is_refused_and_stays(engine: ServedEngine) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside, session(engine.ws_url) as bad:
        await bad.subscribe(beside.room)
        check_reply(await bad.command(subscribe={"channel": beside.room}), "already_subscribed")
        seen = len(bad.publications)
        await eventually(lambda: len(bad.publications) > seen + 3, "publications")
        offsets = [one["offset"] for one in bad.publications]
        assert offsets == sorted(set(offsets)), "each once"


async def test_a_129th_subscription_is_refused_and_the_others_stay(engine: ServedEngine) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside, session(engine.ws_url) as bad:
        await bad.subscribe(beside.room)
        for number in range(127):
            await bad.subscribe(f"open:{uuid.uuid4().hex[:8]}-{number}")
        before = (await counts(beside.http)).total("fanout_commands_refused_total", reason="limit_exceeded")
        for _ in range(3):
            check_reply(await bad.command(subscribe={"channel": "open:one-more"}), "limit_exceeded")
        after = (await counts(beside.http)).total("fanout_commands_refused_total", reason="limit_exceeded")
        assert after == before + 3
        seen = len(bad.publications)
        await eventually(lambda: len(bad.publications) > seen, "publications")


async def test_a_position_from_elsewhere_is_declared_lost_and_harms_nobody(engine: ServedEngine) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        epoch = beside.session.joins[0]["epoch"]
        for fields in (
            {"recover": True, "epoch": "elsewhere", "offset": 1},
            {"recover": True, "epoch": "", "offset": 1},
            {"recover": True, "epoch": "x" * 10_000, "offset": 1},
        ):
            async with session(engine.ws_url) as bad:
                joined = await bad.subscribe(beside.room, **fields)
                assert not joined.get("recovered"), fields
                assert joined["epoch"] == epoch
                assert joined.get("publications", []) == []
                await eventually(lambda bad=bad: len(bad.publications) > 2, f"live publications after {fields}")  # type: ignore[misc]


async def test_too_many_commands_are_answered_111_and_then_closed_with_3013(engine: ServedEngine) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        before = await counts(beside.http)
        async with connect(engine) as socket:
            await socket.send(CONNECT)
            await socket.send(f'{{"id":1,"subscribe":{{"channel":"{beside.room}"}}}}')
            errors: list[int] = []
            async with asyncio.timeout(20):
                try:
                    for number in range(2, 3_000):
                        await socket.send(json.dumps({"id": number, "presence_stats": {"channel": beside.room}}))
                        await asyncio.sleep(0)
                    while True:
                        await socket.recv()
                except websockets.ConnectionClosed:
                    pass
                while True:
                    try:
                        lines = str(await socket.recv()).split("\n")
                    except websockets.ConnectionClosed:
                        break
                    errors += [reply["error"]["code"] for reply in map(json.loads, lines) if "error" in reply]
            assert socket.close_code == 3013
        after = await counts(beside.http)
        refused = [one.total("fanout_commands_refused_total", reason="too_many_requests") for one in (before, after)]
        assert refused[1] > refused[0]
        closed = [one.total("fanout_sessions_closed_total", code="3013") for one in (before, after)]
        assert closed[1] == closed[0] + 1


async def test_a_frame_stuffed_with_commands_costs_the_sender_its_connection_at_most(engine: ServedEngine) -> None:
    line = '{"id":%d,"presence_stats":{"channel":"@room@"}}'
    async with neighbour(engine.http_url, engine.ws_url) as beside, connect(engine) as socket:
        await socket.send(CONNECT)
        await socket.recv()
        lines = "\n".join(line % number for number in range(2, 900))
        await socket.send(filled(lines, beside.room))
        assert await close_code_of(socket) in (3013, 3501, 1009)


async def test_a_session_that_is_refused_again_and_again_is_closed_with_3509(engine: ServedEngine) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        before = await closes_counted(beside, 3509)
        async with session(engine.ws_url) as bad:
            with pytest.raises((ConnectionError, websockets.ConnectionClosed)):
                for _ in range(400):
                    await bad.command(subscribe={"channel": "nowhere:a"})
                    await asyncio.sleep(0.02)  # within the rate of commands
            await eventually(lambda: bad.closed is not None, "the close")
            assert bad.closed == 3509
        assert await closes_counted(beside, 3509) == before + 1


async def test_a_flood_of_pings_costs_the_sender_its_connection_at_most(engine: ServedEngine) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside, raw_socket(engine.port) as raw:
        await connected(raw)
        before = await closes_counted(beside, 3013)
        for _ in range(50):
            await raw.send(frame(9, b"x" * 125) * 100)
        assert await raw.close_code() == 3013
        assert await closes_counted(beside, 3013) == before + 1


async def connected(raw: RawSocket) -> None:
    """Go through handshake and connect."""
    await raw.upgrade()
    await raw.send(text(CONNECT))
    assert '"connect"' in await raw.text()


@pytest.mark.parametrize("case", FRAMES)
async def test_a_frame_that_breaks_rfc_6455_closes_with_its_code(engine: ServedEngine, case: str) -> None:
    content, code = FRAMES[case]
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        before = await closes_counted(beside, code)
        async with raw_socket(engine.port) as raw:
            await connected(raw)
            await raw.send(content)
            assert await raw.close_code() == code
            assert await raw.reader.read() == b"", "nothing after the close frame"
        assert await closes_counted(beside, code) == before + 1


@pytest.mark.parametrize("case", COMPRESSED)
async def test_a_frame_that_breaks_rfc_7692_closes_with_its_code(engine: ServedEngine, case: str) -> None:
    content, code = COMPRESSED[case]
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        before = await closes_counted(beside, code)
        async with raw_socket(engine.port) as raw:
            await raw.send(handshake(more=("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",)))
            status, headers = await raw.head()
            assert (status, headers["sec-websocket-extensions"].partition(";")[0]) == (101, "permessage-deflate")
            await raw.send(frame(1, deflate(CONNECT.encode()), rsv=4))
            assert '"connect"' in await raw.text()
            await raw.send(content)
            assert await raw.close_code() == code
            assert await raw.reader.read() == b"", "nothing after the close frame"
        assert await closes_counted(beside, code) == before + 1


async def test_frames_that_are_odd_but_legal_are_served(engine: ServedEngine) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside, raw_socket(engine.port) as raw:
        await raw.send(handshake() + text(CONNECT))  # in one write
        assert (await raw.head())[0] == 101
        assert '"connect"' in await raw.text()
        await raw.send(frame(10, b"nobody asked") + frame(9, b"are you there"))
        assert await raw.frame() == (10, b"are you there")
        command = f'{{"id":2,"subscribe":{{"channel":"{beside.room}"}}}}'.encode()
        pieces = [command[at : at + 9] for at in range(0, len(command), 9)]
        parts = [frame(0 if n else 1, piece, fin=False) + frame(9, b"p") for n, piece in enumerate(pieces)]
        for byte in b"".join(parts) + frame(0, b"", fin=True):  # a byte at a time, pings between the fragments
            await raw.send(bytes([byte]))
            await asyncio.sleep(0)
        assert '"id":2' in await raw.text()
        assert '"pub"' in await raw.text()
        await raw.send(frame(8, struct.pack(">H", 4_999) + b"bye"))
        assert await raw.close_code() == 4_999


@pytest.mark.parametrize("case", PROTOBUF)
async def test_bytes_that_are_no_protobuf_close_with_3501(engine: ServedEngine, case: str) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        before = await closes_counted(beside, 3501)
        async with connect(engine, subprotocols=[websockets.Subprotocol("centrifuge-protobuf")]) as socket:
            await socket.send(PROTOBUF[case])
            assert await close_code_of(socket) == 3501
        assert await closes_counted(beside, 3501) == before + 1


def field(number: int, payload: bytes) -> bytes:
    """Return a length-delimited field of less than 16 KB."""
    assert len(payload) < 16_384
    size = bytes([len(payload)]) if len(payload) < 128 else bytes([len(payload) & 0x7F | 0x80, len(payload) >> 7])
    return bytes([number << 3 | 2]) + size + payload


def protobuf_command(number: int, method: int, body: bytes) -> bytes:
    """Return a message with one command."""
    command = bytes([8, number]) + field(method, body)
    return field(0, command)[1:]


async def test_bytes_that_json_sessions_could_not_read_are_refused_or_arrive_as_one_line(
    engine: ServedEngine,
) -> None:
    room = f"open:{uuid.uuid4().hex[:12]}"
    odd = [b"\xff\x00", b"hello", b"", b'"a\nb"', b'{"a":1}{"b":2}', b"9" * 5_000, b"[" * 40 + b"]" * 40]
    async with (
        neighbour(engine.http_url, engine.ws_url),
        session(engine.ws_url) as listening,
        connect(engine, subprotocols=[websockets.Subprotocol("centrifuge-protobuf")]) as socket,
    ):
        await listening.subscribe(room)
        await socket.send(protobuf_command(1, 4, b""))
        await socket.recv()
        for data in odd:
            await socket.send(protobuf_command(2, 7, field(1, room.encode()) + field(2, data)))
            assert b"bad_request" in bytes(await socket.recv(decode=False)), data
        await socket.send(protobuf_command(2, 7, field(1, room.encode()) + field(2, b'{"a":\n[1,\r\n2]}\n')))
        assert b"bad_request" not in bytes(await socket.recv(decode=False))
        await eventually(lambda: bool(listening.publications), "the publication")
        assert [one["data"] for one in listening.publications] == [{"a": [1, 2]}]


async def test_text_in_a_protobuf_session_closes_with_3501(engine: ServedEngine) -> None:
    async with (
        neighbour(engine.http_url, engine.ws_url),
        connect(engine, subprotocols=[websockets.Subprotocol("centrifuge-protobuf")]) as socket,
    ):
        await socket.send(CONNECT)
        assert await close_code_of(socket) == 3501


@pytest.mark.parametrize("case", HANDSHAKES)
async def test_a_handshake_that_breaks_rfc_6455_is_refused_with_its_status(engine: ServedEngine, case: str) -> None:
    request, status = HANDSHAKES[case]
    async with neighbour(engine.http_url, engine.ws_url) as beside, raw_socket(engine.port) as raw:
        before = await refusals_counted(beside)
        await raw.send(request)
        answered, headers = await raw.head()
        assert answered == status
        assert headers["connection"] == "close"
        if status == 426:
            assert headers["sec-websocket-version"] == "13"
        body = json.loads(await raw.reader.read())
        assert set(body) == {"code", "reason", "detail"}
        assert await refusals_counted(beside) == before + 1


async def refusals_counted(beside: Neighbour) -> float:
    """Return the handshakes and other requests that were refused for their form so far."""
    seen = await counts(beside.http)
    bad = sum(seen.total("fanout_http_requests_total", status=status) for status in ("400", "404", "405"))
    return seen.total("fanout_handshakes_refused_total") + bad


async def test_a_slow_handshake_is_cut_in_5_s_and_a_slow_connect_closed_3502_in_10_s(engine: ServedEngine) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        before = await counts(beside.http)
        took = await asyncio.gather(
            silent_for(engine, b""),
            silent_for(engine, b"GET /connection/websocket HTTP/1.1\r\nHost: a\r\n"),
            silent_for(engine, handshake()[:-2]),
            dripping_for(engine),
            *(unconnected_for(engine) for _ in range(3)),
        )
        assert [4.0 < seconds < 8.0 for seconds in took[:4]] == [True] * 4, took
        assert [8.0 < seconds < 13.0 for seconds in took[4:]] == [True] * 3, took
        after = await counts(beside.http)
        closed = [one.total("fanout_sessions_closed_total", code="3502") for one in (before, after)]
        assert closed[1] == closed[0] + 3


async def silent_for(engine: ServedEngine, first: bytes) -> float:
    """Send the beginning of a handshake; return after how many seconds the engine cut the connection."""
    async with raw_socket(engine.port) as raw:
        begin = time.monotonic()
        await raw.send(first)
        assert (await raw.head(timeout_s=30.0))[0] in (0, 408)
        return time.monotonic() - begin


async def dripping_for(engine: ServedEngine) -> float:
    """Send a header a byte at a time; return after how many seconds the engine cut the connection."""
    async with raw_socket(engine.port) as raw:
        begin = time.monotonic()
        end = asyncio.create_task(raw.head(timeout_s=30.0))
        for byte in handshake(more=("X: " + "x" * 1_000,)):
            if end.done():
                break
            await raw.send(bytes([byte]))
            await asyncio.sleep(0.1)
        assert (await end)[0] in (0, 408)
        return time.monotonic() - begin


async def unconnected_for(engine: ServedEngine) -> float:
    """Make the handshake and say nothing but pings; return after how many seconds the connection was closed 3502."""
    async with raw_socket(engine.port) as raw:
        await raw.upgrade()
        begin = time.monotonic()
        await raw.send(frame(9, b"here"))
        assert await raw.close_code(timeout_s=30.0) == 3502
        return time.monotonic() - begin
