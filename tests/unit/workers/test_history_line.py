"""The history's waiting line: in order, behind the chunks, joined by room, tried again, fenced by room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fanout.core.errors import Fenced, Unavailable
from fanout.core.limits import HISTORY_BYTES_PER_STORE
from fanout.core.policies import PolicyAt
from fanout.core.profiles import LIVE
from fanout.core.room_state import RoomState
from fanout.ports import HistoryBatch, HistoryEntry, HistoryPage, KeyedId, RoomMeta
from tests.support import virtual_time
from workers.history_line import HistoryLine
from workers.turn import Change, Ownership, Turn


class NotedHistory:
    """A ``ports.History`` that notes what it is given, and answers what the test wants (by room)."""

    def __init__(self) -> None:
        self.calls: list[list[HistoryBatch]] = []
        self.errors: dict[str, BaseException] = {}
        self.error: Exception | None = None
        self.takes_s = 0.0

    async def load(self, rooms: Sequence[tuple[str, str]]) -> Sequence[RoomMeta | None]:
        return [None for _ in rooms]

    async def store(self, batches: Sequence[HistoryBatch]) -> Sequence[BaseException | None]:
        self.calls.append(list(batches))
        if self.takes_s:
            await asyncio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return [self.errors.get(batch.key) for batch in batches]

    async def read(
        self, key: str, epoch: str, *, after: int, limit: int, bytes_max: int, reverse: bool = False
    ) -> HistoryPage:
        return HistoryPage(None, (), truncated=False)


class Line:
    """A running line, and what it tells."""

    def __init__(self) -> None:
        self.history = NotedHistory()
        self.done: list[int] = []
        self.fenced: list[Ownership] = []
        self.kept: list[tuple[int, int, PolicyAt]] = []
        self.policy_error: Exception | None = None
        self.ownership = Ownership(0, 1, "e1")
        self.rooms = {name: RoomState.fresh(name, LIVE, 0) for name in "abc"}
        self.line = HistoryLine(
            self.history,
            virtual_time.LoopClock(),
            keep_policy=self._keep_policy,
            done=lambda turn: self.done.append(turn.number),
            fenced=self._fence,
        )

    async def _keep_policy(self, partition: int, owner: int, at: PolicyAt) -> None:
        if self.policy_error is not None:
            raise self.policy_error
        self.kept.append((partition, owner, at))

    def _fence(self, ownership: Ownership) -> None:
        ownership.is_over = True
        self.fenced.append(ownership)

    def turn(self, number: int, rooms: str, *, awaited: int = 0, size: int = 10) -> Turn:
        """Put a turn in the line: each room has one entry whose offset is the turn's number."""
        turn = Turn(number, virtual_time.LoopClock().monotonic_s())
        for name in rooms:
            turn.changes.append(Change(self.ownership, self.rooms[name], self.batch(name, number), size))
            self.rooms[name].loans += 1
            turn.bytes += size
        turn.awaited = awaited
        self.line.put(turn)
        return turn

    def batch(self, name: str, number: int) -> HistoryBatch:
        entry = HistoryEntry(number, 0, number - 1, number, b"e%d" % number)
        keyed = [KeyedId(number, number, number)]
        state = b"s%d" % number
        return HistoryBatch(name, "e1", 1, number, number, number, number, state, [entry], number, 1, 1, 1, 1, keyed)

    def ack(self, turn: Turn) -> None:
        turn.awaited = 0
        self.line.acked(turn)


def play(scenario: Callable[[Line], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        line = Line()
        running = asyncio.create_task(line.line.run())
        try:
            await scenario(line)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    virtual_time.run(main())


def test_a_turn_is_stored_when_its_chunks_are_acknowledged_and_not_before() -> None:
    async def scenario(line: Line) -> None:
        turn = line.turn(1, "a", awaited=2)
        await asyncio.sleep(1)
        assert line.history.calls == [] and line.done == []
        assert line.line.oldest_s() == 1.0
        line.ack(turn)
        await asyncio.sleep(0.01)
        assert line.done == [1]
        assert len(line.line) == 0 and line.line.bytes == 0 and line.line.oldest_s() == 0.0
        assert line.rooms["a"].loans == 0

    play(scenario)


def test_turns_are_stored_in_their_order_whatever_is_acknowledged_first() -> None:
    async def scenario(line: Line) -> None:
        first = line.turn(1, "a", awaited=1)
        line.turn(2, "b")
        await asyncio.sleep(1)
        assert line.done == []
        line.ack(first)
        await asyncio.sleep(0.01)
        assert line.done == [1, 2]

    play(scenario)


def test_what_gathers_meanwhile_is_joined_to_one_step_per_room() -> None:
    async def scenario(line: Line) -> None:
        line.history.takes_s = 1.0
        line.turn(1, "a")
        await asyncio.sleep(0.5)
        for number in (2, 3, 4):
            line.turn(number, "ab" if number == 3 else "a")
        await asyncio.sleep(3)
        assert line.done == [1, 2, 3, 4]
        first, second = line.history.calls
        assert [batch.key for batch in first] == ["a"]
        joined = {batch.key: batch for batch in second}
        assert [entry.offset for entry in joined["a"].entries] == [2, 3, 4]
        assert [one.id for one in joined["a"].keyed] == [2, 3, 4]
        assert (joined["a"].state, joined["a"].applied, joined["a"].now_ms) == (b"s4", 4, 4)
        assert [entry.offset for entry in joined["b"].entries] == [3]

    play(scenario)


def test_a_store_that_is_away_is_asked_again_with_everything_that_has_gathered() -> None:
    async def scenario(line: Line) -> None:
        line.history.error = Unavailable("away")
        line.turn(1, "ab")
        await asyncio.sleep(10)
        assert [line.line.is_failing] == [True]
        assert line.done == [] and line.line.bytes == 20
        assert 8 <= len(line.history.calls) <= 20  # pauses grow to a second
        line.turn(2, "b")
        line.history.error = None
        await asyncio.sleep(2)
        assert line.done == [1, 2]
        assert [line.line.is_failing] == [False]
        joined = {batch.key: [entry.offset for entry in batch.entries] for batch in line.history.calls[-1]}
        assert joined == {"a": [1], "b": [1, 2]}

    play(scenario)


def test_only_the_room_that_failed_is_stored_again_and_its_turns_wait() -> None:
    async def scenario(line: Line) -> None:
        line.history.errors["b"] = Unavailable("this node only")
        line.history.takes_s = 0.1
        line.turn(1, "a")
        line.turn(2, "ab")
        line.turn(3, "c")
        await asyncio.sleep(0.15)
        assert line.done == [1]
        assert (line.rooms["a"].loans, line.rooms["b"].loans, line.rooms["c"].loans) == (0, 1, 0)
        line.history.errors.clear()
        await asyncio.sleep(2)
        assert line.done == [1, 2, 3]
        assert [batch.key for batch in line.history.calls[-1]] == ["b"]

    play(scenario)


def test_a_fenced_room_ends_the_ownership_and_holds_up_nobody() -> None:
    async def scenario(line: Line) -> None:
        line.history.errors["a"] = Fenced("owner 2 has been here")
        line.turn(1, "ab")
        await asyncio.sleep(0.01)
        assert line.fenced == [line.ownership]
        assert line.done == [1]
        line.turn(2, "a")
        await asyncio.sleep(0.01)
        assert line.done == [1, 2]
        assert len(line.history.calls) == 1  # what is over is not stored

    play(scenario)


def test_two_fenced_rooms_of_a_partition_are_told_once() -> None:
    async def scenario(line: Line) -> None:
        line.history.errors = {"a": Fenced("x"), "b": Fenced("x")}
        line.turn(1, "ab")
        await asyncio.sleep(0.01)
        assert line.fenced == [line.ownership]

    play(scenario)


def policies_in(turn: Turn, ownership: Ownership, *versions: int) -> None:
    turn.policies = [(ownership, PolicyAt("shop", version, version, b"{}")) for version in versions]


def test_policies_of_a_turn_are_kept_before_it_is_done_and_tried_again() -> None:
    async def scenario(line: Line) -> None:
        line.policy_error = Unavailable("away")
        turn = line.turn(1, "a", awaited=1)
        policies_in(turn, line.ownership, 7, 8)
        line.turn(2, "b")
        line.ack(turn)
        await asyncio.sleep(0.01)
        assert line.done == [] and line.line.is_failing
        line.policy_error = None
        await asyncio.sleep(1)
        assert [(partition, owner, at.version) for partition, owner, at in line.kept] == [(0, 1, 7), (0, 1, 8)]
        assert line.done == [1, 2] and not line.line.is_failing

    play(scenario)


def test_policies_of_an_owner_that_is_none_any_more_are_not_kept() -> None:
    async def scenario(line: Line) -> None:
        line.policy_error = Fenced("another owner")
        turn = line.turn(1, "", awaited=1)
        policies_in(turn, line.ownership, 7, 8)
        line.ack(turn)
        await asyncio.sleep(0.01)
        assert line.fenced == [line.ownership]
        assert line.done == [1] and line.kept == []

    play(scenario)


def test_turns_without_changes_pass_through_in_order() -> None:
    async def scenario(line: Line) -> None:
        line.turn(1, "")
        line.turn(2, "a")
        line.turn(3, "")
        await asyncio.sleep(0.01)
        assert line.done == [1, 2, 3]
        assert len(line.history.calls) == 1

    play(scenario)


def test_one_pipeline_is_bounded_in_bytes() -> None:
    async def scenario(line: Line) -> None:
        line.history.takes_s = 0.1
        line.turn(1, "a", awaited=1)
        for number in range(2, 5):
            line.turn(number, "ab", size=HISTORY_BYTES_PER_STORE // 2)
        line.ack(line.line._turns[0])
        await asyncio.sleep(5)
        assert line.done == [1, 2, 3, 4]
        assert [len(call) for call in line.history.calls] == [2, 2, 2]

    play(scenario)
