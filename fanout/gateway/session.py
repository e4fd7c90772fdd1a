"""A session: one client's commands in, replies and frames out. Dispatch only; commands live in their own modules.

Commands of a session are answered in their order: while one waits for the log or the store, the next ones wait behind
it, bounded. Pushes of rooms do not wait for commands.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from fanout.core.errors import (
    BAD_REQUEST,
    CONNECTION_EXPIRED,
    INSUFFICIENT_STATE,
    INTERNAL,
    NO_PONG,
    PROTOCOL_ERROR,
    RESUBSCRIBE_EXPIRED,
    SLOW,
    SUBSCRIPTION_EXPIRED,
    TOO_MANY,
    TOO_MANY_ERRORS,
    TOO_MANY_REQUESTS,
    UNAVAILABLE,
    CloseCode,
    Refused,
    Unavailable,
)
from fanout.core.limits import (
    COMMAND_BYTES,
    COMMANDS_BURST,
    COMMANDS_PER_S,
    COMMANDS_REFUSED_MAX,
    EXPIRED_GRACE_S,
    PAUSED_PONGS_MISSED_MAX,
    SESSION_ERRORS_MAX,
    WRITE_HARD_BYTES,
)
from fanout.gateway.commands import HANDLERS
from fanout.gateway.connect import Closing, connect
from fanout.gateway.edge_ledger import DropReason
from fanout.gateway.room import Subscription
from fanout.gateway.step import Sink
from fanout.gateway.subscribe import Gone, Violation, subscribe
from fanout.gateway.subscriptions import Subscriptions
from fanout.gateway.turns import Early, Turns
from fanout.gateway.wires import WIRE_CODECS, WIRE_LABELS, push_frame, reply_frame
from fanout.protocol.centrifuge import Command, Malformed, Push, Reply, Unsubscribe, error_of
from fanout.runtime.metrics import (
    COMMANDS,
    COMMANDS_REFUSED,
    SESSIONS,
    SESSIONS_OPENED,
    SUBSCRIPTIONS,
    UNSUBSCRIBED,
)
from fanout.runtime.tokens import Claims

if TYPE_CHECKING:
    from fanout.gateway.services import Services

logger = structlog.get_logger(__name__)

_GUEST: Final = Claims(user="", app="")
_COMMANDS: Final = {method: COMMANDS.labels(method) for method in ("connect", *HANDLERS)}
_OPENED: Final = tuple(SESSIONS_OPENED.labels(*labels) for labels in WIRE_LABELS)
_LIVE: Final = tuple(SESSIONS.labels(*labels) for labels in WIRE_LABELS)


class Line(Protocol):
    """What a session needs of its connection."""

    def write(self, frame: bytes) -> None:
        """Hand a whole WebSocket frame to the socket."""

    def close(self, code: CloseCode) -> None:
        """Begin the close handshake; ``session.ended`` is called at once."""

    def opened(self) -> None:
        """The client has shown who it is."""

    @property
    def sink(self) -> Sink:
        """The socket itself."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes handed over that the socket has not taken."""

    def send_ping(self) -> None:
        """Send a ping of the WebSocket protocol."""


class Session:
    """One client. ``unanswered`` counts pings without a pong, ``expires_s`` is the earliest end of its tokens."""

    __slots__ = (
        "_errors",
        "_line",
        "_paid_to_s",
        "_refused",
        "_services",
        "_stuck",
        "_task",
        "_waiting",
        "bucket",
        "claims",
        "closed",
        "connected",
        "expires_s",
        "native_pings",
        "number",
        "paused",
        "subscriptions",
        "unanswered",
        "wire",
    )

    def __init__(self, services: Services, line: Line, number: int, wire: int, *, native_pings: bool) -> None:
        self._services = services
        self._line = line
        self.number = number
        self.wire = wire
        self.native_pings = native_pings
        self.claims = _GUEST
        self.connected = False
        self.closed = False
        self.paused = False
        self.subscriptions = Subscriptions()
        self.unanswered = 0
        self.bucket = -1  # of the heartbeat
        self.expires_s = 0
        self._stuck: tuple[int, int] | None = None  # waiting bytes and looks at a socket that takes nothing
        self._paid_to_s = 0.0  # the rate of commands is used up to this moment
        self._refused = 0  # commands in a row that came too fast
        self._errors = 0  # commands in a row that were refused for good
        self._task: asyncio.Task[None] | None = None
        self._waiting: Turns | None = None

    @property
    def user(self) -> str:
        """The user, empty for a guest."""
        return self.claims.user

    @property
    def client(self) -> str:
        """Id of this session as clients see it: unique among gateways through the node's name."""
        return f"{self._services.node}-{self.number}"

    @property
    def is_answering(self) -> bool:
        """True while a command is being answered."""
        return self._task is not None

    def open(self, claims: Claims) -> None:
        """The client has shown who it is."""
        self.claims = claims
        self._services.sessions.add(self)
        self.note_expiry(claims.expires_s or 0)
        _OPENED[self.wire].inc()
        _LIVE[self.wire].inc()

    # --- in -----------------------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Take a message of the client: one command or several."""
        self._charge(len(data) // COMMAND_BYTES)
        for command in WIRE_CODECS[self.wire].decode_commands(data):
            if self.closed:
                return
            if isinstance(command, Malformed):
                self._malformed(command)
            else:
                self._admit(command)

    def spend(self) -> bool:
        """Take one command's worth of the rate; False where there is none left.

        The generic cell rate algorithm (ITU-T I.371): a token bucket in one number instead of two. A client that asks
        and never reads is closed before its answers fill the memory: pongs are answers, too.
        """
        if self._leaves_too_much():
            self.close(SLOW)
            return False
        now_s = self._services.clock.monotonic_s()
        paid_to_s = max(self._paid_to_s, now_s) + 1.0 / COMMANDS_PER_S
        if paid_to_s - now_s > (COMMANDS_BURST + 0.5) / COMMANDS_PER_S:  # half a command for rounding
            self._refused += 1
            if self._refused > COMMANDS_REFUSED_MAX:
                self.close(TOO_MANY)
            return False
        self._paid_to_s = paid_to_s
        self._refused = 0
        return True

    def _charge(self, commands: int) -> None:
        """Use up some of the rate, at most all of it: a long message takes us as long as many short ones."""
        if commands:
            now_s = self._services.clock.monotonic_s()
            used_up_s = now_s + COMMANDS_BURST / COMMANDS_PER_S
            self._paid_to_s = min(max(self._paid_to_s, now_s) + commands / COMMANDS_PER_S, used_up_s)

    def _admit(self, command: Command) -> None:
        method = command.method
        if not method:
            self._pong()
            return
        if not self.spend():
            if not self.closed:
                self._refuse(command, Refused(TOO_MANY_REQUESTS))
            return
        _COMMANDS[method].inc()
        if self._task is not None:
            self._wait(command)
        else:
            self._begin(command)

    def _pong(self) -> None:
        if self.unanswered <= 0:
            self.close(PROTOCOL_ERROR)  # nobody asked
            return
        self.unanswered -= 1

    def _malformed(self, command: Malformed) -> None:
        if not command.id or not self.connected:
            COMMANDS_REFUSED.labels(BAD_REQUEST.reason).inc()
            logger.info("malformed command", detail=command.detail)
            self.close(PROTOCOL_ERROR)
        elif self.spend():
            self._refuse(Command(id=command.id), Refused(BAD_REQUEST, command.detail))

    # --- order --------------------------------------------------------------------------------------------------------

    def _wait(self, command: Command) -> None:
        if self._waiting is None:
            self._waiting = Turns(self, self._services)
        if not self._waiting.add(command):
            self.close(TOO_MANY)

    def _begin(self, command: Command) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(command), name="command")

    async def _run(self, command: Command) -> None:
        """Answer a command, and then those that came meanwhile."""
        try:
            await self._answer(command)
            while self._waiting and not self.closed:
                await self._answer(*self._waiting.next())
        finally:
            self._task = self._waiting = None

    async def _answer(self, command: Command, early: Early | None = None) -> None:
        method = command.method
        try:
            if (method == "connect") is self.connected:
                raise Violation("connect comes first, and once")
            if method == "connect":
                reply = await self._connect(command)
            elif command.subscribe is not None:
                reply = await subscribe(self, self._services, command.subscribe, early)
            else:
                reply = await HANDLERS[method](self, self._services, getattr(command, method))
        except Refused as refused:
            self._refuse(command, refused)
        except Unavailable as error:
            self._refuse(command, Refused(UNAVAILABLE, str(error)))
        except Closing as closing:
            self.close(closing.code)
        except Violation as violation:
            logger.info("protocol broken by a client", detail=str(violation))
            self.close(PROTOCOL_ERROR)
        except Gone:
            pass
        except Exception:
            logger.exception("command failed", method=method)
            self._refuse(command, Refused(INTERNAL))
        else:
            self._errors = 0
            reply.id = command.id
            self.reply(reply)

    async def _connect(self, command: Command) -> Reply:
        assert command.connect is not None, "the caller has looked"
        try:
            reply = await connect(self, self._services, command.connect)
        except BaseException:
            self._unwind()
            raise
        self.connected = True
        self._line.opened()
        return reply

    # --- out ----------------------------------------------------------------------------------------------------------

    def write(self, frame: bytes) -> None:
        """Hand a frame to the socket."""
        self._line.write(frame)

    def reply(self, reply: Reply) -> None:
        """Answer a command; a client that asks and never reads is closed before its answers fill the memory."""
        if self.closed:
            return
        self._line.write(reply_frame(self.wire, reply))
        if self._leaves_too_much():
            self.close(SLOW)

    def _leaves_too_much(self) -> bool:
        """True where more waits for the client to read than may."""
        return self.paused and self._line.waiting_bytes > WRITE_HARD_BYTES

    def _refuse(self, command: Command, refused: Refused) -> None:
        COMMANDS_REFUSED.labels(refused.problem.reason).inc()
        if command.id:
            self.reply(Reply(id=command.id, error=error_of(refused.problem, refused.detail)))
        if not refused.problem.temporary:  # those are repeated by SDKs, with backoff, as they should be
            self._errors += 1
            if self._errors > SESSION_ERRORS_MAX:
                self.close(TOO_MANY_ERRORS)

    @property
    def sink(self) -> Sink:
        """The socket, for sweeps."""
        return self._line.sink

    def paused_writing(self) -> None:
        """The socket is full: the sweep leaves this session behind."""
        self.paused = True
        self._services.sweeper.stalled(self.subscriptions.values())

    def resumed_writing(self) -> None:
        """The socket takes more: what is behind is served from its own cursors."""
        self.paused = False
        for subscription in self.subscriptions.values():
            if subscription.behind is not None:
                self._services.sweeper.is_behind(subscription)

    # --- signs of life ------------------------------------------------------------------------------------------------

    def note_expiry(self, expires_s: int) -> None:
        """Remember when to look at this session's tokens again (Unix seconds, 0 = never)."""
        if expires_s and (not self.expires_s or expires_s < self.expires_s):
            self.expires_s = expires_s

    def ping(self, frame: bytes) -> None:
        """Ask for a sign of life, and end what has expired."""
        self.unanswered += 1
        if self.native_pings:
            self._line.send_ping()
        else:
            self._line.write(frame)
        if self.expires_s and self._services.clock.wall_ms() > (self.expires_s + EXPIRED_GRACE_S) * 1_000:
            self._expire()

    def native_pong(self) -> None:
        """A pong of the WebSocket protocol: an answer only where such pings are sent."""
        if self.native_pings:
            self.unanswered = 0

    def check_pong(self) -> None:
        """Close a session that did not answer. One whose socket is full, but drains, has not got the question yet."""
        if not self.unanswered:
            self._stuck = None
            return
        waiting = self._line.waiting_bytes
        if not waiting:
            self.close(NO_PONG)
            return
        before, looks = self._stuck or (waiting + 1, 0)
        looks = looks + 1 if waiting >= before else 0
        self._stuck = (waiting, looks)
        if looks >= PAUSED_PONGS_MISSED_MAX:
            self.close(NO_PONG)

    def _expire(self) -> None:
        """End what ran out: the session, or subscriptions whose token was not refreshed."""
        now_s = self._services.clock.wall_ms() // 1_000 - EXPIRED_GRACE_S
        if self.claims.expires_s and self.claims.expires_s < now_s:
            self.close(CONNECTION_EXPIRED)
            return
        for subscription in self.subscriptions.values():
            if subscription.expires_s and subscription.expires_s < now_s:
                self.end_subscription(subscription, RESUBSCRIBE_EXPIRED, DropReason.UNSUBSCRIBED)
        ends = [self.claims.expires_s or 0, *(one.expires_s for one in self.subscriptions.values())]
        self.expires_s = min(filter(None, ends), default=0)

    # --- the end ------------------------------------------------------------------------------------------------------

    def drop(self, subscription: Subscription, reason: DropReason) -> None:
        """Remove a subscription; the client knows."""
        if self.subscriptions.pop(subscription.room.name) is not None:
            subscription.room.leave(subscription, reason)
            self._services.hub.unsubscribed(subscription.room)
            SUBSCRIPTIONS.dec()

    def end_subscription(self, subscription: Subscription, code: CloseCode, reason: DropReason) -> None:
        """End a subscription from our side. SDKs do not resubscribe server-side ones, so those close with 3010."""
        self.drop(subscription, reason)
        if self.closed:
            return
        if subscription.server_side:
            self.close(SUBSCRIPTION_EXPIRED if code is RESUBSCRIBE_EXPIRED else INSUFFICIENT_STATE)
            return
        UNSUBSCRIBED.labels(str(code.code)).inc()
        push = Push(channel=subscription.room.name, unsubscribe=Unsubscribe(code.code, code.reason))
        self._line.write(push_frame(self.wire, push))

    def close(self, code: CloseCode) -> None:
        """End the session with a close code."""
        if not self.closed:
            self._line.close(code)

    def ended(self) -> None:
        """The connection is gone or going: leave every room."""
        if not self.closed:
            self.closed = True
            self._unwind()
            if self._waiting is not None:
                self._waiting.clear()

    def _unwind(self) -> None:
        for subscription in self.subscriptions.values():
            self.drop(subscription, DropReason.CLOSED)
        if self.number in self._services.sessions.by_number:
            self._services.sessions.remove(self)
            _LIVE[self.wire].dec()
