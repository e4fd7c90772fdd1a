"""What the Dart, Swift and Java SDKs put on the wire, played against a running engine.

The transcripts are constructed from the SDKs' encoding rules, not captured (their headers say so). The WebSocket comes
from another library and replies are read with the schema that centrifuge-python brings along, so nothing of the
project's codec judges itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from centrifuge.protocol import client_pb2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.support.engine_process import ServedEngine

TRANSCRIPTS = sorted((Path(__file__).parents[1] / "unit" / "protocol" / "transcripts").glob("*.txt"))
AFTER_PING = "after-ping"
ANSWER_S = 10.0
SILENCE_S = 0.3  # nothing within it counts as no answer
PING_S = 40.0  # the first ping comes within the interval of 25 s


@dataclass
class Step:
    """A message to send and the answer that must follow."""

    message: bytes
    answer: list[str]


@dataclass
class Scene:
    """The steps of one connection."""

    title: str
    steps: list[Step] = field(default_factory=list)

    @property
    def waits_for_ping(self) -> bool:
        """True where a step is due only when the engine has pinged."""
        return any(AFTER_PING in step.answer for step in self.steps)


def scenes_of(path: Path) -> list[Scene]:
    """Return the connections of a transcript."""
    scenes: list[Scene] = []
    hexed = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("connection "):
            scenes.append(Scene(line.removeprefix("connection ")))
        elif line.startswith("> "):
            hexed += line[2:]
        elif line.startswith("? "):
            scenes[-1].steps.append(Step(bytes.fromhex(hexed), line[2:].split()))
            hexed = ""
    return scenes


def replies_in(message: bytes) -> Iterator[Any]:
    """Yield the replies of a WebSocket message."""
    at = 0
    while at < len(message):
        length = shift = 0
        while message[at] > 127:
            length |= (message[at] & 127) << shift
            at, shift = at + 1, shift + 7
        length |= message[at] << shift
        at += 1
        yield client_pb2.Reply.FromString(message[at : at + length])
        at += length


def words_of(reply: Any) -> set[str]:
    """Return how a transcript calls a reply: the field that is set, its parts, or the error code."""
    if reply.HasField("error"):
        return {f"error {reply.error.code}"}
    words = set()
    for part, value in reply.ListFields():
        if part.name != "id":
            words.add(part.name)
            words |= {f"{part.name}:{inner.name}={getattr(value, inner.name)}" for inner in value.DESCRIPTOR.fields}
    return words


class Player:
    """Plays the steps of one connection and keeps what came back."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self.replies: list[Any] = []

    async def play(self, step: Step) -> None:
        """Send a message and wait for its answer; raises AssertionError when another one comes, or none in time."""
        if AFTER_PING in step.answer:
            assert await self._receive(PING_S) == [client_pb2.Reply()]
        await self.websocket.send(step.message)
        if step.answer[0] == "close":
            await self._expect_close(int(step.answer[1]))
        elif step.answer[0] == "none":
            assert await self._receive_soon() == []
        elif step.answer == ["no-result"]:
            assert all(reply.HasField("error") for reply in await self._receive_soon())
        elif step.answer == ["any"]:
            assert any(reply.id for reply in await self._receive(ANSWER_S))
        else:
            due = {" ".join(step.answer)} if step.answer[0] == "error" else set(step.answer)
            async with asyncio.timeout(ANSWER_S):
                while due:
                    for reply in await self._receive(ANSWER_S):
                        words = words_of(reply)
                        assert step.answer[0] == "error" or not reply.HasField("error"), (step, reply)
                        due -= words

    async def _receive(self, timeout_s: float) -> list[Any]:
        message = await asyncio.wait_for(self.websocket.recv(), timeout_s)
        assert isinstance(message, bytes), "a Protobuf session gets binary messages"
        replies = list(replies_in(message))
        self.replies += replies
        return replies

    async def _receive_soon(self) -> list[Any]:
        try:
            return await self._receive(SILENCE_S)
        except TimeoutError:
            return []

    async def _expect_close(self, code: int) -> None:
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await self._receive(ANSWER_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[Player]:
    """Open a WebSocket as an SDK does that speaks Protobuf alone."""
    protobuf = Subprotocol("centrifuge-protobuf")
    async with connect(url, subprotocols=[protobuf], ping_interval=None, compression=None) as websocket:
        assert websocket.subprotocol == protobuf
        yield Player(websocket)


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
async def test_a_session_of_an_sdk_that_speaks_protobuf_alone_is_served(path: Path, engine: ServedEngine) -> None:
    for scene in scenes_of(path):
        if not scene.waits_for_ping:
            await play(scene, engine.ws_url)


async def test_pongs_of_sdks_that_speak_protobuf_alone_are_taken(engine: ServedEngine) -> None:
    scenes = [scene for path in TRANSCRIPTS for scene in scenes_of(path) if scene.waits_for_ping]
    assert len(scenes) == len(TRANSCRIPTS)
    await asyncio.gather(*(play(scene, engine.ws_url) for scene in scenes))


async def play(scene: Scene, url: str) -> None:
    """Play a connection; what was published comes in order and as it was sent."""
    async with connection(url) as player:
        for step in scene.steps:
            await player.play(step)
    published = [reply.push.pub for reply in player.replies if reply.push.HasField("pub")]
    assert [pub.offset for pub in published] == sorted(pub.offset for pub in published)
    assert all(pub.data.startswith(b"{") for pub in published)
