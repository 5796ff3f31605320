"""Small inline pictures for a page: scales, axes, marks. Text in, text out; everything that is written is escaped here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from math import ceil, floor, log10

Points = Sequence[tuple[float, float]]
_SIZES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_HOLDS = 0.999999  # a tick that rounding put past the end of its axis still stands on it


def visible(value: object) -> str:
    """Its text; what cannot be seen (control characters, line ends, turned writing) shows as its code."""
    return "".join(c if c.isprintable() or c == "\u00a0" else f"\\u{ord(c):04x}" for c in str(value))


def safe(value: object) -> str:
    """Text for HTML, in an attribute too."""
    return escape(visible(value), quote=True)


def short(value: float) -> str:
    """At most three digits and a size: 950, 12k, 1.25M."""
    for size, letter in _SIZES:
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """One decimal, below 1 % two digits, none where the share is a whole one: 0.031 %, 5.0 %, 12.5 %, 100 %."""
    value = share * 100
    if abs(value - round(value)) < 1e-9:
        return f"{round(value)}\u00a0%"
    decimals = 1 if abs(value) >= 1 else min(8, 1 - floor(log10(abs(value))))
    return f"{value:.{decimals}f}\u00a0%"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values from `low` to `high`, in steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** floor(log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * _HOLDS)
    first, last = ceil(low / step * _HOLDS), floor(high / step / _HOLDS)
    return [float(f"{at * step:.12g}") for at in range(first, last + 1)]


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


@dataclass
class Picture:
    """A plot with two axes, from x0..x1 and y0..y1; what is drawn later lies above. `wide` ones fill the page's width."""

    says: str  # for who cannot see it
    x0: float
    x1: float
    y0: float
    y1: float
    wide: bool = False
    height: float = 170
    parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.width = 640.0 if self.wide else 320.0
        self.left, self.top, self.right, self.bottom = (62.0, 30.0, 12.0, 34.0) if self.wide else (40.0, 18.0, 8.0, 20.0)
        self.x1 = self.x1 if self.x1 > self.x0 else self.x0 + 1
        self.y1 = self.y1 if self.y1 > self.y0 else self.y0 + 1

    def x(self, value: float) -> float:
        return self.left + (value - self.x0) / (self.x1 - self.x0) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        return self.height - self.bottom - (value - self.y0) / (self.y1 - self.y0) * (self.height - self.top - self.bottom)

    def text(self, x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> None:
        self.parts.append(f'<text x="{_n(x)}" y="{_n(y)}" class="{kind}" text-anchor="{anchor}">{safe(content)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.parts.append(f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" class="{kind}"/>')

    def y_axis(self, unit: str, labels: Sequence[tuple[float, str]]) -> None:
        """Horizontal lines with their values; `unit` stands above them."""
        for value, label in labels:
            at = self.y(value)
            self.line(self.left, at, self.width - self.right, at, "grid")
            self.text(self.left - 5, at + 3.5, label, "tick", "end")
        self.text(2, 12 if not self.wide else 16, unit, "unit")

    def x_axis(self, labels: Sequence[tuple[float, str]], *, marks: bool = True) -> None:
        base = self.height - self.bottom
        self.line(self.left, base, self.width - self.right, base, "axis")
        for value, label in labels:
            at = self.x(value)
            if marks:
                self.line(at, base, at, base + 3, "axis")
            edge = "end" if at > self.width - 24 else "middle"
            self.text(min(at, self.width - 2), self.height - (8 if self.wide else 6), label, "tick", edge)

    def area(self, points: Points, kind: str = "area") -> None:
        """The surface between the points and zero."""
        if points:
            base = self.y(max(self.y0, 0))
            self._path([(self.x(points[0][0]), base), *self._placed(points), (self.x(points[-1][0]), base)], kind, "Z")

    def band(self, low: Points, high: Points, kind: str = "band") -> None:
        if low:
            self._path([*self._placed(low), *reversed(self._placed(high))], kind, "Z")

    def curve(self, points: Points, kind: str = "curve") -> None:
        if points:
            self._path(self._placed(points), kind)

    def dots(self, points: Points, radius: float = 2.5, kind: str = "dot") -> None:
        """All dots as one path: short lines with round ends."""
        if points:
            steps = "".join(f"M{_n(self.x(x))} {_n(self.y(y))}h0" for x, y in points)
            self.parts.append(f'<path d="{steps}" class="{kind}" stroke-width="{_n(2 * radius)}"/>')

    def whiskers(self, intervals: Sequence[tuple[float, float, float]], kind: str = "whisker") -> None:
        """Vertical lines (x, low, high)."""
        if intervals:
            steps = "".join(f"M{_n(self.x(x))} {_n(self.y(low))}V{_n(self.y(high))}" for x, low, high in intervals)
            self.parts.append(f'<path d="{steps}" class="{kind}"/>')

    def bars(self, spans: Sequence[tuple[float, float, float]], kind: str = "bar") -> None:
        """Columns (from, to, height) on zero, as one path."""
        base = self.y(max(self.y0, 0))
        steps = "".join(f"M{_n(self.x(a))} {_n(base)}V{_n(self.y(h))}H{_n(self.x(b))}V{_n(base)}Z" for a, b, h in spans if h)
        if steps:
            self.parts.append(f'<path d="{steps}" class="{kind}"/>')

    def shade(self, start: float, end: float, kind: str = "shade") -> None:
        left, right = (self.x(min(max(at, self.x0), self.x1)) for at in (start, end))
        if right > left:
            size = f'width="{_n(right - left)}" height="{_n(self.height - self.top - self.bottom)}"'
            self.parts.append(f'<rect x="{_n(left)}" y="{_n(self.top)}" {size} class="{kind}"/>')

    def _placed(self, points: Points) -> list[tuple[float, float]]:
        return [(self.x(x), self.y(y)) for x, y in points]

    @property
    def _shape(self) -> str:
        return f'class="{"wide" if self.wide else "half"}" viewBox="0 0 {_n(self.width)} {_n(self.height)}"'

    def _path(self, placed: Points, kind: str, end: str = "") -> None:
        steps = "L".join(f"{_n(x)} {_n(y)}" for x, y in placed)
        self.parts.append(f'<path d="M{steps}{end}" class="{kind}"/>')

    def __str__(self) -> str:
        return f'<svg {self._shape} role="img" aria-label="{safe(self.says)}">{"".join(self.parts)}</svg>'
