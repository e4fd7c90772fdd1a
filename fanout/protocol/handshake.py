"""The HTTP/1.1 upgrade to WebSocket (RFC 6455 §4) as pure functions of bytes, for both sides.

A first request that does not ask for WebSocket is none of our business: it is handed on with every byte read so far.
One that does ask is held to the letter, because whatever is let through here (a second key, a body, a folded header)
is what request smuggling through proxies is made of.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1
from http import HTTPStatus
from math import ceil
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import msgspec

from fanout.core.errors import BAD_REQUEST, Problem
from fanout.core.limits import HANDSHAKE_BYTES_MAX

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_END: Final = b"\r\n\r\n"
_QUERY_FIELDS_MAX: Final = 64
_ASKS: Final = re.compile(rb"[\r\n](?:sec-websocket-|upgrade[ \t]*:[^\r\n]*websocket)", re.IGNORECASE)
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_FIELD: Final = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)", re.ASCII)
_PARAMETER: Final = re.compile(r'([^\s=;,"]+)(?:[ \t]*=[ \t]*(?:"([^\s=;,"]+)"|([^\s=;,"]+)))?', re.ASCII)


class Endpoint(NamedTuple):
    """Where a client connects to: ``host`` and ``port`` of the socket, ``authority`` for Host, ``target`` for GET."""

    host: str
    port: int
    secure: bool
    authority: str
    target: str


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension as offered: its name and its parameters in order, None where one has no value."""

    name: str
    parameters: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A valid request for a WebSocket. ``headers`` have lower-case names, repeated ones joined by ``, ``.

    ``rest`` are the bytes after the request: the first frame, or its beginning.
    """

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    subprotocols: tuple[str, ...]
    extensions: tuple[Extension, ...]
    key: str
    origin: str | None
    rest: bytes


@dataclass(frozen=True, slots=True)
class PlainHttp:
    """A first request that does not ask for WebSocket; ``data`` is everything read so far."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that cannot be served: write ``response`` and close. ``detail`` says why."""

    status: int
    detail: str
    response: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """The client's side of a finished handshake; ``rest`` are the first bytes of frames."""

    subprotocol: str | None
    headers: Mapping[str, str]
    rest: bytes


ServerOutcome: TypeAlias = Upgrade | PlainHttp | Refusal


# Clients of one program say the same in all these, and a herd of them says it ten thousand times.
_remembered: Final = lru_cache(maxsize=64)


class _Bad(Exception):
    """A broken head; never leaves this module."""

    def __init__(self, detail: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(detail)
        self.status = int(status)


def asks_for_websocket(data: bytes) -> bool:
    """Return whether bytes hold the whole head of a request for a WebSocket; much cheaper than reading it."""
    end = data.find(_END)
    return end >= 0 and _ASKS.search(data, 0, end) is not None


class ServerHandshake:
    """Reads the first request of a connection. Drop it once ``feed`` has returned an outcome."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> ServerOutcome | None:
        """Take the next bytes; return None while the request is incomplete, and then one outcome.

        The header block is at most 16 KB; bytes that cannot begin a request are refused at once.
        """
        seen = max(0, len(self._data) - len(_END) + 1)
        self._data += data
        if self._data and not 0x41 <= self._data[0] <= 0x5A:
            return _refusal(_Bad("a request begins with its method"))
        end = self._data.find(_END, seen)
        if end > HANDSHAKE_BYTES_MAX or (end < 0 and len(self._data) > HANDSHAKE_BYTES_MAX):
            return _refusal(_Bad(f"a header block has at most {HANDSHAKE_BYTES_MAX} bytes"))
        if end < 0:
            return None
        head, rest = self._data[:end], self._data[end + len(_END) :]
        if not _ASKS.search(head):
            return PlainHttp(self._data)
        try:
            return _read_upgrade(head, rest)
        except _Bad as bad:
            return _refusal(bad)


class ClientHandshake:
    """Reads the answer to ``client_request``; ``key`` and ``subprotocols`` are what was sent."""

    __slots__ = ("_data", "_key", "_subprotocols")

    def __init__(self, key: str, subprotocols: Iterable[str] = ()) -> None:
        self._data = b""
        self._key = key
        self._subprotocols = tuple(subprotocols)

    def feed(self, data: bytes) -> Accepted | Refusal | None:
        """Take the next bytes; return None while incomplete.

        A Refusal has the server's status, or 0 where the answer breaks the protocol; its ``response`` is what the
        server sent so far.
        """
        self._data += data
        end = self._data.find(_END)
        if end > HANDSHAKE_BYTES_MAX or (end < 0 and len(self._data) > HANDSHAKE_BYTES_MAX):
            return Refusal(0, f"a header block has at most {HANDSHAKE_BYTES_MAX} bytes", b"")
        if end < 0:
            return None
        try:
            subprotocol, headers = self._read(self._data[:end])
        except _Bad as bad:
            return Refusal(bad.status, str(bad), self._data)
        return Accepted(subprotocol, headers, self._data[end + len(_END) :])

    def _read(self, head: bytes) -> tuple[str | None, Mapping[str, str]]:
        line, fields = _read_head(head, status=0)
        version, _, status = line.partition(" ")
        if version != "HTTP/1.1" or not status[:3].isdecimal():
            raise _Bad("the answer is not HTTP/1.1", 0)
        if status[:3] != "101":
            raise _Bad(f"the server answered {status}", int(status[:3]))
        headers = _joined(fields)
        if headers.get("upgrade", "").lower() != "websocket" or "upgrade" not in _words(headers.get("connection", "")):
            raise _Bad("the answer does not upgrade to websocket", 0)
        if headers.get("sec-websocket-accept") != accept_key(self._key):
            raise _Bad("Sec-WebSocket-Accept does not fit the key", 0)
        subprotocol = headers.get("sec-websocket-protocol")
        if subprotocol is not None and subprotocol not in self._subprotocols:
            raise _Bad("the server chose a subprotocol that was not offered", 0)
        if "sec-websocket-extensions" in headers:
            raise _Bad("the server chose an extension that was not offered", 0)
        return subprotocol, headers


def endpoint(url: str) -> Endpoint:
    """Return where a ``ws://`` or ``wss://`` URL leads to. Raises ValueError for anything else."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.username is not None:
        raise ValueError(f"{url!r} is not of the form ws://host:port/path")
    secure = parts.scheme == "wss"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Endpoint(parts.hostname, parts.port or (443 if secure else 80), secure, parts.netloc, target)


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept of a Sec-WebSocket-Key (RFC 6455 §4.2.2)."""
    return b64encode(sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def make_key(nonce: bytes) -> str:
    """Return the Sec-WebSocket-Key of 16 random bytes."""
    if len(nonce) != 16:
        raise ValueError("a key is made of 16 bytes")
    return b64encode(nonce).decode()


def accept_response(upgrade: Upgrade, subprotocol: str | None = None, extension: str | None = None) -> bytes:
    """Return the 101 answer. ``extension`` is the whole header value, parameters included.

    Raises ValueError where the client did not offer the subprotocol or the extension.
    """
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(upgrade.key)}",
    ]
    if subprotocol is not None:
        if subprotocol not in upgrade.subprotocols:
            raise ValueError(f"subprotocol {subprotocol!r} was not offered")
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if extension is not None:
        if extension.partition(";")[0].strip() not in {offered.name for offered in upgrade.extensions}:
            raise ValueError(f"extension {extension!r} was not offered")
        lines.append(f"Sec-WebSocket-Extensions: {extension}")
    return "\r\n".join([*lines, "", ""]).encode()


def refuse_response(
    status: int, problem: Problem = BAD_REQUEST, detail: str = "", *, retry_after_s: float | None = None
) -> bytes:
    """Return a whole HTTP answer in the shape of all errors, ``{code, reason, detail}``, that ends the connection."""
    body = msgspec.json.encode({"code": problem.code, "reason": problem.reason, "detail": detail or problem.meaning})
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if status == HTTPStatus.UPGRADE_REQUIRED:
        lines += ["Sec-WebSocket-Version: 13", "Upgrade: websocket"]
    if retry_after_s is not None:
        lines.append(f"Retry-After: {max(1, ceil(retry_after_s))}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def client_request(
    host: str,
    target: str,
    key: str,
    *,
    subprotocols: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Return the upgrade request of a client; ``host`` with its port, ``target`` the path with its query.

    Raises ValueError for a value that would break out of its line.
    """
    fields = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Version": "13",
    }
    offered = ", ".join(subprotocols)
    if offered:
        fields["Sec-WebSocket-Protocol"] = offered
    fields.update(headers or {})
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    if any(character in line for line in lines for character in "\r\n\0"):
        raise ValueError("a header may not hold a line break")
    return "\r\n".join([*lines, "", ""]).encode()


def _read_upgrade(head: bytes, rest: bytes) -> Upgrade:
    line, fields = _read_head(head)
    method, _, tail = line.partition(" ")
    target, _, version = tail.rpartition(" ")
    if method != "GET" or version != "HTTP/1.1":
        raise _Bad("a WebSocket begins with GET and HTTP/1.1")
    headers = _joined(fields)
    _one(fields, "host")
    if "websocket" not in _words(headers.get("upgrade", "")):
        raise _Bad("Upgrade must name websocket")
    if "upgrade" not in _words(headers.get("connection", "")):
        raise _Bad("Connection must name upgrade")
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise _Bad("an upgrade has no body")
    versions = [value for name, value in fields if name == "sec-websocket-version"]
    if versions != ["13"]:
        raise _Bad("Sec-WebSocket-Version must be 13", HTTPStatus.UPGRADE_REQUIRED)
    path, query = _read_target(target)
    return Upgrade(
        path=path,
        query=query,
        headers=headers,
        subprotocols=_read_subprotocols(headers.get("sec-websocket-protocol", "")),
        extensions=_read_extensions(headers.get("sec-websocket-extensions", "")),
        key=_read_key(_one(fields, "sec-websocket-key")),
        origin=_one(fields, "origin") if "origin" in headers else None,
        rest=rest,
    )


def _read_head(head: bytes, *, status: int = HTTPStatus.BAD_REQUEST) -> tuple[str, list[tuple[str, str]]]:
    """Split a header block into its first line and its (lower-case name, value) fields."""
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = []
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise _Bad("a header line is a name, a colon and a value", status)
        fields.append((field[1].lower(), field[2].rstrip(" \t")))
    return first, fields


def _joined(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in fields:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _one(fields: Iterable[tuple[str, str]], name: str) -> str:
    values = [value for field, value in fields if field == name]
    if len(values) != 1 or not values[0]:
        raise _Bad(f"there must be exactly one {name.title()} header")
    return values[0]


@_remembered
def _words(value: str) -> frozenset[str]:
    return frozenset(word.strip(" \t").lower() for word in value.split(","))


@_remembered
def _read_target(target: str) -> tuple[str, dict[str, str]]:
    if not target.isascii() or not target.isprintable() or any(mark in target for mark in ' #"<>'):
        raise _Bad("the request target is not a URL")
    try:
        # A target with two leading slashes is a path, not a host.
        url = urlsplit(f"http://host{target}" if target.startswith("/") else target)
        query = dict(parse_qsl(url.query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX))
    except ValueError as error:
        raise _Bad("the request target is not a URL") from error
    if url.scheme not in ("http", "https") or not url.netloc:
        raise _Bad("the request target is neither a path nor a whole URL")
    return url.path or "/", query


def _read_key(key: str) -> str:
    try:
        nonce = b64decode(key, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _Bad("Sec-WebSocket-Key must be base64") from error
    if len(nonce) != 16 or len(key) != 24:
        raise _Bad("Sec-WebSocket-Key must be 16 bytes in base64")
    return key


@_remembered
def _read_subprotocols(value: str) -> tuple[str, ...]:
    """Read a comma list; empty elements are let pass, as some client versions send an empty header."""
    names = [name for name in (word.strip(" \t") for word in value.split(",")) if name]
    if not all(_TOKEN.fullmatch(name) for name in names):
        raise _Bad("Sec-WebSocket-Protocol must be a list of names")
    return tuple(names)


@_remembered
def _read_extensions(value: str) -> tuple[Extension, ...]:
    offers = []
    for offer in (word.strip(" \t") for word in value.split(",")):
        if not offer:
            continue
        name, *parameters = (part.strip(" \t") for part in offer.split(";"))
        matches = [_PARAMETER.fullmatch(parameter) for parameter in parameters]
        if not _TOKEN.fullmatch(name) or not all(match and _TOKEN.fullmatch(match[1]) for match in matches):
            raise _Bad("Sec-WebSocket-Extensions must be a list of extensions")
        offers.append(Extension(name, tuple((match[1], match[2] or match[3]) for match in matches if match)))
    return tuple(offers)


def _refusal(bad: _Bad) -> Refusal:
    return Refusal(bad.status, str(bad), refuse_response(bad.status, BAD_REQUEST, str(bad)))
