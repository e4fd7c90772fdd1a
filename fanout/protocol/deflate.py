"""permessage-deflate (RFC 7692) as pure functions: which offer is taken, one payload compressed, one inflated.

Every message is compressed by itself, in both directions: the server promises ``server_no_context_takeover``, so that
one compressed frame serves everybody, and demands ``client_no_context_takeover`` (which it may, §7.1.1.2), so that no
session keeps an inflater. What the extension changes in frames (RSV1) is in ``websocket.py``.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import Final

from fanout.core.limits import DEFLATE_LEVEL
from fanout.protocol.handshake import Extension

NAME: Final = "permessage-deflate"
WINDOW_BITS: Final = 15

_ANSWER: Final = f"{NAME}; server_no_context_takeover; client_no_context_takeover"
_TAIL: Final = b"\x00\x00\xff\xff"  # an empty block that ends every compressed message and is not sent (§7.2.1)
_RAW: Final = -WINDOW_BITS  # to zlib: neither header nor checksum
_MEMORY_LEVEL: Final = 8
_STREAMS_MAX: Final = 8  # ends of a DEFLATE stream (BFINAL) inside one message; senders need one at most
_BITS: Final = re.compile(r"[89]|1[0-5]", re.ASCII)


class TooLong(Exception):
    """A message inflates to more bytes than it may have."""


class Corrupt(Exception):
    """A message is no DEFLATE data."""


def agree(offers: Iterable[Extension]) -> str | None:
    """Return the value of Sec-WebSocket-Extensions that takes the first offer which can be met; None declines them all.

    Offers of other extensions are passed over. One of ours is declined where a parameter is unknown, repeated or has a
    value it may not have (§7.1), and where it allows us less than the 32 KB window of the frames that all share.
    """
    for offer in offers:
        if offer.name == NAME:
            answer = _answer(offer)
            if answer is not None:
                return answer
    return None


def _answer(offer: Extension) -> str | None:
    parameters = dict(offer.parameters)
    if len(parameters) != len(offer.parameters):
        return None
    for name, value in parameters.items():
        if not _is_valid(name, value):
            return None
    window = parameters.get("server_max_window_bits")
    if window is None:
        return _ANSWER
    # A client that limits our window must be told the limit it gets (§7.1.2.1). How far back its own messages reach
    # (client_max_window_bits) needs no answer: they are inflated with the largest window there is.
    return f"{_ANSWER}; server_max_window_bits={window}" if int(window) >= WINDOW_BITS else None


def _is_valid(name: str, value: str | None) -> bool:
    if name in ("server_no_context_takeover", "client_no_context_takeover"):
        return value is None
    if name == "client_max_window_bits" and value is None:
        return True
    return name in ("server_max_window_bits", "client_max_window_bits") and bool(value and _BITS.fullmatch(value))


def deflate(payload: bytes | memoryview, level: int = DEFLATE_LEVEL) -> bytes:
    """Return a message's payload compressed by itself (§7.2.1)."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, _RAW, _MEMORY_LEVEL)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]


def inflate(payload: bytes, bytes_max: int) -> bytes:
    """Return what a message was before its sender compressed it by itself (§7.2.2).

    Never makes more than ``bytes_max`` + 1 bytes; raises TooLong then, and Corrupt for what is no DEFLATE data.
    """
    rest, inflated = payload + _TAIL, b""
    for _ in range(_STREAMS_MAX):
        inflater = zlib.decompressobj(_RAW)
        try:
            inflated += inflater.decompress(rest, bytes_max + 1 - len(inflated))
        except zlib.error as error:
            raise Corrupt(str(error)) from error
        if len(inflated) > bytes_max:
            raise TooLong(f"more than {bytes_max} bytes")
        rest = inflater.unused_data
        if not rest:  # nearly always: a sender may end the stream, and go on with an empty block (§7.2.3.4)
            return inflated
    raise Corrupt(f"more than {_STREAMS_MAX} streams")
