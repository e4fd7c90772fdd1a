"""Those in step against a plain model: whoever comes and goes, each gets every frame once, and cursors say so."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

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


class Model(NamedTuple):
    """What a member stands at, and what it was given since it came."""

    sent: int
    given: list[bytes]


class InStepMachine(RuleBasedStateMachine):
    """The head moves while frames are handed out in pieces; between the pieces members come and leave."""

    def __init__(self) -> None:
        super().__init__()
        self.group = InStep()
        self.head = 1
        self.models: dict[Subscription, Model] = {}

    @rule(back=st.integers(0, 2))
    def come(self, back: int) -> None:
        one = Subscription(cast(Listener, Socket()), cast(Any, None))
        sent = max(1, self.head - back)
        self.group.add(one, sent)
        self.models[one] = Model(sent, [])

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(self.models, key=lambda each: each.place)))
        self.group.remove(one)
        assert one.place == NOWHERE
        del self.models[one]

    @rule()
    def publish(self) -> None:
        self.head += 1

    @precondition(lambda self: self.models and self.group.at_turn < self.head)
    @rule(sessions=st.integers(1, 4), short=st.integers(0, 1))
    def give(self, sessions: int, short: int) -> None:
        """A frame ends at the head, or below it where it would become too large."""
        after = self.group.at_turn
        to = max(after + 1, self.head - short)
        frame = b"%d-%d" % (after, to)
        given = self.group.give(frame, to, sessions)
        assert 1 <= given <= sessions
        self.passed(given, after, to, frame)

    @precondition(lambda self: self.models)
    @rule()
    def pass_over(self) -> None:
        after = self.group.at_turn
        passed = self.group.pass_over(self.head)
        if after < self.head:
            self.passed(passed, after, self.head, None)

    def passed(self, members: int, after: int, to: int, frame: bytes | None) -> None:
        done = [one for one, model in self.models.items() if self.group.cursor(one) != model.sent]
        assert len(done) == members
        for one in done:
            model = self.models[one]
            assert model.sent == after, "a frame goes to those alone who stand where it begins"
            self.models[one] = Model(to, [*model.given, frame] if frame else model.given)

    @rule()
    def stand_at_the_head(self) -> None:
        self.group.stand_at(self.head)
        self.models = {one: model._replace(sent=self.head) for one, model in self.models.items()}

    @rule()
    def go_round(self) -> None:
        """In one round everybody comes to where the head is, however many runs there are."""
        for _ in range(2 * len(self.models)):
            if self.group.lowest(self.head) < self.head:
                self.pass_over() if self.group.at_turn == self.head else self.give(3, 0)
        assert all(model.sent == self.head for model in self.models.values())

    @invariant()
    def places_sockets_and_cursors_agree(self) -> None:
        members = list(self.group)
        assert len(self.group) == len(members) == len(self.models)
        assert [one.place for one in members] == list(range(len(members)))
        for one, model in self.models.items():
            assert self.group.cursor(one) == model.sent
            assert cast(Socket, one.session).given == model.given
        lowest = min((model.sent for model in self.models.values()), default=self.head)
        assert self.group.lowest(self.head) == lowest


TestInStep = InStepMachine.TestCase
TestInStep.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
