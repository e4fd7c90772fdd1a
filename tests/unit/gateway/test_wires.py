"""Frames that sessions share: encoded once per wire format, compressed once for those who negotiated that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest

from fanout.core.limits import DEFLATE_FROM_BYTES, SWEEP_FRAME_SESSIONS
from fanout.core.profiles import LIVE
from fanout.core.records import BINARY, Entry
from fanout.core.room_log import Position
from fanout.gateway.room import Room
from fanout.gateway.wires import FORMAT_OF, IS_DEFLATED, WIRE_CODECS, WIRES, Frame, SharedFrames, wire_of
from fanout.protocol import websocket
from fanout.protocol.centrifuge import WireFormat
from fanout.runtime.metrics import BYTES_SAVED, BYTES_WRITTEN, FRAMES_DEFLATED
from tests.support.edge import KEY, ROOM, EdgeWorld, Listener
from tests.support.virtual_time import LoopClock, run

JSON, PROTOBUF, JSON_DEFLATED, PROTOBUF_DEFLATED = WIRES
CHAT = b'{"text":"the same words again and again"}'


def room_of(*payloads: bytes, flags: int = 0) -> Room:
    """A room whose ring holds the payloads."""
    room = Room(KEY, LIVE, 0, 1)
    room.begin(Position("e", 10, 10, 10, 0))
    for offset, data in enumerate(payloads, 11):
        room.known_log.append(Entry(offset, 0, 1, 2, 10, 0, offset, 0, 0, data, "ann", flags=flags), 0, 0, 0)
    return room


def frames_of(room: Room, wires: Sequence[int] = WIRES) -> dict[int, Frame]:
    return {wire: room.frames.build(room.known_log, wire, 0) for wire in wires}


def shown(wire: int, frame: Frame) -> list[bytes]:
    """Return the payloads that a client reads out of a frame."""
    parser = websocket.InflatingParser(masked=False, message_bytes_max=1 << 20)
    found = []
    for event in parser.feed(frame.data):
        assert isinstance(event, websocket.Text | websocket.Binary)
        replies = WIRE_CODECS[wire].decode_replies(event.data)
        found += [bytes(reply.push.pub.data) for reply in replies if reply.push and reply.push.pub]
    return found


def play(scene: Callable[[EdgeWorld], Awaitable[None]]) -> None:
    async def main() -> None:
        world = EdgeWorld(LoopClock())
        world.start()
        await scene(world)
        await world.settle()
        world.check_ledger()
        await world.close()

    run(main())


def test_a_wire_is_a_format_with_compression_or_without() -> None:
    assert wire_of(WireFormat.JSON, is_deflated=False) == JSON
    assert wire_of(WireFormat.PROTOBUF, is_deflated=True) == PROTOBUF_DEFLATED
    assert [(FORMAT_OF[wire], IS_DEFLATED[wire]) for wire in WIRES] == [(0, False), (1, False), (0, True), (1, True)]


def test_all_wires_show_the_same_up_to_the_same_cursor() -> None:
    payloads = [b'{"n":%d,"text":"hello"}' % number for number in range(200)]
    frames = frames_of(room_of(*payloads))
    assert [shown(wire, frames[wire]) for wire in WIRES] == [payloads] * 4
    assert {(frame.sent, frame.written) for frame in frames.values()} == {(200, (0, 0, 200, 0))}


@pytest.mark.parametrize("wires", [[JSON_DEFLATED], [PROTOBUF, JSON_DEFLATED], [JSON_DEFLATED, PROTOBUF_DEFLATED]])
def test_only_the_wires_in_use_have_frames(wires: list[int]) -> None:
    room = room_of(*[CHAT] * 50)
    frames = frames_of(room, wires)
    assert list(frames) == wires
    encoded = [index for index, push in enumerate(frames[wires[0]].publications[0].pushes) if push]
    assert encoded == sorted({FORMAT_OF[wire] for wire in wires})


@pytest.mark.parametrize(("plain", "compressed"), [(JSON, JSON_DEFLATED), (PROTOBUF, PROTOBUF_DEFLATED)])
def test_a_large_frame_is_compressed_and_says_what_that_saved(plain: int, compressed: int) -> None:
    frames = frames_of(room_of(*[CHAT] * 50))
    assert frames[plain].saved == 0
    assert frames[compressed].saved == len(frames[plain].data) - len(frames[compressed].data) > 2_000
    assert frames[compressed].data[0] & 0x40 and not frames[plain].data[0] & 0x40


def test_a_small_frame_is_the_same_for_all() -> None:
    frames = frames_of(room_of(CHAT, CHAT))
    assert len(frames[JSON].data) <= DEFLATE_FROM_BYTES
    assert frames[JSON_DEFLATED] is frames[JSON]


def test_a_frame_goes_to_many_before_a_newer_one_takes_its_place() -> None:
    room = room_of(CHAT)
    frames = SharedFrames(room.encoders)
    log = room.known_log
    assert frames.held(log, JSON, 0) is None
    first = frames.build(log, JSON, 0)
    log.append(Entry(12, 0, 1, 2, 10, 0, 12, 0, 0, CHAT, "ann"), 0, 0, 0)
    frames.given(JSON, SWEEP_FRAME_SESSIONS - 1)
    assert frames.held(log, JSON, 0) is first
    assert frames.held(log, JSON, 1) is None, "it begins after another cursor"
    assert frames.held(log, PROTOBUF, 0) is None
    frames.given(JSON, 1)
    assert frames.held(log, JSON, 0) is None
    assert [frames.build(log, JSON, 0).sent, first.sent] == [2, 1]
    frames.given(JSON, 2 * SWEEP_FRAME_SESSIONS)
    assert frames.held(log, JSON, 0) is not None, "there is nothing newer"
    frames.clear()
    assert frames.held(log, JSON, 0) is None


def test_the_wires_of_a_format_share_a_frame_while_nothing_newer_comes() -> None:
    room = room_of(CHAT)
    frames, log = room.frames, room.known_log
    assert frames.build(log, JSON, 0) is frames.build(log, JSON_DEFLATED, 0), "too small to be compressed"
    log.append(Entry(12, 0, 1, 2, 10, 0, 12, 0, 0, CHAT, "ann"), 0, 0, 0)
    assert [frames.build(log, JSON_DEFLATED, sent).written[2] for sent in (0, 1)] == [2, 1]


def test_a_frame_that_shows_nothing_stays_empty() -> None:
    frames = frames_of(room_of(*[b"\x00\x01"] * 300, flags=BINARY))
    assert frames[JSON_DEFLATED].data == b""
    assert frames[JSON_DEFLATED].binary == (0, 0, 256, 0)
    assert len(shown(PROTOBUF_DEFLATED, frames[PROTOBUF_DEFLATED])) == 256


def test_everybody_who_negotiated_compression_is_given_the_same_bytes() -> None:
    async def scene(world: EdgeWorld) -> None:
        listeners = [Listener(world, wire=number % 4) for number in range(40)]
        for listener in listeners:
            listener.join()
        before = [counter._value.get() for counter in (FRAMES_DEFLATED, BYTES_WRITTEN, BYTES_SAVED)]
        world.give(world.batch([world.entry(data=CHAT) for _ in range(64)]))
        await world.settle()
        counted = [
            counter._value.get() - count
            for counter, count in zip((FRAMES_DEFLATED, BYTES_WRITTEN, BYTES_SAVED), before, strict=True)
        ]
        assert len({id(listener.frames[0]) for listener in listeners}) == 4
        assert all(len(listener.received) == 64 for listener in listeners)
        sizes = [len(listener.frames[0]) for listener in listeners[:4]]
        assert counted == [2, 10 * sum(sizes), 10 * (sizes[JSON] - sizes[2] + sizes[PROTOBUF] - sizes[3])]

    play(scene)


def test_what_a_session_is_given_from_its_own_cursor_is_not_compressed() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow = Listener(world, wire=JSON_DEFLATED)
        slow.join()
        slow.stall()
        world.give(world.batch([world.entry(data=CHAT) for _ in range(64)]))
        await world.settle()
        slow.flow()
        await world.settle()
        assert len(slow.received) == 64
        assert [frame[0] for frame in slow.frames] == [0x81]

    play(scene)


def test_rooms_that_share_a_name_prefix_have_encoders_of_their_own() -> None:
    entry = Entry(11, 0, 1, 2, 10, 0, 11, 0, 0, CHAT, "ann")
    one, other = room_of(), Room(f"{KEY}2", LIVE, 0, 2)
    assert b'"%b"' % ROOM.encode() in one.encoders[JSON](entry)
    assert b'"%b2"' % ROOM.encode() in other.encoders[JSON_DEFLATED](entry)
    assert one.encoders[JSON] is one.encoders[JSON_DEFLATED]
