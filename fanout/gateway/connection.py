"""A TCP connection: the handshake, WebSocket frames in and out, the close handshake. Thin: bytes are the business of
``protocol``, commands the session's.

One port serves everything: a connection whose first request is no upgrade is handed, with what was read of it, to the
HTTP server's protocol class (``http_door``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, cast
from urllib.parse import urlsplit

from fanout.core.errors import OVERLOADED, PERMISSION_DENIED, STALE, CloseCode, Problem
from fanout.core.limits import (
    HALF_OPEN_MAX,
    HALF_OPEN_PER_ADDRESS_MAX,
    HANDSHAKE_BYTES_MAX,
    WRITE_HIGH_WATER_BYTES,
)
from fanout.gateway.admission import Admission
from fanout.gateway.heartbeat import Deadlines, Heartbeat
from fanout.gateway.session import Session
from fanout.gateway.step import Sink
from fanout.gateway.wires import wire_of
from fanout.protocol import deflate, websocket
from fanout.protocol.negotiation import negotiate
from fanout.runtime.descriptors import Descriptors
from fanout.runtime.metrics import CONNECTS_REFUSED, DESCRIPTORS_SHORT, HANDSHAKES_REFUSED, SESSIONS_CLOSED

if TYPE_CHECKING:
    from fanout.gateway.services import Services

CLOSE_S: Final = 5.0  # for the client's close frame, after ours
_LOOPBACK: Final = ("127.", "::1")


class HttpDoor(Protocol):
    """Takes over connections that do not ask for WebSocket."""

    def enter(self, transport: asyncio.Transport, data: bytes) -> None:
        """Go on with a connection whose first bytes are ``data``."""


class Doorkeeper:
    """Counts connections that have not shown who they are, and waits for what they owe: handshake, connect, end."""

    def __init__(
        self,
        handshakes: Deadlines,
        connects: Deadlines,
        closings: Deadlines,
        *,
        admission: Admission,
        are_descriptors_short: Callable[[], bool] | None = None,
    ) -> None:
        self.handshakes, self.connects, self.closings = handshakes, connects, closings
        self.admission = admission
        self._are_descriptors_short = are_descriptors_short or Descriptors().are_short
        self._addresses: dict[str, int] = {}

    def admits(self, address: str) -> bool:
        """Return whether another one may come in from an address, and count it if so."""
        half_open = self._addresses.get(address, 0)
        if len(self.handshakes) + len(self.connects) >= HALF_OPEN_MAX:
            CONNECTS_REFUSED.labels("half_open").inc()
            return False
        if half_open >= HALF_OPEN_PER_ADDRESS_MAX and not address.startswith(_LOOPBACK):
            CONNECTS_REFUSED.labels("half_open_of_address").inc()
            return False
        if self._are_descriptors_short():  # refused by us it is told so; refused by the kernel nobody would know
            CONNECTS_REFUSED.labels("descriptors").inc()
            DESCRIPTORS_SHORT.inc()
            return False
        self._addresses[address] = half_open + 1
        return True

    def let_go(self, address: str) -> None:
        """One of an address is not half-open any more."""
        left = self._addresses.get(address, 1) - 1
        if left:
            self._addresses[address] = left
        else:
            self._addresses.pop(address, None)


class Connection(asyncio.Protocol):
    """From accept to close. Its session begins with the upgrade."""

    __slots__ = (
        "_address",
        "_closing",
        "_door",
        "_handshake",
        "_heartbeat",
        "_keeper",
        "_parser",
        "_request",
        "_services",
        "_session",
        "_transport",
    )

    def __init__(self, services: Services, keeper: Doorkeeper, heartbeat: Heartbeat, door: HttpDoor) -> None:
        self._services = services
        self._keeper = keeper
        self._heartbeat = heartbeat
        self._door = door
        self._address: str | None = None  # while half-open and counted
        self._handshake: websocket.ServerHandshake | None = websocket.ServerHandshake()
        self._request: bytes | websocket.Upgrade | None = None  # while it stands in line
        self._parser: websocket.FrameParser | None = None
        self._session: Session | None = None
        self._closing: websocket.CloseHandshake | None = None
        self._transport: asyncio.Transport

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        if self._keeper.admits(address):
            self._address = address
            self._keeper.handshakes.add(self, self._services.clock.monotonic_s())
        else:
            self.refused(OVERLOADED, self._keeper.admission.retry_after_s())

    def data_received(self, data: bytes) -> None:
        """Bytes have come, cut anywhere."""
        if self._parser is not None:
            self._frames(data)
        elif self._request is not None:
            self._keep(data)
        elif self._handshake is not None:
            asks = websocket.asks_for_websocket(data)
            if asks and not self._keeper.admission.take():
                self._stand_in_line(data)
            else:
                self._read_request(self._handshake, data, is_admitted=asks)

    def pause_writing(self) -> None:
        """The socket is full."""
        if self._session is not None:
            self._session.paused_writing()

    def resume_writing(self) -> None:
        """The socket takes more."""
        if self._session is not None:
            self._session.resumed_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._leave_door()
        self._keeper.closings.discard(self)
        self._keeper.admission.leave(self)
        session = self._session
        if session is not None:
            self._end(session, "lost")

    # --- handshake ----------------------------------------------------------------------------------------------------

    def _read_request(self, handshake: websocket.ServerHandshake, data: bytes, *, is_admitted: bool) -> None:
        outcome = handshake.feed(data)
        if isinstance(outcome, websocket.Upgrade):
            if is_admitted or self._keeper.admission.take():
                self._upgrade(outcome)
            else:
                self._stand_in_line(outcome)
        elif isinstance(outcome, websocket.PlainHttp):
            self._leave_door()
            self._handshake = None
            self._door.enter(self._transport, outcome.data)
        elif outcome is not None:
            self._turn_away(outcome.status, outcome.response)

    def _stand_in_line(self, request: bytes | websocket.Upgrade) -> None:
        self._keeper.handshakes.discard(self)  # from here on it is we who let it wait
        self._request = request
        self._keeper.admission.wait(self)

    def _keep(self, data: bytes) -> None:
        """Keep what a client says while it stands in line, though it should wait for the answer (RFC 6455 §4.1)."""
        if isinstance(self._request, bytes) and len(self._request) + len(data) <= HANDSHAKE_BYTES_MAX:
            self._request += data
        else:
            self._keeper.admission.leave(self)
            self._turn_away(400, websocket.refuse_response(400, detail="wait for the answer to the upgrade"))

    def admitted(self) -> None:
        """Its turn has come."""
        request, self._request = self._request, None
        if isinstance(request, websocket.Upgrade):
            self._upgrade(request)
        elif request is not None and self._handshake is not None:
            self._read_request(self._handshake, request, is_admitted=True)

    def refused(self, problem: Problem, retry_after_s: float) -> None:
        """Come back later: there is no room, or this process goes away."""
        self._turn_away(503, websocket.refuse_response(503, problem, retry_after_s=retry_after_s))

    def _upgrade(self, upgrade: websocket.Upgrade) -> None:
        if not self._is_allowed(upgrade):
            response = websocket.refuse_response(403, PERMISSION_DENIED, "this Origin is not allowed")
            self._turn_away(403, response)
            return
        spoken = negotiate(upgrade.subprotocols, upgrade.query)
        extension = self._agreed_compression(upgrade)
        self._handshake = None
        self._keeper.handshakes.discard(self)
        self._keeper.connects.add(self, self._services.clock.monotonic_s())
        self._parser = websocket.FrameParser() if extension is None else websocket.InflatingParser()
        self._session = Session(
            self._services,
            self,
            self._services.next_number(),
            wire_of(spoken.wire_format, is_deflated=extension is not None),
            native_pings=spoken.native_pings,
        )
        self._transport.write(websocket.accept_response(upgrade, spoken.subprotocol, extension))
        if upgrade.rest:
            self._frames(upgrade.rest)

    def _agreed_compression(self, upgrade: websocket.Upgrade) -> str | None:
        """Return the extension to answer with. A page cannot keep its browser from offering it, but name its URL."""
        if not self._services.settings.deflate or upgrade.query.get("deflate") == "off":
            return None
        return deflate.agree(upgrade.extensions)

    def _is_allowed(self, upgrade: websocket.Upgrade) -> bool:
        """Browsers name the page's origin; one that nobody allowed may not use a visitor's network position."""
        settings, origin = self._services.settings, upgrade.origin
        if origin is None or settings.insecure or "*" in settings.origins or origin in settings.origins:
            return True
        return urlsplit(origin).netloc.lower() == upgrade.headers.get("host", "").lower()

    def _turn_away(self, status: int, response: bytes) -> None:
        HANDSHAKES_REFUSED.labels(str(status)).inc()
        self._handshake = self._request = None
        self._leave_door()
        self._transport.write(response)
        self._transport.close()

    def _leave_door(self) -> None:
        self._keeper.handshakes.discard(self)
        self._keeper.connects.discard(self)
        if self._address is not None:
            self._keeper.let_go(self._address)
            self._address = None

    def overdue(self) -> None:
        """A deadline has passed: the handshake's, the connect command's or the close handshake's."""
        if self._closing is not None or self._session is None:
            self._leave_door()
            self._transport.abort()
        elif self._session.is_answering:
            # It has asked in time, and our answer is what is late: 3502 would send it away for good.
            self._keeper.connects.add(self, self._services.clock.monotonic_s())
        elif not self._session.connected:
            self.close(STALE)

    # --- frames -------------------------------------------------------------------------------------------------------

    def _frames(self, data: bytes) -> None:
        assert self._parser is not None, "only after the upgrade"
        for event in self._parser.feed(data):
            session = self._session
            if session is None:
                if isinstance(event, websocket.Close):
                    self._receive_close(event)
            elif isinstance(event, websocket.Text | websocket.Binary):
                session.received(event.data)
            elif isinstance(event, websocket.Ping):
                if session.spend():
                    self._transport.write(websocket.frame(websocket.PONG, event.data))
            elif isinstance(event, websocket.Pong):
                if session.spend():
                    session.native_pong()
            elif isinstance(event, websocket.Close):
                self._end(session, "client")
                self._receive_close(event)
            else:
                self._end(session, str(event.code))
                self._start_close(event.code, event.detail)
                # Nothing can be read from here on, not even a close frame: the end of our stream must do.
                self._transport.write_eof()

    def _receive_close(self, event: websocket.Close) -> None:
        if self._closing is None:
            self._closing = websocket.CloseHandshake()
        echo = self._closing.receive(event)
        if echo is not None:
            self._transport.write(websocket.frame(websocket.CLOSE, echo))
        # A client that says goodbye and does not read what is still on its way has as long as any other to take it.
        self._keeper.closings.add(self, self._services.clock.monotonic_s())
        self._transport.close()

    def _start_close(self, code: int, reason: str) -> None:
        self._closing = websocket.CloseHandshake()
        payload = self._closing.start(code, reason)
        if payload is not None:
            self._transport.write(websocket.frame(websocket.CLOSE, payload))
        self._keeper.closings.add(self, self._services.clock.monotonic_s())

    def _end(self, session: Session, label: str) -> None:
        """The session is over, whatever becomes of the connection."""
        self._session = None
        self._leave_door()
        if session.connected or label.isdigit():  # what leaves by itself before it said who it is was no session
            SESSIONS_CLOSED.labels(label).inc()
        self._heartbeat.discard(session)
        session.ended()

    # --- session.Line -------------------------------------------------------------------------------------------------

    def write(self, frame: bytes) -> None:
        """Hand a whole WebSocket frame to the socket."""
        self._transport.write(frame)

    def opened(self) -> None:
        """The client has shown who it is: ping it from now on."""
        self._leave_door()
        if self._session is not None:
            self._heartbeat.add(self._session)

    def close(self, code: CloseCode) -> None:
        """Begin the close handshake."""
        session = self._session
        if session is not None:
            self._end(session, str(code.code))
            self._start_close(code.code, code.reason)

    @property
    def sink(self) -> Sink:
        """The socket, to which a sweep hands its frames without a detour."""
        return self._transport

    @property
    def waiting_bytes(self) -> int:
        """Bytes handed over that the socket has not taken."""
        return self._transport.get_write_buffer_size()

    def send_ping(self) -> None:
        """Send a ping of the WebSocket protocol."""
        self._transport.write(websocket.frame(websocket.PING, b""))
