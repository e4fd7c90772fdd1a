"""Rules of commands, and entries as publications."""

from __future__ import annotations

import pytest

from fanout.core.errors import BAD_REQUEST, UNAVAILABLE
from fanout.core.messages import Kind
from fanout.core.records import Entry
from fanout.protocol import centrifuge
from fanout.protocol.centrifuge import (
    METHODS,
    NO_DATA,
    ClientInfo,
    Command,
    ConnectRequest,
    Error,
    Malformed,
    PingRequest,
    Publication,
    Push,
    Reply,
    SendRequest,
    SubscribeRequest,
    checked,
    error_of,
    publication_of,
    raw_of,
)


def entry(**changes: object) -> Entry:
    values: dict[str, object] = {"offset": 44, "part": 0, "kind": 0, "priority": 2, "prev": 41, "n": 3, "id": 2**62}
    values |= {"at_ms": 0, "sent_ms": 0, "data": b'{"t":1}'} | changes
    return Entry(**values)  # type: ignore[arg-type]


def test_every_method_is_a_field_of_command_and_reply_and_method_names_the_one_that_is_set() -> None:
    for name in METHODS:
        request = getattr(centrifuge, Command.__annotations__[name].removesuffix(" | None"))()
        assert Command(id=1, **{name: request}).method == name
        assert name == "send" or name in Reply.__struct_fields__
    assert set(METHODS) == set(Command.__struct_fields__) - {"id"}
    assert Command().method == ""


def test_a_command_has_one_request_and_an_id() -> None:
    assert checked(Command(1, ping=PingRequest())) == Command(1, ping=PingRequest())


def test_the_empty_command_is_a_pong() -> None:
    assert checked(Command()) == Command()


def test_send_needs_no_id() -> None:
    assert isinstance(checked(Command(send=SendRequest())), Command)
    assert isinstance(checked(Command(7, send=SendRequest())), Command)


@pytest.mark.parametrize(
    ("command", "id", "word"),
    [
        (Command(7), 7, "names one request"),
        (Command(7, ping=PingRequest(), connect=ConnectRequest()), 7, "exactly one"),
        (Command(ping=PingRequest()), 0, "ping needs an id"),
    ],
)
def test_a_command_that_breaks_the_rules_is_malformed_and_keeps_its_id(command: Command, id: int, word: str) -> None:
    found = checked(command)
    assert isinstance(found, Malformed)
    assert found.id == id
    assert word in found.detail


def test_only_the_empty_reply_is_a_ping() -> None:
    assert Reply().is_ping
    assert not Reply(id=1).is_ping
    assert not Reply(push=Push()).is_ping
    assert not Reply(error=Error()).is_ping


def test_an_empty_payload_is_the_default_so_that_json_leaves_it_out() -> None:
    assert raw_of(b"") is NO_DATA
    assert bytes(raw_of(b"1")) == b"1"


def test_a_stored_entry_becomes_a_publication_with_its_offset() -> None:
    assert publication_of(entry(), id_tag=False) == Publication(data=raw_of(b'{"t":1}'), offset=44)


@pytest.mark.parametrize("kind", [Kind.RELIABLE, Kind.RECENT])
def test_reliable_and_recent_publications_have_an_offset(kind: Kind) -> None:
    assert publication_of(entry(kind=kind.value), id_tag=False).offset == 44


def test_an_ephemeral_publication_has_no_offset() -> None:
    assert publication_of(entry(kind=Kind.EPHEMERAL.value), id_tag=False).offset == 0


def test_the_sender_stands_in_info_and_the_id_as_text_in_tags() -> None:
    publication = publication_of(entry(sender="bob", tags={"a": "b"}), id_tag=True)
    assert publication.info == ClientInfo(user="bob")
    assert publication.tags == {"a": "b", "id": str(2**62)}


def test_the_engines_id_wins_over_a_tag_of_that_name() -> None:
    assert publication_of(entry(tags={"id": "forged"}), id_tag=True).tags == {"id": str(2**62)}


def test_the_tags_of_an_entry_are_not_changed_by_encoding_it() -> None:
    one = entry(tags={"a": "b"})
    publication_of(one, id_tag=True)
    assert one.tags == {"a": "b"}


def test_an_error_names_reason_and_detail() -> None:
    assert error_of(BAD_REQUEST, "no such field") == Error(107, "bad_request: no such field", False)
    assert error_of(UNAVAILABLE) == Error(100, f"unavailable: {UNAVAILABLE.meaning}", True)


def test_a_filter_may_hold_filters() -> None:
    request = SubscribeRequest(tf=centrifuge.FilterNode(op="not", nodes=[centrifuge.FilterNode(key="a")]))
    assert request.tf is not None
    assert request.tf.nodes[0].key == "a"
