"""docs/topics/records.md: its program reads what the engine writes, and its example is a record that is taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fanout.core.profiles import Profiles
from fanout.core.publish import decode_publish, to_message
from fanout.core.records import MESSAGE, Message, encode

PAGE = (Path(__file__).parents[3] / "docs" / "topics" / "records.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_reader_of_the_page_reads_a_record_of_the_engine() -> None:
    names: dict[str, Any] = {}
    exec(block("python"), names)
    record = encode(MESSAGE, Message(b'{"a":1}', "ann", "chat", 1_790_000_000_000), priority=2, id=77)
    assert names["read"](record) == {
        "id": "77",
        "data": b'{"a":1}',
        "sender": "ann",
        "type": "chat",
        "sent_ms": 1_790_000_000_000,
    }


def test_the_example_of_the_page_is_taken() -> None:
    message, _, _ = to_message(decode_publish(block("json").encode()), Profiles(), sent_ms=0)
    assert message.sender == "kafka-bridge"
