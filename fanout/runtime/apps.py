"""Who may use the engine: apps, their API keys and the keys that sign their tokens. Fixed at the start.

Three sources: ``Apps.insecure()`` (loopback trials), ``FANOUT_API_KEY`` with ``FANOUT_TOKEN_SECRET`` (one app,
``default``), or a JSON or TOML file named by ``FANOUT_APPS`` (several apps); ``docs/topics/apps.md`` shows one.
A token key has one algorithm for good: what the token itself says about algorithms is compared, never obeyed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fanout.core.errors import ConfigError, Refused
from fanout.core.messages import check_app

API_KEY_ENV: Final = "FANOUT_API_KEY"
TOKEN_SECRET_ENV: Final = "FANOUT_TOKEN_SECRET"
APPS_ENV: Final = "FANOUT_APPS"
DEFAULT_APP: Final = "default"
DEV_APP: Final = "dev"
# With --insecure everybody on this host may say who they are, so a secret that everybody knows gives nothing away.
DEV_SECRET: Final = "insecure-secret-of-the-app-dev-on-loopback"

HS256: Final = "HS256"
PUBLIC_KEY_ALGORITHMS: Final = ("RS256", "ES256")
SECRET_BYTES_MIN: Final = 32  # RFC 7518 section 3.2: a key of the size of the hash or larger
API_KEY_BYTES_MIN: Final = 16
RSA_BITS_MIN: Final = 2_048  # RFC 7518 section 3.3
APPS_FILE_BYTES_MAX: Final = 1 << 20


class TokenKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key that tokens of one app are verified with: a shared ``secret`` (HS256) or a PEM ``public_key``.

    ``kid`` names it in a token's header; it is unique among all apps, and may be empty for one key of an app.
    With ``audience`` or ``issuer`` a token must carry exactly these.
    """

    algorithm: str = HS256
    kid: str = ""
    secret: str = ""
    public_key: str = ""
    audience: str = ""
    issuer: str = ""

    @property
    def verifier(self) -> str:
        """What the signature is checked with."""
        return self.secret if self.algorithm == HS256 else self.public_key

    def check(self, app: str) -> None:
        """Raise ConfigError where the key cannot be what its algorithm needs."""
        where = f"app {app}, token key {self.kid or '(without kid)'}"
        if self.algorithm == HS256:
            if self.public_key or len(self.secret.encode()) < SECRET_BYTES_MIN:
                raise ConfigError(f"{where}: HS256 needs a secret of at least {SECRET_BYTES_MIN} bytes")
            return
        if self.algorithm not in PUBLIC_KEY_ALGORITHMS:
            raise ConfigError(f"{where}: algorithm is one of HS256, {', '.join(PUBLIC_KEY_ALGORITHMS)}")
        if self.secret or not self._is_public_key():
            raise ConfigError(f"{where}: {self.algorithm} needs a PEM public_key of its kind and no secret")

    def _is_public_key(self) -> bool:
        try:
            key = load_pem_public_key(self.public_key.encode())
        except (ValueError, UnsupportedAlgorithm):
            return False
        if self.algorithm == "RS256":
            return isinstance(key, RSAPublicKey) and key.key_size >= RSA_BITS_MIN
        return isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1"


class App(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One customer of the engine. ``guests``: connections without a token are admitted, without a user.

    ``weight`` is its share of a gateway's writes beside other apps that have something to write (1 to 100).
    ``deliveries_per_s`` bounds what each of its rooms may deliver, whatever its policies say (None: they alone do).
    """

    id: str
    api_keys: list[str] = []
    token_keys: list[TokenKey] = []
    guests: bool = False
    weight: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    deliveries_per_s: Annotated[int, msgspec.Meta(ge=1)] | None = None


class AppsFile(msgspec.Struct, forbid_unknown_fields=True):
    """The file named by ``FANOUT_APPS``."""

    apps: list[App]


class Apps:
    """All apps of this process, looked up by exact names only.

    ``open_api``: an API call without a key is a call of the app ``dev`` (only with ``--insecure``).
    """

    def __init__(self, apps: Iterable[App], *, open_api: bool = False) -> None:
        self._by_id: dict[str, App] = {}
        self._by_kid: dict[str, tuple[App, TokenKey]] = {}
        self._api_keys: list[tuple[bytes, App]] = []
        self.open_api = open_api
        for app in apps:
            self._add(app)
        if not self._by_id:
            raise ConfigError("no app is configured: the list of apps is empty")

    @classmethod
    def insecure(cls) -> Apps:
        """Return the app ``dev``: API without key, guests, and tokens signed with DEV_SECRET. Loopback only."""
        return cls([App(DEV_APP, [], [TokenKey(secret=DEV_SECRET)], guests=True)], open_api=True)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Apps:
        """Return the apps that the environment names; raises ConfigError with the variables that are missing."""
        path = env.get(APPS_ENV, "")
        if path:
            return cls(read_apps(Path(path)))
        api_key, secret = env.get(API_KEY_ENV, ""), env.get(TOKEN_SECRET_ENV, "")
        missing = [name for name, value in ((API_KEY_ENV, api_key), (TOKEN_SECRET_ENV, secret)) if not value]
        if missing:
            raise ConfigError(
                f"{API_KEY_ENV} and {TOKEN_SECRET_ENV} must be set (missing: {', '.join(missing)});"
                f" {APPS_ENV} names a file of apps instead, --insecure is for trials on loopback"
            )
        if len(secret.encode()) < SECRET_BYTES_MIN:
            raise ConfigError(f"{TOKEN_SECRET_ENV} needs at least {SECRET_BYTES_MIN} bytes: openssl rand -hex 32")
        if len(api_key.encode()) < API_KEY_BYTES_MIN:
            raise ConfigError(f"{API_KEY_ENV} needs at least {API_KEY_BYTES_MIN} bytes: openssl rand -hex 32")
        return cls([App(DEFAULT_APP, [api_key], [TokenKey(secret=secret)])])

    def get(self, id: str) -> App | None:
        """Return the app of that id."""
        return self._by_id.get(id)

    @property
    def ids(self) -> list[str]:
        """Ids of all apps, in their order."""
        return list(self._by_id)

    def weight_of(self, id: str) -> int:
        """Return an app's share of writes; 1 for one that is not configured here (any more)."""
        app = self._by_id.get(id)
        return 1 if app is None else app.weight

    def deliveries_per_s_of(self, id: str) -> int | None:
        """Return what a room of an app may deliver in a second; None where nothing bounds it but its policy."""
        app = self._by_id.get(id)
        return None if app is None else app.deliveries_per_s

    @property
    def guest_app(self) -> App | None:
        """The app whose connections may come without a token: there is one only where it is the only app."""
        (first, *others) = self._by_id.values()
        return first if first.guests and not others else None

    def token_key(self, kid: str, app_id: str) -> tuple[App, TokenKey] | None:
        """Return the app and key that a token names by ``kid``, by ``app``, or by both where they agree."""
        if kid:
            found = self._by_kid.get(kid)
            return found if found is not None and app_id in ("", found[0].id) else None
        app = self._by_id.get(app_id)
        if app is None:
            return None
        return next(((app, key) for key in app.token_keys if not key.kid), None)

    def of_api_key(self, api_key: str) -> App | None:
        """Return the app of an API key; every key is compared, in constant time. Empty: ``dev`` where allowed."""
        if not api_key:
            return self._by_id.get(DEV_APP) if self.open_api else None
        given = api_key.encode()
        found: App | None = None
        for known, app in self._api_keys:
            if hmac.compare_digest(known, given):
                found = app
        return found

    def cursor_key(self, app_id: str) -> bytes:
        """Return the key that seals an app's page cursors: the same in every process with the same configuration."""
        app = self._by_id[app_id]
        secrets = [*app.api_keys, *(key.verifier for key in app.token_keys)]
        return hashlib.blake2b(
            msgspec.json.encode([app.id, secrets]), digest_size=32, person=b"fanout cursors"
        ).digest()

    def _add(self, app: App) -> None:
        try:
            check_app(app.id)
        except Refused as refused:
            raise ConfigError(f"app {app.id!r}: {refused.detail}") from refused
        if app.id in self._by_id:
            raise ConfigError(f"app {app.id}: configured twice")
        self._by_id[app.id] = app
        for api_key in app.api_keys:
            self._add_api_key(app, api_key)
        unnamed = 0
        for key in app.token_keys:
            key.check(app.id)
            unnamed += not key.kid
            if key.kid in self._by_kid or unnamed > 1:
                raise ConfigError(f"app {app.id}: token key {key.kid or '(without kid)'} is configured twice")
            if key.kid:
                self._by_kid[key.kid] = (app, key)

    def _add_api_key(self, app: App, api_key: str) -> None:
        if len(api_key.encode()) < API_KEY_BYTES_MIN:
            raise ConfigError(f"app {app.id}: an API key needs at least {API_KEY_BYTES_MIN} bytes")
        if any(known == api_key.encode() for known, _ in self._api_keys):
            raise ConfigError(f"app {app.id}: one of its API keys is configured twice")
        self._api_keys.append((api_key.encode(), app))


def read_apps(path: Path) -> list[App]:
    """Return the apps of a ``.toml`` or JSON file; raises ConfigError with the file and what is wrong in it."""
    try:
        with path.open("rb") as file:
            text = file.read(APPS_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{APPS_ENV}={path}: {error.strerror}") from error
    if len(text) > APPS_FILE_BYTES_MAX:
        raise ConfigError(f"{APPS_ENV}={path}: larger than {APPS_FILE_BYTES_MAX} bytes")
    decode = msgspec.toml.decode if path.suffix == ".toml" else msgspec.json.decode
    try:
        return decode(text, type=AppsFile).apps
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{APPS_ENV}={path}: {error}") from error
