"""One codec per wire format behind one Protocol: what a session's bytes mean, whatever it speaks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from fanout.core.records import Entry
from fanout.protocol import json_codec, protobuf_codec
from fanout.protocol.centrifuge import Command, Malformed, Reply, WireFormat


class Codec(Protocol):
    """Functions of a wire format; the two modules ``json_codec`` and ``protobuf_codec`` are codecs.

    ``ping`` is the empty reply and the empty command (pong); ``opcode`` the WebSocket opcode of its frames.
    """

    @property
    def wire_format(self) -> WireFormat: ...
    @property
    def opcode(self) -> int: ...
    @property
    def ping(self) -> bytes: ...

    def decode_commands(self, frame: bytes) -> list[Command | Malformed]:
        """Return the commands of a frame in order, each decoded or declared malformed; never raises."""

    def encode_reply(self, reply: Reply) -> bytes:
        """Return one encoded reply, ready for ``join``."""

    def push_prefix(self, channel: str) -> bytes:
        """Return what all publication pushes of a room begin with."""

    def encode_publication_push(self, prefix: bytes, entry: Entry, *, id_tag: bool) -> bytes:
        """Return one encoded push of a representable entry, ready for ``join``."""

    def join(self, replies: Iterable[bytes]) -> bytes:
        """Return one frame of encoded replies (or commands)."""

    def representable(self, entry: Entry) -> bool:
        """True where a session of this wire format can be given the entry's payload."""

    def encode_command(self, command: Command) -> bytes:
        """Return one encoded command, ready for ``join`` (a client's side)."""

    def decode_replies(self, frame: bytes) -> list[Reply]:
        """Return the replies of a frame in order; raises ProtocolError (a client's side)."""


CODECS: Final[dict[WireFormat, Codec]] = {WireFormat.JSON: json_codec, WireFormat.PROTOBUF: protobuf_codec}
