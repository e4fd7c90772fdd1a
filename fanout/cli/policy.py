"""``fanout policy``: look at an app's policies, check one in a file, set and reset it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from fanout.cli.api_client import ApiClient
from fanout.cli.terminal import say
from fanout.core.errors import ConfigError, Refused
from fanout.core.limits import POLICIES_BYTES_MAX
from fanout.core.policies import as_fields, parse_policy
from fanout.core.profiles import Policy


def show(url: str, key: str) -> int:
    """Print what is set, as JSON; raises FanoutError with the engine's sentence."""
    with ApiClient(url, key) as api:
        _print(api.get("/v1/config"))
    return 0


def check(path: Path) -> int:
    """Print a file's policy with all its fields; raises ConfigError naming the file and the first bad field."""
    _print(as_fields(_checked(path)))
    return 0


def set_policy(url: str, key: str, namespace: str, path: Path) -> int:
    """Set a namespace's policy to that of a file and print what the log has; raises FanoutError, ConfigError."""
    _checked(path)
    with ApiClient(url, key) as api:
        _print(api.put(_path(namespace), path.read_bytes()))
    return 0


def reset(url: str, key: str, namespace: str) -> int:
    """Go back to a namespace's default policy and print it; raises FanoutError with the engine's sentence."""
    with ApiClient(url, key) as api:
        _print(api.delete(_path(namespace)))
    return 0


def _path(namespace: str) -> str:
    return f"/v1/config/policies/{quote(namespace, safe='')}"


def _checked(path: Path) -> Policy:
    try:
        with path.open("rb") as file:
            return parse_policy(file.read(POLICIES_BYTES_MAX + 1), Policy())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except Refused as refused:
        raise ConfigError(f"{path}: {refused.detail}") from refused


def _print(answer: Any) -> None:
    say(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
