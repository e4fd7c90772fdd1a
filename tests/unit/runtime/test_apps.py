"""Apps: where they come from, which configurations cannot work, and how keys are looked up."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fanout.core.errors import ConfigError
from fanout.runtime.apps import DEV_SECRET, App, Apps, TokenKey, read_apps

SECRET = "s" * 32
API_KEY = "a-key-of-enough-bytes"


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


RSA_PEM = public_pem(rsa.generate_private_key(65_537, 2_048))
EC_PEM = public_pem(ec.generate_private_key(ec.SECP256R1()))
EC_384_PEM = public_pem(ec.generate_private_key(ec.SECP384R1()))
SMALL_RSA_PEM = public_pem(rsa.generate_private_key(65_537, 1_024))


def test_the_environment_names_one_app_called_default() -> None:
    apps = Apps.from_env({"FANOUT_API_KEY": API_KEY, "FANOUT_TOKEN_SECRET": SECRET})
    assert apps.ids == ["default"]
    app = apps.of_api_key(API_KEY)
    assert app is not None
    assert app.id == "default"
    assert apps.guest_app is None


@pytest.mark.parametrize("env", [{}, {"FANOUT_API_KEY": API_KEY}, {"FANOUT_TOKEN_SECRET": SECRET}])
def test_a_missing_variable_is_an_error_that_names_both(env: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="FANOUT_API_KEY and FANOUT_TOKEN_SECRET"):
        Apps.from_env(env)


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({"FANOUT_API_KEY": API_KEY, "FANOUT_TOKEN_SECRET": "short"}, "FANOUT_TOKEN_SECRET"),
        ({"FANOUT_API_KEY": "short", "FANOUT_TOKEN_SECRET": SECRET}, "FANOUT_API_KEY"),
    ],
)
def test_a_weak_variable_is_an_error_that_names_it(env: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} needs"):
        Apps.from_env(env)


def test_insecure_is_the_app_dev_for_everybody() -> None:
    apps = Apps.insecure()
    dev = apps.of_api_key("")
    assert dev is not None
    assert dev.id == "dev"
    assert apps.guest_app is dev
    assert apps.of_api_key("some key") is None
    found = apps.token_key("", "dev")
    assert found is not None
    assert found[1].verifier == DEV_SECRET


def test_no_key_is_nobody_where_the_api_is_not_open() -> None:
    apps = Apps([App("shop", [API_KEY])])
    assert apps.of_api_key("") is None
    assert apps.of_api_key(API_KEY[:-1]) is None
    assert apps.of_api_key(API_KEY + "x") is None


def test_an_app_weighs_one_unless_it_is_told_otherwise() -> None:
    apps = Apps([App("one"), App("three", weight=3)])
    assert [apps.weight_of(id) for id in ("one", "three", "gone")] == [1, 3, 1]


def test_an_app_may_have_a_quota_of_deliveries(tmp_path: Path) -> None:
    file = tmp_path / "apps.toml"
    file.write_text('[[apps]]\nid = "one"\ndeliveries_per_s = 1_000\n[[apps]]\nid = "free"\n')
    apps = Apps(read_apps(file))
    assert [apps.deliveries_per_s_of(id) for id in ("one", "free", "gone")] == [1_000, None, None]
    file.write_text('[[apps]]\nid = "one"\ndeliveries_per_s = 0\n')
    with pytest.raises(ConfigError, match="deliveries_per_s"):
        read_apps(file)


@pytest.mark.parametrize("weight", [0, 101, -1])
def test_a_weight_nobody_can_have_is_a_config_error(tmp_path: Path, weight: int) -> None:
    file = tmp_path / "apps.toml"
    file.write_text(f'[[apps]]\nid = "one"\nweight = {weight}\n')
    with pytest.raises(ConfigError, match="weight"):
        read_apps(file)


def test_guests_have_no_app_where_there_are_several() -> None:
    assert Apps([App("one", guests=True), App("two", guests=True)]).guest_app is None
    assert Apps([App("one", guests=True)]).guest_app is not None


def test_a_token_key_is_found_by_exact_kid_or_by_app_and_both_must_agree() -> None:
    apps = Apps(
        [
            App("shop", token_keys=[TokenKey(kid="k1", secret=SECRET), TokenKey(secret=SECRET)]),
            App("news", token_keys=[TokenKey(kid="k2", algorithm="RS256", public_key=RSA_PEM)]),
        ]
    )
    found = apps.token_key("k1", "")
    assert found is not None
    assert (found[0].id, found[1].kid) == ("shop", "k1")
    assert apps.token_key("k1", "shop") == found
    assert apps.token_key("k1", "news") is None
    assert apps.token_key("K1", "") is None
    by_app = apps.token_key("", "shop")
    assert by_app is not None
    assert by_app[1].kid == ""
    assert apps.token_key("", "news") is None
    assert apps.token_key("", "none") is None
    named = apps.get("news")
    assert named is not None
    assert named.token_keys[0].verifier == RSA_PEM


@pytest.mark.parametrize(
    ("apps", "words"),
    [
        ([], "empty"),
        ([App("Shop")], "app"),
        ([App("a"), App("a")], "twice"),
        ([App("a", ["short"])], "API key"),
        ([App("a", [API_KEY]), App("b", [API_KEY])], "twice"),
        ([App("a", token_keys=[TokenKey(secret="short")])], "HS256"),
        ([App("a", token_keys=[TokenKey(secret=SECRET, public_key=RSA_PEM)])], "HS256"),
        ([App("a", token_keys=[TokenKey(algorithm="none", secret=SECRET)])], "algorithm"),
        ([App("a", token_keys=[TokenKey(algorithm="RS256", secret=SECRET)])], "public_key"),
        ([App("a", token_keys=[TokenKey(algorithm="RS256", public_key="no pem")])], "public_key"),
        ([App("a", token_keys=[TokenKey(algorithm="RS256", public_key=EC_PEM)])], "public_key"),
        ([App("a", token_keys=[TokenKey(algorithm="RS256", public_key=SMALL_RSA_PEM)])], "public_key"),
        ([App("a", token_keys=[TokenKey(algorithm="ES256", public_key=RSA_PEM)])], "public_key"),
        ([App("a", token_keys=[TokenKey(algorithm="ES256", public_key=EC_384_PEM)])], "public_key"),
        ([App("a", token_keys=[TokenKey(secret=SECRET), TokenKey(secret=SECRET)])], "twice"),
        (
            [
                App("a", token_keys=[TokenKey(kid="k", secret=SECRET)]),
                App("b", token_keys=[TokenKey(kid="k", secret=SECRET)]),
            ],
            "twice",
        ),
    ],
)
def test_apps_that_cannot_work_are_refused_in_one_line(apps: list[App], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Apps(apps)
    assert "\n" not in str(caught.value)


def test_an_elliptic_key_is_taken_for_its_algorithm() -> None:
    assert Apps([App("a", token_keys=[TokenKey(kid="e", algorithm="ES256", public_key=EC_PEM)])]).ids == ["a"]


def test_cursor_keys_differ_by_app_and_are_the_same_in_every_process() -> None:
    def build() -> Apps:
        return Apps([App("a", [API_KEY]), App("b", token_keys=[TokenKey(secret=SECRET)])])

    assert build().cursor_key("a") == build().cursor_key("a")
    assert build().cursor_key("a") != build().cursor_key("b")


def test_a_file_names_several_apps(tmp_path: Path) -> None:
    toml = tmp_path / "apps.toml"
    toml.write_text(
        f'[[apps]]\nid = "shop"\napi_keys = ["{API_KEY}"]\n[[apps.token_keys]]\nkid = "k"\nsecret = "{SECRET}"\n'
        '[[apps]]\nid = "news"\nguests = true\n'
    )
    assert Apps.from_env({"FANOUT_APPS": str(toml)}).ids == ["shop", "news"]
    as_json = tmp_path / "apps.json"
    as_json.write_bytes(msgspec.json.encode({"apps": [{"id": "shop"}]}))
    assert [app.id for app in read_apps(as_json)] == ["shop"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("apps.toml", "apps = 1", "apps"),
        ("apps.toml", "[[apps", "apps.toml"),
        ("apps.json", '{"apps": [{"id": "a", "wrong": 1}]}', "wrong"),
        ("apps.json", " " * (1 << 20) + "{}", "larger"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_apps(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_apps(tmp_path / "missing.json")
