"""Budgets and policies with room workers on twins, in virtual time: written, applied, taken over, servers away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fanout.adapters.memory import MemoryLog, MemoryState, memory_store
from fanout.core.messages import Priority
from fanout.core.policies import encode_policies
from fanout.core.profiles import Policy
from fanout.core.records import (
    BUDGET,
    CHUNKS,
    DEAD,
    MEMBERS,
    MESSAGES,
    POLICY,
    TASKS,
    Budget,
    PolicyChange,
    body,
    encode,
    header,
)
from fanout.core.room_state import RoomState
from fanout.ports import Topics
from tests.support import virtual_time
from tests.support.rooms import report
from tests.support.virtual_time import LoopClock
from tests.support.worker_world import World, until

TOPICS = Topics(partitions={MESSAGES: 2, MEMBERS: 1, TASKS: 1, CHUNKS: 4, DEAD: 1})
ROOM, OTHER = "app/live:stage", "app/live:hall"
MILLION = 1_000_000
CALM = Policy(shared_slots_min=0, shared_slots_max=3)


class TwinWorld(World):
    """A world on twins whose log and store can be taken away."""

    def __init__(self) -> None:
        self.state = MemoryState()
        clock = LoopClock()
        self.twin = MemoryLog(TOPICS, clock)
        super().__init__(self.twin, memory_store(clock, self.state), clock)

    async def budgets(self) -> list[dict[str, tuple[int, int]]]:
        """Return the Budget records of the room's partition."""
        number = self.partition(ROOM)
        reader = await self.log.reader(MESSAGES, [number])
        reader.seek(number, 0)
        records = (await reader.poll(10_000, 0.0)).get(number, ())
        await reader.close()
        values = [record.value for record in records if record.key is None and record.value is not None]
        return [body(value, Budget).rooms for value in values if header(value).kind == BUDGET]

    async def set(self, version: int, policy: Policy) -> None:
        """Append a policy to all partitions."""
        value = encode(POLICY, PolicyChange("app", version, encode_policies({"live": policy})))
        for number in range(self.log.partitions(MESSAGES)):
            await self.append_to(number, None, value)

    def room(self, key: str = ROOM) -> RoomState | None:
        """Return the room where an owner has it in memory; the last worker's word counts."""
        found: RoomState | None = None
        for worker in self.workers:
            owned = worker._partitions.active.get(self.partition(key))
            found = owned.rooms.get(key.encode()) if owned is not None else found
        return found

    def slots(self, key: str = ROOM) -> int:
        """Return the shared slots in force, -1 where nobody has the room."""
        room = self.room(key)
        return -1 if room is None else room.shared_slots


def play(scenario: Callable[[TwinWorld], Coroutine[Any, Any, None]]) -> None:
    """Play a scenario in virtual time."""

    async def main() -> None:
        world = TwinWorld()
        try:
            await scenario(world)
        finally:
            await world.close()

    virtual_time.run(main())


async def kept(world: TwinWorld, room: str, messages: int = 50) -> int:
    """Publish so many ordinary messages in one window of their own; return how many were kept."""
    await asyncio.sleep(1)
    before = (await world.ledger(room))["kept"]["normal"]
    await world.publish(room, messages, Priority.NORMAL)
    await world.settled()
    after: int = (await world.ledger(room))["kept"]["normal"] - before
    return after


def test_a_room_that_has_grown_is_thinned_by_one_record_and_not_again() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        assert await kept(world, ROOM) == 20
        for head in range(1, 6):
            await world.announce(gateway, report(key=ROOM, subscriptions=MILLION, head=head))
            await asyncio.sleep(2)
        assert await world.budgets() == [{ROOM: (2, MILLION)}]
        assert world.slots() == 2
        assert await kept(world, ROOM) == 2

    play(scenario)


def test_budgets_wait_for_a_log_that_is_away_and_are_written_once() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        await world.announce(gateway, report(key=ROOM, subscriptions=MILLION))
        await world.settled()
        world.twin.available = False
        await asyncio.sleep(30)
        world.twin.available = True
        await until(lambda: world.slots() == 2, "the budget in force")
        await asyncio.sleep(10)
        assert await world.budgets() == [{ROOM: (2, MILLION)}]

    play(scenario)


def test_a_new_owner_goes_on_with_the_values_in_force() -> None:
    async def scenario(world: TwinWorld) -> None:
        first = await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        await world.attach(OTHER, gateway)
        await world.announce(gateway, report(key=ROOM, subscriptions=MILLION))
        await until(lambda: world.slots() == 2, "the budget in force")
        await world.set(7, Policy(shared_slots_min=3, shared_slots_max=8))
        await until(lambda: world.slots(OTHER) == 8, "the policy in force")
        await world.settled()
        await asyncio.sleep(2)  # committed: the next owner never reads these records
        await first.drain()
        await first.close()
        world.workers.remove(first)
        await world.worker()
        assert await kept(world, ROOM) == 3
        assert await kept(world, OTHER) == 8
        room = world.room()
        assert room is not None and room.values.members == MILLION

    play(scenario)


def test_a_policy_is_not_committed_before_the_store_knows_it() -> None:
    async def scenario(world: TwinWorld) -> None:
        first = await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        await world.settled()
        await asyncio.sleep(1)
        world.state.available = False
        await world.set(7, CALM)
        await until(lambda: world.slots() == 3, "the policy in force without the store")
        await asyncio.sleep(5)
        await first.close()
        world.workers.remove(first)
        world.state.available = True
        await world.worker()
        assert await kept(world, ROOM) == 3

    play(scenario)


def test_a_bad_policy_record_is_parked_and_the_running_one_stays() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        await world.set(7, CALM)
        bad = [
            PolicyChange("app", 8, b'{"live":{"reserved_slots":-1}}'),
            PolicyChange("app", 9, b"{"),
            PolicyChange("App", 9, b"{}"),
        ]
        for change in bad:
            await world.append_to(world.partition(ROOM), None, encode(POLICY, change))
        await world.set(6, Policy())  # late, and overtaken
        assert await kept(world, ROOM) == 3
        assert [one.reason for one in await world.dead()] == ["bad_policy"] * 3

    play(scenario)


def test_in_a_store_that_lost_everything_rooms_begin_by_their_profile_again() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        await world.set(7, CALM)
        await until(lambda: world.slots() == 3, "the policy in force")
        await world.settled()
        await asyncio.sleep(1)
        world.state.flush()
        await world.publish(ROOM, 1)  # a commit is due, and finds that the claim is lost
        await until(lambda: world.slots() in (-1, 20), "the epoch begun anew")
        await asyncio.sleep(2)
        await world.publish(ROOM, 1)
        await until(lambda: world.slots() == 20, "the profile's policy")
        await world.set(8, CALM)
        await until(lambda: world.slots() == 3, "the policy set again")

    play(scenario)
