"""Chat lines as varied as those of a real livestream, made from word lists and a seed: the corpus of the deflate bench.

Words are drawn one by one, by rank (Zipf-Mandelbrot), so that a line repeats no other and has less order in it than
people's sentences have: what is said out there compresses at least as well. One word in eleven is in no list: a name, a
number, a typing error, a stretched word. Lengths have the quantiles of 42,157 recorded messages of three live chats of
9,000 to 100,000 viewers (mean 35 bytes, median 18, one in twenty above 149). User ids are names that people make up.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

WORDS: Final = Path(__file__).parent / "chat_words.txt"
SEED: Final = 20_260_401
USERS: Final = 5_000

_LENGTHS: Final = (1, 3, 3, 4, 6, 8, 9, 12, 13, 15, 18, 20, 23, 27, 31, 37, 45, 57, 78, 149)  # each 5 % of lines
_LONGEST: Final = ((0.95, 149), (0.975, 197), (0.99, 307), (1.0, 360))
_RANK_SHIFT: Final = 2.7
_BUSY_SHIFT: Final = 40.0  # most people say one thing
_UNLISTED: Final = 0.09
_EMOJI: Final = 0.07
_NO_SPACES: Final = frozenset(("zh", "ja"))
_ENDS: Final = ("", "", "", "", "", "!", "!!", "?", ".", "...")


class Line(NamedTuple):
    """What one person said: ``user`` as an id of the engine, ``text`` as typed."""

    user: str
    text: str


class _List(NamedTuple):
    words: list[str]
    ranks: list[float]  # cumulative weights
    gap: str
    share: float


def lines(count: int, seed: int = SEED) -> Iterator[Line]:
    """Yield that many lines; the same seed gives the same ones on any machine."""
    crowd = _Crowd(seed)
    for _ in range(count):
        yield crowd.line()


def payloads(count: int, seed: int = SEED) -> Iterator[tuple[str, bytes]]:
    """Yield (user, payload): each line as ``{"text": …}``, the way the examples publish it."""
    for user, text in lines(count, seed):
        yield user, json.dumps({"text": text}, ensure_ascii=False, separators=(",", ":")).encode()


class _Crowd:
    """Everybody in the room, and the dice that decide what is said next."""

    def __init__(self, seed: int) -> None:
        self._dice = Random(seed)
        lists = _read()
        self._emoji, self._syllables = lists.pop("emoji").words, lists.pop("syllable").words
        self._languages = list(lists.values())
        self._shares = list(accumulate(language.share for language in self._languages))
        self._users = [self._name() for _ in range(USERS)]
        self._busy = _ranks(USERS, _BUSY_SHIFT)

    def line(self) -> Line:
        """Return the next line."""
        user = self._users[self._drawn(self._busy)]
        language = self._languages[self._drawn(self._shares)]
        due, size = self._length(), 0
        tokens: list[str] = []
        while size < due:
            token = self._token(language)
            if tokens and size + len(token.encode()) / 2 > due:
                break
            tokens.append(token)
            size += len(token.encode()) + len(language.gap)
        return Line(user, self._dressed(language.gap.join(tokens)))

    def _drawn(self, cumulative: list[float]) -> int:
        return bisect_right(cumulative, self._dice.random() * cumulative[-1], hi=len(cumulative) - 1)

    def _length(self) -> float:
        """Return how many bytes a line should have."""
        at = self._dice.random()
        if at < _LONGEST[0][0]:
            step = int(at * 20)
            low, high = _LENGTHS[step], _LENGTHS[step + 1]
            return low + (at * 20 - step) * (high - low)
        after = next(index for index, (share, _) in enumerate(_LONGEST) if at < share)
        (begin, low), (end, high) = _LONGEST[after - 1 : after + 1]
        return low + (at - begin) / (end - begin) * (high - low)

    def _token(self, language: _List) -> str:
        at = self._dice.random()
        if at < _UNLISTED:
            return self._unlisted(language)
        if at < _UNLISTED + _EMOJI:
            return self._dice.choice(self._emoji) * self._dice.choice((1, 1, 1, 2, 3))
        return language.words[self._drawn(language.ranks)]

    def _unlisted(self, language: _List) -> str:
        dice = self._dice
        word = language.words[self._drawn(language.ranks)]
        place = dice.randrange(len(word))
        match dice.randrange(5):
            case 0:
                return "@" + dice.choice(self._users)
            case 1:
                return str(dice.randrange(10 ** dice.randint(1, 4)))
            case 2:
                return word[:place] + word[place] * dice.randint(2, 8) + word[place + 1 :]
            case 3:
                return word[:place] + word[place + 1 :] + dice.choice("aeionrst")
            case _:
                return "".join(dice.choices(self._syllables, k=dice.randint(2, 4)))

    def _dressed(self, text: str) -> str:
        """Add what people add: capitals, marks at the end."""
        at = self._dice.random()
        if at < 0.05:
            text = text.upper()
        elif at < 0.4:
            text = text[:1].upper() + text[1:]
        return text + self._dice.choice(_ENDS)

    def _name(self) -> str:
        dice = self._dice
        name = "".join(dice.choices(self._syllables, k=dice.randint(2, 4)))
        match dice.randrange(4):
            case 0:
                return name
            case 1:
                return f"{name}{dice.randrange(10_000)}"
            case 2:
                return f"{name.capitalize()}_{dice.choice(self._syllables)}{dice.randrange(100)}"
            case _:
                return f"{name}.{dice.choice(self._syllables)}{dice.choice(self._syllables)}"


def _read() -> dict[str, _List]:
    words: dict[str, list[str]] = {}
    shares: dict[str, float] = {}
    for line in WORDS.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            head, _, listed = line.partition(": ")
            name, _, share = head.partition(" ")
            words.setdefault(name, []).extend(listed.split())
            if share:
                shares[name] = float(share)
    return {
        name: _List(listed, _ranks(len(listed), _RANK_SHIFT), "" if name in _NO_SPACES else " ", shares[name])
        for name, listed in words.items()
    }


def _ranks(count: int, shift: float) -> list[float]:
    """Return the cumulative weights 1 / (rank + shift)."""
    return list(accumulate(1 / (rank + shift) for rank in range(count)))
