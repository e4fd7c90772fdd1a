"""Small things that the commands decide by themselves."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fanout.cli.tools import as_data, as_line, websocket_url
from fanout.protocol.centrifuge import ClientInfo, Publication


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("hello", {"text": "hello"}),
        ('{"goal": 1}', {"goal": 1}),
        ("7", 7),
        ("[1,", {"text": "[1,"}),
        ("", {"text": ""}),
    ],
)
def test_a_text_is_published_as_its_json_value_or_wrapped(text: str, data: Any) -> None:
    assert as_data(text) == data


def test_a_publication_is_one_line_with_what_it_has() -> None:
    full = Publication(
        data=msgspec.Raw(b'{"a": 1}'), offset=7, info=ClientInfo(user="ann", client="c"), tags={"id": "9"}
    )
    assert as_line(full) == '{"offset":7,"data":{"a": 1},"sender":"ann","tags":{"id":"9"}}'
    assert as_line(Publication(data=msgspec.Raw(b"1"))) == '{"data":1}'


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/connection/websocket"),
        ("https://chat.example", "wss://chat.example/connection/websocket"),
        ("127.0.0.1:8000", "ws://127.0.0.1:8000/connection/websocket"),
    ],
)
def test_the_websocket_stands_beside_the_api(url: str, expected: str) -> None:
    assert websocket_url(url) == expected
