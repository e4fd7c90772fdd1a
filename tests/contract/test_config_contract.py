"""What apps have set, and the policies that each partition's next owner needs; the twin and Redis alike."""

from __future__ import annotations

import pytest

from fanout.core.errors import Fenced
from fanout.core.limits import POLICIES_KEPT_MAX
from fanout.core.policies import PolicyAt
from fanout.ports import PoliciesSet, Store

LOUD = '{"live":{"types":{"geschenk":"high","礼物":"high"}}}'.encode()
CALM = b'{"live":{"shared_slots_max":5}}'


def at(offset: int, version: int = 0, policies: bytes = CALM, app: str = "shop") -> PolicyAt:
    return PolicyAt(app, offset, version or 1_000 + offset, policies)


async def kept(store: Store, partition: int = 0) -> tuple[PolicyAt, ...]:
    """Return what the next owner is told."""
    return (await store.epochs.claim(partition, 1 << 40, 0, "other")).policies


# --- what apps have set ----------------------------------------------------------------------------------------------


async def test_an_app_that_has_set_nothing_has_nothing(store: Store) -> None:
    assert await store.configs.get("shop") is None
    assert await store.configs.versions() == {}


async def test_what_an_app_sets_is_its_own(store: Store) -> None:
    assert await store.configs.put("shop", 0, 1_790_000_000_000, LOUD)
    assert await store.configs.put("news", 0, 7, CALM)
    assert await store.configs.get("shop") == PoliciesSet(1_790_000_000_000, 0, LOUD)
    assert await store.configs.get("news") == PoliciesSet(7, 0, CALM)
    assert await store.configs.versions() == {"shop": (1_790_000_000_000, 0), "news": (7, 0)}


async def test_of_two_changes_of_the_same_version_one_is_told_to_read_again(store: Store) -> None:
    assert await store.configs.put("shop", 0, 7, LOUD)
    assert not await store.configs.put("shop", 0, 8, CALM)
    assert await store.configs.get("shop") == PoliciesSet(7, 0, LOUD)
    assert await store.configs.put("shop", 7, 8, CALM)
    assert await store.configs.get("shop") == PoliciesSet(8, 0, CALM)


async def test_the_version_that_is_on_the_log_only_rises(store: Store) -> None:
    await store.configs.logged("shop", 5)
    assert await store.configs.versions() == {}
    await store.configs.put("shop", 0, 7, LOUD)
    await store.configs.logged("shop", 7)
    await store.configs.put("shop", 7, 9, CALM)
    await store.configs.logged("shop", 6)
    assert await store.configs.versions() == {"shop": (9, 7)}


# --- what the next owner of a partition needs ------------------------------------------------------------------------


async def test_the_next_owner_is_told_the_policies_that_records_brought(store: Store) -> None:
    await store.epochs.claim(0, 0, 1_000, "first")
    assert await kept(store) == ()
    await store.epochs.claim(0, 0, 2_000, "x")
    await store.epochs.keep_policy(0, 2_000, at(3, policies=LOUD))
    await store.epochs.keep_policy(0, 2_000, at(9))
    await store.epochs.keep_policy(0, 2_000, at(4, app="news"))
    assert await kept(store) == (at(4, app="news"), at(3, policies=LOUD), at(9))
    await store.epochs.claim(1, 0, 1_000, "first")
    assert await kept(store, 1) == ()


async def test_policies_below_which_nobody_begins_any_more_leave(store: Store) -> None:
    await store.epochs.claim(0, 0, 1_000, "first")
    for offset in (3, 9, 20):
        await store.epochs.keep_policy(0, 1_000, at(offset))
    await store.epochs.saw(0, 1_000, 10)
    await store.epochs.keep_policy(0, 1_000, at(21))
    assert [one.offset for one in await kept(store)] == [9, 20, 21]


async def test_policies_that_are_told_twice_stand_once_as_they_were(store: Store) -> None:
    await store.epochs.claim(0, 0, 1_000, "first")
    await store.epochs.keep_policy(0, 1_000, at(3, policies=LOUD))
    await store.epochs.keep_policy(0, 1_000, at(3, policies=CALM))
    assert await kept(store) == (at(3, policies=LOUD),)


async def test_policies_of_a_partition_are_bounded(store: Store) -> None:
    await store.epochs.claim(0, 0, 1_000, "first")
    for offset in range(POLICIES_KEPT_MAX + 3):
        await store.epochs.keep_policy(0, 1_000, at(offset))
    assert [one.offset for one in await kept(store)] == list(range(3, POLICIES_KEPT_MAX + 3))


async def test_an_older_owner_and_one_without_a_claim_keep_no_policies(store: Store) -> None:
    with pytest.raises(Fenced):
        await store.epochs.keep_policy(0, 1_000, at(3))
    await store.epochs.claim(0, 0, 1_000, "first")
    await store.epochs.claim(0, 0, 2_000, "x")
    with pytest.raises(Fenced):
        await store.epochs.keep_policy(0, 1_000, at(3))
    assert await kept(store) == ()


async def test_in_a_new_epoch_the_newest_policies_hold_from_the_beginning(store: Store) -> None:
    await store.epochs.claim(0, 40, 1_000, "first")
    await store.epochs.saw(0, 1_000, 30)
    await store.epochs.keep_policy(0, 1_000, at(31, policies=LOUD))
    await store.epochs.keep_policy(0, 1_000, at(35, policies=CALM))
    claim = await store.epochs.claim(0, 10, 2_000, "second")
    assert claim.renewed and claim.policies == (PolicyAt("shop", -1, 1_035, CALM),)
    assert await kept(store) == (PolicyAt("shop", -1, 1_035, CALM),)
