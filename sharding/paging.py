"""Sealed cursors of member pages: where the next page begins, unreadable to guess and impossible to change.

A cursor names its room, shard and user, and ends after an hour; whoever alters a bit or takes it to another room gets
107. Pages are keyset pages: shard by shard, users in order, so every stable member comes exactly once under churn.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final

import msgspec

from fanout.core.errors import BAD_REQUEST, Refused

_VERSION: Final = 1
_SEAL_BYTES: Final = 16
CURSOR_BYTES_MAX: Final = 512


class Cursor(msgspec.Struct, array_like=True, frozen=True):
    """The next page begins at ``user`` (inclusive) of ``shard``."""

    shard: int
    user: str


class _Sealed(msgspec.Struct, array_like=True, frozen=True):
    version: int
    room: str
    shard: int
    user: str
    expires_ms: int


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(_Sealed).decode


def seal(key: bytes, room: str, cursor: Cursor, expires_ms: int) -> str:
    """Return the cursor as URL-safe text; ``room`` is ``app/room``, ``expires_ms`` Unix ms."""
    body = _ENCODE(_Sealed(_VERSION, room, cursor.shard, cursor.user, expires_ms))
    return base64.urlsafe_b64encode(_sign(key, body) + body).rstrip(b"=").decode()


def unseal(key: bytes, room: str, text: str, now_ms: int) -> Cursor:
    """Return the cursor; raises Refused ``bad_request`` for one that is altered, another room's, or out of date."""
    sealed = _open(key, text)
    if sealed is None or sealed.version != _VERSION or sealed.room != room:
        raise Refused(BAD_REQUEST, "cursor: not one of this room")
    if sealed.expires_ms <= now_ms:
        raise Refused(BAD_REQUEST, "cursor: out of date; begin again without one")
    return Cursor(sealed.shard, sealed.user)


def _open(key: bytes, text: str) -> _Sealed | None:
    if len(text) > CURSOR_BYTES_MAX or not text.isascii():
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    # The last character of unpadded base64 has bits that nobody reads: another text for the same bytes is refused too.
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
        return None
    given, body = raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]
    if not hmac.compare_digest(given, _sign(key, body)):
        return None
    return _DECODE(body)


def _sign(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, "sha256")[:_SEAL_BYTES]
