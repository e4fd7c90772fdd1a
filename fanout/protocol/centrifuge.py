"""The Centrifuge client protocol as values: what clients ask (commands), what the gateway says (replies and pushes).

Field names are those of the public schema, so one struct serves both wire formats; zero values are left out of JSON and
an empty result is ``{}``. Payloads (``data``, ``conn_info``, ``chan_info``) are ``msgspec.Raw``: bytes that nobody here
parses. Wrap with ``raw_of(payload)``, unwrap with ``bytes(raw)``; ``NO_DATA`` is the absent payload.

Lives here: structs and the rules every command obeys. Lives elsewhere: which wire format a session speaks
(``negotiation``), bytes (``json_codec``, ``protobuf_codec``), frames of the transport (``websocket``), what a command
does (the gateway).
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from fanout.core.errors import Problem
from fanout.core.messages import Kind
from fanout.core.records import Entry

UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # uint64 in the schema; our offsets end at 2**53

NO_DATA: Final = Raw(b"")
_EPHEMERAL: Final = Kind.EPHEMERAL.value
DEPTH_MAX: Final = 32  # nesting of a command, payload included
NUMERIC_IDS_OFFERED: Final = 1  # bits of SubscribeRequest.flag
ERROR_WHEN_UNRECOVERABLE: Final = 2


class WireFormat(Enum):
    """How replies become bytes; the value is the metric label."""

    JSON = "json"
    PROTOBUF = "protobuf"


class _Part(msgspec.Struct, omit_defaults=True, gc=False):
    """Base of all parts: absent means the default, defaults are not written."""


class _Nest(msgspec.Struct, omit_defaults=True):
    """Base of parts that hold other parts in containers, so the garbage collector must see them."""


# --- shared parts ----------------------------------------------------------------------------------------------------


class Error(_Part):
    """Why a command was refused; ``temporary`` makes SDKs try again with backoff."""

    code: UInt32 = 0
    message: str = ""
    temporary: bool = False


class StreamPosition(_Part):
    """Place in a room's stream."""

    offset: Offset = 0
    epoch: str = ""


class ClientInfo(_Part):
    """Who is behind a session, or who sent a publication (then ``user`` alone)."""

    user: str = ""
    client: str = ""
    conn_info: Raw = NO_DATA
    chan_info: Raw = NO_DATA


class Publication(_Nest):
    """A message in a room; ``offset`` 0 = not stored. ``time`` in ms since 1970."""

    data: Raw = NO_DATA
    info: ClientInfo | None = None
    offset: Offset = 0
    tags: dict[str, str] = {}
    delta: bool = False
    time: Int64 = 0
    channel: str = ""


class FilterNode(_Nest):
    """Server-side filter by publication tags."""

    op: str = ""
    key: str = ""
    cmp: str = ""
    val: str = ""
    vals: list[str] = []
    nodes: list[FilterNode] = []


# --- requests and results --------------------------------------------------------------------------------------------


class SubscribeRequest(_Nest):
    """Join a room, with ``recover`` from a position. In ``ConnectRequest.subs`` the key names the channel."""

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: Offset = 0
    data: Raw = NO_DATA
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""
    tf: FilterNode | None = None
    flag: Int64 = 0


class SubscribeResult(_Nest):
    """The subscription's position and what it missed; ``ttl`` in seconds."""

    expires: bool = False
    ttl: UInt32 = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[Publication] = []
    recovered: bool = False
    offset: Offset = 0
    positioned: bool = False
    data: Raw = NO_DATA
    was_recovering: bool = False
    delta: bool = False
    id: Int64 = 0


class ConnectRequest(_Nest):
    """First command of every session. ``name`` identifies the SDK."""

    token: str = ""
    data: Raw = NO_DATA
    subs: dict[str, SubscribeRequest] = {}
    name: str = ""
    version: str = ""
    headers: dict[str, str] = {}
    flag: Int64 = 0


class ConnectResult(_Nest):
    """The session: its id, server-side subscriptions, ``ping`` interval and token ``ttl`` in seconds."""

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: UInt32 = 0
    data: Raw = NO_DATA
    subs: dict[str, SubscribeResult] = {}
    ping: UInt32 = 0
    pong: bool = False
    session: str = ""
    node: str = ""
    time: Int64 = 0


class UnsubscribeRequest(_Part):
    """Leave a room."""

    channel: str = ""


class UnsubscribeResult(_Part):
    """Done."""


class PublishRequest(_Part):
    """Send a message to a room."""

    channel: str = ""
    data: Raw = NO_DATA


class PublishResult(_Part):
    """On the log. An id cannot be returned here: ``rpc publish`` does."""


class PresenceRequest(_Part):
    """Who is in a room."""

    channel: str = ""


class PresenceResult(_Nest):
    """Session id → its user."""

    presence: dict[str, ClientInfo] = {}


class PresenceStatsRequest(_Part):
    """How many are in a room."""

    channel: str = ""


class PresenceStatsResult(_Part):
    """Sessions and users in a room."""

    num_clients: UInt32 = 0
    num_users: UInt32 = 0


class HistoryRequest(_Part):
    """Publications after ``since``, or before it when reversed; ``limit`` 0 = position only, -1 = all."""

    channel: str = ""
    limit: Int32 = 0
    since: StreamPosition | None = None
    reverse: bool = False


class HistoryResult(_Nest):
    """A page of a room's history and the room's position."""

    publications: list[Publication] = []
    epoch: str = ""
    offset: Offset = 0


class PingRequest(_Part):
    """Ask for an answer."""


class PingResult(_Part):
    """The answer."""


class SendRequest(_Part):
    """Data for the server; the only command without a reply."""

    data: Raw = NO_DATA


class RPCRequest(_Part):
    """Call a method of the server."""

    data: Raw = NO_DATA
    method: str = ""


class RPCResult(_Part):
    """What the method returned."""

    data: Raw = NO_DATA


class RefreshRequest(_Part):
    """A new token for the session."""

    token: str = ""


class RefreshResult(_Part):
    """When the session's new token runs out; ``ttl`` in seconds."""

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: UInt32 = 0


class SubRefreshRequest(_Part):
    """A new token for a subscription."""

    channel: str = ""
    token: str = ""


class SubRefreshResult(_Part):
    """When the subscription's new token runs out; ``ttl`` in seconds."""

    expires: bool = False
    ttl: UInt32 = 0


# --- pushes ----------------------------------------------------------------------------------------------------------


class Join(_Part):
    """A session came into a room."""

    info: ClientInfo | None = None


class Leave(_Part):
    """A session left a room."""

    info: ClientInfo | None = None


class Unsubscribe(msgspec.Struct, gc=False):
    """A subscription has ended. Both fields are always written: centrifuge-python 0.7.0 reads them unconditionally."""

    code: UInt32 = 0
    reason: str = ""


class Message(_Part):
    """Data for one session, outside of rooms."""

    data: Raw = NO_DATA


class Subscribe(_Part):
    """The server has subscribed this session to a room."""

    recoverable: bool = False
    epoch: str = ""
    offset: Offset = 0
    positioned: bool = False
    data: Raw = NO_DATA


class Connect(_Nest):
    """The session, told without having been asked (transports without a connect command)."""

    client: str = ""
    version: str = ""
    data: Raw = NO_DATA
    subs: dict[str, SubscribeResult] = {}
    expires: bool = False
    ttl: UInt32 = 0
    ping: UInt32 = 0
    pong: bool = False
    session: str = ""
    node: str = ""
    time: Int64 = 0


class Disconnect(msgspec.Struct, gc=False):
    """The connection ends for this reason; all fields are always written, as in Unsubscribe."""

    code: UInt32 = 0
    reason: str = ""
    reconnect: bool = False


class Refresh(_Part):
    """The session's token was refreshed on the server's side; ``ttl`` in seconds."""

    expires: bool = False
    ttl: UInt32 = 0


class Push(_Nest):
    """Something that happened in ``channel`` (or to the session); exactly one of the others is set."""

    id: Int64 = 0
    channel: str = ""
    pub: Publication | None = None
    join: Join | None = None
    leave: Leave | None = None
    unsubscribe: Unsubscribe | None = None
    message: Message | None = None
    subscribe: Subscribe | None = None
    connect: Connect | None = None
    disconnect: Disconnect | None = None
    refresh: Refresh | None = None


# --- the two envelopes -----------------------------------------------------------------------------------------------

METHODS: Final = (
    "subscribe",  # by frequency: the search for the request of a command ends early
    "publish",
    "rpc",
    "connect",
    "send",
    "unsubscribe",
    "refresh",
    "sub_refresh",
    "history",
    "presence",
    "presence_stats",
    "ping",
)


class Command(_Nest):
    """What a client asks: ``id`` and exactly one request. The empty command is a pong."""

    id: UInt32 = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: UnsubscribeRequest | None = None
    publish: PublishRequest | None = None
    presence: PresenceRequest | None = None
    presence_stats: PresenceStatsRequest | None = None
    history: HistoryRequest | None = None
    ping: PingRequest | None = None
    send: SendRequest | None = None
    rpc: RPCRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None

    @property
    def method(self) -> str:
        """Name of the request that is set, one of METHODS, or ``""`` for a pong."""
        for name in METHODS:
            if getattr(self, name) is not None:
                return name
        return ""


class Reply(_Nest):
    """What the gateway says: with ``id`` the result or error of that command, else a push. The empty one is a ping."""

    id: UInt32 = 0
    error: Error | None = None
    push: Push | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    unsubscribe: UnsubscribeResult | None = None
    publish: PublishResult | None = None
    presence: PresenceResult | None = None
    presence_stats: PresenceStatsResult | None = None
    history: HistoryResult | None = None
    ping: PingResult | None = None
    rpc: RPCResult | None = None
    refresh: RefreshResult | None = None
    sub_refresh: SubRefreshResult | None = None

    @property
    def is_ping(self) -> bool:
        """True for the empty reply. A failed command is none, and a push has no id either."""
        return not self.id and self.push is None and self.error is None


class Malformed(msgspec.Struct, frozen=True):
    """Bytes that are no command. With ``id`` > 0 it can be answered with error 107, else the session ends with 3501."""

    detail: str
    id: int = 0


def raw_of(payload: bytes) -> Raw:
    """Return a payload for a struct; an empty one is the default itself, which alone is left out of JSON."""
    return Raw(payload) if payload else NO_DATA


def checked(command: Command) -> Command | Malformed:
    """Return the command, or why it breaks the rules: one request, and an id for everything but ``send``."""
    method = command.method
    if not method:
        return command if command.id == 0 else Malformed("a command names one request", command.id)
    if sum(getattr(command, name) is not None for name in METHODS) > 1:
        return Malformed("a command has exactly one request", command.id)
    if command.id == 0 and method != "send":
        return Malformed(f"{method} needs an id above 0")
    return command


def error_of(problem: Problem, detail: str = "") -> Error:
    """Return the wire error of a problem; ``detail`` is the sentence for the person who sent the command."""
    return Error(problem.code, f"{problem.reason}: {detail or problem.meaning}", problem.temporary)


def is_stored(entry: Entry) -> bool:
    """True where the publication has an offset on the wire."""
    return entry.kind != _EPHEMERAL


def tags_of(entry: Entry, *, id_tag: bool) -> dict[str, str]:
    """Return the tags on the wire; with ``id_tag`` the message id as text, since ids exceed 2**53."""
    tags = dict(entry.tags) if entry.tags else {}
    if id_tag:
        tags["id"] = str(entry.id)
    return tags


def publication_of(entry: Entry, *, id_tag: bool) -> Publication:
    """Return an entry as it stands in replies to subscribe and history."""
    return Publication(
        data=raw_of(entry.data),
        info=ClientInfo(user=entry.sender) if entry.sender else None,
        offset=entry.offset if is_stored(entry) else 0,
        tags=tags_of(entry, id_tag=id_tag),
    )
