"""The messages of the edge bench: chat lines of the bench corpus, cut and filled to one size so that figures compare.

A message is ``{"n":1000000001,"t":1000000012345678,"from":"…","text":"…"}``: number + 10^9, time of its publish in µs +
10^15, and a tail that is the same for every 4,096th message. The C programs build and check the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import count
from typing import Final

from bench._chat_lines import Line, lines

MESSAGE_BYTES: Final = 123
TAIL_BYTES: Final = 87
TAILS: Final = 4_096


@cache
def chat_tails() -> list[bytes]:
    """Return the tails, TAIL_BYTES each: who says it, and what."""
    talk = lines(TAILS * 8)  # most lines are shorter than a message here: several are said at once
    return [_tail(next(talk), talk) for _ in range(TAILS)]


def message(number: int, sent_us: int, tails: list[bytes]) -> bytes:
    """Return message ``number`` as the publisher sends it."""
    return b'{"n":%d,"t":%d%b' % (10**9 + number, 10**15 + sent_us, tails[number % len(tails)])


def _tail(first: Line, talk: Iterator[Line]) -> bytes:
    before = f',"from":{json.dumps(first.user)},"text":"'.encode()
    room = TAIL_BYTES - len(before) - 2
    said = _plain(first.text)
    while len(said) < room:
        said += b" " + _plain(next(talk).text)
    cut = next(end for end in count(room, -1) if _is_whole(said[:end]))
    return before + said[:cut] + b"." * (room - cut) + b'"}'


def _plain(text: str) -> bytes:
    """Return a text without what JSON would escape."""
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("\\", "").encode()


def _is_whole(cut: bytes) -> bool:
    try:
        cut.decode()
    except UnicodeDecodeError:
        return False
    return True
