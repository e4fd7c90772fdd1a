"""The doctor says what is there, whether it is enough, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from fanout.runtime.findings import (
    FAIL,
    OK,
    SYSCTLS,
    WARN,
    Sysctl,
    examine_clock,
    examine_clock_difference,
    examine_files,
    examine_sysctl,
)


@pytest.mark.parametrize(("value", "state"), [("8192\n", OK), ("128\n", WARN), ("1 2 3\n", WARN), ("none\n", WARN)])
def test_a_kernel_setting_is_judged_by_its_value(tmp_path: Path, value: str, state: str) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/queue").write_text(value)
    finding = examine_sysctl(Sysctl("net/queue", 4096, "queues overflow"), tmp_path)
    assert finding.state == state
    assert bool(finding.remedy) is (state != OK)
    assert finding.name == "net.queue"


def test_a_kernel_setting_that_cannot_be_read_names_the_command_for_the_host(tmp_path: Path) -> None:
    finding = examine_sysctl(SYSCTLS[0], tmp_path)
    assert finding.state == WARN
    assert "sysctl net.core.somaxconn" in finding.remedy


def test_the_limit_of_files_is_told_in_sessions() -> None:
    assert "sessions" in examine_files().found


def test_the_local_clock_is_examined_without_rights() -> None:
    assert examine_clock().state in (OK, WARN)


@pytest.mark.parametrize(("server_ms", "state"), [(10_000, OK), (10_900, OK), (12_000, FAIL), (8_000, FAIL)])
def test_clocks_that_differ_by_more_than_a_second_fail(server_ms: int, state: str) -> None:
    assert examine_clock_difference("redis", server_ms, 9_990, 10_010).state == state
