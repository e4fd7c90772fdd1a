"""What an app may change of its thinning, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fanout.core.errors import Refused
from fanout.core.profiles import LIVE, Policy, Profiles, check_policy


def test_the_policy_of_the_start_is_a_good_one() -> None:
    check_policy(Policy())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reserved_slots", -1),
        ("shared_slots_min", -1),
        ("shared_slots_max", 1),  # below the least
        ("shared_slots_max", 10_001),
        ("allowlist_slots", -5),
        ("sender_slots_max", -1),
        ("room_deliveries_per_s", -1),
        ("high_per_s", 0.0),
        ("high_per_s", float("nan")),
        ("high_burst", -1),
        ("high_excess", "drop"),
        ("late_low_ms", -1),
        ("late_normal_ms", 3_600_001),
        ("types", {"gift": "urgent"}),
        ("raised_users", frozenset(map(str, range(1_001)))),
        ("degrade_members", -1),
        ("degrade_history", 1_001),
        ("degrade_off_types", frozenset(map(str, range(1_001)))),
        ("degrade_merged_types", frozenset({"two words"})),
    ],
)
def test_a_bad_policy_is_refused_with_the_field_named(field: str, value: Any) -> None:
    with pytest.raises(Refused) as refused:
        check_policy(Policy(**{field: value}))
    assert field[:10] in refused.value.detail
    assert refused.value.problem.reason == "bad_request"


def test_namespaces_may_be_added_and_replaced() -> None:
    patient = msgspec.structs.replace(LIVE, policy=Policy(late_low_ms=0))
    profiles = Profiles(namespaces={"live": patient, "stage": LIVE})
    assert profiles.of("live:a") is patient
    assert profiles.of("stage:a") is LIVE
    assert profiles.policy_of("app", "live:a") is patient.policy
    assert Profiles().of("live:a") is LIVE
