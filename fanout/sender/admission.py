"""Who may publish, and how often. Rates are of this process."""

from __future__ import annotations

from typing import Final, NamedTuple

from fanout.core.buckets import Buckets, Rate
from fanout.core.errors import HIGH_QUOTA, PERMISSION_DENIED, TOO_MANY_REQUESTS, Refused
from fanout.core.limits import (
    APP_PUBLISH_BURST,
    APP_PUBLISHES_PER_S,
    ROOM_PUBLISH_BURST,
    ROOM_PUBLISHES_PER_S,
    USER_PUBLISH_BURST,
    USER_PUBLISHES_PER_S,
)
from fanout.core.messages import Priority
from fanout.core.profiles import Policy, Profile
from fanout.core.quota import HighQuota
from fanout.runtime.metrics import MESSAGES_DEGRADED

_CLIENT_CLASSES: Final = (Priority.NORMAL, Priority.LOW)  # HIGH and SYSTEM are the application's to give


class Rates(NamedTuple):
    """Rates per user, room and app of one process."""

    user: Rate = Rate(USER_PUBLISHES_PER_S, USER_PUBLISH_BURST)
    room: Rate = Rate(ROOM_PUBLISHES_PER_S, ROOM_PUBLISH_BURST)
    app: Rate = Rate(APP_PUBLISHES_PER_S, APP_PUBLISH_BURST)


class Admission:
    """Decides about one message; raises Refused, or takes the tokens and returns."""

    def __init__(self, rates: Rates | None = None) -> None:
        rates = rates or Rates()
        self._rates = rates
        self._users, self._rooms, self._apps = Buckets(rates.user), Buckets(rates.room), Buckets(rates.app)
        self._high = HighQuota()

    def check_client(self, profile: Profile, priority: Priority, *, subscribed: bool) -> None:
        """Raise Refused ``permission_denied`` where a client may not publish that into a room of this profile."""
        allowed = profile.publish == "all" or (profile.publish == "members" and subscribed)
        if not allowed:
            who = "subscribed sessions" if profile.publish == "members" else "nobody but the application"
            raise Refused(PERMISSION_DENIED, f"{who} may publish here (namespace profile {profile.name})")
        if priority not in _CLIENT_CLASSES:
            raise Refused(PERMISSION_DENIED, f"priority: a client cannot publish {priority.word}")

    def take(
        self, app: str, room: str, user: str, profile: Profile, policy: Policy, priority: Priority, now_s: float
    ) -> Priority:
        """Take a token of app, room and (for a client's message) user, for HIGH one of the room's quota, too.

        ``room`` and ``user`` come with their app in front. Returns the class that is admitted: HIGH beyond the quota
        is NORMAL where the policy says ``degrade``. Raises Refused ``too_many_requests`` or ``high_quota``; where one
        bucket is empty no other is touched.
        """
        has_quota = profile.thinned and priority is Priority.HIGH
        is_beyond = has_quota and self._is_beyond_quota(room, policy, now_s)
        if profile.rate_limited:
            self._take_rates(app, room, user, now_s)
        if is_beyond:
            MESSAGES_DEGRADED.labels("admission").inc()
            return Priority.NORMAL
        if has_quota:
            self._high.take(room, policy, now_s)
        return priority

    def _is_beyond_quota(self, room: str, policy: Policy, now_s: float) -> bool:
        wait_s = self._high.wait_s(room, policy, now_s)
        if wait_s and policy.high_excess != "degrade":
            detail = f"quota of the room: {policy.high_per_s:g} HIGH messages/s, {policy.high_burst} at once"
            raise Refused(HIGH_QUOTA, detail, retry_after_s=wait_s)
        return wait_s > 0

    def _take_rates(self, app: str, room: str, user: str, now_s: float) -> None:
        buckets = [("app", self._apps, app, self._rates.app), ("room", self._rooms, room, self._rates.room)]
        if user:
            buckets.append(("user", self._users, user, self._rates.user))
        for what, bucket, name, rate in buckets:
            wait_s = bucket.wait_s(name, now_s)
            if wait_s > 0:
                detail = f"rate of the {what}: {rate.per_s:g} messages/s, {rate.burst} at once"
                raise Refused(TOO_MANY_REQUESTS, detail, retry_after_s=wait_s)
        for _, bucket, name, _ in buckets:
            bucket.take(name, now_s)
