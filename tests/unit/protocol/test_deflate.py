"""permessage-deflate (RFC 7692): offers, one message compressed, one inflated."""

from __future__ import annotations

import zlib

import pytest

from fanout.protocol.deflate import Corrupt, TooLong, agree, deflate, inflate
from fanout.protocol.handshake import Extension

ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
TAIL = b"\x00\x00\xff\xff"


def offered(value: str) -> list[Extension]:
    """Return offers as the handshake reads them."""
    offers = []
    for offer in value.split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        pairs = (parameter.partition("=") for parameter in parameters)
        offers.append(Extension(name, tuple((key, setting if equals else None) for key, equals, setting in pairs)))
    return offers


# --- offers (§5, §7.1) -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate",  # OkHttp, URLSession
        "permessage-deflate; client_max_window_bits",  # Chromium, Firefox, ws, websockets
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",  # gorilla
        "permessage-deflate; client_max_window_bits=8",
        "permessage-deflate; client_max_window_bits=15; client_no_context_takeover",
        "x-webkit-deflate-frame, permessage-deflate",
    ],
)
def test_offers_of_clients_are_taken_without_context_on_both_sides(offer: str) -> None:
    assert agree(offered(offer)) == ANSWER


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-bzip2",
        "permessage-deflate; unknown",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        "permessage-deflate; server_max_window_bits",  # needs a value in an offer
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=015",
        "permessage-deflate; server_max_window_bits=1٥",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=+9",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; SERVER_NO_CONTEXT_TAKEOVER",
    ],
)
def test_offers_that_are_none_of_the_rfc_are_declined(offer: str) -> None:
    assert agree(offered(offer)) is None


def test_client_that_limits_our_window_is_told_the_limit_or_declined() -> None:
    assert agree(offered("permessage-deflate; server_max_window_bits=15")) == f"{ANSWER}; server_max_window_bits=15"
    assert agree(offered("permessage-deflate; server_max_window_bits=14")) is None


def test_first_offer_that_can_be_met_is_taken() -> None:
    offer = (
        "permessage-deflate; server_max_window_bits=10, permessage-deflate; x, permessage-deflate, permessage-deflate"
    )
    assert agree(offered(offer)) == ANSWER
    assert agree([]) is None


# --- the RFC's own examples (§7.2.3) ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        "f248cdc9c90700",
        "000500faff48656c6c6f00",  # a block without compression
        "f348cdc9c9070000",  # a block that ends the stream, and an empty one
        "f24805000000ffffcac9c90700",  # two blocks
    ],
)
def test_hello_of_the_rfc_is_inflated(payload: str) -> None:
    assert inflate(bytes.fromhex(payload), 5) == b"Hello"


def test_hello_is_compressed_as_in_the_rfc() -> None:
    assert deflate(b"Hello") == bytes.fromhex("f248cdc9c90700")


def test_empty_message_is_one_empty_block() -> None:
    assert inflate(b"\x00", 100) == b""
    assert inflate(b"", 100) == b""
    assert inflate(deflate(b""), 100) == b""


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", range(9, 16))
def test_messages_of_clients_with_any_window_are_inflated(window: int) -> None:
    message = b"".join(b'{"n":%d}' % number for number in range(5_000))
    compressor = zlib.compressobj(9, zlib.DEFLATED, -window)
    payload = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert inflate(payload.removesuffix(TAIL), len(message)) == message


def test_every_message_is_compressed_by_itself() -> None:
    assert deflate(b"the same" * 100) == deflate(b"the same" * 100)
    assert not deflate(b"x").endswith(TAIL)


def test_bomb_is_not_inflated_beyond_the_limit() -> None:
    bomb = deflate(bytes(50_000_000))
    assert len(bomb) < 60_000
    with pytest.raises(TooLong, match="65536"):
        inflate(bomb, 65_536)
    assert inflate(deflate(bytes(65_536)), 65_536) == bytes(65_536)
    with pytest.raises(TooLong):
        inflate(deflate(bytes(65_537)), 65_536)


def test_bomb_in_several_streams_is_one_bomb() -> None:
    with pytest.raises(TooLong):
        inflate(zlib.compress(bytes(600), 9, -15) * 2 + b"\x00", 1_000)
    assert inflate(zlib.compress(bytes(500), 9, -15) * 2 + b"\x00", 1_000) == bytes(1_000)


def test_streams_without_end_are_refused() -> None:
    empty_final = b"\x01\x00\x00\xff\xff"
    assert inflate(empty_final * 6 + b"\x00", 100) == b""
    with pytest.raises(Corrupt, match="streams"):
        inflate(empty_final * 10_000, 65_536)


def test_stream_that_ends_without_an_empty_block_is_let_pass() -> None:
    assert inflate(zlib.compress(b"Hello", 9, -15), 100) == b"Hello"


@pytest.mark.parametrize("payload", [b"\xff", b"\x07", b"\x00\x05\x00\x00\x00Hello", b"\x05\xe0\x01", b"hello"])
def test_what_is_no_deflate_data_is_corrupt(payload: bytes) -> None:
    with pytest.raises(Corrupt):
        inflate(payload * 3, 1_000)
