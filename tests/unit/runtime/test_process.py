"""The supervisor keeps its children alive, and ends when it is told to or when they cannot live."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap

from fanout.runtime.process import CRASHES_MAX, DEPENDENCY_CODE, RESTART_S, reserve_port, restart_pause_s


def supervise(child: str, *, ask_to_stop: bool, lines: int = 3) -> tuple[int, str]:
    """Run a supervisor of two children in a process of its own; return its exit status and what was printed.

    It is asked to stop once ``lines`` have been printed.
    """
    script = textwrap.dedent("""
        import os, sys, signal
        from fanout.runtime.process import Supervisor
        def child(index):
            {child}
        print("up", os.getpid(), flush=True)
        sys.exit(Supervisor(2, child, pause_s=lambda ends: 0.0).run())
    """).format(child=child)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = [process.stdout.readline() for _ in range(lines)] if ask_to_stop else []
    if ask_to_stop:
        os.kill(process.pid, signal.SIGTERM)
    rest, _ = process.communicate(timeout=30)
    return process.returncode, "".join(printed) + rest


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


def test_a_child_that_cannot_live_does_not_take_those_that_live_with_it() -> None:
    child = "import time; os.write(1, b'child %d\\n' % index)"
    child += "; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})"
    child += "; return 7 if index else signal.sigwait({signal.SIGTERM}) * 0"
    code, printed = supervise(child, ask_to_stop=True, lines=40)
    assert printed.count("child 1") > 2 * CRASHES_MAX
    assert code in (0, 7)  # the one that fails may fail once more while the whole is being stopped


def test_a_child_that_waits_for_a_server_is_started_again_for_ever() -> None:
    code, printed = supervise(f"os.write(1, b'child\\n'); return {DEPENDENCY_CODE}", ask_to_stop=True, lines=60)
    assert printed.count("child") > 4 * CRASHES_MAX
    assert code == 0


def test_pauses_between_restarts_grow_to_a_bound() -> None:
    pauses = [restart_pause_s(ends) for ends in range(1, 100)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == RESTART_S


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
