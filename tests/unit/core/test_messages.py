"""Classes, profiles, and names that cannot be confused."""

from __future__ import annotations

from itertools import combinations

import pytest

from fanout.core.errors import BAD_REQUEST, PERMISSION_DENIED, UNKNOWN_NAMESPACE, Refused
from fanout.core.messages import (
    PRIORITIES,
    PRIORITY_BY_WORD,
    Kind,
    Priority,
    check_app,
    check_room,
    check_user,
    room_key,
    split_key,
)
from fanout.core.profiles import GROUP, LIVE, OPEN, Profile, Profiles, namespace_of

LOOK_ALIKES = [
    "rоom",
    "ｒoom",
    "room\u200b",
    "room\n",
    "room\x00",
    " room",
    "room ",
    "röom",
    "../room",
    "a/b",
    "rooM\u0301",
]


def test_classes_outrank_one_another_in_their_order() -> None:
    for higher, lower in combinations(PRIORITIES, 2):
        assert higher.outranks(lower)
        assert not lower.outranks(higher)
    assert not any(priority.outranks(priority) for priority in PRIORITIES)


def test_header_bytes_and_words_of_classes_are_fixed() -> None:
    assert [(priority.value, priority.word) for priority in PRIORITIES] == [
        (0, "system"),
        (1, "high"),
        (2, "normal"),
        (3, "low"),
    ]
    assert PRIORITY_BY_WORD["normal"] is Priority.NORMAL
    assert len(PRIORITY_BY_WORD) == len(PRIORITIES)


def test_bytes_of_kinds_are_fixed() -> None:
    assert [kind.value for kind in (Kind.RELIABLE, Kind.RECENT, Kind.EPHEMERAL)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (GROUP, "RELIABLE RELIABLE RELIABLE EPHEMERAL"),
        (LIVE, "RELIABLE RELIABLE RECENT EPHEMERAL"),
        (OPEN, "RELIABLE " * 4),
    ],
    ids=lambda value: value.name if isinstance(value, Profile) else "",
)
def test_a_profile_says_what_becomes_of_each_class(profile: Profile, words: str) -> None:
    assert [kind.name for kind in profile.kinds] == words.split()
    assert (profile.recent_max > 0) is (Kind.RECENT in profile.kinds)


@pytest.mark.parametrize(
    ("room", "namespace"),
    [("live:1", "live"), ("live:1:2", "live"), ("room", "default"), (":x", ""), ("group:", "group")],
)
def test_the_namespace_is_the_part_before_the_first_colon(room: str, namespace: str) -> None:
    assert namespace_of(room) == namespace


def test_rooms_without_a_namespace_are_groups() -> None:
    profiles = Profiles()
    assert profiles.of("team") is GROUP
    assert profiles.of("group:team") is GROUP
    assert profiles.of("live:1") is LIVE


@pytest.mark.parametrize("room", ["nope:1", ":1", "LIVE:1", "open:1"])
def test_an_unknown_namespace_is_refused_and_the_known_ones_are_named(room: str) -> None:
    with pytest.raises(Refused, match="default, group, live") as refused:
        Profiles().of(room)
    assert refused.value.problem is UNKNOWN_NAMESPACE


def test_open_rooms_exist_on_an_insecure_engine_alone() -> None:
    assert Profiles(insecure=True).of("open:1") is OPEN


@pytest.mark.parametrize("room", ["a", "live:1", "A.b_c-d:E", "x" * 128])
def test_a_room_name_is_returned_as_it_is(room: str) -> None:
    assert check_room(room) == room


@pytest.mark.parametrize("room", ["", "x" * 129, *LOOK_ALIKES, 7, None, b"room", ["room"]])
def test_a_room_name_outside_of_the_grammar_is_refused(room: object) -> None:
    with pytest.raises(Refused) as refused:
        check_room(room)
    assert refused.value.problem is BAD_REQUEST


def test_names_of_personal_rooms_are_not_for_callers() -> None:
    with pytest.raises(Refused) as refused:
        check_room("#alice")
    assert refused.value.problem is PERMISSION_DENIED


@pytest.mark.parametrize("user", ["a", "alice@example.org", "x" * 64])
def test_a_user_id_is_returned_as_it_is(user: str) -> None:
    assert check_user(user) == user


@pytest.mark.parametrize("user", ["", "x" * 65, "a:b", "#a", *LOOK_ALIKES, 7, None])
def test_a_user_id_outside_of_the_grammar_is_refused_and_the_field_is_named(user: object) -> None:
    with pytest.raises(Refused, match="sender: 1 to 64") as refused:
        check_user(user, "sender")
    assert refused.value.problem is BAD_REQUEST


@pytest.mark.parametrize("app", ["dev", "my-app_2", "x" * 32])
def test_an_app_id_is_returned_as_it_is(app: str) -> None:
    assert check_app(app) == app


@pytest.mark.parametrize("app", ["", "x" * 33, "Dev", "a.b", "a:b", *LOOK_ALIKES, 7, None])
def test_an_app_id_outside_of_the_grammar_is_refused(app: object) -> None:
    with pytest.raises(Refused) as refused:
        check_app(app)
    assert refused.value.problem is BAD_REQUEST


@pytest.mark.parametrize(("app", "room"), [("dev", "live:1"), ("a-b", "#alice"), ("a", "b")])
def test_a_key_divides_into_app_and_room_again(app: str, room: str) -> None:
    assert split_key(room_key(app, room)) == (app, room)


def test_keys_of_two_apps_are_never_equal() -> None:
    assert len({room_key(app, room) for app in ("a", "a-b", "b") for room in ("b", "a-b", "b-b")}) == 9
