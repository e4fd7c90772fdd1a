"""The upgrade of RFC 6455 §4, row by row of the strictness checklist in the protocol reference."""

from __future__ import annotations

import json

import pytest

from fanout.core.errors import DRAINING
from fanout.core.limits import HANDSHAKE_BYTES_MAX
from fanout.protocol.handshake import (
    Accepted,
    ClientHandshake,
    Endpoint,
    Extension,
    PlainHttp,
    Refusal,
    ServerHandshake,
    Upgrade,
    accept_key,
    accept_response,
    client_request,
    endpoint,
    make_key,
    refuse_response,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3

HEADERS: dict[str, str | None] = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request(line: str = "GET /chat HTTP/1.1", *more: str, **changed: str | None) -> bytes:
    """Return a request; ``changed`` replaces headers (underscores for dashes) or removes them with None."""
    headers = HEADERS | {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [line, *(f"{name}: {value}" for name, value in headers.items() if value is not None), *more]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def upgrade(data: bytes) -> Upgrade:
    outcome = ServerHandshake().feed(data)
    assert isinstance(outcome, Upgrade), outcome
    return outcome


def refused(data: bytes) -> int:
    outcome = ServerHandshake().feed(data)
    assert isinstance(outcome, Refusal), outcome
    assert outcome.response.startswith(b"HTTP/1.1 %d " % outcome.status)
    return outcome.status


# --- server ----------------------------------------------------------------------------------------------------------


def test_accept_is_the_rfcs_example() -> None:
    assert accept_key(KEY) == ACCEPT
    assert make_key(b"the sample nonce") == KEY


def test_upgrade_is_read_whole() -> None:
    read = upgrade(
        request(
            "GET /connection/websocket?format=protobuf&empty= HTTP/1.1",
            "Origin: http://example.com",
            "Sec-WebSocket-Protocol: centrifuge-json, centrifuge-protobuf",
            "X-Forwarded-For: 1.2.3.4",
            "X-Forwarded-For: 5.6.7.8",
        )
    )
    assert read.path == "/connection/websocket"
    assert read.query == {"format": "protobuf", "empty": ""}
    assert read.subprotocols == ("centrifuge-json", "centrifuge-protobuf")
    assert read.origin == "http://example.com"
    assert read.headers["x-forwarded-for"] == "1.2.3.4, 5.6.7.8"
    assert (read.extensions, read.key, read.rest) == ((), KEY, b"")


def test_words_are_found_in_lists_and_in_any_case() -> None:
    read = upgrade(request(Upgrade="h2c, WebSocket", Connection="keep-alive, UPGRADE"))
    assert read.path == "/chat"
    assert read.origin is None


@pytest.mark.parametrize("split", [1, 3, 10, 200])
def test_first_frame_is_kept_whatever_the_split_of_the_reads(split: int) -> None:
    data = request() + b"\x81\x80abcd"
    handshake, outcome, taken = ServerHandshake(), None, 0
    while outcome is None:
        outcome = handshake.feed(data[taken : taken + split])
        taken += split
    assert isinstance(outcome, Upgrade)
    assert outcome.rest + data[taken:] == b"\x81\x80abcd"


@pytest.mark.parametrize(
    "data",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/publish HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"NONSENSE\r\n\r\n",
    ],
)
def test_other_requests_are_handed_on_with_every_byte(data: bytes) -> None:
    handshake = ServerHandshake()
    assert handshake.feed(data[:7]) is None
    assert handshake.feed(data[7:]) == PlainHttp(data)


def test_nothing_is_decided_while_the_request_is_incomplete() -> None:
    handshake = ServerHandshake()
    assert handshake.feed(b"") is None
    assert handshake.feed(request()[:-1]) is None
    assert isinstance(handshake.feed(b"\n"), Upgrade)


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00", b"\x81\x85abcdefghi", b"\r\nGET / HTTP/1.1\r\n\r\n", b"get /"]
)
def test_bytes_that_cannot_begin_a_request_are_refused_at_once(data: bytes) -> None:
    assert refused(data) == 400


@pytest.mark.parametrize("line", ["POST /chat HTTP/1.1", "GET /chat HTTP/1.0", "GET /chat HTTP/2", "GET /chat", "GET"])
def test_upgrade_needs_get_and_http_1_1(line: str) -> None:
    assert refused(request(line)) == 400


@pytest.mark.parametrize(
    "changed",
    [
        {"Host": None},
        {"Host": ""},
        {"Upgrade": None},
        {"Upgrade": "websocket2"},
        {"Connection": None},
        {"Connection": "keep-alive"},
        {"Sec_WebSocket_Key": None},
        {"Sec_WebSocket_Key": ""},
        {"Sec_WebSocket_Key": "not base64 at all!!"},
        {"Sec_WebSocket_Key": "c2hvcnQ="},
        {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ=é"},
        {"Sec_WebSocket_Protocol": "centrifuge json"},
        {"Sec_WebSocket_Extensions": "per message"},
        {"Sec_WebSocket_Extensions": "deflate; a="},
        {"Sec_WebSocket_Extensions": "deflate; é"},
        {"Content_Length": "5"},
        {"Transfer_Encoding": "chunked"},
    ],
)
def test_upgrade_that_breaks_a_rule_is_a_bad_request(changed: dict[str, str | None]) -> None:
    assert refused(request("GET / HTTP/1.1", **changed)) == 400


@pytest.mark.parametrize("line", ["Sec-WebSocket-Key: " + KEY, "Host: b", "Origin: http://a\r\nOrigin: http://b"])
def test_doubled_headers_are_a_bad_request(line: str) -> None:
    assert refused(request("GET / HTTP/1.1", line)) == 400


@pytest.mark.parametrize("line", [" folded", "no colon", "Spaced : x", ": nameless", "X-Nul: a\0b", "X-Line: a\nb"])
def test_broken_header_lines_are_a_bad_request(line: str) -> None:
    assert refused(request("GET / HTTP/1.1", line)) == 400


@pytest.mark.parametrize("version", [None, "", "8", "13, 8", "14"])
def test_other_versions_are_told_which_one_is_spoken(version: str | None) -> None:
    outcome = ServerHandshake().feed(request(Sec_WebSocket_Version=version))
    assert isinstance(outcome, Refusal)
    assert outcome.status == 426
    assert b"\r\nSec-WebSocket-Version: 13\r\n" in outcome.response


def test_doubled_version_is_told_which_one_is_spoken() -> None:
    assert refused(request("GET / HTTP/1.1", "Sec-WebSocket-Version: 13")) == 426


@pytest.mark.parametrize("target", ["*", "chat", "/a#b", "/a\x01", "/é", "ftp://h/", "http://[/", "http:///x"])
def test_targets_that_are_no_url_are_a_bad_request(target: str) -> None:
    assert refused(request(f"GET {target} HTTP/1.1")) == 400


def test_query_with_too_many_fields_is_a_bad_request() -> None:
    assert refused(request(f"GET /?{'&'.join('a=1' for _ in range(65))} HTTP/1.1")) == 400


@pytest.mark.parametrize(
    ("target", "path"), [("http://h:1/chat?x=1", "/chat"), ("http://h", "/"), ("//evil/chat", "//evil/chat")]
)
def test_whole_urls_are_taken_and_double_slashes_are_a_path(target: str, path: str) -> None:
    assert upgrade(request(f"GET {target} HTTP/1.1")).path == path


def test_header_block_above_16_kb_is_refused_finished_or_not() -> None:
    filler = "X-Filler: " + "x" * HANDSHAKE_BYTES_MAX
    assert refused(request("GET / HTTP/1.1", filler)) == 400
    assert refused(request("GET / HTTP/1.1", filler)[:-4]) == 400


def test_empty_subprotocol_header_is_tolerated() -> None:
    assert upgrade(request(Sec_WebSocket_Protocol="")).subprotocols == ()
    assert upgrade(request(Sec_WebSocket_Protocol=", a,, b ,")).subprotocols == ("a", "b")


def test_extensions_are_read_with_their_parameters() -> None:
    offer = 'permessage-deflate; client_max_window_bits; server_max_window_bits=10, foo; bar="baz",'
    assert upgrade(request(Sec_WebSocket_Extensions=offer)).extensions == (
        Extension("permessage-deflate", (("client_max_window_bits", None), ("server_max_window_bits", "10"))),
        Extension("foo", (("bar", "baz"),)),
    )


def test_answer_holds_no_header_that_was_not_asked_for() -> None:
    answer = accept_response(upgrade(request(Sec_WebSocket_Extensions="permessage-deflate")))
    assert answer == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n\r\n"
    )


def test_answer_names_the_chosen_subprotocol_and_extension() -> None:
    asked = upgrade(request(Sec_WebSocket_Protocol="a, b", Sec_WebSocket_Extensions="permessage-deflate"))
    answer = accept_response(asked, "b", "permessage-deflate; server_no_context_takeover")
    assert b"\r\nSec-WebSocket-Protocol: b\r\n" in answer
    assert b"\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n" in answer


def test_answer_never_names_what_was_not_offered() -> None:
    asked = upgrade(request(Sec_WebSocket_Protocol="a"))
    with pytest.raises(ValueError, match="not offered"):
        accept_response(asked, "b")
    with pytest.raises(ValueError, match="not offered"):
        accept_response(asked, "a", "permessage-deflate")


def test_refusal_is_an_error_of_the_one_shape_and_ends_the_connection() -> None:
    head, _, body = refuse_response(503, DRAINING, retry_after_s=1.2).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 2" in head
    assert b"\r\nConnection: close" in head
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert json.loads(body) == {"code": 100, "reason": "draining", "detail": DRAINING.meaning}


# --- client ----------------------------------------------------------------------------------------------------------


def test_urls_lead_to_sockets() -> None:
    assert endpoint("ws://127.0.0.1:8000/c?a=b") == Endpoint("127.0.0.1", 8000, False, "127.0.0.1:8000", "/c?a=b")
    assert endpoint("ws://h") == Endpoint("h", 80, False, "h", "/")
    assert endpoint("wss://[::1]/x") == Endpoint("::1", 443, True, "[::1]", "/x")


@pytest.mark.parametrize("url", ["http://h/", "ws:///x", "h:80", "ws://h:port/", "ws://user:secret@h/"])
def test_what_is_no_websocket_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"form|[Pp]ort"):
        endpoint(url)


def answer(*more: str, line: str = "HTTP/1.1 101 Switching Protocols", **changed: str | None) -> bytes:
    headers: dict[str, str | None] = {
        "Upgrade": "WebSocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": ACCEPT,
    }
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [line, *(f"{name}: {value}" for name, value in headers.items() if value is not None), *more]
    return "\r\n".join([*lines, "", ""]).encode()


def test_both_sides_understand_one_another() -> None:
    asked = upgrade(
        client_request("h:1", "/c?format=protobuf", KEY, subprotocols=("a", "b"), headers={"Origin": "http://h"})
    )
    assert (asked.path, asked.query, asked.origin) == ("/c", {"format": "protobuf"}, "http://h")
    outcome = ClientHandshake(KEY, ("a", "b")).feed(accept_response(asked, "a") + b"\x81\x00")
    assert isinstance(outcome, Accepted)
    assert (outcome.subprotocol, outcome.rest) == ("a", b"\x81\x00")


def test_client_waits_for_the_whole_answer() -> None:
    handshake = ClientHandshake(KEY)
    data = answer()
    assert [handshake.feed(data[at : at + 1]) for at in range(len(data) - 1)] == [None] * (len(data) - 1)
    assert isinstance(handshake.feed(data[-1:]), Accepted)


def test_client_reports_the_status_of_a_server_that_refuses() -> None:
    outcome = ClientHandshake(KEY).feed(refuse_response(503, DRAINING))
    assert isinstance(outcome, Refusal)
    assert (outcome.status, outcome.detail) == (503, "the server answered 503 Service Unavailable")
    assert b'"draining"' in outcome.response


@pytest.mark.parametrize(
    "data",
    [
        answer(line="HTTP/1.0 101 Switching Protocols"),
        answer(line="SSH-2.0-OpenSSH"),
        answer(line="HTTP/1.1 abc"),
        answer(Upgrade=None),
        answer(Connection="close"),
        answer(Sec_WebSocket_Accept="wrong"),
        answer(Sec_WebSocket_Accept=None),
        answer(Sec_WebSocket_Protocol="c"),
        answer(Sec_WebSocket_Extensions="permessage-deflate"),
        answer("broken header"),
        b"x" * (HANDSHAKE_BYTES_MAX + 1),
        answer("X-Filler: " + "x" * HANDSHAKE_BYTES_MAX),
    ],
)
def test_client_refuses_an_answer_that_breaks_the_protocol(data: bytes) -> None:
    outcome = ClientHandshake(KEY, ("a",)).feed(data)
    assert isinstance(outcome, Refusal)
    assert outcome.status == 0


def test_request_cannot_be_broken_out_of() -> None:
    with pytest.raises(ValueError, match="line break"):
        client_request("h", "/", KEY, headers={"X": "a\r\nEvil: b"})
    with pytest.raises(ValueError, match="16 bytes"):
        make_key(b"short")
