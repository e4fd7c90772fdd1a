"""What two policies kept and dropped, as a table, as JSON, as a plot."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

import msgspec
import pytest

from fanout.cli.shadow_plot import as_svg, as_text
from fanout.cli.shadow_report import Report, Row, as_json, as_table, rows
from fanout.core.messages import Priority
from fanout.core.profiles import LIVE, Policy
from tests.support.rooms import ROOM, Rec, message
from workers.shadow import Comparison, Place

AT_MS = 1_800_000_000_000  # 2027-01-15 08:00:00 UTC
FEW = Policy(shared_slots_min=1, shared_slots_max=5)


def reported(counts: Sequence[int], step_ms: int = 1_000) -> Report:
    """A report of a room in which so many messages are said at once, step by step."""
    comparison = Comparison(ROOM, LIVE, FEW, Place(0, 1, 0))
    offset = 0
    for number, count in enumerate(counts):
        at_ms = AT_MS + number * step_ms
        comparison.take([Rec(offset + one, message(id_=offset + one + 1), timestamp=at_ms) for one in range(count)])
        offset += count
    comparison.take([Rec(offset, message(Priority.HIGH, offset + 1), timestamp=AT_MS)])
    return Report.of(comparison, AT_MS - 60_000, ["A note."])


def test_the_table_has_a_line_for_every_fate_class_and_reason_that_there_is() -> None:
    report = reported([30, 10])
    assert rows(report) == [
        Row("accepted", "high", 1, 1),
        Row("accepted", "normal", 40, 40),
        Row("kept", "high", 1, 1),
        Row("kept", "normal", 30, 10),
        Row("kept", "all", 31, 11),
        Row("dropped policy/window_full", "normal", 10, 30),
        Row("dropped", "all", 10, 30),
    ]
    lines = list(as_table(report))
    assert lines[0] == "live:stage of app app: 41 records, 2027-01-15 08:00:00 UTC to 2027-01-15 08:00:01 UTC"
    assert "kept                        normal            30          10         -20" in lines
    assert "accepted                    high               1           1           0" in lines
    assert max(map(len, lines[1:])) <= 72


def test_the_json_says_what_the_table_and_the_plot_show() -> None:
    found = msgspec.json.decode(msgspec.json.encode(as_json(reported([30, 10]))))
    assert (found["app"], found["room"], found["records"], found["cut"]) == ("app", "live:stage", 41, False)
    assert (found["from_ms"], found["to_ms"], found["step_ms"]) == (AT_MS, AT_MS + 1_000, 1_000)
    assert found["in_force"]["kept"] == {"system": 0, "high": 1, "normal": 30, "low": 0}
    assert found["proposed"]["dropped"]["policy"]["window_full"]["normal"] == 30
    assert found["steps"][1] == {
        "at_ms": AT_MS + 1_000,
        "in_force": {"kept": 10, "merged": 0, "dropped": 0},
        "proposed": {"kept": 5, "merged": 0, "dropped": 5},
    }
    assert found["notes"] == ["A note."]


def test_the_plot_shows_both_policies_to_one_scale() -> None:
    assert list(as_text(reported([30, 0, 10, 1]))) == [
        "messages in 1 s: █ kept  ▒ merged  ░ dropped",
        "",
        "in force",
        "       31 │░░░░",
        "          │░░░░",
        "          │████",
        "          │████",
        "          │████    ████",
        "          │████    ████····",
        "        0 └────────────────",
        "",
        "proposed",
        "       31 │░░░░",
        "          │░░░░",
        "          │░░░░",
        "          │░░░░",
        "          │░░░░    ░░░░",
        "          │████    ████····",
        "        0 └────────────────",
        "           08:00:00 08:00:03 UTC",
    ]


@pytest.mark.parametrize(("steps", "step_ms"), [(1, 1_000), (60, 1_000), (60, 10_800_000), (62, 1_000)])
def test_a_plot_of_any_length_fits_into_a_terminal_and_an_svg_below_100_kb(steps: int, step_ms: int) -> None:
    report = reported([3, 7] * (steps // 2) or [3], step_ms)
    assert max(map(len, as_text(report))) <= 80
    svg = as_svg(report)
    assert len(svg.encode()) < 100_000
    assert ET.fromstring(svg).tag.endswith("svg")


def test_days_are_named_where_a_plot_covers_more_than_one() -> None:
    *_, times = as_text(reported([1] * 48, 1_800_000))
    assert "01-15 08:00" in times and "01-16 07:30" in times
