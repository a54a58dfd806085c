"""A bar chart as SVG, drawn by hand: no library, no script, and no background, so it suits light
and dark pages alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _ROW, _BAR = 760, 30, 16
_LEFT, _RIGHT, _TOP = 160, 170, 44
# Each has a contrast of at least 4 : 1 to white and of at least 3.9 : 1 to a near-black page.
_FONT = 'font-family="system-ui, sans-serif" font-size="13"'
_TEXT, _OURS, _OTHERS, _STORE = "#737b84", "#2f8f4e", "#6a82a8", "#b0703c"


@dataclass(frozen=True)
class Bar:
    """One contender: µs per request in the server, and in the store behind it."""

    name: str
    server_us: float
    store_us: float = 0.0
    ours: bool = False


def draw(title: str, bars: Sequence[Bar]) -> str:
    """The chart. The bars stand in the order given, on one linear scale."""
    longest = max(bar.server_us + bar.store_us for bar in bars)
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    height = _TOP + _ROW * len(bars) + 12
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" fill="{_TEXT}" {_FONT}>',  # noqa: E501
        f"<title>{escape(title)}</title>",
        f'<text x="8" y="22" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    for index, bar in enumerate(bars):
        lines += _bar(bar, _TOP + _ROW * index, scale)
    return "\n".join([*lines, "</svg>", ""])


def _bar(bar: Bar, top: int, scale: float) -> list[str]:
    middle, weight = top + _ROW // 2 + 4, "600" if bar.ours else "400"
    y = top + (_ROW - _BAR) // 2
    server, store = max(bar.server_us * scale, 1.0), bar.store_us * scale
    label = f"{bar.server_us:.1f} µs"
    lines = [
        f'<text x="{_LEFT - 10}" y="{middle}" text-anchor="end" font-weight="{weight}">{escape(bar.name)}</text>',  # noqa: E501
        _rectangle(_LEFT, y, server, _OURS if bar.ours else _OTHERS),
    ]
    # A share that is not a tenth of a microsecond is the heartbeat's, not the requests'.
    if bar.store_us >= 0.1:
        lines.append(_rectangle(_LEFT + server, y, store, _STORE))
        label += f" + {bar.store_us:.1f} in Redis"
        server += store
    lines.append(
        f'<text x="{_LEFT + server + 8:.1f}" y="{middle}" font-weight="{weight}">{escape(label)}</text>'  # noqa: E501
    )
    return lines


def _rectangle(x: float, y: int, width: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
