"""``fanout serve`` refuses flags that cannot work, with one line that names the flag and the remedy."""

from __future__ import annotations

import pytest

from fanout.core.errors import ConfigError
from fanout.runtime.settings import ServeSettings, is_loopback

SERVERS = {"log": "kafka://127.0.0.1:9092", "store": "redis://127.0.0.1:6379"}


def test_defaults_run_all_roles_in_memory() -> None:
    assert ServeSettings().check().on_twins


def test_servers_allow_a_subset_of_roles_and_several_processes() -> None:
    settings = ServeSettings(roles=("gateway",), processes=4, **SERVERS)  # type: ignore[arg-type]
    assert not settings.check().on_twins


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (ServeSettings(roles=("sender", "router")), "--roles"),
        (ServeSettings(roles=()), "--roles"),
        (ServeSettings(log="amqp://x"), "--log"),
        (ServeSettings(store="memcached://x"), "--store"),
        (ServeSettings(log="kafka://127.0.0.1:9092"), "--store"),
        (ServeSettings(store="redis://127.0.0.1:6379"), "--log"),
        (ServeSettings(processes=2), "--processes"),
        (ServeSettings(roles=("worker",)), "--roles"),
        (ServeSettings(processes=0), "--processes"),
        (ServeSettings(port=70_000), "--port"),
        (ServeSettings(insecure=True, host="0.0.0.0"), "--insecure"),
    ],
)
def test_a_combination_that_cannot_work_is_refused_by_name(settings: ServeSettings, names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        settings.check()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("example", False),
    ],
)
def test_loopback_is_recognised(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
