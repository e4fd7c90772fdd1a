"""The sessions of one process: who is connected, how many of each user, and which device of theirs. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from fanout.core.buckets import Buckets, Rate
from fanout.core.errors import CONNECTION_LIMIT, DRAINING, SUPERSEDED, TOO_MANY, CloseCode, Refused
from fanout.core.limits import (
    CONNECTIONS_PER_USER_MAX,
    USER_CONNECT_BURST,
    USER_CONNECTS_PER_S,
    USER_CONNECTS_REMEMBERED,
)

if TYPE_CHECKING:
    from fanout.gateway.session import Session
    from fanout.runtime.tokens import Claims

_FEW: Final[tuple[Session, ...]] = ()


class Sessions:
    """Connected sessions by number and by user; guests are of no user."""

    def __init__(self) -> None:
        self.by_number: dict[int, Session] = {}
        self.draining = False
        self._of_user: dict[tuple[str, str], Session | tuple[Session, ...]] = {}  # nearly all have one
        self._connects = Buckets(Rate(USER_CONNECTS_PER_S, USER_CONNECT_BURST), USER_CONNECTS_REMEMBERED)

    def refusal(self, claims: Claims, now_s: float) -> CloseCode | None:
        """Return why a connect of this user is closed, or None: it has cost a token of the user's bucket then.

        A client that flaps is told so before anything is done for it. A device that is here already is no further
        connection: the new one takes its place.
        """
        if not claims.user:
            return None
        name = f"{claims.app}/{claims.user}"
        if self._connects.wait_s(name, now_s):
            return TOO_MANY
        others = [one for one in self._sessions_of(claims) if not _is_of_device(one, claims.device)]
        if len(others) >= CONNECTIONS_PER_USER_MAX:
            return CONNECTION_LIMIT
        self._connects.take(name, now_s)
        return None

    def supersede(self, claims: Claims) -> None:
        """Close what the user's device left behind: its socket may look alive for minutes after a change of network."""
        for session in self._sessions_of(claims):
            if _is_of_device(session, claims.device):
                session.close(SUPERSEDED)

    def add(self, session: Session) -> None:
        """Note a session that has connected; raises Refused where this process goes away."""
        if self.draining:
            raise Refused(DRAINING)
        self.by_number[session.number] = session
        if session.user:
            self._hold(session, (*self._sessions_of(session.claims), session))

    def remove(self, session: Session) -> None:
        """Note that a session has ended."""
        if self.by_number.pop(session.number, None) is not None and session.user:
            self._hold(session, tuple(one for one in self._sessions_of(session.claims) if one is not session))

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self.by_number.values()))

    def __len__(self) -> int:
        return len(self.by_number)

    def _sessions_of(self, claims: Claims) -> tuple[Session, ...]:
        held = self._of_user.get((claims.app, claims.user), _FEW)
        return held if isinstance(held, tuple) else (held,)

    def _hold(self, session: Session, sessions: tuple[Session, ...]) -> None:
        place = (session.claims.app, session.user)
        if sessions:
            self._of_user[place] = sessions if len(sessions) > 1 else sessions[0]
        else:
            self._of_user.pop(place, None)


def _is_of_device(session: Session, device: str) -> bool:
    return bool(device) and session.claims.device == device
