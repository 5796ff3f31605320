"""The reliability plot: what was predicted against what was clicked."""

import io
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.metrics import BINS, LARGEST, NORMAL_95, Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUPS = 10
_BLUE, _GREY = "#1f5a8a", "#7a7a7a"

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


def reliability_png(histogram: Histogram, title: str) -> bytes:
    """The plot as PNG; the same histogram gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 7.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    _rates(above, deciles(histogram))
    above.set_title(title, fontsize=11)
    _rows(below, histogram)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})  # its version would make other bytes of the same plot
    return data.getvalue()


def _rates(axes: "Axes", groups: Float64) -> None:
    predicted, clicked, low, high = groups.T
    floor = min(predicted.min(), clicked[clicked > 0].min(initial=1.0)) / 2
    limits = floor, min(1.0, max(predicted.max(), high.max()) * 1.5)
    axes.plot(limits, limits, color=_GREY, linewidth=1, linestyle="--", label="predicted = clicked")
    shown = np.maximum(clicked, floor)  # no clicks: on the lower edge, its interval reaching up
    bars = np.maximum([shown - np.maximum(low, floor), high - shown], 0)
    axes.errorbar(
        predicted, shown, yerr=bars, fmt="o", markersize=5, color=_BLUE, capsize=3, linewidth=1.2,
        label=f"{len(groups)} groups by score, 95 % intervals",
    )  # fmt: skip
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits, ylabel="clicks per impression")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(_percent)
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(loc="upper left", frameon=False, fontsize=9)


def _rows(axes: "Axes", histogram: Histogram) -> None:
    width = 2 * LARGEST / BINS
    middles = 1 / (1 + np.exp(LARGEST - (histogram.bins + 0.5) * width))
    edges = np.geomspace(middles.min() * 0.999, middles.max() * 1.001, 41)
    heights, _ = np.histogram(middles, edges, weights=histogram.floats("w"))
    for height, (left, right) in zip(heights, pairwise(edges), strict=True):
        axes.fill_between([left, right], [height, height], color=_BLUE, alpha=0.6, linewidth=0)
    axes.set(xlabel="predicted click probability", ylabel="impressions", ylim=(0, None))


def _percent(value: float, _: float) -> str:
    return f"{value * 100:g} %"
