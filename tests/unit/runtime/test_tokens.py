"""Tokens: the claims of good ones, and a table of forged, altered and outdated ones (FAULTS 44)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fanout.core.errors import TOKEN_EXPIRED, UNAUTHORIZED, ConfigError, Problem, Refused
from fanout.runtime.apps import DEV_SECRET, App, Apps, TokenKey
from fanout.runtime.tokens import Claims, Tokens, mint

NOW_S = 1_790_000_000
SECRET, OTHER_SECRET = "s" * 32, "o" * 32
RSA_KEY = rsa.generate_private_key(65_537, 2_048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


class StoppedClock:
    """Always the same moment."""

    def wall_ms(self) -> int:
        return NOW_S * 1_000

    def monotonic_s(self) -> float:
        return 0.0


def private_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, kind, serialization.NoEncryption()).decode()


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    encoding, kind = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, kind).decode()


APPS = Apps(
    [
        App(
            "shop",
            token_keys=[
                TokenKey(secret=SECRET),
                TokenKey(kid="shop-rsa", algorithm="RS256", public_key=public_pem(RSA_KEY)),
                TokenKey(kid="shop-aud", secret=SECRET, audience="fanout", issuer="shop.example"),
            ],
        ),
        App("news", token_keys=[TokenKey(kid="news-ec", algorithm="ES256", public_key=public_pem(EC_KEY))]),
    ]
)
TOKENS = Tokens(APPS, StoppedClock())


def signed(claims: dict[str, Any], *, secret: str = SECRET, algorithm: str = "HS256", **header: Any) -> str:
    whole = {"sub": "ann", "app": "shop", "exp": NOW_S + 60} | claims
    return jwt.encode(
        {name: value for name, value in whole.items() if value is not None}, secret, algorithm, headers=header
    )


def raw_token(header: dict[str, Any], claims: Any, secret: str = SECRET) -> str:
    """Build a token by hand, as somebody would whom no library hinders."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    head = part(json.dumps(header).encode()) + b"." + part(json.dumps(claims).encode())
    return (head + b"." + part(hmac.digest(secret.encode(), head, hashlib.sha256))).decode()


def refusal(token: str) -> Refused:
    with pytest.raises(Refused) as caught:
        TOKENS.connect(token)
    return caught.value


def test_a_token_says_who_its_bearer_is() -> None:
    token = mint(
        SECRET,
        app="shop",
        user="ann",
        expires_s=NOW_S + 60,
        device="phone",
        info={"name": "Ann"},
        rooms=["live:*", "group:a"],
        subs=["group:a"],
    )
    assert TOKENS.connect(token) == Claims(
        user="ann",
        app="shop",
        expires_s=NOW_S + 60,
        device="phone",
        info=b'{"name":"Ann"}',
        rooms=("live:*", "group:a"),
        subs=("group:a",),
    )


def test_tokens_signed_with_public_key_algorithms_are_taken_by_their_kid() -> None:
    rs256 = mint(private_pem(RSA_KEY), app="shop", user="ann", expires_s=NOW_S + 1, kid="shop-rsa", algorithm="RS256")
    es256 = mint(private_pem(EC_KEY), app="news", user="bob", expires_s=NOW_S + 1, kid="news-ec", algorithm="ES256")
    assert TOKENS.connect(rs256).user == "ann"
    assert TOKENS.connect(es256).app == "news"


def test_a_kid_alone_names_the_app() -> None:
    token = signed({"app": None}, secret=private_pem(EC_KEY), algorithm="ES256", kid="news-ec")
    assert TOKENS.connect(token).app == "news"


def test_audience_and_issuer_are_checked_where_they_are_configured() -> None:
    good = {"aud": "fanout", "iss": "shop.example"}
    assert TOKENS.connect(signed(good, kid="shop-aud")).user == "ann"
    assert refusal(signed(good | {"aud": "others"}, kid="shop-aud")).problem is UNAUTHORIZED
    assert refusal(signed(good | {"iss": "others"}, kid="shop-aud")).problem is UNAUTHORIZED
    assert refusal(signed({"aud": "fanout"})).problem is UNAUTHORIZED


def test_clocks_may_differ_by_five_seconds() -> None:
    assert TOKENS.connect(signed({"exp": NOW_S - 4, "nbf": NOW_S + 5})).user == "ann"


@pytest.mark.parametrize(
    ("name", "token", "problem"),
    [
        ("alg none", raw_token({"alg": "none"}, {"sub": "a", "app": "shop", "exp": NOW_S + 9}), UNAUTHORIZED),
        ("alg None", raw_token({"alg": "None"}, {"sub": "a", "app": "shop", "exp": NOW_S + 9}), UNAUTHORIZED),
        ("no signature", signed({}).rpartition(".")[0] + ".", UNAUTHORIZED),
        ("other secret", signed({}, secret=OTHER_SECRET), UNAUTHORIZED),
        (
            "HS256 with the public key as secret",
            raw_token(
                {"alg": "HS256", "kid": "shop-rsa"}, {"sub": "a", "app": "shop", "exp": NOW_S + 9}, public_pem(RSA_KEY)
            ),
            UNAUTHORIZED,
        ),
        ("HS512 instead of HS256", signed({}, secret=SECRET * 2, algorithm="HS512"), UNAUTHORIZED),
        ("RS256 for a secret", signed({}, secret=private_pem(RSA_KEY), algorithm="RS256"), UNAUTHORIZED),
        ("kid path", signed({}, kid="../../dev/null"), UNAUTHORIZED),
        ("kid SQL", signed({}, kid="x' UNION SELECT 'a"), UNAUTHORIZED),
        ("kid URL", signed({}, kid="https://evil.example/key"), UNAUTHORIZED),
        ("kid number", raw_token({"alg": "HS256", "kid": 7}, {"sub": "a", "exp": NOW_S + 9}), UNAUTHORIZED),
        ("kid of another app", signed({}, kid="news-ec"), UNAUTHORIZED),
        ("jku", signed({}, jku="https://evil.example/keys"), UNAUTHORIZED),
        ("jwk", signed({}, jwk={"kty": "oct", "k": "AAAA"}), UNAUTHORIZED),
        ("x5u", signed({}, x5u="https://evil.example/cert"), UNAUTHORIZED),
        ("crit", raw_token({"alg": "HS256", "crit": ["b64"]}, {"sub": "a", "exp": NOW_S + 9}), UNAUTHORIZED),
        ("expired", signed({"exp": NOW_S - 5}), TOKEN_EXPIRED),
        ("no exp", signed({"exp": None}), UNAUTHORIZED),
        ("exp text", signed({"exp": "tomorrow"}), UNAUTHORIZED),
        ("exp true", signed({"exp": True}), UNAUTHORIZED),
        ("exp endless", signed({"exp": float("inf")}), UNAUTHORIZED),
        ("nbf in the future", signed({"nbf": NOW_S + 6}), UNAUTHORIZED),
        ("wrong app", signed({"app": "news"}), UNAUTHORIZED),
        ("unknown app", signed({"app": "none"}), UNAUTHORIZED),
        ("app list", raw_token({"alg": "HS256"}, {"sub": "a", "app": ["shop"], "exp": NOW_S + 9}), UNAUTHORIZED),
        ("neither app nor kid", signed({"app": None}), UNAUTHORIZED),
        ("app and kid disagree", signed({"app": "news"}, kid="shop-rsa"), UNAUTHORIZED),
        (
            "an empty app beside a kid",
            signed({"app": ""}, secret=private_pem(EC_KEY), algorithm="ES256", kid="news-ec"),
            UNAUTHORIZED,
        ),
        ("no sub", signed({"sub": None}), UNAUTHORIZED),
        ("sub with a slash", signed({"sub": "shop/ann"}), UNAUTHORIZED),
        ("sub look-alike", signed({"sub": "аnn"}), UNAUTHORIZED),
        ("sub number", signed({"sub": 5}), UNAUTHORIZED),
        ("sub too long", signed({"sub": "a" * 65}), UNAUTHORIZED),
        ("device with a space", signed({"device": "my phone"}), UNAUTHORIZED),
        ("info too large", signed({"info": "x" * 1_023}), UNAUTHORIZED),
        ("rooms text", signed({"rooms": "live:*"}), UNAUTHORIZED),
        ("rooms wrong", signed({"rooms": ["live:a b"]}), UNAUTHORIZED),
        ("rooms numbers", signed({"rooms": [5]}), UNAUTHORIZED),
        ("rooms inner star", signed({"rooms": ["li*ve:a"]}), UNAUTHORIZED),
        ("rooms too many", signed({"rooms": ["live:a"] * 65}), UNAUTHORIZED),
        ("subs pattern", signed({"subs": ["live:*"]}), UNAUTHORIZED),
        ("subs personal room", signed({"subs": ["#bob"]}), UNAUTHORIZED),
        ("claims are a list", raw_token({"alg": "HS256"}, [1, 2]), UNAUTHORIZED),
        ("deep claims", raw_token({"alg": "HS256"}, json.loads("[" * 900 + "]" * 900)), UNAUTHORIZED),
        ("huge", "a" * 4_097, UNAUTHORIZED),
        ("not ASCII", signed({}) + "é", UNAUTHORIZED),
        ("two parts", "a.b", UNAUTHORIZED),
        ("not base64", "!.!.!", UNAUTHORIZED),
        ("header is a list", raw_token([], {"sub": "a"}), UNAUTHORIZED),  # type: ignore[arg-type]
    ],
)
def test_a_token_that_is_not_right_is_refused(name: str, token: str, problem: Problem) -> None:
    assert refusal(token).problem is problem, name


def test_any_flipped_bit_of_the_signature_refuses_the_token() -> None:
    head, _, signature = signed({}).rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    for bit in range(0, len(raw) * 8, 5):
        altered = bytearray(raw)
        altered[bit // 8] ^= 1 << bit % 8
        refusal(f"{head}.{base64.urlsafe_b64encode(altered).rstrip(b'=').decode()}")


def test_a_connection_without_a_token_is_a_guests_only_where_the_app_has_guests() -> None:
    assert refusal("").problem is UNAUTHORIZED
    assert Tokens(Apps.insecure(), StoppedClock()).connect("") == Claims(user="", app="dev")


def test_insecure_takes_tokens_of_the_well_known_secret() -> None:
    token = mint(DEV_SECRET, app="dev", user="ann", expires_s=NOW_S + 60)
    assert Tokens(Apps.insecure(), StoppedClock()).connect(token).user == "ann"


def test_patterns_are_names_or_beginnings_of_names() -> None:
    claims = Claims("ann", "shop", rooms=("live:*", "group:a"))
    assert claims.allows("live:x")
    assert claims.allows("group:a")
    assert not claims.allows("group:ab")
    assert Claims("ann", "shop").allows("anything")
    assert TOKENS.connect(signed({"rooms": ["*"]})).allows("group:b")


def test_a_subscription_token_is_for_one_user_and_room() -> None:
    claims = Claims("ann", "shop")
    token = mint(SECRET, app="shop", user="ann", room="group:a", expires_s=NOW_S + 60)
    assert TOKENS.subscription(token, claims, "group:a") == NOW_S + 60
    assert TOKENS.subscription(signed({"channel": "group:a"}), claims, "group:a") == NOW_S + 60
    for wrong in (Claims("bob", "shop"), Claims("ann", "news")):
        with pytest.raises(Refused, match="another user"):
            TOKENS.subscription(token, wrong, "group:a")
    with pytest.raises(Refused, match="another room"):
        TOKENS.subscription(token, claims, "group:b")
    with pytest.raises(Refused, match="another room"):
        TOKENS.subscription(mint(SECRET, app="shop", user="ann", expires_s=NOW_S + 9), claims, "group:b")


def test_a_secret_that_is_too_short_signs_nothing() -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        mint("short", app="shop", user="ann", expires_s=NOW_S)
