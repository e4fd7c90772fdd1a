"""The JSON wire format: text frames, objects joined by newlines, payloads embedded as they are.

Everything here is a function of its arguments; nothing raises but what its docstring says. A payload is checked to be
valid JSON of bounded depth and then passed through as bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from fanout.core.errors import ProtocolError
from fanout.core.limits import FRAME_COMMANDS_MAX
from fanout.core.records import BINARY, Entry
from fanout.protocol.centrifuge import (
    DEPTH_MAX,
    NO_DATA,
    Command,
    Malformed,
    Reply,
    UInt32,
    WireFormat,
    checked,
    is_stored,
    tags_of,
)

wire_format: Final = WireFormat.JSON
opcode: Final = 1  # text
ping: Final = b"{}"

_ENCODER: Final = msgspec.json.Encoder()
_encode: Final = _ENCODER.encode
_COMMANDS: Final = msgspec.json.Decoder(Command)
_REPLIES: Final = msgspec.json.Decoder(Reply)

# A string, and whether a colon makes it a key. Applied to valid JSON only; possessive, so the scan is linear.
_STRING: Final = re.compile(rb'"((?:[^"\\]++|\\.)*+)"\s*+(:?)')
_TOKEN: Final = re.compile(rb'"((?:[^"\\]++|\\.)*+)"\s*+(:?)|[{}\[\]]')
_TO_ROUND: Final = bytes.maketrans(b"{[}]", b"(())")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"{[}]"))
_LONG_PAYLOAD: Final = 256  # from here on cutting the payload out costs less than searching it for keys


class _Numbered(msgspec.Struct):
    id: UInt32 = 0


_NUMBERED: Final = msgspec.json.Decoder(_Numbered)


def decode_commands(frame: bytes) -> list[Command | Malformed]:
    """Return the commands of a frame in order, each decoded or declared malformed; never raises.

    A frame is UTF-8 with one object a line; blank lines are skipped. One command that was printed over several lines is
    read as well. Unknown fields are ignored. Malformed: no JSON, a wrong type or range, a key given twice (outside of
    payloads), nesting deeper than DEPTH_MAX, no request or several, no id where one is due.
    """
    if not _is_utf8(frame):
        return [Malformed("a text frame is UTF-8")]
    lines = [line for line in frame.split(b"\n") if line and not line.isspace()]
    if not lines:
        return [Malformed("an empty frame")]
    if len(lines) > FRAME_COMMANDS_MAX:
        return [Malformed(f"more than {FRAME_COMMANDS_MAX} commands in a frame")]
    found = [_command(line) for line in lines]
    if len(lines) > 1 and any(type(one) is Malformed for one in found):
        return _printed(frame) or found
    return found


def decode_replies(frame: bytes) -> list[Reply]:
    """Return the replies of a frame in order; raises ProtocolError."""
    try:
        return [_REPLIES.decode(line) for line in frame.split(b"\n") if line]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"no reply: {error}") from error


def encode_command(command: Command) -> bytes:
    """Return one line of JSON; raises ProtocolError where a payload is no JSON and holds a newline."""
    return _one_line(_encode(command))


def encode_reply(reply: Reply) -> bytes:
    """Return one line of JSON; raises ProtocolError where a payload is no JSON and holds a newline."""
    return _one_line(_encode(reply))


def push_prefix(channel: str) -> bytes:
    """Return what stands before the payload in every publication push of a room; encode it once per room."""
    return b'{"push":{"channel":%b,"pub":{"data":' % _encode(channel)


def encode_publication_push(prefix: bytes, entry: Entry, *, id_tag: bool) -> bytes:
    """Return the push of an entry for which ``representable`` holds.

    ``prefix`` comes from ``push_prefix``; with ``id_tag`` the message id goes along as ``tags.id``.
    """
    user = b',"info":{"user":%b}' % _encode(entry.sender) if entry.sender else b""
    tags = b',"tags":%b' % _encode(tags_of(entry, id_tag=id_tag)) if id_tag or entry.tags else b""
    if is_stored(entry):
        return b'%b%b%b,"offset":%d%b}}}' % (prefix, entry.data, user, entry.offset, tags)
    return b"%b%b%b%b}}}" % (prefix, entry.data, user, tags)


def join(replies: Iterable[bytes]) -> bytes:
    """Return one frame of encoded replies, or of encoded commands."""
    return b"\n".join(replies)


def representable(entry: Entry) -> bool:
    """False for payloads that are not JSON, and for those whose newline would break the framing.

    Admission puts payloads on one line; what another producer wrote past it must not reach a client.
    """
    return not entry.flags & BINARY and bool(entry.data) and b"\n" not in entry.data


def _command(line: bytes) -> Command | Malformed:
    if line == ping:
        return Command()
    try:
        command = _COMMANDS.decode(line)
    except RecursionError:
        return Malformed(f"nested deeper than {DEPTH_MAX}")
    except msgspec.MsgspecError as error:
        return Malformed(str(error), _id_of(line))
    if line.count(b"{") + line.count(b"[") > DEPTH_MAX and _is_deep(line):
        return Malformed(f"nested deeper than {DEPTH_MAX}", command.id)
    if _repeats_a_key(line, command):
        return Malformed("a key is given twice", command.id)
    return checked(command)


def _id_of(line: bytes) -> int:
    """Return the id of a command that has something wrong elsewhere, or 0."""
    try:
        return _NUMBERED.decode(line).id
    except (msgspec.MsgspecError, RecursionError):
        return 0


def _printed(frame: bytes) -> list[Command | Malformed]:
    """Return the one command that a frame of several lines is, or nothing."""
    try:
        return [_command(msgspec.json.format(frame, indent=-1))]
    except (msgspec.MsgspecError, RecursionError):
        return []


def _is_utf8(frame: bytes) -> bool:
    try:
        frame.decode()
    except UnicodeDecodeError:
        return False
    return True


def _one_line(text: bytes) -> bytes:
    if b"\n" not in text:
        return text
    try:  # strings hold no raw newline, so it stands in whitespace
        return msgspec.json.format(text, indent=-1)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"a payload is no JSON: {error}") from error


def _is_deep(text: bytes) -> bool:
    """True where valid JSON is nested deeper than DEPTH_MAX: each round removes the innermost level."""
    brackets = _STRING.sub(b"", text).translate(_TO_ROUND, _NO_BRACKETS)
    for _ in range(DEPTH_MAX):
        brackets = brackets.replace(b"()", b"")
        if not brackets:
            return False
    return True


def _repeats_a_key(line: bytes, command: Command) -> bool:
    """True where an object of the envelope has a key twice; two readers could then understand two things."""
    if len(line) > _LONG_PAYLOAD:
        payload = _payload_of(command)
        if len(payload) > _LONG_PAYLOAD:  # whichever equal piece this removes, the keys around it stay
            line = line.replace(payload, b"0", 1)
    keys = [key for key, colon in _STRING.findall(line) if colon]
    if len(set(keys)) == len(keys) and b"\\" not in line:
        return False
    return _walk_finds_key_twice(line)


def _payload_of(command: Command) -> bytes:
    request = getattr(command, command.method, None)  # a pong has no method
    return bytes(getattr(request, "data", NO_DATA))


def _walk_finds_key_twice(line: bytes) -> bool:
    """As ``_repeats_a_key``, exactly: object by object, with escapes resolved, payloads left out."""
    objects: list[set[bytes]] = []
    payload_depth: int | None = None
    for token in _TOKEN.finditer(line):
        first = token[0][0]
        if first in b"{[":
            objects.append(set())
        elif first in b"}]":
            objects.pop()
        elif token[2] and (payload_depth is None or len(objects) <= payload_depth):
            key = token[1] if b"\\" not in token[1] else _encode(msgspec.json.decode(b'"%b"' % token[1]))[1:-1]
            if key in objects[-1]:
                return True
            objects[-1].add(key)
            payload_depth = len(objects) if key == b"data" else None
    return False
