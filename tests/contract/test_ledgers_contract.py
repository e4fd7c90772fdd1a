"""What every store keeps of ledgers and outcomes, the twin and Redis alike."""

from __future__ import annotations

import pytest

from fanout.core.errors import Unavailable
from fanout.core.ledger_spans import Opening, span_of
from fanout.core.limits import LEDGER_SPAN_MS, LEDGER_SPANS, OUTCOME_S, OUTCOME_SHARDS, OUTCOMES_MAX
from fanout.core.outcome import shard_of
from fanout.ports import HistoryBatch, NotedOutcome, Store, StoredLedger
from tests.support.batches import EPOCH, ROOM, batch
from tests.support.clocks import SteppedClock

PLACE = (ROOM, EPOCH)


async def stored(store: Store, *batches: HistoryBatch) -> None:
    """Store batches, none of which may fail."""
    assert list(await store.history.store(batches)) == [None] * len(batches)


async def read(store: Store) -> StoredLedger:
    """Return the ledger of the room, its openings in order."""
    (found,) = await store.ledgers.read([PLACE])
    assert found is not None
    return found._replace(openings=sorted(found.openings))


def an_opening(span: int, counts: bytes = b"\x00counts") -> Opening:
    """Return the opening of a span by number."""
    return Opening(span * LEDGER_SPAN_MS, counts)


def noted(id: int, at_ms: int, encoded: bytes = b"kept") -> NotedOutcome:
    return NotedOutcome(id, at_ms, encoded)


async def test_a_room_that_nobody_stored_has_no_ledger(store: Store) -> None:
    assert list(await store.ledgers.read([PLACE, ("dev/other", EPOCH)])) == [None, None]
    assert list(await store.ledgers.read([])) == []
    assert list(await store.ledgers.rooms("dev", EPOCH)) == []


async def test_openings_are_stored_with_the_state(store: Store, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    await stored(store, batch(now_ms=now, applied=5, state=b"s1"))
    assert await read(store) == StoredLedger(b"s1", [])
    first, second = Opening(span_of(now), b"\x80\x00one"), Opening(span_of(now) + LEDGER_SPAN_MS, b"")
    work = batch(now_ms=now, applied=9, state=b"s2", openings=[first, second])
    await stored(store, work, work)
    assert await read(store) == StoredLedger(b"s2", [first, second])


async def test_an_opening_stands_beside_keyed_ids_and_entries(store: Store, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    one = Opening(span_of(now), b"counts")
    await stored(store, batch(now_ms=now, applied=9, state=b"s", openings=[one], outcomes=[noted(7, now)]))
    assert await read(store) == StoredLedger(b"s", [one])
    assert await store.ledgers.outcome("dev", 7) == b"kept"


async def test_a_room_keeps_the_openings_of_an_hour(store: Store, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    newest = now // LEDGER_SPAN_MS
    for applied, span in enumerate(range(newest - LEDGER_SPANS - 3, newest + 1)):
        await stored(store, batch(now_ms=now, applied=applied, openings=[an_opening(span)]))
    kept = [an_opening(span) for span in range(newest - LEDGER_SPANS + 1, newest + 1)]
    assert (await read(store)).openings == kept


async def test_a_late_word_that_goes_less_far_changes_no_opening(store: Store, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    span = now // LEDGER_SPAN_MS
    await stored(store, batch(now_ms=now, applied=9, state=b"far", openings=[an_opening(span, b"right")]))
    await stored(store, batch(now_ms=now, applied=5, state=b"near", openings=[an_opening(span, b"wrong")]))
    assert await read(store) == StoredLedger(b"far", [an_opening(span, b"right")])


async def test_rooms_are_listed_by_app_epoch_and_time(store: Store, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    span = now // LEDGER_SPAN_MS

    def spoken(key: str, at_span: int, epoch: str = EPOCH, applied: int = 1) -> HistoryBatch:
        return batch(now_ms=now, key=key, epoch=epoch, applied=applied, openings=[an_opening(at_span)])

    await stored(store, spoken("dev/live:a", span - 2), spoken("dev/live:b", span), spoken("shop/live:c", span))
    await stored(store, spoken("dev/live:d", span, "e2"), batch(now_ms=now, key="dev/live:silent"))
    assert sorted(await store.ledgers.rooms("dev", EPOCH)) == ["dev/live:a", "dev/live:b"]
    assert list(await store.ledgers.rooms("dev", EPOCH, span * LEDGER_SPAN_MS)) == ["dev/live:b"]
    assert list(await store.ledgers.rooms("shop", EPOCH)) == ["shop/live:c"]
    assert list(await store.ledgers.rooms("dev", "e2")) == ["dev/live:d"]
    await stored(store, spoken("dev/live:a", span, applied=2), spoken("dev/live:b", span - 1, applied=2))
    assert len(await store.ledgers.rooms("dev", EPOCH, span * LEDGER_SPAN_MS)) == 2


async def test_rooms_that_have_been_silent_for_weeks_are_listed_no_more(store: Store, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    weeks_ms = 16 * 86_400_000
    old, new = now // LEDGER_SPAN_MS, (now + weeks_ms) // LEDGER_SPAN_MS
    await stored(store, batch(now_ms=now, key="dev/live:a", openings=[an_opening(old)]))
    await stored(store, batch(now_ms=now + weeks_ms, key="dev/live:b", openings=[an_opening(new)]))
    assert list(await store.ledgers.rooms("dev", EPOCH)) == ["dev/live:b"]


async def test_many_ledgers_are_read_in_one_call(store: Store, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    one = Opening(span_of(now), b"x")
    keys = [f"dev/live:{number}" for number in range(1_200)]
    await stored(store, *(batch(now_ms=now, key=key, state=key.encode(), openings=[one]) for key in keys))
    found = await store.ledgers.read([(key, EPOCH) for key in keys])
    assert [stored and stored.state for stored in found] == [key.encode() for key in keys]
    assert len(await store.ledgers.rooms("dev", EPOCH)) == len(keys)


async def test_an_outcome_is_its_apps_own_and_is_kept_for_ten_minutes(store: Store, clock: SteppedClock) -> None:
    now, id = clock.wall_ms(), (1 << 62) + 12_345
    await stored(store, batch(now_ms=now, outcomes=[noted(id, now), noted(id + 1, now, b"dropped")]))
    assert await store.ledgers.outcome("dev", id) == b"kept"
    assert await store.ledgers.outcome("dev", id + 1) == b"dropped"
    assert await store.ledgers.outcome("shop", id) is None
    assert await store.ledgers.outcome("dev", id + 2) is None
    clock.advance(OUTCOME_S * 1_000 + 1)
    assert await store.ledgers.outcome("dev", id) is None


async def test_a_decision_replaces_what_was_expected_and_is_not_replaced_by_it(
    store: Store, clock: SteppedClock
) -> None:
    now = clock.wall_ms()
    await store.ledgers.expect("dev", [noted(5, now, b"pending")])
    assert await store.ledgers.outcome("dev", 5) == b"pending"
    decided = batch(now_ms=now, outcomes=[noted(5, now + 3)])
    await stored(store, decided, decided)
    assert await store.ledgers.outcome("dev", 5) == b"kept"
    await store.ledgers.expect("dev", [noted(5, now, b"pending"), noted(6, now, b"pending")])
    assert await store.ledgers.outcome("dev", 5) == b"kept"
    assert await store.ledgers.outcome("dev", 6) == b"pending"


async def test_an_app_has_a_bounded_number_of_outcomes_and_the_oldest_go_first(
    store: Store, clock: SteppedClock
) -> None:
    now, most = clock.wall_ms(), OUTCOMES_MAX // OUTCOME_SHARDS
    ids = [id for id in range(1, 17 * (most + 10)) if shard_of(id) == 0][: most + 10]
    for start in range(0, len(ids), 1_000):
        some = enumerate(ids[start : start + 1_000], now + start)
        await stored(store, batch(now_ms=now, outcomes=[noted(id, at_ms) for at_ms, id in some]))
    found = [await store.ledgers.outcome("dev", id) for id in (ids[0], ids[9], ids[-1], ids[1_000])]
    assert found == [None, None, b"kept", b"kept"]


@pytest.mark.real
async def test_a_store_that_is_away_is_unavailable(clock: SteppedClock) -> None:
    from fanout.adapters import open_store

    away = await open_store("redis://127.0.0.1:1", prefix="t", clock=clock)
    work = batch(now_ms=1, openings=[an_opening(1)])
    (error,) = await away.history.store([work])
    assert isinstance(error, Unavailable)
    with pytest.raises(Unavailable):
        await away.ledgers.outcome("dev", 1)
    await away.backend.close()
