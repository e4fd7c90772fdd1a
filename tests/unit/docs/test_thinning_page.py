"""docs/topics/thinning.md: its tables are those of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from fanout.core.messages import PRIORITIES
from fanout.core.policy import DropReason
from fanout.core.profiles import Policy

PAGE = (Path(__file__).parents[3] / "docs" / "topics" / "thinning.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table behind a heading, without its head."""
    part = PAGE.split(f"## {heading}\n")[1]
    found = re.search(r"\n\|[-|]+\|\n((?:\|.*\n)+)", part)
    assert found is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def plain(default: Any) -> Any:
    return sorted(default) if isinstance(default, frozenset) else default


def test_the_settings_are_all_there_with_their_defaults() -> None:
    fields = {field.name: plain(getattr(Policy(), field.name)) for field in msgspec.structs.fields(Policy)}
    table = {name.strip("`"): json.loads(default.strip("`")) for name, default, _ in rows("Settings")}
    assert table == fields
    assert list(table) == list(fields)
    assert all(meaning for _, _, meaning in rows("Settings"))


def test_every_class_is_explained() -> None:
    assert [row[0].strip("`") for row in rows("Classes")] == [priority.word for priority in PRIORITIES]


def test_every_reason_of_a_drop_is_explained() -> None:
    found = [(stage.strip("`"), reason.strip("`")) for stage, reason, _ in rows("Where a dropped message is counted")]
    assert found == [(reason.stage, reason.word) for reason in DropReason]
