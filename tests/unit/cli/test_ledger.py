"""The flow of a ledger as a person reads it."""

from __future__ import annotations

from typing import Any

import pytest

from fanout.cli.api_client import ApiClient, added
from fanout.cli.ledger import drawn, show_ledger
from fanout.core.errors import FanoutError, Refused

NOBODY = {"system": 0, "high": 0, "normal": 0, "low": 0}
LEDGER = {
    "room": "live:stage",
    "from": 1_800_000_000_000,
    "to": 1_800_003_600_000,
    "as_of": 0,
    "accepted": {**NOBODY, "high": 10, "normal": 12_000},
    "kept": {**NOBODY, "high": 10, "normal": 9_000},
    "merged": NOBODY,
    "dropped": {
        "repeat": {"keyed": {**NOBODY, "normal": 1}},
        "policy": {"window_full": {**NOBODY, "normal": 2_900}, "sender_cap": {**NOBODY, "normal": 99}},
    },
    "edge": {
        "offered": {**NOBODY, "normal": 30},
        "written": {**NOBODY, "normal": 20},
        "dropped": {"skipped": {**NOBODY, "normal": 4}, "closed": {**NOBODY, "normal": 1}},
        "pending": {**NOBODY, "normal": 3},
        "unreported": {**NOBODY, "normal": 2},
        "unconfirmed": {**NOBODY, "normal": 20},
    },
}


def test_a_ledger_is_drawn_as_two_trees() -> None:
    lines = [line.rstrip() for line in drawn(LEDGER, "1h")]
    assert lines == [
        "live:stage, the last 1h: from 2027-01-15 08:00:00 UTC to 2027-01-15 09:00:00 UTC",
        "newest message never",
        "",
        "messages accepted                   12,010   high 10, normal 12,000",
        "├─ kept                              9,010   high 10, normal 9,000",
        "├─ merged                                0",
        "└─ dropped                           3,000   normal 3,000",
        "   ├─ policy                         2,999   normal 2,999",
        "   │  ├─ sender_cap                     99   normal 99",
        "   │  └─ window_full                 2,900   normal 2,900",
        "   └─ repeat                             1   normal 1",
        "      └─ keyed                           1   normal 1",
        "",
        "deliveries offered                      30   normal 30",
        "├─ written                              20   normal 20",
        "│  └─ of it unconfirmed                 20   normal 20",
        "├─ dropped                               5   normal 5",
        "│  ├─ closed                             1   normal 1",
        "│  └─ skipped                            4   normal 4",
        "├─ pending                               3   normal 3",
        "└─ unreported                            2   normal 2",
        "",
    ]


def test_a_ledger_of_everything_says_so() -> None:
    assert next(drawn(LEDGER)).startswith("live:stage, since its first message: from ")


def test_the_ledger_of_an_app_says_how_many_rooms_it_is_of() -> None:
    app = {name: counts for name, counts in LEDGER.items() if name != "room"} | {"app": "shop", "rooms": 12_000}
    assert next(drawn(app, "5m")).startswith("12,000 rooms of shop, the last 5m: from ")


def test_pages_are_added_up_place_by_place() -> None:
    page = {"app": "a", "rooms": 2, "next": "7", "dropped": {"policy": {"window_full": {"low": 3}}}}
    other = {"app": "a", "rooms": 1, "next": None, "dropped": {"late": {"too_old": {"low": 1}}}}
    assert added(page, other) == {
        "app": "a",
        "rooms": 3,
        "next": "7",
        "dropped": {"policy": {"window_full": {"low": 3}}, "late": {"too_old": {"low": 1}}},
    }


class Pages(ApiClient):
    """An engine of three pages; ``asked`` are the paths that it was asked for."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.asked: list[str] = []

    def get(self, path: str) -> Any:
        self.asked.append(path)
        number = len(self.asked)
        following = str(10 * number) if number < 3 else None
        times = {"from": (0, 500, 300)[number - 1], "to": 1_000 + number, "as_of": (7, 9, 8)[number - 1]}
        return {"app": "shop", "rooms": number, "next": following, **times, "accepted": {"high": number}}


def test_an_app_of_several_pages_is_read_to_its_end() -> None:
    engine = Pages()
    assert engine.app_ledger("30m") == {
        "app": "shop",
        "rooms": 6,
        "next": None,
        "from": 300,
        "to": 1_001,
        "as_of": 9,
        "accepted": {"high": 6},
    }
    assert engine.asked == ["/v1/ledger?since=30m", "/v1/ledger?since=30m&cursor=10", "/v1/ledger?since=30m&cursor=20"]


def test_a_while_that_cannot_be_is_refused_before_anybody_is_asked() -> None:
    with pytest.raises(Refused, match="1m to 60m"):
        show_ledger("http://127.0.0.1:1", "", "live:stage", "7d", as_json=False)


def test_nobody_there_is_told_with_what_would_help() -> None:
    with pytest.raises(FanoutError, match="fanout serve"):
        show_ledger("http://127.0.0.1:1", "", "live:stage", "", as_json=True)
