from __future__ import annotations

import msgspec

from loadtest.tally import Seen, Sent, quantile


def test_what_users_saw_adds_up() -> None:
    total = Seen()
    total.add(Seen(sessions=2, deliveries=10, latency_ms={3: 9, 40: 1}, closed={3001: 1}))
    total.add(Seen(sessions=1, deliveries=5, latency_ms={3: 5}, closed={3001: 1, 1006: 2}, doubled=1))
    assert total == Seen(sessions=3, deliveries=15, latency_ms={3: 14, 40: 1}, closed={3001: 2, 1006: 2}, doubled=1)


def test_what_publishers_did_adds_up() -> None:
    total = Sent()
    total.add(Sent(accepted={"high": 1}, refused={503: 1}))
    total.add(Sent(accepted={"high": 2, "low": 1}, late=3))
    assert total == Sent(accepted={"high": 3, "low": 1}, refused={503: 1}, late=3)


def test_counts_survive_the_way_between_locusts_processes() -> None:
    seen = Seen(sessions=1, latency_ms={7: 2}, closed={3012: 1})
    assert msgspec.convert(msgspec.to_builtins(seen, str_keys=True), Seen, strict=False) == seen


def test_a_quantile_is_the_latency_that_the_share_did_not_pass() -> None:
    latency_ms = {1: 98, 20: 1, 500: 1}
    assert quantile(latency_ms, 0.5) == 1
    assert quantile(latency_ms, 0.99) == 20
    assert quantile(latency_ms, 1.0) == 500
    assert quantile({}, 0.99) == 0
