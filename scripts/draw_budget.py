"""Draw ``docs/images/budget.svg``: the shared slots of a room that grows and shrinks, by the engine's own rule.

    python scripts/draw_budget.py          write
    python scripts/draw_budget.py --check  exit 1 where the picture on disk differs

Drawn with the default policy and ``fanout.core.budget``, so that the picture cannot say anything else than the code.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fanout.core.budget import afforded, next_slots
from fanout.core.profiles import Policy

ROOT: Final = Path(__file__).resolve().parent.parent
OUTPUT: Final = Path("docs/images/budget.svg")

POLICY: Final = Policy()
SIZES: Final = tuple(round(10 ** (2 + step / 80)) for step in range(4 * 80 + 1))  # 100 to 1,000,000
WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 64, 60
SLOTS_MAX: Final = 22

_INK, _FAINT, _PAPER = "#24292f", "#d0d7de", "#ffffff"


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of the picture; ``label`` stands at (members, slots), in the line's colour."""

    label: str
    at: tuple[float, float]
    colour: str
    slots: Sequence[int]
    dashes: str = ""


def followed(sizes: Iterable[int], in_force: int, *, quota: int | None = None, pressure: int = 0) -> list[int]:
    """Return the shared slots in force while a room takes these sizes one after the other."""
    values = []
    for members in sizes:
        in_force = next_slots(in_force, POLICY, afforded(POLICY, members, quota, pressure))
        values.append(in_force)
    return values


def curves() -> list[Curve]:
    """Return the lines of the picture."""
    grown = followed(SIZES, POLICY.shared_slots_max)
    shrunk = followed(reversed(SIZES), grown[-1])[::-1]
    pressed = followed(SIZES, POLICY.shared_slots_max, pressure=75)
    quota = followed(SIZES, POLICY.shared_slots_max, quota=200_000)
    return [
        Curve("quota of 200,000 deliveries/s", (105, 12.2), "#1a7f37", quota),
        Curve("pressure 75", (6_300, 11.8), "#bc4c00", pressed),
        Curve("shrinking", (20_500, 16.2), "#0969da", shrunk, "5 4"),
        Curve("growing", (76_000, 18.4), "#0969da", grown),
    ]


def _x(members: float) -> float:
    low, high = math.log10(SIZES[0]), math.log10(SIZES[-1])
    return LEFT + (math.log10(members) - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def _y(slots: float) -> float:
    return HEIGHT - BOTTOM - slots / SLOTS_MAX * (HEIGHT - TOP - BOTTOM)


def _path(slots: Sequence[int]) -> str:
    """Return steps: a value holds until the size at which it changes."""
    parts = [f"M{_x(SIZES[0]):.1f} {_y(slots[0]):.1f}"]
    for members, before, value in zip(SIZES[1:], slots, slots[1:], strict=False):
        if value != before:
            parts.append(f"H{_x(members):.1f}V{_y(value):.1f}")
    return "".join([*parts, f"H{_x(SIZES[-1]):.1f}"])


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = _INK, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{more}>{text}</text>'


def _axes() -> list[str]:
    parts = []
    for slots in (0, 5, 10, 15, 20):
        y = _y(slots)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{_FAINT}"/>')
        parts.append(_text(LEFT - 10, y + 4, str(slots), anchor="end"))
    for power in range(2, 7):
        x = _x(10**power)
        parts.append(f'<path d="M{x:.1f} {_y(0):.1f}v5" stroke="{_INK}"/>')
        parts.append(_text(x, _y(0) + 21, f"{10**power:,}", anchor="end" if power == 6 else "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "members (log scale)", anchor="middle"))
    return parts


def picture() -> str:
    """Return the picture."""
    title = "Shared slots of a window as a live room grows"
    note = f"default policy: {POLICY.room_deliveries_per_s:,} deliveries/s for a room,"
    note += f" {POLICY.shared_slots_min} to {POLICY.shared_slots_max} slots"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"'
        ' font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{_PAPER}"/>',
        _text(LEFT, 26, title, more=' font-size="16" font-weight="600"'),
        _text(LEFT, 46, note, colour="#57606a"),
        *_axes(),
    ]
    for curve in curves():
        dashes = f' stroke-dasharray="{curve.dashes}"' if curve.dashes else ""
        parts.append(f'<path d="{_path(curve.slots)}" fill="none" stroke="{curve.colour}" stroke-width="2"{dashes}/>')
        parts.append(_text(_x(curve.at[0]), _y(curve.at[1]), curve.label, colour=curve.colour))
    return "\n".join([*parts, "</svg>", ""])


def main(arguments: Sequence[str]) -> int:
    """Write the picture, or with ``--check`` compare it; returns the exit status."""
    path = ROOT / OUTPUT
    if path.exists() and path.read_text(encoding="utf-8") == picture():
        return 0
    if "--check" in arguments:
        print(f"{OUTPUT} is not current: run python scripts/draw_budget.py")
        return 1
    path.write_text(picture(), encoding="utf-8")
    print(f"wrote {OUTPUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
