"""Every way the engine says no: one table, one shape.

    FanoutError
    ├── Refused            a caller's request cannot be served; carries a Problem and a sentence
    ├── RecordError        bytes from the log that are no record of ours; the record is parked
    ├── Fenced             an older owner or lease generation spoke; its word is ignored
    ├── OutOfRange         a log position that the log no longer (or not yet) holds
    ├── Unavailable        the log or the store does not answer; temporary by nature
    │   └── OutOfIds       no id can be given now: counters are used up or the clock went back
    ├── ProtocolError      bytes that break the client protocol, where nobody can be answered (a client's side)
    └── ConfigError        flags or environment that cannot work; one line for the operator, exit status 2

Outward it is always ``{code, reason, detail}``. ``docs/errors.md`` is generated from the two tables below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Problem:
    """One cause with everything that each door says about it.

    ``code`` is the Centrifuge error code (100–112) or one of ours (400–1999); ``http`` the status of the API;
    ``close`` the close code where a connection cannot go on; ``temporary`` tells SDKs to try again with backoff.
    """

    reason: str
    code: int
    http: int
    temporary: bool
    meaning: str
    close: int | None = None


INTERNAL: Final = Problem("internal", 100, 500, True, "the engine failed; the request may be repeated")
UNAVAILABLE: Final = Problem("unavailable", 100, 503, True, "the log or the store does not answer; try again later")
OVERLOADED: Final = Problem("overloaded", 100, 503, True, "more come at once than this process takes; come back later")
DRAINING: Final = Problem("draining", 100, 503, True, "this process is going away; another one serves", close=3001)
UNAUTHORIZED: Final = Problem("unauthorized", 101, 401, False, "no key or token, or one that is not valid", close=3500)
UNKNOWN_ROOM: Final = Problem("unknown_room", 102, 404, False, "no such room")
UNKNOWN_NAMESPACE: Final = Problem("unknown_namespace", 102, 404, False, "no such namespace (the part before ':')")
UNKNOWN_MESSAGE: Final = Problem("unknown_message", 404, 404, False, "nothing is known of that message any more")
PERMISSION_DENIED: Final = Problem("permission_denied", 103, 403, False, "the namespace or the token does not allow it")
NOT_A_MEMBER: Final = Problem("not_a_member", 103, 403, False, "the room is for its members and the user is none")
METHOD_NOT_FOUND: Final = Problem("method_not_found", 104, 404, False, "no such method or path")
ALREADY_SUBSCRIBED: Final = Problem("already_subscribed", 105, 409, False, "the session has that subscription already")
LIMIT_EXCEEDED: Final = Problem("limit_exceeded", 106, 400, False, "a documented limit is passed")
BAD_REQUEST: Final = Problem("bad_request", 107, 400, False, "the request is malformed; nothing was done", close=3501)
TOO_LARGE: Final = Problem("too_large", 107, 413, False, "the payload is larger than a message may be")
NOT_AVAILABLE: Final = Problem("not_available", 108, 501, False, "this engine does not offer it")
TOKEN_EXPIRED: Final = Problem("token_expired", 109, 401, False, "the token has expired; fetch a new one")
EXPIRED: Final = Problem("expired", 110, 401, False, "the connection or subscription has expired")
TOO_MANY_REQUESTS: Final = Problem("too_many_requests", 111, 429, True, "a rate is passed; try again later")
UNRECOVERABLE: Final = Problem("unrecoverable", 112, 410, False, "the position is older than the history")
HIGH_QUOTA: Final = Problem("high_quota", 429, 429, True, "the room's quota of high priority is used up")
IDEMPOTENCY_CONFLICT: Final = Problem("idempotency_conflict", 409, 409, False, "the same id came with another body")

PROBLEMS: Final[tuple[Problem, ...]] = (
    INTERNAL,
    UNAVAILABLE,
    OVERLOADED,
    DRAINING,
    UNAUTHORIZED,
    UNKNOWN_ROOM,
    UNKNOWN_NAMESPACE,
    UNKNOWN_MESSAGE,
    PERMISSION_DENIED,
    NOT_A_MEMBER,
    METHOD_NOT_FOUND,
    ALREADY_SUBSCRIBED,
    LIMIT_EXCEEDED,
    BAD_REQUEST,
    TOO_LARGE,
    NOT_AVAILABLE,
    TOKEN_EXPIRED,
    EXPIRED,
    TOO_MANY_REQUESTS,
    UNRECOVERABLE,
    HIGH_QUOTA,
    IDEMPOTENCY_CONFLICT,
)


@dataclass(frozen=True, slots=True)
class CloseCode:
    """Why a connection ends; the range of the code tells the SDK whether to come back."""

    code: int
    reason: str
    meaning: str

    @property
    def reconnect(self) -> bool:
        """True where a stock SDK reconnects by itself (Centrifuge client protocol: 35xx and 45xx are final)."""
        return not (3500 <= self.code < 4000 or 4500 <= self.code < 5000)


SHUTDOWN: Final = CloseCode(3001, "shutdown", "the process drains; come back, another one serves")
SERVER_ERROR: Final = CloseCode(3004, "internal error", "the engine failed on this connection")
CONNECTION_EXPIRED: Final = CloseCode(3005, "connection expired", "the token ran out and no new one came")
SUBSCRIPTION_EXPIRED: Final = CloseCode(3006, "subscription expired", "a subscription token ran out")
SLOW: Final = CloseCode(3008, "slow", "acknowledgements stay out and pings are unanswered")
INSUFFICIENT_STATE: Final = CloseCode(3010, "insufficient state", "a server-side subscription must be resynced")
FORCE_RECONNECT: Final = CloseCode(3011, "force reconnect", "the session was replaced or must find another gateway")
NO_PONG: Final = CloseCode(3012, "no pong", "a ping was not answered in time")
TOO_MANY: Final = CloseCode(3013, "too many requests", "commands or connects come faster than they may")
INVALID_TOKEN: Final = CloseCode(3500, "invalid token", "the token is not valid and will not become so")
PROTOCOL_ERROR: Final = CloseCode(3501, "bad request", "a frame or command breaks the protocol")
STALE: Final = CloseCode(3502, "stale", "no connect command in time")
FORCE_DISCONNECT: Final = CloseCode(3503, "force disconnect", "closed for good by the application")
CONNECTION_LIMIT: Final = CloseCode(3504, "connection limit", "the user or the process has too many connections")
ROOM_LIMIT: Final = CloseCode(3505, "channel limit", "the session has too many subscriptions")
INAPPROPRIATE_PROTOCOL: Final = CloseCode(3506, "inappropriate protocol", "a binary payload for a JSON session")
FORBIDDEN: Final = CloseCode(3507, "permission denied", "the application does not admit this connection")
UNAVAILABLE_FOR_GOOD: Final = CloseCode(3508, "not available", "this engine does not offer it")
TOO_MANY_ERRORS: Final = CloseCode(3509, "too many errors", "a session that is refused again and again")

SUPERSEDED: Final = CloseCode(4501, "superseded", "the same device of the user has connected anew; that one goes on")

CLOSE_CODES: Final[tuple[CloseCode, ...]] = (
    SHUTDOWN,
    SERVER_ERROR,
    CONNECTION_EXPIRED,
    SUBSCRIPTION_EXPIRED,
    SLOW,
    INSUFFICIENT_STATE,
    FORCE_RECONNECT,
    NO_PONG,
    TOO_MANY,
    INVALID_TOKEN,
    PROTOCOL_ERROR,
    STALE,
    FORCE_DISCONNECT,
    CONNECTION_LIMIT,
    ROOM_LIMIT,
    INAPPROPRIATE_PROTOCOL,
    FORBIDDEN,
    UNAVAILABLE_FOR_GOOD,
    TOO_MANY_ERRORS,
    SUPERSEDED,
)

# Unsubscribe pushes: below 2500 final, from 2500 on the SDK resubscribes with its position.
UNSUBSCRIBED_BY_SERVER: Final = CloseCode(2000, "server unsubscribe", "the application ended the subscription")
RESYNC: Final = CloseCode(2500, "insufficient state", "the subscription must be recovered from its position")
RESUBSCRIBE_EXPIRED: Final = CloseCode(2501, "expired", "the subscription token ran out; come with a new one")

UNSUBSCRIBE_CODES: Final[tuple[CloseCode, ...]] = (UNSUBSCRIBED_BY_SERVER, RESYNC, RESUBSCRIBE_EXPIRED)


class FanoutError(Exception):
    """Root of everything the engine raises on purpose."""


class Refused(FanoutError):
    """A request that is not served; ``detail`` is a sentence for the person who sent it."""

    def __init__(self, problem: Problem, detail: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{problem.reason}: {detail or problem.meaning}")
        self.problem = problem
        self.detail = detail or problem.meaning
        self.retry_after_s = retry_after_s


class RecordError(FanoutError):
    """Bytes that are no record of ours; ``reason`` names the counter and the parked record's cause."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Fenced(FanoutError):
    """A newer generation owns what this caller believes to own."""


class OutOfRange(FanoutError):
    """A log position that the log does not hold; ``earliest`` and ``end`` are what it does hold."""

    def __init__(self, topic: str, partition: int, offset: int, earliest: int, end: int) -> None:
        super().__init__(f"{topic}[{partition}] has {earliest}..{end}, not {offset}")
        self.topic, self.partition, self.offset, self.earliest, self.end = topic, partition, offset, earliest, end


class Unavailable(FanoutError):
    """The log or the store did not answer in time; nothing is known about what it did."""


class OutOfIds(Unavailable):
    """The id generator has no id to give now: its counters are used up or the clock went back; nothing was done."""


class ConfigError(FanoutError):
    """Flags or environment that cannot work together; the message is one line that says what would."""


class ProtocolError(FanoutError):
    """Bytes that break the client protocol, where nobody can be answered: replies that a client cannot read."""
