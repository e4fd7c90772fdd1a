"""Profiles: what a room's namespace decides, from who may listen to what is thinned. Data, the same in every process.

The ``policy`` of a profile is the part that an app may change while the engine runs; it acts in a room from the record
on that brings it. Lives elsewhere: what follows from it (``policy``, ``merge``, ``late``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from fanout.core.errors import BAD_REQUEST, UNKNOWN_NAMESPACE, Refused
from fanout.core.messages import PRIORITY_BY_WORD, TYPE, Kind


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the rooms of a namespace are thinned. Counts per window are of 200 ms of record time.

    Classes: ``types`` gives message types their class (word), whatever the publisher asked for less; the users in
    ``raised_users`` and the types in ``raised_types`` speak as ``high`` where they would have been less. What the
    users in ``allowlist_users`` and the types in ``allowlist_types`` say takes ``allowlist_slots`` before it takes
    shared ones.

    Shared slots in force = clamp(``room_deliveries_per_s`` x window / members, ``shared_slots_min``,
    ``shared_slots_max``). ``sender_slots_max`` is a sender's share of them.

    ``high_per_s`` and ``high_burst`` bound HIGH of one room at admission; beyond, ``high_excess`` says ``reject`` or
    ``degrade`` (to normal). Older than ``late_low_ms`` and ``late_normal_ms`` a message of that class is not
    delivered any more; 0 = never too late.

    With ``degrade_members`` members (0 = never) a room is *degraded*: of its NORMAL and LOW messages those of
    ``degrade_off_types`` are dropped, those of ``degrade_merged_types`` are folded by type, and a client's history call
    hands out ``degrade_history`` publications at most (0 = as many as ever).
    """

    types: dict[str, str] = {}
    raised_users: frozenset[str] = frozenset()
    raised_types: frozenset[str] = frozenset()
    allowlist_users: frozenset[str] = frozenset()
    allowlist_types: frozenset[str] = frozenset()
    reserved_slots: int = 20  # RongCloud's documented quota: 20 high + 20 shared + 20 allowlisted per 200 ms
    shared_slots_min: int = 2
    shared_slots_max: int = 20
    allowlist_slots: int = 20
    sender_slots_max: int = 2
    room_deliveries_per_s: int = 5_000_000
    high_per_s: float = 100.0
    high_burst: int = 200
    high_excess: str = "reject"
    late_low_ms: int = 2_000
    late_normal_ms: int = 10_000
    degrade_members: int = 50_000  # where a room's joins alone, a few a second for each thousand members, fill windows
    degrade_off_types: frozenset[str] = frozenset({"typing"})
    degrade_merged_types: frozenset[str] = frozenset({"join", "leave"})
    degrade_history: int = 20  # a screenful: half a million phones that join ask for this much, and no more


class Profile(msgspec.Struct, frozen=True):
    """The settings that a namespace selects.

    ``kinds`` maps the class (index = header byte) to the kind of its publications. ``publish`` says who among the
    clients may publish: ``nobody``, ``members`` (subscribed sessions) or ``all``. ``subscribe`` says who may listen:
    ``token`` (any valid token of the app), ``members`` (the durable list) or ``all``.
    """

    name: str
    kinds: tuple[Kind, Kind, Kind, Kind]
    reliable_max: int
    reliable_ttl_s: int
    recent_max: int
    recent_ttl_s: int
    thinned: bool
    rate_limited: bool
    publish: str
    subscribe: str
    id_tag: bool
    policy: Policy = Policy()


_R, _T, _E = Kind.RELIABLE, Kind.RECENT, Kind.EPHEMERAL

GROUP: Final = Profile("group", (_R, _R, _R, _E), 1_000, 7 * 86_400, 0, 0, False, True, "members", "members", True)
LIVE: Final = Profile("live", (_R, _R, _T, _E), 1_000, 600, 100, 600, True, True, "members", "token", False)
OPEN: Final = Profile("open", (_R, _R, _R, _R), 1_000, 600, 0, 0, False, False, "all", "all", False)


_COUNTS_MAX: Final = {
    "reserved_slots": 10_000,
    "shared_slots_min": 10_000,
    "shared_slots_max": 10_000,
    "allowlist_slots": 10_000,
    "sender_slots_max": 10_000,
    "room_deliveries_per_s": 1_000_000_000,
    "high_burst": 1_000_000,
    "late_low_ms": 3_600_000,
    "late_normal_ms": 3_600_000,
    "degrade_members": 1_000_000_000,
    "degrade_history": 1_000,
}
_NAMES_MAX: Final = 1_000  # in one list: a policy is a record, and every worker holds it
_NAMES: Final = (
    "types",
    "raised_users",
    "raised_types",
    "allowlist_users",
    "allowlist_types",
    "degrade_off_types",
    "degrade_merged_types",
)
_EXCESSES: Final = ("reject", "degrade")


def check_policy(policy: Policy) -> None:
    """Raise Refused ``bad_request`` naming the first field that no room can be thinned by."""
    for field, most in _COUNTS_MAX.items():
        if not 0 <= getattr(policy, field) <= most:
            raise Refused(BAD_REQUEST, f"{field}: 0 to {most}, not {getattr(policy, field)}")
    if policy.shared_slots_min > policy.shared_slots_max:
        raise Refused(
            BAD_REQUEST,
            f"shared_slots_min: {policy.shared_slots_min}, above shared_slots_max {policy.shared_slots_max}",
        )
    if not 0.001 <= policy.high_per_s <= 1_000_000:
        raise Refused(BAD_REQUEST, f"high_per_s: 0.001 to 1000000, not {policy.high_per_s:g}")
    if policy.high_excess not in _EXCESSES:
        raise Refused(BAD_REQUEST, f"high_excess: {policy.high_excess[:32]!r} is none of {', '.join(_EXCESSES)}")
    for type_, word in policy.types.items():
        if word not in PRIORITY_BY_WORD:
            raise Refused(BAD_REQUEST, f"types.{type_[:64]}: {word[:32]!r} is none of {', '.join(PRIORITY_BY_WORD)}")
    for field in _NAMES:
        if len(getattr(policy, field)) > _NAMES_MAX:
            raise Refused(BAD_REQUEST, f"{field}: {len(getattr(policy, field))} names, at most {_NAMES_MAX}")
    for type_ in sorted(policy.degrade_merged_types):
        if not TYPE.fullmatch(type_):
            raise Refused(BAD_REQUEST, f"degrade_merged_types: {type_[:64]!r} is no message type")


def namespace_of(room: str) -> str:
    """Return the part before the first colon, or ``default``."""
    head, colon, _ = room.partition(":")
    return head if colon else "default"


class Profiles:
    """Namespace → profile. ``open`` exists only where the engine runs insecurely, on loopback.

    ``namespaces`` adds some, or takes the place of those that are built in.
    """

    def __init__(self, *, insecure: bool = False, namespaces: Mapping[str, Profile] | None = None) -> None:
        self._by_namespace: dict[str, Profile] = {"default": GROUP, "group": GROUP, "live": LIVE}
        if insecure:
            self._by_namespace["open"] = OPEN
        self._by_namespace.update(namespaces or {})

    @property
    def namespaces(self) -> dict[str, Profile]:
        """Profiles by namespace, in the order of the namespaces."""
        return dict(sorted(self._by_namespace.items()))

    def of(self, room: str) -> Profile:
        """Return the profile of a room; raises Refused ``unknown_namespace``."""
        namespace = namespace_of(room)
        profile = self._by_namespace.get(namespace)
        if profile is None:
            known = ", ".join(sorted(self._by_namespace))
            raise Refused(UNKNOWN_NAMESPACE, f"namespace {namespace!r} is unknown; known are {known}")
        return profile

    def policy_of(self, app: str, room: str) -> Policy:
        """Return the policy that an app's room has where nobody configured another; raises as ``of``."""
        return self.of(room).policy
