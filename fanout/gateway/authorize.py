"""Who may subscribe to what: token patterns, namespaces, subscription tokens, the durable member list."""

from __future__ import annotations

from fanout.core.errors import NOT_A_MEMBER, PERMISSION_DENIED, UNAVAILABLE, Refused, Unavailable
from fanout.core.messages import check_room, room_key
from fanout.core.profiles import Profile, Profiles
from fanout.core.records import MEMBERS
from fanout.ports import Log, Store
from fanout.runtime.tokens import Claims, Tokens
from sharding.placement import partition_of, shard_key, shard_of


class Authorizer:
    """Answers for one process. Nothing is remembered: who has left a room must not come back in."""

    def __init__(self, *, log: Log, store: Store, profiles: Profiles, tokens: Tokens) -> None:
        self._log, self._members = log, store.members
        self._profiles, self._tokens = profiles, tokens

    def check_name(self, room: str) -> Profile:
        """Return the profile of a room; raises Refused for names that are none and namespaces that do not exist."""
        return self._profiles.of(check_room(room))

    def check_room(self, claims: Claims, room: str) -> None:
        """Return where the patterns of the connection token let its user into a room; raises Refused."""
        self.check_name(room)
        if not claims.allows(room):
            raise Refused(PERMISSION_DENIED, "the token's rooms do not contain this one")

    def grant(self, claims: Claims, room: str, token: str) -> int | None:
        """Return until when (Unix seconds, 0 = for good) the session may listen; None where its membership decides.

        A subscription token is the application's explicit word and counts more than the patterns of the connection
        token. Raises Refused.
        """
        if token:
            return self._tokens.subscription(token, claims, room)
        self.check_room(claims, room)
        if self._profiles.of(room).subscribe != "members":
            return 0
        if not claims.user:
            raise Refused(NOT_A_MEMBER, "a guest is nobody's member")
        return None

    async def check_member(self, claims: Claims, room: str) -> None:
        """Return where the user is in the room's durable list.

        Raises Refused ``not_a_member``, or ``unavailable`` where nobody can say: no store, or a member list that has
        not been written through yet.
        """
        key = room_key(claims.app, room)
        try:
            shards = await self._members.shards(key, 0)
            if shards:
                shard = shard_of(claims.user, shards)
                if await self._members.contains(key, shard, claims.user):
                    return
                partition = partition_of(shard_key(key, shard), self._log.partitions(MEMBERS))
                if await self._members.marked(partition) is None:
                    raise Refused(UNAVAILABLE, "the member list of this room is being loaded; try again")
        except Unavailable as error:
            raise Refused(UNAVAILABLE, "the member list does not answer; try again") from error
        raise Refused(NOT_A_MEMBER)
