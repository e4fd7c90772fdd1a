"""Tokens of clients: JWTs that an app's backend signs and this engine only verifies.

A connection token has ``sub`` (user), ``exp``, ``app`` or a ``kid`` header (both: they must agree), and may have
``device``, ``info`` (any JSON, shown to others), ``rooms`` (patterns that limit the token) and ``subs`` (rooms that the
server subscribes the session to). A subscription token has ``sub``, ``room`` (or Centrifugo's word ``channel``),
``exp``. The algorithm is the configured key's; a token that brings or points to a key of its own is refused.
Source: RFC 7519, RFC 8725 (best practices).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import jwt
import msgspec

from fanout.core.errors import TOKEN_EXPIRED, UNAUTHORIZED, ConfigError, Refused
from fanout.core.messages import check_room, check_user
from fanout.ports import Clock
from fanout.runtime.apps import HS256, SECRET_BYTES_MIN, App, Apps, TokenKey
from fanout.runtime.jws import Signed, UnreadableError, Verifier, is_for, read

TOKEN_BYTES_MAX: Final = 4_096
LEEWAY_S: Final = 5  # clocks of an app's backend and of ours
PATTERNS_MAX: Final = 64
SUBS_MAX: Final = 32
INFO_BYTES_MAX: Final = 1_024  # it travels with every publication of its user
_KEY_HEADERS: Final = frozenset(("jku", "jwk", "x5u", "x5c", "crit", "b64"))


class Claims(msgspec.Struct, frozen=True, gc=False):
    """Who a connection is. ``user`` is empty for a guest; ``rooms`` are patterns (empty: all rooms of the app).

    A pattern is a room name, or a beginning of names followed by ``*``. ``expires_s`` is Unix seconds, None for guests.
    ``info`` is one line of JSON. ``subs`` are the rooms that the server subscribes every session of this token to.
    """

    user: str
    app: str
    expires_s: int | None = None
    device: str = ""
    info: bytes | None = None
    rooms: tuple[str, ...] = ()
    subs: tuple[str, ...] = ()

    def allows(self, room: str) -> bool:
        """True where the token's patterns let its user into the room; membership is judged elsewhere."""
        return not self.rooms or any(
            room.startswith(pattern[:-1]) if pattern.endswith("*") else room == pattern for pattern in self.rooms
        )


class Tokens:
    """Verifies tokens against the apps of this process."""

    def __init__(self, apps: Apps, clock: Clock) -> None:
        self.apps = apps
        self._clock = clock
        self._verifiers: dict[TokenKey, Verifier] = {}  # one per configured key
        app = apps.guest_app
        self._guest = None if app is None else Claims(user="", app=app.id)  # one for all: there may be a million

    def connect(self, token: str) -> Claims:
        """Return who the token says its bearer is; raises Refused ``unauthorized`` or ``token_expired``.

        An empty token is a guest's where the app admits guests.
        """
        if not token:
            if self._guest is None:
                raise Refused(UNAUTHORIZED, "a token is needed to connect")
            return self._guest
        app, claims = self._verify(token)
        user = _user(claims)
        info = claims.get("info")
        return Claims(
            user=user,
            app=app.id,
            expires_s=int(claims["exp"]),
            device=_device(claims),
            info=None if info is None else _info(info),
            rooms=_rooms(claims, "rooms", PATTERNS_MAX, patterns=True),
            subs=_rooms(claims, "subs", SUBS_MAX, patterns=False),
        )

    def subscription(self, token: str, claims: Claims, room: str) -> int:
        """Return when a subscription token for exactly this user and room ends (Unix seconds).

        Raises Refused ``unauthorized`` or ``token_expired``.
        """
        app, found = self._verify(token)
        if app.id != claims.app or found.get("sub", "") != claims.user:
            raise Refused(UNAUTHORIZED, "the subscription token is another user's or app's")
        named = found.get("room", found.get("channel"))
        if named != room:
            raise Refused(UNAUTHORIZED, "the subscription token is for another room")
        return int(found["exp"])

    def _verify(self, token: str) -> tuple[App, Mapping[str, Any]]:
        """Return the app and the claims of a token whose signature and times hold."""
        if len(token) > TOKEN_BYTES_MAX or not token.isascii():
            raise Refused(UNAUTHORIZED, f"the token is longer than {TOKEN_BYTES_MAX} bytes or not ASCII")
        try:
            signed = read(token)
            app, key = self._key_of(signed)
            self._verifier(key).check(signed)
        except UnreadableError as error:
            raise Refused(UNAUTHORIZED, f"the token is not valid: {error}") from error
        claims = signed.claims
        if claims.get("app", app.id) != app.id:
            raise Refused(UNAUTHORIZED, "the token's app and its key are not of one app")
        if not is_for(claims, key.audience) or (key.issuer and claims.get("iss") != key.issuer):
            raise Refused(UNAUTHORIZED, "the token is of another issuer (iss) or for another audience (aud)")
        self._check_times(claims)
        return app, claims

    def _key_of(self, signed: Signed) -> tuple[App, TokenKey]:
        """Return the configured key that must have signed a token; its claims are believed only to choose that."""
        if not _KEY_HEADERS.isdisjoint(signed.header):
            raise Refused(UNAUTHORIZED, "the token brings its own key or extensions; keys are configured here")
        kid, app_id = signed.header.get("kid", ""), signed.claims.get("app", "")
        if not isinstance(kid, str) or not isinstance(app_id, str) or not (kid or app_id):
            raise Refused(UNAUTHORIZED, "the token names neither its app (claim 'app') nor its key (header 'kid')")
        found = self.apps.token_key(kid, app_id)
        if found is None:
            raise Refused(UNAUTHORIZED, "no key is configured for the token's 'kid' and 'app'")
        return found

    def _verifier(self, key: TokenKey) -> Verifier:
        verifier = self._verifiers.get(key)
        if verifier is None:
            verifier = self._verifiers[key] = Verifier(key.algorithm, key.verifier)
        return verifier

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now_s = self._clock.wall_ms() / 1_000
        if claims.get("exp") is None:
            raise Refused(UNAUTHORIZED, "the token has no end (exp)")
        expires_s = _seconds(claims, "exp")
        if _seconds(claims, "nbf") > now_s + LEEWAY_S:
            raise Refused(UNAUTHORIZED, "the token is not valid yet (nbf)")
        if expires_s <= now_s - LEEWAY_S:
            raise Refused(TOKEN_EXPIRED)


def mint(
    secret: str,
    *,
    app: str,
    user: str,
    expires_s: int,
    device: str = "",
    info: object = None,
    rooms: Sequence[str] = (),
    subs: Sequence[str] = (),
    room: str = "",
    kid: str = "",
    algorithm: Literal["HS256", "RS256", "ES256"] = HS256,
) -> str:
    """Return a signed token; with ``room`` a subscription token. For ``fanout token``, tests and examples.

    ``secret`` is the app's token secret (a PEM private key for RS256, ES256), ``expires_s`` Unix seconds.
    Raises ConfigError for a secret that is too short.
    """
    if algorithm == HS256 and len(secret.encode()) < SECRET_BYTES_MIN:
        raise ConfigError(f"a token secret has at least {SECRET_BYTES_MIN} bytes: openssl rand -hex 32")
    claims: dict[str, object] = {"sub": user, "app": app, "exp": expires_s}
    optional = {"device": device, "info": info, "rooms": list(rooms), "subs": list(subs), "room": room}
    claims.update({name: value for name, value in optional.items() if value})
    return jwt.encode(claims, secret, algorithm=algorithm, headers={"kid": kid} if kid else None)


def _user(claims: Mapping[str, Any]) -> str:
    try:
        return check_user(claims.get("sub"), "sub")
    except Refused as refused:
        raise Refused(UNAUTHORIZED, refused.detail) from refused


def _device(claims: Mapping[str, Any]) -> str:
    device = claims.get("device", "")
    if not device:
        return ""
    try:
        return check_user(device, "device")
    except Refused as refused:
        raise Refused(UNAUTHORIZED, refused.detail) from refused


def _info(info: object) -> bytes:
    encoded = msgspec.json.encode(info)
    if len(encoded) > INFO_BYTES_MAX:
        raise Refused(UNAUTHORIZED, f"info: {len(encoded)} bytes, at most {INFO_BYTES_MAX}")
    return encoded


def _rooms(claims: Mapping[str, Any], name: str, entries_max: int, *, patterns: bool) -> tuple[str, ...]:
    """Return a list of rooms (or patterns) of a claim; anything else in its place refuses the token."""
    rooms = claims.get(name, [])
    if not isinstance(rooms, list) or len(rooms) > entries_max:
        raise Refused(UNAUTHORIZED, f"{name}: a list of at most {entries_max} rooms")
    for room in rooms:
        try:
            if room != "*" or not patterns:
                check_room(room[:-1] if patterns and isinstance(room, str) and room.endswith("*") else room)
        except Refused as refused:
            raise Refused(UNAUTHORIZED, f"{name}: {refused.detail}") from refused
    return tuple(rooms)


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 53:
        raise Refused(UNAUTHORIZED, f"the token's {name} is no time")
    return value
