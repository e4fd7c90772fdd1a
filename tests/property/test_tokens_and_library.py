"""A token that our reading of the envelope takes, the library takes as well, and says the same of it."""

from __future__ import annotations

import base64
from typing import Any

import jwt
from hypothesis import given
from hypothesis import strategies as st

from fanout.runtime.jws import UnreadableError, Verifier, is_for, read

SECRET = "s" * 32
VERIFIER = Verifier("HS256", SECRET)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8)
CLAIMS = st.dictionaries(st.sampled_from(["sub", "app", "exp", "aud", "iss", "rooms"]), SCALARS | st.lists(SCALARS))


def ours(token: str) -> Any:
    """Return the claims of a token that holds, else None."""
    try:
        signed = read(token)
        VERIFIER.check(signed)
    except UnreadableError:
        return None
    return signed.claims


def theirs(token: str) -> Any:
    try:
        return jwt.decode(
            token,
            SECRET,
            algorithms=["HS256"],
            options={
                "verify_exp": False,
                "verify_aud": False,
                "verify_iss": False,
                "verify_sub": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_jti": False,
            },
        )
    except jwt.PyJWTError:
        return None


@given(CLAIMS)
def test_a_token_that_was_signed_reads_as_the_library_reads_it(claims: dict[str, Any]) -> None:
    token = jwt.encode({k: v for k, v in claims.items() if k not in ("iss", "sub")}, SECRET, algorithm="HS256")
    assert ours(token) == theirs(token) is not None


@given(CLAIMS, st.data())
def test_a_token_that_was_changed_anywhere_is_taken_only_where_the_library_takes_it(
    claims: dict[str, Any], data: st.DataObject
) -> None:
    token = jwt.encode({k: v for k, v in claims.items() if k not in ("iss", "sub")}, SECRET, algorithm="HS256")
    place = data.draw(st.integers(0, len(token) - 1))
    put = data.draw(st.sampled_from([*"AB9-_=.+/ \n", "", "==", "é", "\x00"]))
    changed = token[:place] + put + token[place + 1 :]
    if ours(changed) is not None:
        assert ours(changed) == theirs(changed)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    assert ours(text) is None


@given(st.binary(max_size=12), st.sampled_from(["", "=", "==", "==="]))
def test_base64_has_one_spelling(payload: bytes, padding: str) -> None:
    part = base64.urlsafe_b64encode(payload).rstrip(b"=").decode() + padding
    assert ours(f"{part}.{part}.{part}") is None  # no JSON object is so short and signs itself


def test_an_audience_is_one_name_or_a_list_of_names() -> None:
    assert is_for({}, "") and is_for({"aud": ""}, "") and is_for({"aud": []}, "")
    assert is_for({"aud": "a"}, "a") and is_for({"aud": ["b", "a"]}, "a")
    assert not is_for({"aud": "a"}, "") and not is_for({}, "a") and not is_for({"aud": ["a", 1]}, "a")
    assert not is_for({"aud": {"a": 1}}, "a") and not is_for({"aud": "ab"}, "a")
