"""The memory bench against a real engine: its sessions connect, subscribe, and cost something."""

from __future__ import annotations

import json

import pytest

from bench import session_memory


def test_a_session_with_everything_a_token_brings_is_weighed(capsys: pytest.CaptureFixture[str]) -> None:
    assert session_memory.main(["--sessions", "300", "--shapes", "token_and_subs"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["bench"] == "session_memory"
    assert 0.5 < figures["token_and_subs_kb"] < 50
