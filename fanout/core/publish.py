"""What a caller says when it publishes, and how it becomes the body of a record. One way for HTTP, clients and the log.

Pure: bytes in, structs or ``Refused`` out. Whether the caller may, and how often, is admission's business.
``data`` is checked (UTF-8, JSON, depth, size, one line) and otherwise never touched: numbers keep their digits.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from fanout.core.errors import BAD_REQUEST, LIMIT_EXCEEDED, NOT_AVAILABLE, TOO_LARGE, Problem, Refused
from fanout.core.ids import AHEAD_MS_MAX, ID_MAX, is_ahead
from fanout.core.limits import MESSAGE_BYTES_MAX, PUBLISH_BATCH_MAX
from fanout.core.merge import check_merge, check_merged
from fanout.core.messages import PRIORITY_BY_WORD, TYPE, Priority, check_room, check_user
from fanout.core.profiles import Profile, Profiles
from fanout.core.records import KEYED, MERGE, TRACKED, Merge, Message

DEPTH_MAX: Final = 32  # of arrays and objects in ``data``
DIGITS_MAX: Final = 1_000  # of a number in ``data``: Python's JSON reader, and an SDK on it, fails on 4,301
TAGS_MAX: Final = 16
TAG_BYTES_MAX: Final = 64
KEY_BYTES_MAX: Final = 128
TTL_MS_MAX: Final = 7 * 86_400_000
BODY_BYTES_MAX: Final = 2 * MESSAGE_BYTES_MAX  # POST /v1/publish: data, every name at its longest, and white space
BATCH_BYTES_MAX: Final = 8 << 20  # POST /v1/publish/batch: 1,000 messages of 8 KB

_DECIMAL: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_LONG_NUMBER: Final = re.compile(rb"(?<![0-9])[0-9]{%d}" % (DIGITS_MAX + 1))  # looks at each byte once, not at each run
_RESERVED_TAGS: Final = ("id", "merge_key", "merge_count", "merge_value")  # set by the engine on the way out


class AskedMerge(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """How a message is folded with others of its window: ``latest``, ``sum``, or ``top`` ``n`` (1 to 10) by ``value``.

    Folded are messages with the same key, operation, n and class.
    """

    key: str
    op: str
    value: float = 1.0
    n: int = 1


class Publish(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Body of ``POST /v1/publish``, of a client's publish and of a foreign producer's JSON record.

    ``data`` is any JSON up to 32 KB. ``id`` is the idempotency key (10 minutes, per room), ``reply_to`` the id of the
    message this one answers. ``merge`` folds the message with others of its 200 ms (classes that are not reliable).
    ``track`` asks for the outcome to be kept.
    """

    room: str
    data: msgspec.Raw
    priority: str = "normal"
    type: str = ""
    id: str = ""
    sender: str = ""
    reply_to: str = ""
    ttl_ms: int = 0
    merge: AskedMerge | None = None
    audience: dict[str, Any] | None = None
    tags: dict[str, str] | None = None
    track: bool = False


class PublishBatch(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /v1/publish/batch``: up to 1,000 messages."""

    messages: list[Publish]


class _RawBatch(msgspec.Struct, forbid_unknown_fields=True):
    """A batch of which some message is malformed: they are judged one by one."""

    messages: list[msgspec.Raw]


class Published(msgspec.Struct, omit_defaults=True, gc=False):
    """Answer to a publish: the log has the message. ``idempotent`` false: its key could not be remembered."""

    id: str
    room: str
    offset: int
    epoch: str
    priority: str
    idempotent: bool | None = None


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """The one shape of every error. ``retry_after_ms`` is there where waiting helps."""

    code: int
    reason: str
    detail: str
    retry_after_ms: int | None = None


class Failed(msgspec.Struct):
    """Outcome of one message of a batch that was refused; the others are not affected."""

    error: ErrorBody


class PublishedBatch(msgspec.Struct):
    """Answer to a batch: a Published or a Failed per message, in the order of the request."""

    results: list[Any]  # msgspec describes no union of untagged structs, and a tag would only repeat the key "error"


_PUBLISH: Final = msgspec.json.Decoder(Publish)
_BATCH: Final = msgspec.json.Decoder(PublishBatch)
_RAW_BATCH: Final = msgspec.json.Decoder(_RawBatch)
_JSON: Final = msgspec.json.Decoder(msgspec.Raw)


def error_body(problem: Problem, detail: str = "", retry_after_s: float | None = None) -> ErrorBody:
    """Return the outward shape of a problem."""
    retry_after_ms = None if retry_after_s is None else max(round(retry_after_s * 1_000), 1)
    return ErrorBody(problem.code, problem.reason, detail or problem.meaning, retry_after_ms)


def refused_body(refused: Refused) -> ErrorBody:
    """Return the outward shape of a refusal."""
    return error_body(refused.problem, refused.detail, refused.retry_after_s)


def decode_publish(body: bytes | msgspec.Raw) -> Publish:
    """Return the parsed body; raises Refused ``bad_request`` with the field, or ``too_large``.

    Only the shape is checked here, the values by ``to_message``.
    """
    if len(body) > BODY_BYTES_MAX:
        raise Refused(TOO_LARGE, f"body: {len(body)} bytes, at most {BODY_BYTES_MAX}")
    try:
        return _PUBLISH.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from error


def decode_batch(body: bytes) -> list[Publish | Refused]:
    """Return the messages of a batch, each parsed or refused by itself.

    Raises Refused ``bad_request`` (no batch at all), ``limit_exceeded`` or ``too_large``.
    """
    if len(body) > BATCH_BYTES_MAX:
        raise Refused(TOO_LARGE, f"body: {len(body)} bytes, at most {BATCH_BYTES_MAX}")
    messages: list[Publish | Refused]
    try:
        messages = [*_BATCH.decode(body).messages]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        messages = [_try_decode(raw) for raw in _raw_messages(body)]
    if len(messages) > PUBLISH_BATCH_MAX:
        raise Refused(LIMIT_EXCEEDED, f"messages: {len(messages)}, at most {PUBLISH_BATCH_MAX}")
    return messages


def _raw_messages(body: bytes) -> list[msgspec.Raw]:
    try:
        return _RAW_BATCH.decode(body).messages
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from error


def _try_decode(body: msgspec.Raw) -> Publish | Refused:
    try:
        return decode_publish(body)
    except Refused as refused:
        return refused


def malformed(error: Exception) -> Refused:
    """Return the refusal for bytes that a decoder did not take; its text names the field."""
    if isinstance(error, RecursionError):
        return Refused(BAD_REQUEST, "body: JSON is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return Refused(BAD_REQUEST, "body: not valid UTF-8")
    return Refused(BAD_REQUEST, f"body: {error}")


def to_message(publish: Publish, profiles: Profiles, *, sent_ms: int) -> tuple[Message, Priority, int]:
    """Return (body, class, header flags) of the record; ``sent_ms`` is the clock (Unix ms) that judges ``reply_to``.

    Raises Refused ``bad_request``, ``too_large``, ``unknown_namespace``, ``permission_denied`` (a ``#`` room) or
    ``not_available`` (``audience``), each naming the field.
    """
    profile = profiles.of(check_room(publish.room))
    priority = PRIORITY_BY_WORD.get(publish.priority)
    if priority is None:
        raise Refused(BAD_REQUEST, f"priority: {publish.priority[:32]!r} is none of {', '.join(PRIORITY_BY_WORD)}")
    if publish.audience is not None:
        raise Refused(NOT_AVAILABLE, "audience: this engine does not address parts of a room yet; leave it out")
    message = Message(
        data=one_line(bytes(publish.data)),
        sender=check_user(publish.sender, "sender") if publish.sender else "",
        type=_check_type(publish.type) if publish.type else "",
        sent_ms=sent_ms,
        parent=_check_parent(publish.reply_to, sent_ms) if publish.reply_to else 0,
        ttl_ms=_check_ttl(publish.ttl_ms) if publish.ttl_ms else 0,
        key=_check_key(publish.id) if publish.id else "",
        tags=_check_tags(publish.tags) if publish.tags else None,
        merge=_to_merge(publish.merge, priority, profile) if publish.merge is not None else None,
    )
    flags = (KEYED if publish.id else 0) | (TRACKED if publish.track else 0) | (MERGE if publish.merge else 0)
    return message, priority, flags


def _to_merge(asked: AskedMerge, priority: Priority, profile: Profile) -> Merge:
    merge = Merge(asked.key, asked.op, asked.value, asked.n)
    check_merge(merge)
    check_merged(priority.value, profile.kinds[priority.value].value)
    return merge


def one_line(data: bytes) -> bytes:
    """Return ``data`` as one line of valid JSON: unchanged, or without white space where it had line breaks.

    Raises Refused ``bad_request`` (no JSON, no UTF-8, nested deeper than DEPTH_MAX, a number that readers choke on) or
    ``too_large``.
    """
    if len(data) > MESSAGE_BYTES_MAX:
        raise Refused(TOO_LARGE, f"data: {len(data)} bytes, at most {MESSAGE_BYTES_MAX}")
    try:
        if not data.isascii():
            data.decode()  # the parser below passes raw strings through unread, and a bad byte kills WebSocket text
        _JSON.decode(data)
    except UnicodeDecodeError as error:
        raise Refused(BAD_REQUEST, "data: not valid UTF-8") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refused(BAD_REQUEST, f"data: {error}") from error
    if data.count(b"{") + data.count(b"[") > DEPTH_MAX and depth(data) > DEPTH_MAX:
        raise Refused(BAD_REQUEST, f"data: nested deeper than {DEPTH_MAX}")
    if len(data) > DIGITS_MAX and _LONG_NUMBER.search(data) and _LONG_NUMBER.search(_STRINGS.sub(b"", data)):
        raise Refused(BAD_REQUEST, f"data: a number of more than {DIGITS_MAX} digits")
    if b"\n" in data or b"\r" in data:  # outside strings only: valid JSON has none inside
        return msgspec.json.format(data, indent=-1)
    return data


def depth(data: bytes) -> int:
    """Return how deeply arrays and objects of valid JSON are nested."""
    deepest = level = 0
    for char in _STRINGS.sub(b"", data):
        if char in b"{[":
            level += 1
            deepest = max(deepest, level)
        elif char in b"}]":
            level -= 1
    return deepest


def _check_type(type_: str) -> str:
    if not TYPE.fullmatch(type_):
        raise Refused(BAD_REQUEST, "type: 1 to 64 characters out of A-Z a-z 0-9 _ . : @ / -")
    return type_


def _check_key(key: str) -> str:
    if len(key.encode()) > KEY_BYTES_MAX or _CONTROL.search(key):
        raise Refused(BAD_REQUEST, f"id: 1 to {KEY_BYTES_MAX} bytes without control characters")
    return key


def _check_parent(reply_to: str, now_ms: int) -> int:
    parent = int(reply_to) if _DECIMAL.fullmatch(reply_to) else 0
    if not 0 < parent <= ID_MAX:
        raise Refused(BAD_REQUEST, "reply_to: the id of a message, as decimal text")
    if is_ahead(parent, now_ms):
        raise Refused(BAD_REQUEST, f"reply_to: that id lies more than {AHEAD_MS_MAX // 1_000} s in the future")
    return parent


def _check_ttl(ttl_ms: int) -> int:
    if not 0 < ttl_ms <= TTL_MS_MAX:
        raise Refused(BAD_REQUEST, f"ttl_ms: 0 (none) to {TTL_MS_MAX}")
    return ttl_ms


def _check_tags(tags: dict[str, str]) -> dict[str, str]:
    if len(tags) > TAGS_MAX:
        raise Refused(BAD_REQUEST, f"tags: {len(tags)} pairs, at most {TAGS_MAX}")
    for name, value in tags.items():
        if not name or len(name.encode()) > TAG_BYTES_MAX or len(value.encode()) > TAG_BYTES_MAX:
            raise Refused(BAD_REQUEST, f"tags: names of 1 to {TAG_BYTES_MAX} bytes, values of at most {TAG_BYTES_MAX}")
        if name in _RESERVED_TAGS:
            raise Refused(BAD_REQUEST, f"tags: {name!r} is set by the engine")
    return tags
