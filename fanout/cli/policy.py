"""``fanout policy``: look at an app's policies, check one in a file, set and reset it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from fanout.cli.api_client import ApiClient
from fanout.cli.policy_file import read_body, read_policy
from fanout.cli.terminal import say
from fanout.core.policies import as_fields
from fanout.core.profiles import Policy


def show(url: str, key: str) -> int:
    """Print what is set, as JSON; raises FanoutError with the engine's sentence."""
    with ApiClient(url, key) as api:
        _print(api.get("/v1/config"))
    return 0


def check(path: Path) -> int:
    """Print a file's policy with all its fields; raises ConfigError naming the file and the first bad field."""
    _print(as_fields(read_policy(path, Policy())))
    return 0


def set_policy(url: str, key: str, namespace: str, path: Path) -> int:
    """Set a namespace's policy to that of a file and print what the log has; raises FanoutError, ConfigError."""
    read_policy(path, Policy())
    with ApiClient(url, key) as api:
        _print(api.put(_path(namespace), read_body(path)))
    return 0


def reset(url: str, key: str, namespace: str) -> int:
    """Go back to a namespace's default policy and print it; raises FanoutError with the engine's sentence."""
    with ApiClient(url, key) as api:
        _print(api.delete(_path(namespace)))
    return 0


def _path(namespace: str) -> str:
    return f"/v1/config/policies/{quote(namespace, safe='')}"


def _print(answer: Any) -> None:
    say(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
