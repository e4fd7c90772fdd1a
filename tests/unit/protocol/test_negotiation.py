"""What a session speaks follows from what it offers."""

from __future__ import annotations

import pytest

from fanout.protocol.centrifuge import WireFormat
from fanout.protocol.negotiation import negotiate

JSON, PROTOBUF = WireFormat.JSON, WireFormat.PROTOBUF


@pytest.mark.parametrize(
    ("offered", "query", "wire_format", "echoed"),
    [
        ([], {}, JSON, None),
        ([""], {}, JSON, None),
        (["centrifuge-json"], {}, JSON, "centrifuge-json"),
        (["centrifuge-protobuf"], {}, PROTOBUF, "centrifuge-protobuf"),
        (["", "graphql-ws", "centrifuge-protobuf"], {}, PROTOBUF, "centrifuge-protobuf"),
        (["centrifuge-protobuf", "centrifuge-json"], {}, PROTOBUF, "centrifuge-protobuf"),
        (["graphql-ws"], {}, JSON, None),
        ([], {"format": "protobuf"}, PROTOBUF, None),
        ([], {"cf_protocol": "protobuf"}, PROTOBUF, None),
        ([], {"format": "json"}, JSON, None),
        (["centrifuge-json"], {"format": "protobuf"}, JSON, "centrifuge-json"),
    ],
)
def test_the_wire_format_follows_the_offer_then_the_query(
    offered: list[str], query: dict[str, str], wire_format: WireFormat, echoed: str | None
) -> None:
    assert negotiate(offered, query) == (wire_format, echoed, False)


def test_native_pings_are_asked_for_in_the_query() -> None:
    assert negotiate([], {"cf_ws_frame_ping_pong": "true"}).native_pings
    assert not negotiate([], {"cf_ws_frame_ping_pong": "1"}).native_pings
