"""Protobuf on the wire: framing, both directions, everything a client can get wrong, and the SDK transcripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from fanout.core.errors import ProtocolError
from fanout.core.limits import FRAME_COMMANDS_MAX
from fanout.core.messages import Kind
from fanout.core.records import BINARY, Entry
from fanout.protocol import client_pb2, json_codec, protobuf_codec
from fanout.protocol.centrifuge import (
    ClientInfo,
    Command,
    ConnectRequest,
    ConnectResult,
    FilterNode,
    HistoryRequest,
    Malformed,
    PingRequest,
    PresenceResult,
    Publication,
    PublishRequest,
    Push,
    Reply,
    SendRequest,
    StreamPosition,
    SubscribeRequest,
    SubscribeResult,
    Unsubscribe,
    UnsubscribeResult,
    WireFormat,
    publication_of,
    raw_of,
)
from fanout.protocol.codecs import CODECS
from fanout.protocol.protobuf_codec import (
    decode_commands,
    decode_replies,
    encode_command,
    encode_publication_push,
    encode_reply,
    join,
    push_prefix,
    representable,
)

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


def malformed(frame: bytes) -> Malformed:
    """Return the only thing in a frame, which must be malformed."""
    (found,) = decode_commands(frame)
    assert isinstance(found, Malformed), found
    return found


def delimited(message: bytes) -> bytes:
    assert len(message) < 128
    return bytes([len(message)]) + message


def entry(**changes: object) -> Entry:
    values: dict[str, object] = {"offset": 44, "part": 0, "kind": 0, "priority": 2, "prev": 41, "n": 3, "id": 2**62}
    values |= {"at_ms": 0, "sent_ms": 0, "data": b'{"t":1}'} | changes
    return Entry(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "command",
    [
        Command(),
        Command(1, ping=PingRequest()),
        Command(send=SendRequest(raw_of(b"\x00\n\xff"))),
        Command(2**32 - 1, publish=PublishRequest("live:1", raw_of(b'{"a":1}'))),
        Command(
            1,
            connect=ConnectRequest(
                token="t",
                data=raw_of(b"{}"),
                subs={"#u": SubscribeRequest(recover=True, epoch="e", offset=2**53), "b": SubscribeRequest()},
                name="dart",
                headers={"a": "b", "": ""},
            ),
        ),
        Command(3, subscribe=SubscribeRequest("a", tf=FilterNode("and", nodes=[FilterNode(vals=["x", ""])]), flag=3)),
        Command(4, history=HistoryRequest("a", limit=-1, since=StreamPosition(2**63 - 1, "e"), reverse=True)),
    ],
)
def test_commands_go_there_and_back(command: Command) -> None:
    assert decode_commands(encode_command(command)) == [command]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(),
        Reply(3, unsubscribe=UnsubscribeResult()),
        Reply(1, connect=ConnectResult(client="c", ping=25, pong=True, subs={"#u": SubscribeResult(epoch="e")})),
        Reply(2, subscribe=SubscribeResult(publications=[Publication(raw_of(b"1"), offset=4), Publication()])),
        Reply(5, presence=PresenceResult({"c1": ClientInfo("bob", "c1", raw_of(b"{}"))})),
        Reply(push=Push(channel="a", unsubscribe=Unsubscribe(2500, "insufficient state"))),
    ],
)
def test_replies_go_there_and_back(reply: Reply) -> None:
    assert decode_replies(encode_reply(reply)) == [reply]


def test_several_commands_in_a_frame_are_read_in_order() -> None:
    commands = [Command(1, ping=PingRequest()), Command(), Command(2, publish=PublishRequest("x" * 300))]
    assert decode_commands(join(map(encode_command, commands))) == commands


def test_a_message_of_length_zero_is_a_pong() -> None:
    assert decode_commands(b"\x00") == [Command()]


def test_fields_of_later_protocol_versions_are_ignored() -> None:
    message = b"\x08\x01" + b"\x5a\x00" + b"\xf2\x3f\x02hi"  # id 1, ping, field 1022
    assert decode_commands(delimited(message)) == [Command(1, ping=PingRequest())]


def test_an_empty_frame_is_malformed() -> None:
    assert malformed(b"").detail == "an empty frame"


@pytest.mark.parametrize(
    ("frame", "word"),
    [
        (b"\x05\x08", "shorter than its length"),
        (b"\x80", "cut short"),
        (b"\xff\xff\xff\xff\xff\x01", "32 bits"),
        (b"\xff\xff\xff\xff\x0f", "shorter than its length"),
        (b"\x01\x08", "no Command"),
        (delimited(b"\x08\x01\x22\x02\x0a\x05"), "no Command"),  # the token ends beyond its request
        (delimited(b"\x08\x01\x22\x03\x0a\x01\xff"), "no Command"),  # a token that is no UTF-8
        (delimited(b"\x08\x01\x22\x08\x0a\x80\x80\x80\x80\x80\x80\x01"), "no Command"),
        (delimited(b"\x0b" * 100), "no Command"),  # groups without an end
        (delimited(b"\x08\x01"), "names one request"),
        (delimited(b"\x08\x01\x22\x00\x5a\x00"), "exactly one"),
        (delimited(b"\x5a\x00"), "needs an id"),
    ],
)
def test_what_is_no_command_is_malformed(frame: bytes, word: str) -> None:
    assert word in malformed(frame).detail


def test_commands_before_a_broken_length_are_still_read() -> None:
    found = decode_commands(delimited(b"\x08\x01\x5a\x00") + b"\x7f\x00")
    assert found[0] == Command(1, ping=PingRequest())
    assert isinstance(found[1], Malformed)
    assert len(found) == 2


def test_commands_after_one_that_is_none_are_still_read() -> None:
    assert decode_commands(delimited(b"\x08") + b"\x00") == [Malformed("no Command message"), Command()]


def test_more_commands_than_a_frame_may_hold_are_refused_together() -> None:
    assert len(decode_commands(b"\x00" * FRAME_COMMANDS_MAX)) == FRAME_COMMANDS_MAX
    assert str(FRAME_COMMANDS_MAX) in malformed(b"\x00" * (FRAME_COMMANDS_MAX + 1)).detail


def nested_filter(depth: int) -> FilterNode:
    node = FilterNode(key="a")
    for _ in range(depth):
        node = FilterNode(nodes=[node])
    return node


@pytest.mark.parametrize(("depth", "good"), [(30, True), (31, False), (60, False), (200, False), (2_000, False)])
def test_a_command_is_nested_at_most_32_deep(depth: int, good: bool) -> None:
    message = encode_deep_filter(depth)
    (found,) = decode_commands(message)
    assert isinstance(found, Command) is good
    if good:
        assert found == Command(1, subscribe=SubscribeRequest(tf=nested_filter(depth)))


def encode_deep_filter(depth: int) -> bytes:
    """Return a subscribe whose filter is nested ``depth`` deep, without recursion of ours."""
    node = b"\x12\x01a"
    for _ in range(depth):
        node = b"\x32" + varint(len(node)) + node
    request = b"\x6a" + varint(len(node)) + node
    command = b"\x08\x01\x2a" + varint(len(request)) + request
    return varint(len(command)) + command


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def test_an_offset_above_63_bits_is_malformed_and_keeps_the_id() -> None:
    command = client_pb2.Command(id=7, subscribe=client_pb2.SubscribeRequest(offset=2**63)).SerializeToString()
    found = malformed(delimited(command))
    assert found.id == 7
    assert "63 bits" in found.detail


@pytest.mark.parametrize("frame", [b"\x05\x08", b"\x80", b"\x02\x22\x05", b"\x02\x22\x00\xff"])
def test_replies_that_cannot_be_read_raise_the_declared_error(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_replies(frame)


@pytest.mark.parametrize("id_tag", [False, True])
@pytest.mark.parametrize("sender", ["", "bob", "ü" * 70])
@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("data", [b"", b"1", b"\x00\xff" * 100, b"x" * 20_000])
@pytest.mark.parametrize("room", ["live:1", ""])
def test_a_push_made_by_hand_equals_the_generated_encoder(
    id_tag: bool, sender: str, kind: Kind, data: bytes, room: str
) -> None:
    one = entry(sender=sender, kind=kind.value, data=data)
    whole = encode_reply(Reply(push=Push(channel=room, pub=publication_of(one, id_tag=id_tag))))
    assert encode_publication_push(push_prefix(room), one, id_tag=id_tag) == whole


@pytest.mark.parametrize("offset", [0, 1, 127, 128, 4_095, 4_096, 16_383, 16_384, 2**26 - 1, 2**26, 2**53, 2**63 - 1])
def test_offsets_of_every_length_are_pushed_as_the_generated_encoder_does(offset: int) -> None:
    one = entry(offset=offset)
    whole = encode_reply(Reply(push=Push(channel="live:1", pub=publication_of(one, id_tag=False))))
    assert encode_publication_push(push_prefix("live:1"), one, id_tag=False) == whole


def test_tags_are_pushed_in_any_order() -> None:
    one = entry(tags={"a": "b", "c": "", "": "d"})
    (reply,) = decode_replies(encode_publication_push(push_prefix("live:1"), one, id_tag=True))
    assert reply == Reply(push=Push(channel="live:1", pub=publication_of(one, id_tag=True)))


def test_every_payload_has_a_form_in_protobuf() -> None:
    assert representable(entry(flags=BINARY, data=b"\x00\n"))


def test_the_module_is_the_codec_of_its_wire_format() -> None:
    codec = CODECS[WireFormat.PROTOBUF]
    assert (codec.wire_format, codec.opcode, codec.ping) == (WireFormat.PROTOBUF, 2, encode_reply(Reply()))
    assert codec.ping == encode_command(Command())
    assert codec is protobuf_codec


def test_python_sdk_and_generated_classes_can_be_loaded_into_one_process() -> None:
    sdk = pytest.importorskip("centrifuge.protocol.client_pb2")
    text = encode_reply(Reply(1, connect=ConnectResult(client="c", ping=25)))[1:]
    assert sdk.Reply.FromString(text).connect.client == "c"


# --- transcripts -----------------------------------------------------------------------------------------------------


def messages_of(path: Path) -> list[tuple[bytes, list[str]]]:
    """Return (message, its commands as JSON) of a transcript; its header explains the notation."""
    messages: list[tuple[bytes, list[str]]] = []
    hexed = ""
    for line in path.read_text().splitlines():
        if line.startswith("> "):
            hexed += line[2:]
        elif line.startswith("= "):
            if hexed:
                messages.append((bytes.fromhex(hexed), []))
                hexed = ""
            messages[-1][1].append(line[2:])
    return messages


def test_there_is_a_transcript_for_every_sdk_that_speaks_protobuf_alone() -> None:
    assert [path.stem for path in TRANSCRIPTS] == ["dart", "java", "swift"]
    for path in TRANSCRIPTS:
        methods = {command.method for _, texts in messages_of(path) for command in decoded(texts)}
        assert methods >= {
            *("connect", "subscribe", "unsubscribe", "publish", "history", "presence", "presence_stats"),
            *("rpc", "refresh", "sub_refresh", ""),
        }
        assert ("send" in methods) is (path.stem != "dart")


def decoded(texts: list[str]) -> list[Command]:
    """Return the commands of JSON lines."""
    found = json_codec.decode_commands("\n".join(texts).encode())
    commands = [command for command in found if isinstance(command, Command)]
    assert len(commands) == len(found) == len(texts)
    return commands


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_what_an_sdk_puts_on_the_wire_is_read_as_the_same_commands_as_in_json(path: Path) -> None:
    for message, texts in messages_of(path):
        assert decode_commands(message) == decoded(texts)
