"""How sure a figure is: users are dealt to groups, and whole groups are drawn again, because a user's impressions go together.

Sums of a few hundred groups are all that leaves the workers, whatever the size of the log. Source: Wolter 2007, random groups.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

GROUPS = 200
DRAWS = 2_000

Sums = Mapping[str, Float64]


def interval(sums: Sums, figure: Callable[[Sums], Float64], *, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of a figure. sums: name -> (groups,). figure: from sums of many draws, name -> (draws,), to (draws,).

    That of another level than 95 % is stretched as a normal's would be: the draws do not reach so far into the tails.

    The same draws for every figure, so that a difference of two models on the same rows is a paired one.
    """
    draws = drawn(len(next(iter(sums.values()))))
    with np.errstate(divide="ignore", invalid="ignore"):
        figures = np.asarray(figure({name: draws @ values for name, values in sums.items()}), dtype=np.float64)
    return spread_of(figures, level)


def ratio_interval(sums: Sums, upper: str, lower: str, *, level: float = 0.95) -> tuple[float, float]:
    """That of a ratio of two positive sums, stretched on its logarithm, which is nearer to a normal than the ratio is."""
    low, high = interval(sums, lambda drawn: np.log(drawn[upper] / drawn[lower]), level=level)
    return math.exp(low), math.exp(high)


def spread_of(figures: Float64, level: float = 0.95) -> tuple[float, float]:
    """The interval of a figure from its draws; NaN where most of them have none."""
    figures = figures[np.isfinite(figures)]
    if len(figures) < DRAWS / 2:
        return float("nan"), float("nan")
    low, middle, high = np.quantile(figures, [0.025, 0.5, 0.975])
    stretch = NormalDist().inv_cdf((1 + level) / 2) / NormalDist().inv_cdf(0.975)
    return float(middle - (middle - low) * stretch), float(middle + (high - middle) * stretch)


@cache
def drawn(groups: int) -> Float64:
    """How often each group is in each draw; the same draws always. Shape (DRAWS, groups)."""
    return np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), size=DRAWS).astype(np.float64)


def ratio_of(upper: str, lower: str, *, less: str = "") -> Callable[[Sums], Float64]:
    """A figure: the ratio of two sums, or of a difference (`upper` less `less`) and a sum."""
    return lambda drawn: (drawn[upper] - drawn[less] if less else drawn[upper]) / drawn[lower]
