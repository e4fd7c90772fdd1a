"""Policies of an app: read, refused with the field named, written down, in force from their place on."""

from __future__ import annotations

import msgspec
import pytest

from fanout.core.errors import RecordError, Refused
from fanout.core.limits import POLICIES_BYTES_MAX
from fanout.core.policies import (
    FIELDS,
    InForce,
    PolicyAt,
    as_fields,
    check_change,
    decode_policies,
    encode_policies,
    namespace_policy,
    next_version,
    parse_policy,
)
from fanout.core.profiles import Policy, Profiles
from fanout.core.records import PolicyChange

CALM = Policy(shared_slots_max=5, types={"gift": "high"}, raised_users=frozenset({"host", "ann"}))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "policy:"),
        (b"[]", "policy:"),
        (b"{", "policy:"),
        (b"\xff", "policy:"),
        (b'{"high_excess":"\xff"}', "policy:"),
        (b"[" * 100_000, "policy:"),
        (b'{"slots":3}', "slots: no policy has such a field"),
        (b'{"reserved_slots":"3"}', "reserved_slots:"),
        (b'{"reserved_slots":1.5}', "reserved_slots:"),
        (b'{"reserved_slots":null}', "reserved_slots:"),
        (b'{"reserved_slots":-1}', "reserved_slots:"),
        (b'{"shared_slots_min":9,"shared_slots_max":3}', "shared_slots_min:"),
        (b'{"types":{"gift":"urgent"}}', "types.gift:"),
        (b'{"types":["gift"]}', "types:"),
        (b'{"raised_users":[1]}', "raised_users"),
        (b'{"high_excess":"drop"}', "high_excess:"),
    ],
)
def test_a_bad_policy_is_refused_with_the_field_first(body: bytes, says: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_policy(body, Policy())
    assert refused.value.detail.startswith(says)
    assert refused.value.problem.http in (400, 413)


def test_what_a_body_leaves_out_is_as_in_the_default() -> None:
    policy = parse_policy(b'{"reserved_slots":0,"late_low_ms":2000}', CALM)
    assert policy == msgspec.structs.replace(CALM, reserved_slots=0)


def test_a_policy_is_bounded_in_bytes() -> None:
    with pytest.raises(Refused, match="too_large"):
        parse_policy(b" " * (POLICIES_BYTES_MAX + 1), Policy())
    names = frozenset(f"{number:064}" for number in range(1_000))
    with pytest.raises(Refused, match="too_large"):
        encode_policies({"live": Policy(raised_users=names)})


def test_all_fields_are_written_so_that_later_defaults_change_nothing_old() -> None:
    encoded = encode_policies({"live": CALM})
    assert set(msgspec.json.decode(encoded)["live"]) == set(FIELDS)
    assert decode_policies(encoded) == {"live": CALM}
    assert encoded == encode_policies(decode_policies(encoded))
    assert as_fields(CALM)["raised_users"] == ["ann", "host"]


@pytest.mark.parametrize(
    "change",
    [
        PolicyChange("Shop", 1, b"{}"),
        PolicyChange("shop", 0, b"{}"),
        PolicyChange("shop", 1 << 53, b"{}"),
        PolicyChange("shop", 1, b"[]"),
        PolicyChange("shop", 1, b'{"live":{"later":1}}'),
        PolicyChange("shop", 1, b'{"live":{"reserved_slots":-1}}'),
        PolicyChange("shop", 1, b" " * (POLICIES_BYTES_MAX + 1)),
    ],
)
def test_a_record_that_nobody_can_be_thinned_by_is_a_record_error(change: PolicyChange) -> None:
    with pytest.raises(RecordError) as error:
        check_change(change)
    assert error.value.reason == "bad_policy"


def test_a_change_concerns_the_rooms_of_its_app_and_namespace() -> None:
    in_force = InForce()
    assert in_force.take("shop", 7, {"live": CALM})
    assert in_force.version("shop") == 7 and in_force.version("news") == 0
    assert in_force.of("shop/live:stage", Policy()) is CALM
    other = Policy(reserved_slots=1)
    assert in_force.of("shop/group:stage", other) is other
    assert in_force.of("shop/stage", other) is other
    assert in_force.of("news/live:stage", other) is other


def test_a_version_that_is_not_above_the_one_in_force_changes_nothing() -> None:
    in_force = InForce()
    assert in_force.take("shop", 7, {"live": CALM})
    assert not in_force.take("shop", 7, {})
    assert not in_force.take("shop", 6, {})
    assert in_force.of("shop/live:stage", Policy()) is CALM
    assert in_force.take("shop", 8, {})
    assert in_force.of("shop/live:stage", Policy()) == Policy()


def test_a_new_owner_begins_with_the_newest_policies_below_its_first_record() -> None:
    encoded = [encode_policies({"live": Policy(reserved_slots=slots)}) for slots in (1, 2, 3)]
    stored = [PolicyAt("shop", offset, 100 + offset, encoded[number]) for number, offset in enumerate((-1, 9, 20))]
    for start, slots in ((0, 1), (9, 1), (10, 2), (20, 2), (21, 3)):
        assert InForce(reversed(stored), start).of("shop/live:stage", Policy()).reserved_slots == slots


def test_a_stored_policy_that_nobody_can_read_leaves_the_one_before() -> None:
    good = PolicyAt("shop", 3, 7, encode_policies({"live": CALM}))
    bad = PolicyAt("shop", 5, 8, b'{"live":{"later":1}}')
    in_force = InForce([good, bad], 9)
    assert in_force.unreadable == [bad]
    assert in_force.of("shop/live:stage", Policy()) == CALM


def test_versions_rise_whatever_the_clock_says() -> None:
    assert next_version(0, 1_790_000_000_000) == 1_790_000_000_000
    assert next_version(1_790_000_000_000, 5) == 1_790_000_000_001


def test_an_unknown_namespace_is_named() -> None:
    assert namespace_policy(Profiles(), "live") == Policy()
    with pytest.raises(Refused) as refused:
        namespace_policy(Profiles(), "open")
    assert refused.value.detail.startswith("namespace: 'open'")
    assert refused.value.problem.http == 400
