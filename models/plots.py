"""The pictures of a model card: what was predicted against what was clicked, how well clicks are found, rates set by hand."""

from math import floor, log10

import numpy as np
import numpy.typing as npt

from models.contributions import Dependence
from models.metrics import NORMAL_95, Histogram
from models.svg import Picture, percent, ticks

GROUPS = 10
_STEPS = 100  # of the gain curve
_HEIGHT = 250

Float64 = npt.NDArray[np.float64]


def wilson(clicks: Float64, rows: Float64) -> tuple[Float64, Float64]:
    """95 % interval of a rate, clicks per row, elementwise; rows > 0. Source: Wilson 1927."""
    rate, z2 = clicks / rows, NORMAL_95**2
    middle = (rate + z2 / (2 * rows)) / (1 + z2 / rows)
    half = NORMAL_95 / (1 + z2 / rows) * np.sqrt(rate * (1 - rate) / rows + z2 / (4 * rows**2))
    return middle - half, middle + half


def deciles(histogram: Histogram) -> Float64:
    """About equally heavy groups of rows by rising score: columns predicted rate, click rate, low and high of its 95 % interval.

    Shape (groups, 4), at most GROUPS: bins are not divided, so a score that many rows share makes one group.
    """
    weight = histogram.floats("w")
    group = np.minimum((np.cumsum(weight) - weight / 2) / weight.sum() * GROUPS, GROUPS - 1).astype(int)
    sums = {name: np.bincount(group, histogram.floats(name), GROUPS) for name in ("w", "wy", "ww", "wp")}
    kept = sums["w"] > 0
    w, wy, ww, wp = (sums[name][kept] for name in ("w", "wy", "ww", "wp"))
    effective = w**2 / ww  # rows of equal weight that would tell as much
    low, high = wilson(wy / w * effective, effective)
    return np.column_stack([wp / w, wy / w, low, high])


def gains(histogram: Histogram) -> Float64:
    """How many clicks the rows of the highest scores hold. (_STEPS + 1, 2): share of the rows, 0 to 1, and of the clicks.

    Within a bin clicks are taken as evenly spread. The histogram must have a click.
    """
    weight, clicked = histogram.floats("w")[::-1], histogram.floats("wy")[::-1]
    rows = np.concatenate([[0.0], np.cumsum(weight) / weight.sum()])
    clicks = np.concatenate([[0.0], np.cumsum(clicked) / clicked.sum()])
    at = np.linspace(0, 1, _STEPS + 1)
    return np.column_stack([at, np.interp(at, rows, clicks)])


def reliability_plot(groups: Float64) -> str:
    """SVG of `deciles`, both axes logarithmic."""
    predicted, clicked, _, high = groups.T
    least = min(predicted.min(), clicked[clicked > 0].min(initial=1.0)) / 1.6
    start, end = log10(least), log10(min(1.0, max(predicted.max(), high.max()) * 1.2))
    picture = Picture("Predicted against clicked, by score", start, end, start, end, height=_HEIGHT)
    labels = [(log10(at), percent(at)) for at in _log_ticks(10**start, 10**end)]
    picture.y_axis("clicked, share of impressions", labels)
    picture.x_axis(labels)
    picture.line(picture.x(start), picture.y(start), picture.x(end), picture.y(end), "mark")
    shown = np.log10(np.clip(groups, least, 1.0))  # no clicks: on the lower edge, its interval reaching up
    picture.whiskers([(x, bottom, top) for x, _, bottom, top in shown.tolist()])
    picture.dots([(x, y) for x, y, _, _ in shown.tolist()], 3)
    return str(picture)


def gain_plot(points: Float64) -> str:
    """SVG of `gains`."""
    picture = Picture("Share of clicks among the highest scores", 0, 1, 0, 1.06, height=_HEIGHT)
    labels = [(at, percent(at)) for at in (0, 0.25, 0.5, 0.75, 1)]
    picture.y_axis("share of all clicks", labels)
    picture.x_axis(labels)
    picture.line(picture.x(0), picture.y(0), picture.x(1), picture.y(1), "mark")
    picture.curve([(x, y) for x, y in points.tolist()])
    return str(picture)


def dependence_plot(curve: Dependence, top: float) -> str:
    """SVG. top: the largest probability that the axis shows, the same for curves that are compared."""
    at = [log10(value) for value in curve.values]
    picture = Picture(f"Mean click probability by {curve.feature}", at[0], at[-1], 0, top * 1.05)
    picture.y_axis("mean click probability", [(value, percent(value)) for value in ticks(0, top, 4)])
    picture.x_axis([(log10(value), f"x\u00a0{value:g}") for value in _log_ticks(curve.values[0], curve.values[-1])])
    points = list(zip(at, curve.probabilities, strict=True))
    picture.curve(points)
    picture.dots(points)
    return str(picture)


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; on an axis too short for three of them, even steps."""
    powers = range(floor(log10(low)), floor(log10(high)) + 1)
    found = [round(step * 10.0**power, 12) for power in powers for step in (1, 2, 5)]
    within = [value for value in found if low <= value <= high]
    return within if len(within) > 2 else [value for value in ticks(low, high, 4) if value > 0]
