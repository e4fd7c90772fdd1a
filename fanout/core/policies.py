"""Policies of an app: read, checked, written down; and which of them are in force at a place of the log.

An app has one policy per namespace; where it has set none the profile's holds. A change is a record in every partition
of the log and acts there from its place on, so that a replay decides the same. Pure.

Lives elsewhere: what a policy says (``profiles``), who stores and appends it (``sender.config``), who applies it
(``workers.partition``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from fanout.core.errors import BAD_REQUEST, TOO_LARGE, RecordError, Refused
from fanout.core.limits import POLICIES_BYTES_MAX
from fanout.core.messages import check_app
from fanout.core.profiles import Policy, Profiles, check_policy, namespace_of
from fanout.core.records import PolicyChange

VERSION_MAX: Final = 1 << 53  # the store counts in doubles
FIELDS: Final = Policy.__struct_fields__

_encode: Final = msgspec.json.Encoder(order="sorted").encode
_decode_policy: Final = msgspec.json.Decoder(Policy).decode
_decode_policies: Final = msgspec.json.Decoder(dict[str, Policy]).decode
_AT: Final = " - at `$."
_MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class PolicyAt(NamedTuple):
    """An app's policies (JSON, as on the log) in one partition, in force from log offset ``offset`` on."""

    app: str
    offset: int
    version: int
    policies: bytes


def parse_policy(body: bytes, default: Policy) -> Policy:
    """Return the policy that a JSON object describes: what it leaves out is as in ``default``.

    Raises Refused ``bad_request`` naming the field, or ``too_large``.
    """
    if len(body) > POLICIES_BYTES_MAX:
        raise Refused(TOO_LARGE, f"policy: {len(body)} bytes, at most {POLICIES_BYTES_MAX}")
    try:
        said = _decode_policy(body)
        given = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except _MALFORMED as error:
        raise Refused(BAD_REQUEST, _named(error)) from error
    policy: Policy = msgspec.structs.replace(default, **{name: getattr(said, name) for name in given})
    check_policy(policy)
    return policy


def _named(error: Exception) -> str:
    """Return what a decoder did not take, the field first."""
    if not isinstance(error, msgspec.ValidationError):
        return f"policy: {error}"
    what, at, path = str(error).partition(_AT)
    if at:
        return f"{path.rstrip('`')}: {what}"
    if "`" in what and "unknown field" in what:
        return f"{what.split('`')[1]}: no policy has such a field; there are {', '.join(FIELDS)}"
    return f"policy: {what}"


def as_fields(policy: Policy) -> dict[str, Any]:
    """Return all fields of a policy, defaults too, JSON-able; names in order."""
    fields: dict[str, Any] = {}
    for name in FIELDS:
        value = getattr(policy, name)
        fields[name] = sorted(value) if isinstance(value, frozenset) else value
    return fields


def encode_policies(policies: Mapping[str, Policy]) -> bytes:
    """Return an app's policies as they stand on the log and in the store; raises Refused ``too_large``.

    Every field is written, so that a version with other defaults decides about an old record as before.
    """
    encoded = _encode({namespace: as_fields(policy) for namespace, policy in policies.items()})
    if len(encoded) > POLICIES_BYTES_MAX:
        raise Refused(TOO_LARGE, f"policies: {len(encoded)} bytes for all namespaces, at most {POLICIES_BYTES_MAX}")
    return encoded


def decode_policies(encoded: bytes) -> dict[str, Policy]:
    """Return an app's policies by namespace; raises RecordError ``bad_policy`` naming what nobody can be thinned by."""
    try:
        policies = _decode_policies(encoded)
        for policy in policies.values():
            check_policy(policy)
    except Refused as refused:
        raise RecordError("bad_policy", refused.detail) from refused
    except _MALFORMED as error:
        raise RecordError("bad_policy", _named(error)) from error
    return policies


def check_change(change: PolicyChange) -> dict[str, Policy]:
    """Return the policies that a record brings; raises RecordError ``bad_policy``."""
    try:
        check_app(change.app)
    except Refused as refused:
        raise RecordError("bad_policy", refused.detail) from refused
    if not 0 < change.version < VERSION_MAX:
        raise RecordError("bad_policy", f"version: 1 to {VERSION_MAX - 1}, not {change.version}")
    if len(change.policies) > POLICIES_BYTES_MAX:
        raise RecordError("bad_policy", f"policies: {len(change.policies)} bytes, at most {POLICIES_BYTES_MAX}")
    return decode_policies(change.policies)


def next_version(previous: int, wall_ms: int) -> int:
    """Return the version of a change: it rises whatever the clock says, also above one that a lost store had given."""
    return max(previous + 1, wall_ms)


class InForce:
    """The policies in force at one place of a partition's log, by app.

    ``stored`` are those that the store keeps for the partition, ``start`` the log offset that is read next: of each
    app the newest below it holds, later ones come by their records again. ``unreadable`` are those of them that a
    newer engine has written; the rooms have what was in force before.
    """

    def __init__(self, stored: Iterable[PolicyAt] = (), start: int = 0) -> None:
        self._versions: dict[str, int] = {}
        self._policies: dict[str, dict[str, Policy]] = {}
        self.unreadable: list[PolicyAt] = []
        for at in sorted(stored, key=lambda at: at.offset):
            if at.offset < start:
                self._restore(at)

    def _restore(self, at: PolicyAt) -> None:
        try:
            self.take(at.app, at.version, decode_policies(at.policies))
        except RecordError:
            self.unreadable.append(at)

    def take(self, app: str, version: int, policies: dict[str, Policy]) -> bool:
        """Put policies in force; False where the version is not above the one in force."""
        if version <= self._versions.get(app, 0):
            return False
        self._versions[app] = version
        self._policies[app] = policies
        return True

    def version(self, app: str) -> int:
        """Return the version in force, 0 where the app has never changed anything."""
        return self._versions.get(app, 0)

    def of(self, key: str, default: Policy) -> Policy:
        """Return the policy of a room (``app/room``); ``default`` is its profile's."""
        app, _, room = key.partition("/")
        policies = self._policies.get(app)
        return default if policies is None else policies.get(namespace_of(room), default)


def namespace_policy(profiles: Profiles, namespace: str) -> Policy:
    """Return the policy that a namespace's profile brings; raises Refused ``bad_request`` naming the namespace."""
    known = profiles.namespaces
    if namespace not in known:
        raise Refused(BAD_REQUEST, f"namespace: {namespace[:64]!r} is unknown; known are {', '.join(known)}")
    return known[namespace].policy
