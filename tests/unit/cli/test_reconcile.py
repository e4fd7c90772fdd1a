"""The demo believes a ledger only when it agrees with itself, with the senders and with the viewers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from fanout.cli import reconcile
from fanout.cli.reconcile import Witness

NOBODY = {"system": 0, "high": 0, "normal": 0, "low": 0}
WITNESS = Witness(accepted=10, viewers=3, received=24)


def counts(normal: int) -> dict[str, int]:
    return {**NOBODY, "normal": normal}


LEDGER: dict[str, Any] = {
    "accepted": counts(10),
    "kept": counts(8),
    "merged": counts(0),
    "folds": counts(0),
    "dropped": {"policy": {"window_full": counts(2)}},
    "edge": {
        "offered": counts(24),
        "written": counts(24),
        "dropped": {},
        "pending": counts(0),
        "unreported": counts(0),
        "unconfirmed": counts(24),
    },
}


def test_a_ledger_that_agrees_with_everybody_has_no_errors() -> None:
    assert reconcile.errors(LEDGER, WITNESS) == []
    assert reconcile.reported(LEDGER, WITNESS)
    assert reconcile.dropped_before(LEDGER) == {"policy window_full": 2}
    assert reconcile.dropped_at_edge(LEDGER) == {}


def test_of_viewers_who_were_cut_off_only_what_they_received_is_known() -> None:
    cut = Witness(accepted=10, viewers=3, received=20, stayed=False)
    assert reconcile.errors(LEDGER, cut) == []
    assert reconcile.reported(LEDGER, cut)
    more = Witness(accepted=10, viewers=3, received=25, stayed=False)
    assert reconcile.errors(LEDGER, more) == ["gateways wrote 24 deliveries, viewers received 25"]
    assert not reconcile.reported(LEDGER, more)


def lose_a_message(ledger: dict[str, Any]) -> None:
    ledger["kept"] = counts(7)


def write_less(ledger: dict[str, Any]) -> None:
    ledger["edge"]["written"] = counts(23)


def accept_more(ledger: dict[str, Any]) -> None:
    ledger["accepted"], ledger["kept"] = counts(11), counts(9)


@pytest.mark.parametrize("spoil", [lose_a_message, write_less, accept_more])
def test_anything_that_does_not_add_up_is_a_sentence(spoil: Callable[[dict[str, Any]], None]) -> None:
    ledger = copy.deepcopy(LEDGER)
    spoil(ledger)
    assert reconcile.errors(ledger, WITNESS)


def test_what_merged_messages_became_is_offered_like_what_was_kept() -> None:
    ledger = copy.deepcopy(LEDGER)
    ledger["kept"], ledger["merged"], ledger["folds"] = counts(1), counts(7), counts(1)
    ledger["edge"]["offered"] = ledger["edge"]["written"] = counts(6)
    assert reconcile.errors(ledger, Witness(10, 3, 6)) == []
    assert reconcile.reported(ledger, Witness(10, 3, 6))
    ledger["edge"]["offered"] = counts(3)
    assert not reconcile.reported(ledger, Witness(10, 3, 6))


def test_a_skipped_delivery_is_named_by_its_reason_and_not_received() -> None:
    ledger = copy.deepcopy(LEDGER)
    ledger["edge"]["written"], ledger["edge"]["dropped"] = counts(20), {"skipped": counts(4)}
    assert reconcile.dropped_at_edge(ledger) == {"skipped": 4}
    assert reconcile.errors(ledger, Witness(10, 3, 20)) == []


def test_a_report_is_waited_for_while_something_is_pending_or_not_offered() -> None:
    ledger = copy.deepcopy(LEDGER)
    ledger["edge"]["pending"] = counts(1)
    assert not reconcile.reported(ledger, WITNESS)
    ledger = copy.deepcopy(LEDGER)
    ledger["edge"]["offered"] = counts(21)
    assert not reconcile.reported(ledger, WITNESS)
