"""The supervisor keeps its children alive, and ends when it is told to or when they cannot live."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap

from fanout.runtime.process import reserve_port


def supervise(child: str, *, ask_to_stop: bool) -> tuple[int, str]:
    """Run a supervisor of two children in a process of its own; return its exit status and what was printed."""
    script = textwrap.dedent("""
        import os, sys, signal
        from fanout.runtime.process import Supervisor
        def child(index):
            {child}
        print("up", os.getpid(), flush=True)
        sys.exit(Supervisor(2, child).run())
    """).format(child=child)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)] if ask_to_stop else []
    if ask_to_stop:
        os.kill(process.pid, signal.SIGTERM)
    rest, _ = process.communicate(timeout=30)
    return process.returncode, "".join(lines) + rest


def test_a_stop_signal_reaches_every_child_and_the_whole_ends_well() -> None:
    stop = "{signal.SIGTERM}"
    child = f"signal.pthread_sigmask(signal.SIG_BLOCK, {stop}); os.write(1, b'child %d\\n' % index)"
    child += f"; signal.sigwait({stop}); return 0"
    code, printed = supervise(child, ask_to_stop=True)
    assert code == 0
    assert "child 0" in printed
    assert "child 1" in printed


def test_a_child_that_cannot_live_ends_the_service_after_a_bounded_number_of_restarts() -> None:
    code, _ = supervise("return 7", ask_to_stop=False)
    assert code == 7


def test_a_configuration_error_of_a_child_is_not_tried_again() -> None:
    code, printed = supervise("os.write(1, b'child\\n'); return 2", ask_to_stop=False)
    assert code == 2
    assert printed.count("child") <= 2


def test_a_reserved_port_can_be_shared_by_processes_but_takes_no_connection_itself() -> None:
    reserved = reserve_port("127.0.0.1", 0)
    port = reserved.getsockname()[1]
    second = reserve_port("127.0.0.1", port)
    with reserved, second, socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0
