"""Formatting Kafka's log directories: tried again where it failed, and what the tool said is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts.parts import KAFKA_FORMATS_MAX, PartMissing, _format_all


def failing(times: int, mark: Path) -> list[str]:
    """Return a command that fails the first ``times`` times, saying why."""
    lines = [
        "import pathlib, sys",
        f"mark = pathlib.Path({str(mark)!r})",
        "tries = len(mark.read_text()) if mark.exists() else 0",
        "mark.write_text('x' * (tries + 1))",
        f"sys.exit('no memory left' if tries < {times} else 0)",
    ]
    return [sys.executable, "-c", "\n".join(lines)]


def test_a_format_that_failed_is_tried_again_alone(tmp_path: Path) -> None:
    marks = [tmp_path / "a", tmp_path / "b"]
    _format_all([failing(0, marks[0]), failing(2, marks[1])], tmp_path)
    assert [len(mark.read_text()) for mark in marks] == [1, 3]


def test_one_that_never_succeeds_is_told_with_what_the_tool_printed(tmp_path: Path) -> None:
    with pytest.raises(PartMissing, match=r"directory 0; it printed: .*no memory left"):
        _format_all([failing(99, tmp_path / "a")], tmp_path)
    assert len((tmp_path / "a").read_text()) == 1 + KAFKA_FORMATS_MAX
