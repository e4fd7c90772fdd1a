"""Those in step against a plain model: whoever comes and goes, everybody has each frame once, and cursors say so."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fanout.gateway.room import Listener, Subscription
from fanout.gateway.step import NOWHERE, InStep


class Socket:
    """A session and its socket in one: keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[bytes] = []

    @property
    def sink(self) -> Socket:
        return self

    def write(self, data: bytes) -> None:
        self.given.append(data)


class InStepMachine(RuleBasedStateMachine):
    """Frames are handed out in pieces; between the pieces members leave. Newcomers wait for the frame's end."""

    def __init__(self) -> None:
        super().__init__()
        self.group = InStep()
        self.due: dict[Subscription, list[bytes]] = {}
        self.frames = 0
        self.frame: bytes | None = None

    @precondition(lambda self: self.frame is None)
    @rule()
    def come(self) -> None:
        one = Subscription(cast(Listener, Socket()), cast(Any, None))
        self.group.add(one)
        self.due[one] = []

    @precondition(lambda self: self.due)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(self.due, key=lambda each: each.place)))
        self.group.remove(one)
        assert one.place == NOWHERE
        del self.due[one]

    @precondition(lambda self: self.frame is None)
    @rule()
    def begin(self) -> None:
        self.frames += 1
        self.frame = b"%d" % self.frames

    @precondition(lambda self: self.frame is not None)
    @rule(sessions=st.integers(1, 4))
    def give(self, sessions: int) -> None:
        assert self.frame is not None
        before = self.group.given
        given = self.group.give(self.frame, sessions)
        assert given == min(sessions, len(self.group) - before)
        if self.group.given == len(self.group):
            for due in self.due.values():
                due.append(self.frame)
            self.group.given = 0
            self.frame = None

    @invariant()
    def places_and_sockets_agree(self) -> None:
        members = list(self.group)
        assert [one.place for one in members] == list(range(len(members)))
        assert set(members) == set(self.due)
        for one in members:
            given = cast(Socket, one.session).given
            has_frame = self.frame is not None and one.place < self.group.given
            assert given == self.due[one] + ([self.frame] if has_frame else [])


TestInStep = InStepMachine.TestCase
TestInStep.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
