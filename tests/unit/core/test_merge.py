"""Folds of one room: what each operation keeps, what is free, what takes a slot, and where the bounds are."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.core.errors import Refused
from fanout.core.limits import FOLDS_BYTES_MAX, FOLDS_MAX
from fanout.core.merge import FOLD_BYTES, VALUE_MAX, Fold, Folds, Item, check_merge, check_merged, value_text
from fanout.core.policy import DropReason
from fanout.core.profiles import GROUP, LIVE, OPEN, Profile
from fanout.core.records import Merge, Message

LOW = 3


def item(value: float = 1.0, *, id_: int = 1, size: int = 100, key: str = "likes", op: str = "sum", n: int = 1) -> Item:
    value = float(value)  # as it is decoded
    return Item(size, id_, 0, value, Message(b"%d" % id_, merge=Merge(key, op, value, n)))


class Slots:
    """So many slots."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, _class: int, _message: Message) -> DropReason | None:
        if not self.left:
            return DropReason.WINDOW_FULL
        self.left -= 1
        return None


def put(folds: Folds, *items: Item, slots: Slots | None = None) -> list[DropReason | None]:
    """Fold messages in as the worker does; return why not, each."""
    take = (slots or Slots(1_000)).take
    reasons = []
    for one in items:
        merge = one.message.merge
        assert merge is not None
        place = (LOW, merge.key, merge.op, merge.n)
        fold = folds.get(place)
        reasons.append(folds.open(place, one, take) if fold is None else folds.add(fold, one, take))
    return reasons


def said(folds: Folds) -> list[tuple[int, dict[str, str]]]:
    """Return (id, tags) of what would be sent."""
    return [(one.id, tags) for _, one, tags in folds.publications()]


def tags(key: str, count: int, value: str) -> dict[str, str]:
    return {"merge_key": key, "merge_count": str(count), "merge_value": value}


def test_sum_adds_values_up_and_keeps_the_last_payload() -> None:
    folds = Folds()
    put(folds, item(1, id_=1), item(2.5, id_=2), item(-1, id_=3))
    assert said(folds) == [(3, tags("likes", 3, "2.5"))]


def test_latest_keeps_the_last_payload_and_its_value() -> None:
    folds = Folds()
    put(folds, *(item(value, id_=value, op="latest") for value in (7, 3, 5)))
    assert said(folds) == [(5, tags("likes", 3, "5"))]


def test_top_keeps_the_largest_the_largest_first_and_of_equals_the_earlier() -> None:
    folds = Folds()
    put(folds, *(item(value, id_=id_, op="top", n=3) for id_, value in enumerate([4, 9, 4, 1, 9, 5, 5], 1)))
    assert said(folds) == [(id_, tags("likes", 7, str(value))) for id_, value in ((2, 9), (5, 9), (6, 5))]


def test_what_differs_in_key_operation_or_n_is_another_fold() -> None:
    folds = Folds()
    put(folds, item(), item(key="hearts"), item(op="latest"), item(op="top", n=2), item(op="top", n=3), item())
    assert [one["merge_count"] for _, one in said(folds)] == ["2", "1", "1", "1", "1"]


def test_the_senders_own_tags_stay_and_cannot_pose_as_the_engines() -> None:
    folds = Folds()
    own = item()
    own.message.tags = {"team": "red", "merge_count": "999"}
    put(folds, own)
    assert said(folds) == [(1, {"team": "red"} | tags("likes", 1, "1"))]


def test_the_first_message_takes_the_slot_and_all_others_are_free() -> None:
    folds, slots = Folds(), Slots(1)
    assert put(folds, *[item()] * 50, slots=slots) == [None] * 50
    assert put(folds, item(key="hearts"), slots=slots) == [DropReason.WINDOW_FULL]
    assert len(said(folds)) == 1


def test_top_takes_a_slot_for_each_payload_and_without_one_the_smallest_gives_way() -> None:
    folds = Folds()
    ranked = [item(value, id_=value, op="top", n=5) for value in (3, 1, 2, 4)]
    assert put(folds, *ranked, slots=Slots(2)) == [None] * 4
    assert [id_ for id_, _ in said(folds)] == [4, 3]


def test_no_more_keys_are_folded_than_the_bound_allows() -> None:
    folds = Folds()
    many = [item(key=f"key-{number}") for number in range(FOLDS_MAX + 2)]
    assert put(folds, *many) == [None] * FOLDS_MAX + [DropReason.FOLDS_FULL] * 2
    assert put(folds, many[0]) == [None]


def test_a_payload_that_does_not_fit_is_not_folded_and_leaves_the_one_before() -> None:
    folds = Folds()
    room = FOLDS_BYTES_MAX - 2 * FOLD_BYTES
    assert put(folds, item(size=room - 100), item(key="b", size=100)) == [None, None]
    assert put(folds, item(key="b", id_=2, size=101)) == [DropReason.FOLDS_FULL]
    assert put(folds, item(key="c", size=0)) == [DropReason.FOLDS_FULL]
    assert said(folds)[1] == (1, tags("b", 1, "1"))
    assert put(folds, item(size=1), item(key="b", id_=2, size=101)) == [None, None]
    assert folds.bytes == 2 * FOLD_BYTES + 102


def test_a_top_payload_that_does_not_fit_is_refused_only_where_it_belongs_among_the_largest() -> None:
    folds = Folds()
    half = FOLDS_BYTES_MAX // 2
    first = [item(value, id_=value, op="top", n=3, size=half - 200) for value in (5, 6)]
    assert put(folds, *first) == [None, None]
    assert put(folds, item(4, op="top", n=3, size=half)) == [None]
    assert put(folds, item(7, op="top", n=3, size=2 * half)) == [DropReason.FOLDS_FULL]
    assert put(folds, item(7, id_=7, op="top", n=3, size=half)) == [None]
    assert [id_ for id_, _ in said(folds)] == [7, 6]


def test_a_message_is_free_only_where_it_opens_nothing_and_finds_room() -> None:
    folds = Folds()
    assert not folds.add_free(LOW, 1, 0, 100, item().message)
    put(folds, item(), item(5, op="top", n=2))
    assert folds.add_free(LOW, 2, 0, 90, item(4.0).message)
    assert not folds.add_free(LOW, 3, 0, FOLDS_BYTES_MAX, item().message)
    assert not folds.add_free(LOW, 3, 0, 100, item(VALUE_MAX * 2).message)
    assert not folds.add_free(LOW, 3, 0, 100, item(1, op="top", n=2).message), "its place may take a slot"
    put(folds, item(3, op="top", n=2))
    assert folds.add_free(LOW, 3, 0, 100, item(3, op="top", n=2).message)
    assert not folds.add_free(LOW, 3, 0, 100, item(4, op="top", n=2).message)
    assert not folds.add_free(LOW, 3, 0, 100, Message(b"1"))
    assert said(folds) == [(2, tags("likes", 2, "5")), (1, tags("likes", 3, "5")), (1, tags("likes", 3, "3"))]


@given(
    st.lists(
        st.tuples(st.floats(-VALUE_MAX, VALUE_MAX), st.sampled_from("abc"), st.sampled_from(["sum", "latest", "top"])),
        max_size=40,
    )
)
def test_the_stored_form_goes_there_and_back(messages: list[tuple[float, str, str]]) -> None:
    folds = Folds()
    put(folds, *(item(value, key=key, op=op, n=1 + (op == "top")) for value, key, op in messages))
    stored = msgspec.msgpack.encode(folds.stored())
    again = Folds(msgspec.msgpack.decode(stored, type=list[Fold]))
    assert again.stored() == folds.stored()
    assert again.bytes == folds.bytes
    assert said(again) == said(folds)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10_000.0, "10000"),
        (-0.0, "0"),
        (-3.0, "-3"),
        (0.1 + 0.2, "0.30000000000000004"),
        (2.0**53, "9007199254740992.0"),
        (2.0**53 - 1, "9007199254740991"),
    ],
)
def test_whole_values_are_told_without_a_point_and_others_with_all_their_digits(value: float, text: str) -> None:
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("profile", "class_"), [(LIVE, 0), (LIVE, 1), (GROUP, 0), (GROUP, 1), (GROUP, 2), (OPEN, 2), (OPEN, 3)]
)
def test_what_is_reliable_is_never_folded(profile: Profile, class_: int) -> None:
    with pytest.raises(Refused, match="merge"):
        check_merged(class_, profile.kinds[class_].value)


@pytest.mark.parametrize(("profile", "class_"), [(LIVE, 2), (LIVE, 3), (GROUP, 3)])
def test_what_is_not_reliable_may_be_folded(profile: Profile, class_: int) -> None:
    for merge in (Merge("k", "sum", VALUE_MAX), Merge("k", "latest", -VALUE_MAX), Merge("a/b:c@d.e-f_9", "top", 0, 10)):
        check_merge(merge)
    check_merged(class_, profile.kinds[class_].value)
