"""docs/topics/shadow.md: its policy is a good one, and its example is what the command prints."""

from __future__ import annotations

import re
from pathlib import Path

from fanout.cli.arrivals import compress, draw, load_profile
from fanout.cli.shadow import Read, notes
from fanout.cli.shadow_plot import as_text
from fanout.cli.shadow_report import Report, as_json, as_table
from fanout.core.messages import Priority
from fanout.core.policies import parse_policy
from fanout.core.profiles import LIVE, Policy
from tests.support.rooms import Rec, message
from workers.shadow import Comparison, Place

PAGE = (Path(__file__).parents[3] / "docs" / "topics" / "shadow.md").read_text()
KEY = "default/live:studio"
BEGUN_MS = 1_795_460_000_000


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def example() -> Comparison:
    """The arrivals that ship with the engine, six times faster; every fourth sender sends likes."""
    proposed = parse_policy(block("json").encode(), Policy())
    comparison = Comparison(KEY, LIVE, proposed, Place(0, 1, 0))
    comparison.take(
        [
            Rec(number, said_by(arrival.sender, number), KEY.encode(), BEGUN_MS + arrival.at_ms)
            for number, arrival in enumerate(compress(draw(load_profile(), 1), 6))
        ]
    )
    return comparison


def said_by(sender: int, number: int) -> bytes:
    return message(Priority.NORMAL if sender % 4 else Priority.LOW, number + 1, sender=f"user-{sender}")


def test_the_example_of_the_page_is_what_is_printed() -> None:
    comparison = example()
    read = Read(comparison, 0)
    report = Report.of(comparison, BEGUN_MS, notes(read, parse_policy(block("json").encode(), Policy())))
    printed = "\n".join([*as_table(report), "", *as_text(report), "", *report.notes])
    _, _, shown = block("console").partition("\n")
    assert shown == printed + "\n"


def test_the_fields_of_the_json_are_those_of_the_page() -> None:
    said = re.search(r"`--json` prints (.*?)\.\n", PAGE, re.DOTALL)
    assert said is not None
    comparison = example()
    assert set(re.findall(r"`(\w+)`", said[1])) == set(as_json(Report.of(comparison, BEGUN_MS, [])))
