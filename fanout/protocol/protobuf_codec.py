"""The Protobuf wire format: binary frames, each message behind its length as a varint, payloads as ``bytes`` fields.

Commands and replies go through the generated classes; the publication push, the only hot one, is written by hand around
the payload and tested equal to them. Nothing raises but what its docstring says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf.message import DecodeError

from fanout.core.errors import ProtocolError
from fanout.core.limits import FRAME_COMMANDS_MAX
from fanout.core.records import Entry
from fanout.protocol import client_pb2
from fanout.protocol.centrifuge import Command, Malformed, Reply, WireFormat, checked, is_stored, tags_of
from fanout.protocol.protobuf_structs import COMMAND, REPLY

wire_format: Final = WireFormat.PROTOBUF
opcode: Final = 2  # binary
ping: Final = b"\x00"

_LENGTH_BYTES_MAX: Final = 5  # a length fits 32 bits


def decode_commands(frame: bytes) -> list[Command | Malformed]:
    """Return the commands of a frame in order, each decoded or declared malformed; never raises.

    A length that breaks the framing ends the list: nothing behind it can be told apart. Unknown fields are ignored.
    """
    if not frame:
        return [Malformed("an empty frame")]
    found: list[Command | Malformed] = []
    try:
        for part in _parts(frame):
            if len(found) == FRAME_COMMANDS_MAX:
                return [Malformed(f"more than {FRAME_COMMANDS_MAX} commands in a frame")]
            found.append(_command(part))
    except ProtocolError as error:
        found.append(Malformed(str(error)))
    return found


def decode_replies(frame: bytes) -> list[Reply]:
    """Return the replies of a frame in order; raises ProtocolError."""
    replies: list[Reply] = []
    for part in _parts(frame):
        message = client_pb2.Reply()
        try:
            message.ParseFromString(part)
        except DecodeError as error:
            raise ProtocolError(f"no reply: {error}") from error
        replies.append(REPLY.read(message, 0))
    return replies


def encode_command(command: Command) -> bytes:
    """Return length and message."""
    message = client_pb2.Command()
    COMMAND.write(command, message)
    return _delimited(message.SerializeToString())


def encode_reply(reply: Reply) -> bytes:
    """Return length and message."""
    message = client_pb2.Reply()
    REPLY.write(reply, message)
    return _delimited(message.SerializeToString())


def push_prefix(channel: str) -> bytes:
    """Return what stands before the publication in every publication push of a room; encode it once per room."""
    name = channel.encode()
    return b"\x12%b%b\x22" % (_varint(len(name)), name) if name else b"\x22"


def encode_publication_push(prefix: bytes, entry: Entry, *, id_tag: bool) -> bytes:
    """Return the push of an entry, with its length.

    ``prefix`` comes from ``push_prefix``; with ``id_tag`` the message id goes along as ``tags.id``.
    """
    data = entry.data
    pub = b"\x22%b%b" % (_varint(len(data)), data) if data else b""
    if entry.sender:
        user = _text(0x0A, entry.sender)
        pub += b"\x2a%b%b" % (_varint(len(user)), user)
    if is_stored(entry) and entry.offset:
        pub += b"\x30%b" % _varint(entry.offset)
    if id_tag or entry.tags:
        for key, value in tags_of(entry, id_tag=id_tag).items():
            pair = _text(0x0A, key) + _text(0x12, value)
            pub += b"\x3a%b%b" % (_varint(len(pair)), pair)
    push = b"%b%b%b" % (prefix, _varint(len(pub)), pub)
    length = _varint(len(push))
    return b"%b\x22%b%b" % (_varint(1 + len(length) + len(push)), length, push)


def join(replies: Iterable[bytes]) -> bytes:
    """Return one frame of encoded replies, or of encoded commands."""
    return b"".join(replies)


def representable(entry: Entry) -> bool:
    """True: every payload is bytes."""
    return True


# --- varints ---------------------------------------------------------------------------------------------------------


def _long_varint(number: int) -> bytes:
    """Return an unsigned number, seven bits a byte, lowest first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


_VARINTS: Final = tuple(map(_long_varint, range(4_096)))  # nearly every length there is


def _varint(number: int) -> bytes:
    """As ``_long_varint``, in one step for lengths and for offsets below 2**26."""
    if number < 4_096:
        return _VARINTS[number]
    if number < 16_384:
        return b"%c%c" % (number & 127 | 128, number >> 7)
    if number < 67_108_864:  # 14 low bits with their continuation, then at most 12 more
        return b"%c%c%b" % (number & 127 | 128, number >> 7 & 127 | 128, _VARINTS[number >> 14])
    return _long_varint(number)


def _text(tag: int, text: str) -> bytes:
    """Return a string field; ``tag`` is field number × 8 + 2."""
    value = text.encode()
    return b"%c%b%b" % (tag, _varint(len(value)), value)


def _delimited(message: bytes) -> bytes:
    return _varint(len(message)) + message


def _parts(frame: bytes) -> Iterator[bytes]:
    """Yield the messages of a frame; raises ProtocolError where a length is none or points beyond the end."""
    at, end = 0, len(frame)
    while at < end:
        length, at = _length_at(frame, at)
        if length > end - at:
            raise ProtocolError("a message is shorter than its length says")
        yield frame[at : at + length]
        at += length


def _length_at(frame: bytes, at: int) -> tuple[int, int]:
    length = 0
    for index, byte in enumerate(frame[at : at + _LENGTH_BYTES_MAX]):
        length |= (byte & 127) << 7 * index
        if byte < 128:
            return length, at + index + 1
    raise ProtocolError("a length is cut short or has more than 32 bits")


def _command(part: bytes) -> Command | Malformed:
    if not part:
        return Command()
    message = client_pb2.Command()
    try:
        message.ParseFromString(part)
        return checked(COMMAND.read(message, 0))
    except DecodeError:
        return Malformed("no Command message")
    except ProtocolError as error:
        return Malformed(str(error), message.id)
