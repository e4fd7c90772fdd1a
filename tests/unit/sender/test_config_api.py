"""Policies over HTTP: set, shown, reset, refused with the field named; and a change that got half-way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from fanout.core.errors import Refused, Unavailable
from fanout.core.limits import POLICIES_LOOK_S, POLICY_CHANGE_BURST, POLICY_COMPLETE_S, POLICY_TURNS_MAX
from fanout.core.policies import FIELDS, decode_policies
from fanout.core.profiles import Policy, Profiles
from fanout.core.records import MESSAGES, POLICY, PolicyChange, body, header
from fanout.ports import Appended, LogWriter, PoliciesSet
from fanout.runtime.policies import Policies
from fanout.sender.config import PolicyConfig
from tests.support.sending import API_KEY, OTHER_KEY, Sending, api, sending, two_apps
from tests.support.virtual_time import LoopClock, run

LIVE = "/v1/config/policies/live"


class TroubledWriter:
    """A ``LogWriter`` whose partitions ``away`` do not answer, the others go on; a real log's leaders fail so."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self.away: set[int] = set()

    async def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> Appended:
        return await self.append_many(topic, partition, ((key, value),))

    async def append_many(
        self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None]]
    ) -> Appended:
        if partition in self.away:
            raise Unavailable(f"partition {partition} has no leader")
        return await self._writer.append_many(topic, partition, records)

    async def close(self) -> None:
        await self._writer.close()


@dataclass
class World:
    """A sender, what it knows of policies, and a client of each app."""

    parts: Sending
    writer: TroubledWriter
    policies: Policies
    config: PolicyConfig
    shop: httpx.AsyncClient

    async def logged(self) -> dict[int, list[PolicyChange]]:
        """Return the policy records of each partition, in order."""
        log = self.parts.log
        partitions = range(log.partitions(MESSAGES))
        reader = await log.reader(MESSAGES, partitions)
        found: dict[int, list[PolicyChange]] = {partition: [] for partition in partitions}
        for partition in partitions:
            reader.seek(partition, 0)
        while polled := await reader.poll(10_000, 0.001):
            for partition, records in polled.items():
                for record in records:
                    assert record.key is None and record.value is not None
                    assert header(record.value).kind == POLICY
                    found[partition].append(body(record.value, PolicyChange))
        await reader.close()
        return found

    async def show(self) -> Any:
        answer = await self.shop.get("/v1/config")
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with sending(LoopClock()) as parts:
        policies = Policies(parts.store.configs, Profiles(insecure=True))
        writer = TroubledWriter(parts.sender.writer)
        config = PolicyConfig(
            log=parts.log,
            configs=parts.store.configs,
            writer=writer,
            profiles=Profiles(insecure=True),
            policies=policies,
            clock=parts.clock,
        )
        await policies.start()
        await config.start()
        try:
            async with api(parts, two_apps(), config=config) as client:
                client.headers["X-API-Key"] = API_KEY
                yield World(parts, writer, policies, config, client)
        finally:
            await config.close()
            await policies.close()


def test_an_app_that_has_set_nothing_is_shown_the_defaults_with_all_their_fields() -> None:
    async def play() -> None:
        async with world() as here:
            shown = await here.show()
            assert (shown["version"], shown["complete"]) == (0, True)
            assert set(shown["policies"]) == {"default", "group", "live", "open"}
            assert set(shown["policies"]["live"]) == set(FIELDS)

    run(play())


def test_a_policy_that_was_set_is_on_every_partition_and_in_force_at_admission() -> None:
    async def play() -> None:
        async with world() as here:
            answer = await here.shop.put(LIVE, json={"shared_slots_max": 7, "raised_users": ["host"]})
            assert answer.status_code == 200, answer.text
            said = answer.json()
            assert said["namespace"] == "live"
            assert (said["policy"]["shared_slots_max"], said["policy"]["raised_users"]) == (7, ["host"])
            expected = Policy(shared_slots_max=7, raised_users=frozenset({"host"}))
            for changes in (await here.logged()).values():
                ((app, version, policies),) = [(one.app, one.version, one.policies) for one in changes]
                assert (app, version) == ("shop", said["version"])
                assert decode_policies(policies) == {"live": expected}
            assert here.policies.of("shop", "live:stage") == expected
            assert here.policies.of("shop", "group:x") == here.policies.of("news", "live:stage") == Policy()
            shown = await here.show()
            assert (shown["version"], shown["complete"]) == (said["version"], True)
            assert shown["policies"]["live"] == said["policy"]

    run(play())


def test_what_a_policy_leaves_out_has_its_default_and_a_reset_brings_all_of_it_back() -> None:
    async def play() -> None:
        async with world() as here:
            first = (await here.shop.put(LIVE, json={"shared_slots_max": 7})).json()
            await here.shop.put("/v1/config/policies/group", json={"high_burst": 1})
            second = (await here.shop.put(LIVE, json={"reserved_slots": 3})).json()
            assert second["version"] > first["version"]
            live = (await here.show())["policies"]["live"]
            assert (live["shared_slots_max"], live["reserved_slots"]) == (20, 3)
            reset = (await here.shop.delete(LIVE)).json()
            assert reset["policy"] == (await here.show())["policies"]["live"]
            assert (reset["version"] > second["version"], reset["policy"]["reserved_slots"]) == (True, 20)
            newest = [changes[-1] for changes in (await here.logged()).values()]
            assert {tuple(decode_policies(change.policies)) for change in newest} == {("group",)}

    run(play())


@pytest.mark.parametrize(
    ("path", "content", "says"),
    [
        ("/v1/config/policies/nope", b"{}", "namespace:"),
        (LIVE, b"{", "policy:"),
        (LIVE, b'{"slots":1}', "slots:"),
        (LIVE, b'{"reserved_slots":"a"}', "reserved_slots:"),
        (LIVE, b'{"reserved_slots":-1}', "reserved_slots:"),
        (LIVE, b'{"shared_slots_min":30}', "shared_slots_min:"),
        (LIVE, b'{"types":{"gift":"urgent"}}', "types.gift:"),
    ],
)
def test_a_bad_policy_is_refused_with_the_field_named_and_the_running_one_stays(
    path: str, content: bytes, says: str
) -> None:
    async def play() -> None:
        async with world() as here:
            await here.shop.put(LIVE, json={"shared_slots_max": 7})
            before, logged = await here.show(), await here.logged()
            answer = await here.shop.put(path, content=content)
            assert (answer.status_code, answer.json()["reason"]) == (400, "bad_request")
            assert answer.json()["detail"].startswith(says)
            assert await here.show() == before
            assert await here.logged() == logged

    run(play())


def test_to_reset_an_unknown_namespace_is_refused() -> None:
    async def play() -> None:
        async with world() as here:
            answer = await here.shop.delete("/v1/config/policies/nope")
            assert (answer.status_code, answer.json()["detail"][:10]) == (400, "namespace:")

    run(play())


def test_apps_see_and_change_only_their_own_and_nobody_without_a_key() -> None:
    async def play() -> None:
        async with world() as here:
            await here.shop.put(LIVE, json={"shared_slots_max": 7})
            here.shop.headers["X-API-Key"] = OTHER_KEY
            assert (await here.show())["version"] == 0
            del here.shop.headers["X-API-Key"]
            for answer in (
                await here.shop.get("/v1/config"),
                await here.shop.put(LIVE, json={}),
                await here.shop.delete(LIVE),
            ):
                assert answer.status_code == 401

    run(play())


def test_changes_come_at_a_rate() -> None:
    async def play() -> None:
        async with world() as here:
            statuses = [(await here.shop.delete(LIVE)).status_code for _ in range(POLICY_CHANGE_BURST + 1)]
            assert statuses == [200] * POLICY_CHANGE_BURST + [429]
            await asyncio.sleep(1.0)
            assert (await here.shop.delete(LIVE)).status_code == 200

    run(play())


def test_a_change_that_got_half_way_is_told_and_completed_beside() -> None:
    async def play() -> None:
        async with world() as here:
            here.writer.away = {5, 6}
            answer = await here.shop.put(LIVE, json={"shared_slots_max": 7})
            assert (answer.status_code, answer.json()["reason"]) == (503, "unavailable")
            assert "set and not everywhere on the log yet" in answer.json()["detail"]
            shown = await here.show()
            assert (shown["policies"]["live"]["shared_slots_max"], shown["complete"]) == (7, False)
            assert {partition for partition, changes in (await here.logged()).items() if not changes} == {5, 6}
            await asyncio.sleep(3 * POLICY_COMPLETE_S)  # in vain
            here.writer.away = set()
            await asyncio.sleep(3 * POLICY_COMPLETE_S)
            assert (await here.show())["complete"]
            versions = {changes[-1].version for changes in (await here.logged()).values()}
            assert versions == {shown["version"]}
            records = await here.logged()
            await asyncio.sleep(3 * POLICY_COMPLETE_S)
            assert await here.logged() == records

    run(play())


def test_without_the_store_nothing_changes_and_the_last_known_policies_hold() -> None:
    async def play() -> None:
        async with world() as here:
            await here.shop.put(LIVE, json={"shared_slots_max": 7})
            logged = await here.logged()
            here.parts.state.available = False
            answer = await here.shop.put(LIVE, json={"shared_slots_max": 9})
            assert answer.status_code == 503
            await asyncio.sleep(3 * POLICIES_LOOK_S)
            assert await here.logged() == logged
            assert here.policies.of("shop", "live:stage").shared_slots_max == 7

    run(play())


def test_what_another_process_sets_is_known_within_a_second_or_two() -> None:
    async def play() -> None:
        async with world() as here:
            configs = here.parts.store.configs
            assert await configs.put("shop", 0, 7, b'{"live":{"shared_slots_max":7}}')
            await asyncio.sleep(2 * POLICIES_LOOK_S)
            assert here.policies.of("shop", "live:stage").shared_slots_max == 7
            assert await configs.put("shop", 7, 8, b'{"live":{"of_a_later_version":7}}')
            await asyncio.sleep(2 * POLICIES_LOOK_S)
            assert here.policies.of("shop", "live:stage").shared_slots_max == 7
            answer = await here.shop.put(LIVE, json={"shared_slots_max": 9})
            assert (answer.status_code, answer.json()["reason"]) == (501, "not_available")
            here.parts.state.flush()
            await asyncio.sleep(2 * POLICIES_LOOK_S)
            assert here.policies.of("shop", "live:stage") == Policy()

    run(play())


class BusyConfigs:
    """``Configs`` of an app that others change between every look and every change."""

    def __init__(self) -> None:
        self.version = 0

    async def versions(self) -> dict[str, tuple[int, int]]:
        return {}

    async def get(self, app: str) -> PoliciesSet:
        self.version += 1
        return PoliciesSet(self.version, self.version, b"{}")

    async def put(self, app: str, previous: int, version: int, policies: bytes) -> bool:
        return False

    async def logged(self, app: str, version: int) -> None: ...


def test_a_change_that_is_always_overtaken_ends_in_503() -> None:
    async def play() -> None:
        async with world() as here:
            busy = BusyConfigs()
            config = PolicyConfig(
                log=here.parts.log,
                configs=busy,
                writer=here.writer,
                profiles=Profiles(),
                policies=here.policies,
                clock=here.parts.clock,
            )
            with pytest.raises(Refused) as refused:
                await config.put("shop", "live", b"{}")
            assert refused.value.problem.reason == "unavailable"
            assert busy.version == POLICY_TURNS_MAX
            assert not any((await here.logged()).values())

    run(play())
