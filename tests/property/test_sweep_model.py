"""The sweep against a model of each session: what it must have seen, what it may have missed, and what that cost.

Sessions on all wires come, stall, take a little, flow again, leave, return with their position, come from a gateway
that is further on, while a crowd that never stalls makes sweeps yield in their middle; chunks get lost, for a while or
for good, the room changes its epoch, time passes. Every look at a clock costs a little virtual time, so that a sweep
gives the loop its turn as often as it may.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fanout.core.errors import RESYNC
from fanout.core.limits import DROPPABLE_AGE_S
from fanout.core.messages import Kind
from fanout.core.records import BINARY, Entry, RoomBatch
from fanout.gateway.edge_ledger import DropReason
from fanout.gateway.wires import IS_DEFLATED, WIRE_CODECS, WIRES
from fanout.protocol import websocket
from tests.support.edge import EdgeWorld, Listener
from tests.support.virtual_time import VirtualLoop

SESSIONS = 4  # one on each wire
CROWD = 130  # a sweep looks at the clock every 100 writes of a wire
CLOCK_TICK_S = 0.0003  # the gateway's: a turn of the sweep lasts a dozen looks
LOOP_TICK_S = 0.004  # the loop's, whose timers are those of the history
OLD_MS = int(DROPPABLE_AGE_S * 1_000)
BEHIND_RING = DropReason.BEHIND_RING.value
SKIPPED = DropReason.SKIPPED.value
BINARY_ONLY = DropReason.BINARY.value
RELIABLE = Kind.RELIABLE.value

who = st.integers(0, SESSIONS - 1)
kinds = st.lists(st.sampled_from(list(Kind)), min_size=1, max_size=20)
sizes = st.one_of(st.integers(1, 900), st.integers(3_000, 6_500))
ARGUMENTS: Final[dict[str, tuple[st.SearchStrategy[Any], ...]]] = {
    "publish": (kinds, sizes, st.integers(0, 3), st.sampled_from([False, False, True])),
    "settle": (),
    "yields": (st.integers(1, 8),),
    "pass_time": (st.sampled_from([300, 1_500, 2_500, 2_500]),),
    "pass_a_minute": (),
    "stall": (who, st.sampled_from([0, 0, 1, 700, 9_000, 70_000])),
    "flow": (who, st.sampled_from([None, None, 1, 700, 9_000])),
    "fall_far_behind": (who, st.integers(1_050, 1_500)),
    "return_from_far": (
        who,
        kinds,
        st.booleans(),
        st.integers(0, 12),
        st.sampled_from(["catch_up", "leave", "join", "stall"]),
    ),
    "bystander_leaves": (st.integers(0, CROWD - 1),),
    "join": (who,),
    "leave": (who,),
    "come_back": (who, st.booleans()),
    "switch": (who,),
    "come_from_afar": (who, kinds),
    "lag": (kinds,),
    "catch_up": (),
    "lose": (kinds,),
    "lose_for_good": (kinds,),
    "renew": (),
}
SLOW: Final = "publish " * 8 + "stall " * 6 + "flow " * 4 + "settle " * 4 + "yields " * 2 + "pass_time " * 3
CROWDED: Final = "join leave bystander_leaves bystander_leaves switch come_back come_back "
RESTLESS: Final = CROWDED + "come_from_afar come_from_afar lag catch_up catch_up "
FAR: Final = "fall_far_behind fall_far_behind return_from_far return_from_far pass_a_minute "
ROUGH: Final = "lose lose lose_for_good renew "
MIXES: Final = (SLOW, SLOW + RESTLESS, SLOW + 2 * RESTLESS + 2 * FAR, 2 * SLOW + RESTLESS + FAR + ROUGH)


@st.composite
def scenarios(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Steps of one mix: slow readers alone, clients that come and go, far behind, chunks lost and epochs changed."""
    mix = draw(st.sampled_from(MIXES)).split()
    names = draw(st.lists(st.sampled_from(mix), min_size=10, max_size=60))
    return [(name, *(draw(argument) for argument in ARGUMENTS[name])) for name in names]


class TickingLoop(VirtualLoop):
    """Time passes even where nobody sleeps."""

    def time(self) -> float:
        self.now_s += LOOP_TICK_S
        return self.now_s


class TickingClock:
    """``ports.Clock``: moved by the test, and a little by every look."""

    def __init__(self) -> None:
        self.now_s = 1_790_000_000.0

    @property
    def now_ms(self) -> int:
        return int(self.now_s * 1_000)

    def monotonic_s(self) -> float:
        self.now_s += CLOCK_TICK_S
        return self.now_s

    def wall_ms(self) -> int:
        return self.now_ms


class Published:
    """One publication and its number in the order of publishing; ``given_ms`` is None until a gateway was given it."""

    def __init__(self, serial: int, entry: Entry, epoch: str) -> None:
        self.serial, self.entry, self.epoch = serial, entry, epoch
        self.is_reliable = entry.kind == RELIABLE
        self.given_ms: int | None = None

    def is_shown_in(self, wire: int) -> bool:
        return WIRE_CODECS[wire].representable(self.entry)


def serial_of(data: bytes) -> int:
    """Return the number that a payload begins with."""
    return int(data.split()[0].strip(b'"\xff'))


@lru_cache(maxsize=512)
def shown_by(wire: int, frame: bytes) -> tuple[tuple[int, int], ...]:
    """Return (serial, offset) of each publication in a frame; decoded once, however many sessions were given it."""
    found: list[tuple[int, int]] = []
    parser = websocket.InflatingParser if IS_DEFLATED[wire] else websocket.FrameParser
    for event in parser(masked=False, message_bytes_max=1 << 24).feed(frame):
        assert isinstance(event, websocket.Text | websocket.Binary)
        for reply in WIRE_CODECS[wire].decode_replies(event.data):
            assert reply.push is not None and reply.push.pub is not None
            found.append((serial_of(bytes(reply.push.pub.data)), reply.push.pub.offset))
    return tuple(found)


class Watcher(Listener):
    """A session that remembers serials. ``since`` is the client's position when it joined, in its epoch.

    ``exact``: it never stalled, so it is owed everything that was taken since it joined, ephemeral ones included.
    ``excused`` are droppable ones that it may have missed for another reason than their age; ``seen_ms`` says when.
    """

    def __init__(self, world: EdgeWorld, wire: int, *, is_full: bool = False) -> None:
        super().__init__(world, wire)
        self.seen: list[int] = []
        self.seen_ms: list[int] = []
        self.newest_offset = 0
        self.epoch = world.epoch
        self.since = 0
        self.taken_before = 0
        self.exact = not is_full
        self.excused: set[int] = set()
        self.checked = 0  # how far ``seen`` has been looked at, and which reliable one is due next
        self.due_next = 0
        if is_full:
            self.stall()

    def write(self, frame: bytes) -> None:
        assert self.subscription is not None, "nothing is written to those who left"
        assert not self.paused, "nothing is written to a full socket"
        self.take(frame)
        if self.budget is not None:
            self.budget -= len(frame)
            self._pause(self.budget <= 0)

    def take(self, frame: bytes) -> None:
        for serial, offset in shown_by(self.wire, frame):
            self.see(serial, offset)

    def see(self, serial: int, offset: int) -> None:
        self.seen.append(serial)
        self.seen_ms.append(int(self.world.clock.monotonic_s() * 1_000))
        self.newest_offset = max(self.newest_offset, offset)

    @property
    def given(self) -> int:
        """How many publications it was given."""
        return len(self.seen)

    @property
    def position(self) -> int:
        """What an SDK would come back with."""
        return max(self.since, self.newest_offset)


class Bystander(Watcher):
    """One of the crowd: takes whatever comes, and looks at it when its story is asked for."""

    def __init__(self, world: EdgeWorld, wire: int, *, is_full: bool = False) -> None:
        super().__init__(world, wire)
        assert not is_full
        self._unread = 0

    def take(self, frame: bytes) -> None:
        self.frames.append(frame)
        self._unread += len(shown_by(self.wire, frame))

    def unpack(self) -> None:
        for frame in self.frames:
            super().take(frame)
        self.frames.clear()
        self._unread = 0

    @property
    def given(self) -> int:
        return len(self.seen) + self._unread


class Scene:
    """A room, the watchers, a crowd, and everything that was ever published."""

    def __init__(self) -> None:
        self.clock = TickingClock()
        self.world = EdgeWorld(self.clock)
        self.all: list[Published] = []
        self.taken: list[int] = []  # serials in the order that the gateway was given them
        self.reliable: dict[str, list[Published]] = {}  # by epoch, in order
        self.people: list[Watcher | None] = [None] * SESSIONS
        self.crowd: list[Bystander] = []
        self.gone_given = 0  # publications that those who left had been given
        self.waiting: list[tuple[list[Published], RoomBatch]] = []  # chunks that this gateway has not been given yet
        self.behind_ring = 0
        self.epochs = 1
        self.is_plain = True  # so far age alone has cost anybody anything, and nobody has left

    # --- publishing ---------------------------------------------------------------------------------------------------

    def made(self, kinds: Iterable[Kind], bytes_: int, priority: int = 2, *, binary: bool = False) -> list[Published]:
        found = []
        for kind in kinds:
            serial = len(self.all)
            entry = self.world.entry(kind, b'"%d %b"' % (serial, b"x" * bytes_), priority)
            if binary:
                entry.data, entry.flags = b"\xff%d %b" % (serial, b"x" * bytes_), BINARY
            published = Published(serial, entry, self.world.epoch)
            self.all.append(published)
            found.append(published)
            if published.is_reliable:
                self.reliable.setdefault(self.world.epoch, []).append(published)
        return found

    async def give(self, some: list[Published], *, is_late: bool = False) -> None:
        """A chunk, after those that are under way already; what was appended is in the history first."""
        batch = self.world.batch([one.entry for one in some])
        await self.world.remember([one.entry for one in some])
        self.waiting.append((some, batch))
        if len(self.waiting) == 1 and not is_late:
            await self.catch_up()

    async def publish(self, kinds: list[Kind], bytes_: int, priority: int, binary: bool) -> None:
        await self.give(self.made(kinds, bytes_, priority, binary=binary))

    async def lag(self, kinds: list[Kind]) -> None:
        """This gateway gets its chunks later than others do."""
        await self.give(self.made(kinds, 20), is_late=True)

    async def catch_up(self) -> None:
        """Everything that is under way arrives."""
        waiting, self.waiting = self.waiting, []
        for some, batch in waiting:
            for one in some:
                one.given_ms = self.clock.now_ms
            self.taken += [one.serial for one in some]
            self.world.give(batch)

    async def lose(self, kinds: list[Kind]) -> None:
        """A chunk never arrives; the history has its stored ones, and the next chunk tells."""
        await self.catch_up()
        await self.world.remember([one.entry for one in self.made(kinds, 10)])
        self.is_plain = False

    async def lose_for_good(self, kinds: list[Kind]) -> None:
        """A chunk never arrives, and the history does not have it either."""
        await self.catch_up()
        self.made(kinds, 10)
        self.is_plain = False

    async def renew(self) -> None:
        """The topic was made anew: another stream, whose offsets begin low."""
        await self.catch_up()
        self.epochs += 1
        world = self.world
        world.epoch = f"e{self.epochs}"
        world.offset = world.last = world.head = world.floor = 10
        world.n = 0
        self.is_plain = False
        await self.publish([Kind.RELIABLE], 5, 2, False)

    # --- sessions -----------------------------------------------------------------------------------------------------

    def sit(self, watcher: Watcher, since: int) -> None:
        """Note from where on everything is due to somebody who has joined."""
        log = self.world.room.known_log
        watcher.epoch, watcher.since = log.epoch, since
        watcher.taken_before = len(self.taken)
        due = self.reliable.setdefault(log.epoch, [])
        watcher.due_next = bisect_right(due, since, key=lambda one: one.entry.offset)
        for entry in watcher.replayed:
            watcher.see(serial_of(entry.data), entry.offset)

    def begun(self, watcher: Watcher) -> None:
        """Join without a position."""
        self.sit(watcher, watcher.join().offset)

    async def returned(self, watcher: Watcher, position: int, epoch: str) -> None:
        """Come with a position; where that is declared lost, begin at the head as SDKs do."""
        resumed = await watcher.resume(position, epoch)
        if resumed is None:
            self.begun(watcher)
            return
        assert resumed.recovered and resumed.epoch == epoch == self.world.room.known_log.epoch
        self.sit(watcher, position)
        self.is_plain = watcher.exact = False
        # What is ephemeral is not replayed, and of recent ones as many as the history keeps.
        watcher.excused.update(one.serial for one in self.all if not one.is_reliable)

    def let_go(self, watcher: Watcher) -> None:
        """Look for the last time at somebody who has left."""
        self.check_order(watcher)
        self.gone_given += watcher.given
        self.is_plain = False

    async def join(self, index: int) -> None:
        await self.leave(index)
        watcher = self.people[index] = Watcher(self.world, index)
        self.begun(watcher)

    async def leave(self, index: int) -> None:
        watcher, self.people[index] = self.people[index], None
        if watcher is not None:
            watcher.leave()
            self.let_go(watcher)

    async def come_back(self, index: int, is_full: bool) -> None:
        """Leave, and come with the position; perhaps on a socket that other rooms have filled already."""
        watcher = self.people[index]
        if watcher is not None:
            await self.leave(index)
            successor = self.people[index] = Watcher(self.world, index, is_full=is_full)
            await self.returned(successor, watcher.position, watcher.epoch)

    async def switch(self, index: int) -> None:
        """The client is on another network: it comes anew while its old connection is still here."""
        watcher = self.people[index]
        if watcher is not None:
            successor = Watcher(self.world, index)
            await self.returned(successor, watcher.position, watcher.epoch)
            await self.leave(index)
            self.people[index] = successor

    async def come_from_afar(self, index: int, kinds: list[Kind]) -> None:
        """The client has seen all there is, on a gateway that is further on than this one."""
        await self.lag(kinds)
        if self.world.room.known_log.epoch == self.world.epoch:
            await self.leave(index)
            watcher = self.people[index] = Watcher(self.world, index)
            await self.returned(watcher, self.world.head, self.world.epoch)

    async def come_again(self) -> None:
        """Whoever was told to come back does so, with the position seen."""
        for index, person in enumerate(self.people):
            if person is not None and person.ended is not None:
                assert person.ended is RESYNC
                await self.come_back(index, False)
        for index, bystander in enumerate(self.crowd):
            if bystander.ended is not None:
                bystander.unpack()
                self.let_go(bystander)
                successor = self.crowd[index] = Bystander(self.world, bystander.wire)
                await self.returned(successor, bystander.position, bystander.epoch)

    async def stall(self, index: int, budget: int) -> None:
        watcher = self.people[index]
        if watcher is not None:
            watcher.exact = False
            watcher.stall(budget)

    async def flow(self, index: int, budget: int | None) -> None:
        watcher = self.people[index]
        if watcher is not None:
            watcher.exact = watcher.exact and budget is None
            watcher.flow(budget)

    async def fall_far_behind(self, index: int, count: int) -> None:
        """While a socket is full more comes than a ring holds."""
        await self.stall(index, 0)
        for _ in range(3):
            await self.give(self.made([Kind.RELIABLE, Kind.EPHEMERAL, Kind.RECENT] * (count // 9), 1))
        await self.settle()

    async def return_from_far(self, index: int, kinds: list[Kind], is_empty: bool, yields: int, then: str) -> None:
        """The history serves somebody, and is further on than this gateway; meanwhile something happens."""
        await self.fall_far_behind(index, 1_100)
        if is_empty:
            await self.pass_a_minute()
        await self.lag(kinds)
        await self.flow(index, None)
        await self.yields(yields)
        if then == "catch_up":
            await self.catch_up()
        elif then == "stall":
            await self.stall(index, 700)
        else:
            await getattr(self, then)(index)

    async def bystander_leaves(self, index: int) -> None:
        """One of the crowd goes, perhaps in the middle of a sweep, and another comes."""
        if self.crowd:
            bystander = self.crowd[index]
            bystander.leave()
            bystander.unpack()
            self.let_go(bystander)
            successor = self.crowd[index] = Bystander(self.world, bystander.wire)
            self.begun(successor)

    # --- time ---------------------------------------------------------------------------------------------------------

    async def pass_time(self, ms: int) -> None:
        """Droppable ones get too old for those who are behind."""
        self.clock.now_s += ms / 1_000
        for _ in range(31):
            self.world.hub.age()

    async def pass_a_minute(self) -> None:
        """Rings keep nothing that is older."""
        await self.pass_time(61_000)

    async def yields(self, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(0)

    async def settle(self) -> None:
        await self.world.settle()

    # --- what must hold -----------------------------------------------------------------------------------------------

    @property
    def here(self) -> list[Watcher]:
        return [one for one in self.people if one is not None]

    def check(self) -> None:
        """Hold after every step, in the middle of sweeps too."""
        self.world.check_ledger()
        ledger = self.world.room.ledger
        given = sum(one.given for one in self.here) + sum(one.given for one in self.crowd)
        assert sum(ledger.written) == self.gone_given + given
        for watcher in self.here:
            self.check_order(watcher)
        left_ring = sum(ledger.dropped.get(BEHIND_RING, ()))
        if left_ring > self.behind_ring:
            self.behind_ring = left_ring
            for watcher in self.here:
                if not watcher.exact:
                    watcher.excused.update(one.serial for one in self.all if not one.is_reliable)

    def check_order(self, watcher: Watcher) -> None:
        """Everything in the order of publishing and once; of reliable ones never a later one before an earlier one."""
        due = self.reliable.get(watcher.epoch, [])
        for place in range(watcher.checked, len(watcher.seen)):
            published = self.all[watcher.seen[place]]
            assert place == 0 or watcher.seen[place - 1] < published.serial, "in order, nothing twice"
            assert published.epoch == watcher.epoch
            assert published.entry.offset > watcher.since, "not what the client had already"
            if published.is_reliable:
                while not due[watcher.due_next].is_shown_in(watcher.wire):
                    watcher.due_next += 1
                assert due[watcher.due_next] is published, "no reliable publication is passed over"
                watcher.due_next += 1
        watcher.checked = len(watcher.seen)

    def check_complete(self, watcher: Watcher) -> None:
        """Hold once everything has flowed."""
        for published in self.reliable.get(watcher.epoch, [])[watcher.due_next :]:
            assert not published.is_shown_in(watcher.wire), f"{published.serial} is missing"
        seen = set(watcher.seen)
        for serial in self.taken[watcher.taken_before :]:
            published = self.all[serial]
            if serial in seen or serial in watcher.excused or published.is_reliable:
                continue
            is_due = published.epoch == watcher.epoch and published.entry.offset > watcher.since
            if is_due and published.is_shown_in(watcher.wire):
                later = bisect_right(watcher.seen, serial)
                passed_ms = watcher.seen_ms[later] if later < len(watcher.seen) else self.clock.now_ms
                is_old = published.given_ms is not None and passed_ms - published.given_ms >= OLD_MS
                assert is_old and not watcher.exact, f"{serial} was skipped without need"

    def check_skips(self) -> None:
        """Where age and format alone cost anybody anything, what they cost is counted to the last one."""
        missed = sum(len(self.taken) - one.taken_before - one.given for one in [*self.here, *self.crowd])
        dropped = self.world.room.ledger.dropped
        assert missed == sum(sum(dropped.get(reason, ())) for reason in (SKIPPED, BINARY_ONLY))

    async def finish(self) -> None:
        """Let everything flow; what is still missing then was not to be given, or it is a bug."""
        for _ in range(2):
            await self.catch_up()
            await self.settle()
            await self.come_again()
            await self.publish([Kind.RELIABLE], 5, 2, False)
        for index in range(SESSIONS):
            await self.flow(index, None)
        await self.settle()
        self.check()
        assert not any(one.ended for one in [*self.here, *self.crowd]), "nothing gives a reason to come back any more"
        self.check_crowd()
        for watcher in self.here:
            self.check_complete(watcher)
        if self.is_plain and not self.behind_ring:
            self.check_skips()
        assert self.world.room.ledger.pending == (0, 0, 0, 0)
        assert self.world.hub.unswept == 0
        assert not self.world.room.behind and not self.world.room.ahead

    def check_crowd(self) -> None:
        """Those with the same story share one look at it."""
        alike = {(one.since, one.taken_before, tuple(one.seen), tuple(one.frames)): one for one in self.crowd}
        for bystander in alike.values():
            bystander.unpack()
            self.check_order(bystander)
            self.check_complete(bystander)


async def play(crowd: int | None, steps: list[tuple[Any, ...]]) -> None:
    scene = Scene()
    scene.world.start()
    if crowd is not None:
        scene.crowd = [Bystander(scene.world, crowd) for _ in range(CROWD)]
    for bystander in scene.crowd:
        scene.begun(bystander)
    for index in range(SESSIONS):
        await scene.join(index)
    for name, *arguments in steps:
        await getattr(scene, name)(*arguments)
        scene.check()
        await scene.come_again()
        scene.check()
    await scene.finish()
    await scene.world.close()


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([None, *WIRES]), scenarios())
def test_every_session_gets_what_its_model_says_whatever_happens_in_the_middle_of_a_sweep(
    crowd: int | None, steps: list[tuple[Any, ...]]
) -> None:
    with asyncio.Runner(loop_factory=TickingLoop) as runner:
        runner.run(play(crowd, steps))
