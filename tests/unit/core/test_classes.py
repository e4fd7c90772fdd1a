"""The class of a message: asked for, and raised by type or sender."""

from __future__ import annotations

import pytest

from fanout.core.classes import class_of
from fanout.core.messages import PRIORITIES, Priority
from fanout.core.profiles import Policy

SYSTEM, HIGH, NORMAL, LOW = PRIORITIES
POLICY = Policy(
    types={"like": "low", "chat": "normal", "gift": "high", "closed": "system"},
    raised_users=frozenset({"host"}),
    raised_types=frozenset({"mention", "like-of-a-fan", "closed"}),
)


@pytest.mark.parametrize("asked", PRIORITIES)
def test_without_a_word_in_the_policy_a_message_has_the_class_that_was_asked_for(asked: Priority) -> None:
    assert class_of(Policy(), asked, "gift", "host") is asked
    assert class_of(POLICY, asked, "", "") is asked
    assert class_of(POLICY, asked, "unknown", "ann") is asked


@pytest.mark.parametrize(
    ("asked", "type_", "got"),
    [
        (LOW, "gift", HIGH),
        (NORMAL, "gift", HIGH),
        (SYSTEM, "gift", SYSTEM),
        (LOW, "chat", NORMAL),
        (HIGH, "chat", HIGH),
        (NORMAL, "like", NORMAL),  # a type raises, it takes nothing away
        (LOW, "closed", SYSTEM),
        (NORMAL, "mention", HIGH),
        (LOW, "like-of-a-fan", HIGH),
    ],
)
def test_a_type_gives_at_least_its_class(asked: Priority, type_: str, got: Priority) -> None:
    assert class_of(POLICY, asked, type_, "ann") is got


@pytest.mark.parametrize(("asked", "got"), [(LOW, HIGH), (NORMAL, HIGH), (HIGH, HIGH), (SYSTEM, SYSTEM)])
def test_a_raised_user_speaks_as_high_or_above(asked: Priority, got: Priority) -> None:
    assert class_of(POLICY, asked, "", "host") is got
    assert class_of(POLICY, asked, "like", "host", from_client=True) is got


@pytest.mark.parametrize(
    ("asked", "type_", "got"),
    [
        (NORMAL, "gift", NORMAL),
        (LOW, "gift", NORMAL),
        (LOW, "closed", NORMAL),
        (LOW, "mention", NORMAL),
        (LOW, "chat", NORMAL),
        (LOW, "like", LOW),
    ],
)
def test_the_type_that_a_client_names_raises_it_no_further_than_normal(
    asked: Priority, type_: str, got: Priority
) -> None:
    assert class_of(POLICY, asked, type_, "ann", from_client=True) is got
