"""``fanout shadow`` up to the servers: what it is told, what it reads of a log, what it says about that."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fanout.adapters.memory import MemoryLog, Retention
from fanout.cli.shadow import Progress, Read, ShadowSettings, compare, duration_ms, known_before, notes, run_shadow
from fanout.core.errors import ConfigError
from fanout.core.policies import encode_policies
from fanout.core.profiles import GROUP, LIVE, Policy
from fanout.core.records import MESSAGES
from fanout.ports import PoliciesSet, Topics
from sharding.placement import partition_of
from tests.support.clocks import SteppedClock
from tests.support.rooms import KEY, ROOM, message
from workers.shadow import Comparison, Place

TOPICS = Topics(prefix="unit", partitions={MESSAGES: 4})
NUMBER = partition_of(KEY, 4)
PROPOSED = Policy(shared_slots_min=1, shared_slots_max=2)


@pytest.fixture
async def log(clock: SteppedClock) -> AsyncIterator[MemoryLog]:
    opened = MemoryLog(TOPICS, clock)
    yield opened
    await opened.close()


async def append(log: MemoryLog, count: int, key: bytes | None = KEY) -> None:
    writer = await log.writer(durable=True)
    for _ in range(count):
        await writer.append(MESSAGES, NUMBER, key, message())


@pytest.mark.parametrize(
    ("text", "expected_ms"), [("30s", 30_000), ("90m", 5_400_000), ("6h", 21_600_000), ("7d", 604_800_000)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, expected_ms: int) -> None:
    assert duration_ms(text) == expected_ms


@pytest.mark.parametrize("text", ["", "1", "d", "0m", "-1h", "1.5h", "8d", "1w", "1d ", "999999d", "٣d"])
def test_another_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="90m, 6h or 1d; at most 7d"):
        duration_ms(text)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"since": "1w"}, "--since 1w"),
        ({"room": "nowhere:1"}, "nowhere"),
        ({"room": "no room"}, "room"),
        ({"app": "No App"}, "app"),
        ({"policy": "none.json"}, "none.json"),
        ({"log": "memory"}, "kafka://"),
        ({"log": "http://127.0.0.1:1"}, "kafka://"),
        ({"log": "kafka://"}, "kafka://"),
        ({"log": "kafka://127.0.0.1:1"}, "--log kafka://127.0.0.1:1"),
        ({"svg": "nowhere/plot.svg"}, "--svg"),
        ({"store": "redis://127.0.0.1:1"}, "--store redis://127.0.0.1:1"),
        ({"store": "http://127.0.0.1:1"}, "--store http://127.0.0.1:1"),
    ],
)
def test_what_cannot_work_is_one_line_that_says_why(tmp_path: Path, changed: dict[str, str], said: str) -> None:
    (tmp_path / "p.json").write_text("{}")
    told = {"policy": "p.json", "room": "live:1", "since": "1d", "app": "default", "log": "kafka://127.0.0.1:1"}
    told |= {"store": "", "svg": "plot.svg", **changed}
    policy, room, since, app, log, store, svg = told.values()
    settings = ShadowSettings(tmp_path / policy, room, since, app, log, store, "fanout", False, tmp_path / svg)
    with pytest.raises(ConfigError) as raised:
        run_shadow(settings)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_it_begins_at_a_time_and_ends_where_the_log_ended(log: MemoryLog, clock: SteppedClock) -> None:
    await append(log, 3)
    clock.advance(60_000)
    await append(log, 30)
    await append(log, 5, b"app/live:other")
    clock.advance(60_000)
    read = await compare(log, ROOM, LIVE, PROPOSED, clock.wall_ms() - 90_000)
    assert (read.comparison.records, read.unread) == (30, 0)
    assert read.comparison.in_force.counts()["kept"]["normal"] == 20
    assert read.comparison.proposed.counts()["kept"]["normal"] == 2


class GrowingLog(MemoryLog):
    """A log in which the room goes on while it is read."""

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        found = await super().offset_at(topic, partition, at_ms)
        await append(self, 3)
        return found


async def test_what_comes_while_it_reads_is_not_read(clock: SteppedClock) -> None:
    log = GrowingLog(TOPICS, clock)
    await append(log, 5)
    assert (await compare(log, ROOM, LIVE, PROPOSED, 0)).comparison.records == 5
    await log.close()


async def test_a_room_that_nobody_spoke_in_has_no_records(log: MemoryLog) -> None:
    await append(log, 3, b"app/live:other")
    assert (await compare(log, ROOM, LIVE, PROPOSED, 0)).comparison.records == 0


async def test_reading_ends_at_the_bound(log: MemoryLog) -> None:
    await append(log, 10)
    read = await compare(log, ROOM, LIVE, PROPOSED, 0, records_max=4)
    assert (read.comparison.records, read.comparison.is_cut, read.unread) == (4, True, 0)


async def test_records_that_go_while_it_reads_are_passed_over(clock: SteppedClock) -> None:
    log = GrowingLog(TOPICS, clock, {MESSAGES: Retention(records_max=10, bytes_max=1 << 20, age_ms=60_000)})
    await append(log, 10)
    read = await compare(log, ROOM, LIVE, PROPOSED, 0)
    assert (read.comparison.records, read.unread) == (7, 0)
    await log.close()


class Terminal(io.StringIO):
    """A stream with a person in front of it."""

    def isatty(self) -> bool:
        return True


def test_a_long_read_says_how_far_it_is_to_a_person_and_to_nobody_else() -> None:
    for stream, expected in ((Terminal(), "\rread 50 % of 200 records\r\x1b[K"), (io.StringIO(), "")):
        progress = Progress(100, 300, stream, 10.0)
        progress.show(150, 11.0)
        progress.show(200, 12.0)
        progress.show(250, 13.0)
        progress.end()
        assert stream.getvalue() == expected
    quick = Terminal()
    progress = Progress(0, 0, quick, 0.0)
    progress.end()
    assert quick.getvalue() == ""


def test_notes_say_what_the_figures_leave_out() -> None:
    read = Read(Comparison(ROOM, LIVE, PROPOSED, Place(0, 1, 0)), 0, ("In force: so and so.",))
    said = " ".join(notes(read, LIVE.policy))
    assert "empty windows" in said and "Lateness" in said and "so and so" in said
    assert "class" not in said and "Cut" not in said
    read = Read(Comparison("app/group:1", GROUP, PROPOSED, Place(0, 1, 0)), 7)
    said = " ".join(notes(read, Policy(raised_users=frozenset({"ann"}), late_low_ms=1)))
    assert "not thinned" in said and "raised_users" in said and "late_low_ms: without effect" in said
    assert "7 places" in said


def test_policies_that_were_set_later_are_not_those_of_the_beginning() -> None:
    found = PoliciesSet(1_000, 1_000, b"{}")
    assert known_before(found, 1_001) == (found, ())
    assert known_before(None, 1_000) == (None, ())
    policies, (note,) = known_before(found, 1_000)
    assert policies is None and "defaults" in note
    newer = PoliciesSet(1, 1, b'{"live": {"a_field_of_tomorrow": 1}}')
    policies, (note,) = known_before(newer, 1_000)
    assert policies is None and "a_field_of_tomorrow" in note


async def test_what_the_app_had_set_before_is_in_force(log: MemoryLog) -> None:
    await append(log, 30)
    found = PoliciesSet(1, 1, encode_policies({"live": Policy(shared_slots_max=7)}))
    read = await compare(log, ROOM, LIVE, PROPOSED, 0, found)
    assert read.comparison.in_force.counts()["kept"]["normal"] == 7
