"""The line in front of a gateway: who is let in when, who is told to come back, and that nobody is forgotten in it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from fanout.core.errors import DRAINING, OVERLOADED, Problem
from fanout.gateway.admission import Admission, Bucket, ConnectRate
from tests.support.virtual_time import LoopClock, run

RATE = ConnectRate(100.0, 5)
WAIT_S = 2.0
PLACES = 130  # two thirds of what the rate lets in while one may wait


class Client:
    """A connection that notes what becomes of it."""

    def __init__(self, *, fails: bool = False) -> None:
        self.admitted_s: float | None = None
        self.refusal: tuple[Problem, float] | None = None
        self._fails = fails

    def admitted(self) -> None:
        self.admitted_s = asyncio.get_running_loop().time()
        if self._fails:
            raise RuntimeError("its socket broke")

    def refused(self, problem: Problem, retry_after_s: float) -> None:
        self.refusal = (problem, retry_after_s)


def play(scene: Callable[[Admission], Awaitable[None]]) -> None:
    async def main() -> None:
        admission = Admission(RATE, LoopClock(), dice=random.Random(1), wait_s_max=WAIT_S)
        await scene(admission)

    run(main())


def crowd(admission: Admission, size: int) -> list[Client]:
    clients = [Client() for _ in range(size)]
    for client in clients:
        admission.wait(client)
    return clients


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(RATE)
    assert [bucket.take(0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert bucket.wait_s == pytest.approx(0.01)
    assert [bucket.take(0.025) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1_000.0) for _ in range(6)] == [True] * 5 + [False]


def test_a_clock_that_stands_or_steps_back_gives_no_tokens() -> None:
    bucket = Bucket(RATE)
    for _ in range(5):
        bucket.take(10.0)
    assert not bucket.take(10.0)
    assert not bucket.take(3.0)


@pytest.mark.parametrize("rate", [ConnectRate(0.0, 5), ConnectRate(-1.0, 5), ConnectRate(10.0, 0)])
def test_a_rate_that_lets_nobody_in_is_a_mistake(rate: ConnectRate) -> None:
    with pytest.raises(ValueError, match="a rate is above 0"):
        Bucket(rate)


def test_who_comes_alone_does_not_stand_in_line() -> None:
    async def scene(admission: Admission) -> None:
        assert admission.take()
        assert len(admission) == 0

    play(scene)


def test_a_crowd_is_let_in_at_the_rate_in_the_order_in_which_it_came() -> None:
    async def scene(admission: Admission) -> None:
        clients = crowd(admission, 105)
        assert not admission.take(), "nobody passes the line by"
        begun_s = asyncio.get_running_loop().time()
        await asyncio.sleep(1.2)
        times = [client.admitted_s for client in clients]
        assert all(time is not None for time in times)
        assert times == sorted(times, key=lambda time: time or 0.0)
        assert (times[-1] or 0.0) - begun_s == pytest.approx(1.0, abs=0.1)
        assert len(admission) == 0
        assert admission.take()

    play(scene)


def test_what_does_not_fit_into_the_line_is_told_to_come_back_each_at_another_time() -> None:
    async def scene(admission: Admission) -> None:
        clients = crowd(admission, PLACES + 50)
        refusals = [client.refusal for client in clients if client.refusal is not None]
        assert len(refusals) == 50
        assert {problem for problem, _ in refusals} == {OVERLOADED}
        waits = [retry_after_s for _, retry_after_s in refusals]
        assert WAIT_S / 2 <= min(waits) < max(waits) <= 2 * WAIT_S
        assert len(set(waits)) == 50
        await asyncio.sleep(2 * WAIT_S)
        assert all((client.admitted_s is None) != (client.refusal is None) for client in clients)

    play(scene)


def test_who_has_waited_as_long_as_a_client_would_is_refused_and_not_served_for_nobody() -> None:
    async def scene(admission: Admission) -> None:
        clients = crowd(admission, 50)
        asyncio.get_running_loop().now_s += 10.0  # type: ignore[attr-defined]
        await asyncio.sleep(0.1)
        assert all(client.refusal is not None and client.admitted_s is None for client in clients)
        assert len(admission) == 0

    play(scene)


def test_however_late_a_look_at_the_line_comes_it_lets_in_no_more_than_a_burst() -> None:
    async def scene(admission: Admission) -> None:
        clients = crowd(admission, 100)
        asyncio.get_running_loop().now_s += 1.0  # type: ignore[attr-defined]
        await asyncio.sleep(0.001)
        assert sum(client.admitted_s is not None for client in clients) == RATE.burst

    play(scene)


def test_one_that_leaves_the_line_takes_nobodys_turn() -> None:
    async def scene(admission: Admission) -> None:
        clients = crowd(admission, 100)
        for client in clients[10:90]:
            admission.leave(client)
        assert len(admission) == 20
        await asyncio.sleep(0.25)
        assert all(client.admitted_s is not None for client in (*clients[:10], *clients[90:]))
        assert all(client.admitted_s is None and client.refusal is None for client in clients[10:90])
        admission.leave(clients[0])
        assert len(admission) == 0

    play(scene)


def test_one_that_cannot_be_let_in_does_not_keep_the_others_out() -> None:
    async def scene(admission: Admission) -> None:
        broken, whole = Client(fails=True), Client()
        admission.wait(broken)
        admission.wait(whole)
        await asyncio.sleep(0.1)
        assert whole.admitted_s is not None

    play(scene)


def test_a_drain_sends_the_whole_line_away_and_whoever_comes() -> None:
    async def scene(admission: Admission) -> None:
        clients = crowd(admission, 20)
        admission.close()
        late = Client()
        admission.wait(late)
        assert not admission.take()
        assert {client.refusal and client.refusal[0] for client in (*clients, late)} == {DRAINING}
        await asyncio.sleep(1.0)
        assert all(client.admitted_s is None for client in clients)

    play(scene)
