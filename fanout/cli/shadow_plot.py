"""What two policies kept and dropped over time: a plot of characters, and the same as an SVG. No parts needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final, NamedTuple

from fanout.cli.shadow_report import IN_FORCE, PROPOSED, Report
from workers.shadow_steps import Fates, Step

_ROWS: Final = 6  # of characters, for one policy
_WIDTH: Final = 60
_KEPT, _MERGED, _DROPPED, _FEW = "█", "▒", "░", "·"
_UNITS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))

# SVG, in its own units
_LEFT, _TOP, _PANEL, _GAP, _PLOT = 70, 40, 120, 50, 640
_COLOURS: Final = {"kept": "#2a78c8", "merged": "#8cb8e2", "dropped": "#d9822b"}


class Side(NamedTuple):
    """One policy's fates, step by step."""

    name: str
    fates: list[Fates]


def as_text(report: Report) -> Iterator[str]:
    """Yield the lines of the plot, at most 72 characters wide: both policies to the same scale."""
    most = _most(report.steps)
    yield f"messages in {_length(report.step_ms)}: {_KEPT} kept  {_MERGED} merged  {_DROPPED} dropped"
    each = max(1, min(4, _WIDTH // len(report.steps)))
    for side in _sides(report.steps):
        yield ""
        yield side.name
        for level in reversed(range(_ROWS)):
            label = f"{most:,}" if level == _ROWS - 1 else ""
            cells = "".join(_cell(fates, level, most) * each for fates in side.fates)
            yield f"{label:>9} │{cells}".rstrip()
        yield f"{'0':>9} └{'─' * (each * len(side.fates))}"
    first, last = _times(report)
    yield f"{'':10} {first:<{max(len(first) + 1, each * len(report.steps) - len(last))}}{last} UTC".rstrip()


def as_svg(report: Report) -> str:
    """Return the plot as an SVG (below 100 KB): both policies to the same scale, one above the other."""
    most = _most(report.steps)
    height = _TOP + 2 * (_PANEL + _GAP)
    title = f"{report.room} of app {report.app}: messages in {_length(report.step_ms)}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _PLOT + 20} {height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="18" font-size="14">{escape(title)}</text>',
        *_legend(),
    ]
    for number, side in enumerate(_sides(report.steps)):
        lines += _panel(side, _TOP + number * (_PANEL + _GAP), most)
    first, last = _times(report)
    lines += [
        f'<text x="{_LEFT}" y="{height - 15}">{first}</text>',
        f'<text x="{_LEFT + _PLOT}" y="{height - 15}" text-anchor="end">{last} UTC</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _sides(steps: Sequence[Step]) -> tuple[Side, Side]:
    return Side(IN_FORCE, [step.in_force for step in steps]), Side(PROPOSED, [step.proposed for step in steps])


def _most(steps: Sequence[Step]) -> int:
    return max(1, *(sum(fates) for step in steps for fates in (step.in_force, step.proposed)))


def _cell(fates: Fates, level: int, most: int) -> str:
    """Return the character of one step at one height; what is too little to be drawn is a dot on the ground."""
    half = (level + 0.5) * most / _ROWS
    if fates.kept >= half:
        return _KEPT
    if fates.kept + fates.merged >= half:
        return _MERGED
    if sum(fates) >= half:
        return _DROPPED
    return _FEW if not level and any(fates) else " "


def _legend() -> list[str]:
    lines = []
    for number, (fate, colour) in enumerate(_COLOURS.items()):
        x = _LEFT + _PLOT - 220 + 75 * number
        lines.append(f'<rect x="{x}" y="9" width="10" height="10" fill="{colour}"/>')
        lines.append(f'<text x="{x + 14}" y="18">{fate}</text>')
    return lines


def _panel(side: Side, top: int, most: int) -> list[str]:
    """Return the stacked bars of one policy; one group a fate, so that a bar is short."""
    ground, width = top + _PANEL, _PLOT / len(side.fates)
    lines = [
        f'<text x="{_LEFT}" y="{top - 4}">{side.name}</text>',
        f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end">{most:,}</text>',
        f'<text x="{_LEFT - 6}" y="{ground}" text-anchor="end">0</text>',
    ]
    for place, colour in enumerate(_COLOURS.values()):
        lines.append(f'<g fill="{colour}">')
        for number, fates in enumerate(side.fates):
            if fates[place]:
                y, high = ground - sum(fates[: place + 1]) * _PANEL / most, fates[place] * _PANEL / most
                x = _LEFT + number * width
                lines.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width * 0.9:.1f}" height="{high:.1f}"/>')
        lines.append("</g>")
    lines.append(f'<path d="M{_LEFT} {top}V{ground}H{_LEFT + _PLOT}" fill="none" stroke="#444"/>')
    return lines


def _times(report: Report) -> tuple[str, str]:
    """Return when the first and the last step begin; with the day where they are of different days."""
    first, last = (datetime.fromtimestamp(report.steps[at].at_ms / 1_000, UTC) for at in (0, -1))
    shape = "%H:%M:%S" if first.date() == last.date() else "%m-%d %H:%M"
    return first.strftime(shape), last.strftime(shape)


def _length(step_ms: int) -> str:
    unit_ms, unit = next((ms, word) for ms, word in _UNITS if step_ms >= ms and not step_ms % ms)
    return f"{step_ms // unit_ms} {unit}"
