"""Which wire format a session speaks: decided at the upgrade, from the offered subprotocols and the query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from fanout.protocol.centrifuge import WireFormat

SUBPROTOCOLS: Final = {"centrifuge-json": WireFormat.JSON, "centrifuge-protobuf": WireFormat.PROTOBUF}


class Negotiated(NamedTuple):
    """``subprotocol`` is echoed in the answer; None = the answer names none."""

    wire_format: WireFormat
    subprotocol: str | None
    native_pings: bool


def negotiate(offered: Sequence[str], query: Mapping[str, str]) -> Negotiated:
    """Return what a session speaks, from ``Sec-WebSocket-Protocol`` (in order, empty names allowed) and the query.

    The first offered name that we know wins over the query; names that we do not know are not echoed.
    """
    native = query.get("cf_ws_frame_ping_pong") == "true"
    for name in offered:
        known = SUBPROTOCOLS.get(name)
        if known is not None:
            return Negotiated(known, name, native)
    protobuf = query.get("format") == "protobuf" or query.get("cf_protocol") == "protobuf"
    return Negotiated(WireFormat.PROTOBUF if protobuf else WireFormat.JSON, None, native)
