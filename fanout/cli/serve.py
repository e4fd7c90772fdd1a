"""``fanout serve``: an engine process, or several of them on one port."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import uvloop

from fanout.cli.engine import Engine
from fanout.cli.terminal import say
from fanout.core.errors import ConfigError, Unavailable
from fanout.runtime.apps import Apps
from fanout.runtime.descriptors import raise_limit
from fanout.runtime.metrics import MULTIPROCESS_ENV, RESTARTS, leave_place, take_place
from fanout.runtime.process import (
    CONFIG_CODE,
    DEPENDENCY_CODE,
    ReadyPipe,
    Supervisor,
    calm_gc,
    forget_metrics,
    reserve_port,
)
from fanout.runtime.settings import ServeSettings

_UNAVAILABLE_CODE: Final = 1  # no log or no store at the start


def serve(settings: ServeSettings) -> int:
    """Run until SIGTERM or SIGINT; return the exit status. Raises ConfigError for flags that cannot work."""
    raise_limit()
    apps = Apps.insecure() if settings.insecure else Apps.from_env(os.environ)
    if settings.processes == 1:
        return uvloop.run(_run(settings, apps, on_start=lambda engine: _say_listening(settings, engine)))
    return _serve_several(settings, apps)


def _serve_several(settings: ServeSettings, apps: Apps) -> int:
    """Fork the processes; the URL is said once all of them serve, and only the first time."""
    reserved = reserve_port(settings.host, settings.port)
    settings = replace(settings, port=reserved.getsockname()[1])
    started = ReadyPipe(settings.processes)

    def child(index: int) -> int:
        take_place(index)
        code = uvloop.run(_run(settings, apps, on_start=lambda engine: started.tell(index)))
        return DEPENDENCY_CODE if code == _UNAVAILABLE_CODE else code

    def forked() -> None:
        started.wait(lambda: say(_listening(settings, settings.port)))

    try:
        return Supervisor(settings.processes, child, forked=forked, ended=_note_end).run()
    finally:
        reserved.close()
        forget_metrics(os.environ[MULTIPROCESS_ENV])


def _note_end(index: int, cause: str) -> None:
    leave_place(index)
    RESTARTS.labels(cause).inc()


def _say_listening(settings: ServeSettings, engine: Engine) -> None:
    say(_listening(settings, engine.port))
    if settings.on_twins:
        say("fanout: log and store are in memory; nothing is kept across a restart")


def _listening(settings: ServeSettings, port: int) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"fanout: listening on http://{host}:{port}"


async def _run(settings: ServeSettings, apps: Apps, *, on_start: Callable[[Engine], None]) -> int:
    engine = Engine(settings, apps=apps)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await engine.start()
    except (Unavailable, ConfigError) as error:
        sys.stderr.write(f"fanout: {error}\n")
        return CONFIG_CODE if isinstance(error, ConfigError) else _UNAVAILABLE_CODE
    calm_gc()
    on_start(engine)
    await stop.wait()
    for number in (signal.SIGTERM, signal.SIGINT):  # a second signal means: now
        loop.add_signal_handler(number, os._exit, 1)
    await engine.drain()
    await engine.close()
    say("fanout: drained")
    return 0
