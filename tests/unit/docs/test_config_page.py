"""docs/topics/config.md: its policy is a good one, its commands exist, its picture is the one that is drawn."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from fanout.cli.main import policy_app
from fanout.core.policies import parse_policy
from fanout.core.profiles import Policy

PAGES = Path(__file__).parents[3] / "docs"
PAGE = (PAGES / "topics" / "config.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_policy_of_the_page_is_taken() -> None:
    policy = parse_policy(block("json").encode(), Policy())
    assert policy.shared_slots_max == 12
    assert policy.reserved_slots == Policy().reserved_slots


def test_the_commands_of_the_page_exist() -> None:
    group = typer.main.get_command(policy_app)
    named = set(re.findall(r"^fanout policy (\w+)", block("sh"), re.MULTILINE))
    assert named == set(group.commands)  # type: ignore[attr-defined]


def test_the_picture_of_the_page_is_there_and_small() -> None:
    found = re.search(r"!\[.*\]\(\.\./(images/\w+\.svg)\)", PAGE)
    assert found is not None
    assert (PAGES / found[1]).stat().st_size < 30_000
