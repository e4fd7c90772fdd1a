"""docs/topics/merge.md: what it publishes is taken, and shown as it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fanout.core.merge import OPS
from fanout.core.profiles import Profiles
from fanout.core.publish import AskedMerge, decode_publish, to_message
from fanout.core.records import MESSAGE, TICK, Tick, encode
from tests.support.partitions import LIVE, DecidedPartition
from tests.support.rooms import Rec, attach

PAGE = (Path(__file__).parents[3] / "docs" / "topics" / "merge.md").read_text()


def test_the_example_of_the_page_is_taken_and_shown_as_the_page_says() -> None:
    asked = re.search(r"-d \\\n  '(\{.*?\})'; done", PAGE)
    shown = re.search(r'```json\n(\{"data".*?)\n```', PAGE)
    assert asked is not None and shown is not None
    message, priority, flags = to_message(decode_publish(asked[1].encode()), Profiles(), sent_ms=0)
    like = encode(MESSAGE, message, priority=priority.value, flags=flags, id=1)
    owner = DecidedPartition()
    owner.run([Rec(0, attach(3), LIVE), *(Rec(number, like, LIVE) for number in (1, 2, 3))])
    owner.run([Rec(4, encode(TICK, Tick()), None, 1_000_400)])
    (entry,) = owner.entries(LIVE)
    assert {"data": json.loads(entry.data), "tags": entry.tags} == json.loads(shown[1])


def test_every_field_and_operation_stands_on_the_page() -> None:
    assert set(re.findall(r"\| `merge\.(\w+)`", PAGE)) == set(AskedMerge.__struct_fields__)
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(OPS)
