"""One Redis or Redis Cluster, as the store needs it: scripts in bulk, bounded waits, one error.

Scripts take one key, a msgpack array and byte strings; calls are packed by hand into one buffer per pipeline and
answers are read one by one: 6 µs of client time per call where the pipeline of redis-py takes 40. Every method ends
within ``TIMEOUT_S`` and raises Unavailable; connections that broke are made anew by the next call.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from typing import Any, Final

import redis.asyncio as aioredis
from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from fanout.core.errors import Unavailable

TIMEOUT_S: Final = 2.0  # a Redis that is well answers within a millisecond; callers wait no longer than this
CONNECTIONS_MAX: Final = 16
PIPELINE_CALLS_MAX: Final = 1_000
PIPELINE_BYTES_MAX: Final = 1 << 20  # replies are read after a whole pipeline is written: neither side may fill up


class Script:
    """A Lua script of ``adapters/scripts``, known to Redis by its digest."""

    def __init__(self, name: str) -> None:
        self.text = files("fanout.adapters").joinpath(f"scripts/{name}.lua").read_bytes()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()
        # Between the count and the key: $7 EVALSHA $40 <sha> $1 1
        self.head = b"\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n" % self.sha


HISTORY_STORE: Final = Script("history_store")
HISTORY_READ: Final = Script("history_read")
EPOCH_CLAIM: Final = Script("epoch_claim")
EPOCH_SAW: Final = Script("epoch_saw")
EPOCH_POLICY: Final = Script("epoch_policy")
CONFIG_PUT: Final = Script("config_put")
CONFIG_GET: Final = Script("config_get")
CONFIG_LOGGED: Final = Script("config_logged")
CONFIG_VERSIONS: Final = Script("config_versions")
KEY_SETTLE: Final = Script("key_settle")
LEASE_ACQUIRE: Final = Script("lease_acquire")
LEASE_SET: Final = Script("lease_set")
LEASE_TABLE: Final = Script("lease_table")
MEMBERS_APPLY: Final = Script("members_apply")
MEMBERS_PAGE: Final = Script("members_page")
OUTCOMES_NOTE: Final = Script("outcomes_note")
SCRIPTS: Final = (
    HISTORY_STORE,
    HISTORY_READ,
    EPOCH_CLAIM,
    EPOCH_SAW,
    EPOCH_POLICY,
    CONFIG_PUT,
    CONFIG_GET,
    CONFIG_LOGGED,
    CONFIG_VERSIONS,
    KEY_SETTLE,
    LEASE_ACQUIRE,
    LEASE_SET,
    LEASE_TABLE,
    MEMBERS_APPLY,
    MEMBERS_PAGE,
    OUTCOMES_NOTE,
)

Call = tuple[bytes, ...]  # (key, arguments …)
Command = tuple[bytes | str | int, ...]


@contextlib.asynccontextmanager
async def bounded(what: str) -> AsyncIterator[None]:
    """Bound what is done within to ``TIMEOUT_S``; turn whatever the client library raises into Unavailable."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable(f"redis, {what}: {str(error) or type(error).__name__}") from error


class RedisClient:
    """A single Redis (``redis://``, ``rediss://``)."""

    def __init__(self, url: str) -> None:
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=TIMEOUT_S,
            socket_timeout=None,  # one bound around a whole pipeline, not a timer per reply
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            redis_connect_func=_load_scripts,
        )

    async def run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Run a script for each call, in order; return its answers, an exception in the place of a failed
        one. Does not raise: after a failure of the connection the rest is Unavailable.
        """
        packed = [pack(script, call) for call in calls]
        answers: list[Any] = []
        for piece in _pieces(packed):
            try:
                async with bounded(f"{len(piece)} scripts"):
                    answers += await self._exchange(piece)
            except Unavailable as error:
                return answers + [error] * (len(packed) - len(answers))
        missing = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missing and await self._reload():  # SCRIPT FLUSH; a restart is seen by the connection, which loads anew
            for index, answer in zip(missing, await self.run(script, [calls[i] for i in missing]), strict=True):
                answers[index] = answer
        return answers

    async def command(self, *arguments: bytes | str | int) -> Any:
        """Send one command; raises Unavailable, also for an error reply."""
        return (await self.commands([arguments]))[0]

    async def commands(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one pipeline (≤ ``PIPELINE_CALLS_MAX``); raises Unavailable, also for an error reply."""
        async with bounded(str(commands[0][0])):
            answers = await self._exchange([pack_command(arguments) for arguments in commands])
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise Unavailable(f"redis, {commands[0][0]!r}: {answer}")
        return answers

    async def _exchange(self, packed: Sequence[bytes]) -> list[Any]:
        """Write packed commands and read as many answers; error replies stand in the list."""
        connection: AbstractConnection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_packed_command((b"".join(packed),), check_health=False)
            answers: list[Any] = []
            read = connection.read_response
            for _ in packed:
                try:
                    answers.append(await read())
                except ResponseError as error:
                    answers.append(error)
            if any(isinstance(answer, ReadOnlyError) for answer in answers):
                await connection.disconnect(nowait=True)  # a demoted primary; a new connection reaches the new one
            return answers
        except BaseException:
            await connection.disconnect(nowait=True)  # answers that were not read would be taken for the next ones
            raise
        finally:
            await self._pool.release(connection)

    async def _reload(self) -> bool:
        try:
            await self.commands([(b"SCRIPT", b"LOAD", script.text) for script in SCRIPTS])
        except Unavailable:
            return False
        return True

    async def ping(self) -> None:
        """Return when Redis answers; raises Unavailable."""
        await self.command(b"PING")

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()


class RedisClusterClient:
    """A Redis Cluster (``redis+cluster://``): redis-py knows the slots and groups a pipeline by node."""

    def __init__(self, url: str) -> None:
        self._cluster: Any = aioredis.RedisCluster.from_url(
            url.replace("+cluster", "", 1),
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            protocol=2,
        )
        self._cluster.set_response_callback("SET", _as_is)  # else SET … GET answers True

    async def run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Run a script for each call; see ``RedisClient.run``."""
        try:
            answers = await self._pipeline([(b"EVALSHA", script.sha, 1, *call) for call in calls])
            missing = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if missing:  # a node that is new or was restarted; EVAL also makes the digest known there
                again = await self._pipeline([(b"EVAL", script.text, 1, *calls[index]) for index in missing])
                for index, answer in zip(missing, again, strict=True):
                    answers[index] = answer
        except Unavailable as error:
            return [error] * len(calls)
        return [_as_unavailable(answer) for answer in answers]

    async def command(self, *arguments: bytes | str | int) -> Any:
        """Send one command; raises Unavailable, also for an error reply."""
        return (await self.commands([arguments]))[0]

    async def commands(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one pipeline; raises Unavailable, also for an error reply."""
        answers = [_as_unavailable(answer) for answer in await self._pipeline(commands)]
        for answer in answers:
            if isinstance(answer, Unavailable | ResponseError):
                raise Unavailable(f"redis, {commands[0][0]!r}: {answer}")
        return answers

    async def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        async with bounded(f"{len(commands)} commands"):
            pipeline = self._cluster.pipeline()
            for name, *arguments in commands:
                pipeline.execute_command(name.decode() if isinstance(name, bytes) else name, *arguments)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers

    async def ping(self) -> None:
        """Return when the cluster answers; raises Unavailable."""
        async with bounded("PING"):
            await self._cluster.ping()

    async def close(self) -> None:
        """Close the connections."""
        await self._cluster.aclose()


AnyClient = RedisClient | RedisClusterClient


def _as_is(response: Any, **_options: Any) -> Any:
    return response


def _as_unavailable(answer: Any) -> Any:
    """Return an answer of a pipeline; what is no reply but a failure on the way becomes Unavailable."""
    if isinstance(answer, ResponseError) or not isinstance(answer, Exception):
        return answer
    return Unavailable(f"redis: {answer}")


def connect(url: str) -> AnyClient:
    """Return the client for a URL. Nothing is connected yet."""
    return RedisClusterClient(url) if "+cluster" in url.split("://", 1)[0] else RedisClient(url)


def pack(script: Script, call: Call) -> bytes:
    """Return one EVALSHA in RESP (Redis serialization protocol specification, "Bulk strings")."""
    arguments = [b"$%d\r\n%b\r\n" % (len(part), part) for part in call]
    return b"*%d%b%b" % (3 + len(arguments), script.head, b"".join(arguments))


def pack_command(arguments: Command) -> bytes:
    """Return any command in RESP."""
    encoded = [part if isinstance(part, bytes) else str(part).encode() for part in arguments]
    return b"*%d\r\n" % len(encoded) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded])


def _pieces(packed: Sequence[bytes]) -> list[Sequence[bytes]]:
    """Cut packed calls into pipelines of bounded number and size."""
    pieces: list[Sequence[bytes]] = []
    start = size = 0
    for index, call in enumerate(packed):
        if index > start and (index - start >= PIPELINE_CALLS_MAX or size + len(call) > PIPELINE_BYTES_MAX):
            pieces.append(packed[start:index])
            start, size = index, 0
        size += len(call)
    return [*pieces, packed[start:]] if packed else []


async def _load_scripts(connection: AbstractConnection) -> None:
    """Prepare a new connection: greet, then load all scripts, so that no call meets a Redis without them."""
    await connection.on_connect()
    await connection.send_packed_command(
        [pack_command((b"SCRIPT", b"LOAD", script.text)) for script in SCRIPTS], check_health=False
    )
    for _ in SCRIPTS:
        await connection.read_response()
