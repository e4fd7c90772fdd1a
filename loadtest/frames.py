"""WebSocket frames as a viewer needs them: a few bytes of RFC 6455, no state but the rest of the last read.

The server's frames are unmasked and, from this engine, never fragmented. The client's are masked with a zero key, which
the RFC allows and which costs nothing.
"""

from __future__ import annotations

from typing import Final

TEXT: Final = 1
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
_FIN: Final = 0x80
_MASKED: Final = 0x80
_ZERO_KEY: Final = b"\0\0\0\0"


class Unreadable(ValueError):
    """Bytes that no server may send here: a masked or fragmented frame."""


def split(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return the whole frames (opcode, payload) at the beginning of ``data``, and the rest; raises Unreadable."""
    frames: list[tuple[int, bytes]] = []
    at, end = 0, len(data)
    while end - at >= 2:
        first, length = data[at], data[at + 1]
        if not first & _FIN or length & _MASKED:
            raise Unreadable(f"frame begins with {data[at : at + 2]!r}")
        start = at + 2
        if length == 126:
            start += 2
            length = int.from_bytes(data[at + 2 : start], "big")
        elif length == 127:
            start += 8
            length = int.from_bytes(data[at + 2 : start], "big")
        if start > end or start + length > end:
            break
        frames.append((first & 0x0F, data[start : start + length]))
        at = start + length
    return frames, data[at:]


def from_client(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame."""
    length = len(payload)
    if length < 126:
        head = bytes((_FIN | opcode, _MASKED | length))
    elif length < 65_536:
        head = bytes((_FIN | opcode, _MASKED | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((_FIN | opcode, _MASKED | 127)) + length.to_bytes(8, "big")
    return head + _ZERO_KEY + payload


def close_code(payload: bytes) -> int:
    """Return the code of a close frame, 1005 where it has none."""
    return int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
