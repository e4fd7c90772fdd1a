"""The subscriptions of a session behave as a dict of them would."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from fanout.gateway.room import Subscription
from fanout.gateway.subscriptions import Subscriptions

ALL = [f"live:{number}" for number in range(7)]
NAMES = st.sampled_from(ALL)


def subscription(name: str) -> Subscription:
    return Subscription(cast(Any, None), cast(Any, SimpleNamespace(name=name)))


@given(st.lists(st.tuples(st.booleans(), NAMES), max_size=60))
def test_whatever_comes_and_goes_it_is_what_a_dict_holds(steps: list[tuple[bool, str]]) -> None:
    held, model = Subscriptions(), dict[str, Subscription]()
    for comes, name in steps:
        if comes and name not in model:
            model[name] = subscription(name)
            held.add(model[name])
        elif not comes:
            assert held.pop(name) is model.pop(name, None)
        assert len(held) == len(model)
        assert held.values() == list(model.values())
        assert all(held.get(each) is model.get(each) for each in ALL)
        assert all((each in held) == (each in model) for each in ALL)
