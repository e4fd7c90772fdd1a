"""The kernel's own figures, and what happens where there are none."""

from __future__ import annotations

from pathlib import Path

from fanout.runtime.tcp_memory import TcpMemory

SOCKSTAT = "sockets: used 112\nTCP: inuse 9 orphan 0 tw 2 alloc 11 mem 600\nUDP: inuse 0 mem 0\n"


def memory(directory: Path, sockstat: str, limits: str) -> TcpMemory:
    (directory / "sockstat").write_text(sockstat)
    (directory / "tcp_mem").write_text(limits)
    return TcpMemory(directory / "sockstat", directory / "tcp_mem")


def test_the_share_is_of_the_limit_at_which_the_kernel_presses(tmp_path: Path) -> None:
    assert memory(tmp_path, SOCKSTAT, "500\t1200\t2400\n").share() == 0.5


def test_without_the_kernels_figures_nothing_is_known(tmp_path: Path) -> None:
    assert TcpMemory(tmp_path / "none", tmp_path / "none").share() == 0
    assert memory(tmp_path, SOCKSTAT, "").share() == 0
    assert memory(tmp_path, "TCP: inuse 9\n", "1 2 3").share() == 0
    assert memory(tmp_path, "", "1 2 3").share() == 0


def test_this_machine_answers() -> None:
    assert 0 <= TcpMemory().share() < 100
