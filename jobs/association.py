"""How strongly a column and the label go together, from counts alone. Knows no Spark.

A category is tested by chi-squared on its table of values and clicks, a number by the ranks of clicked and unclicked rows, which
neither its unit nor a long tail can move. Every count is an integer, so the order in which rows came changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

from scipy.stats import chi2_contingency, norm

EXPECTED = 5  # clicks, and rows without one, that a value must let expect: below it chi-squared's p is not to be trusted


class Level(NamedTuple):
    """The labelled rows that share a value, and how many of them were clicked."""

    rows: int
    clicked: int


@dataclass(frozen=True)
class Association:
    """One column's test: its statistic, two-sided p, and the effect: 0 for none, 1 or -1 where the column tells the label."""

    test: str
    levels: int  # values or groups of values that were told apart
    statistic: float
    p: float
    effect_name: str
    effect: float


def of_categories(levels: Sequence[Level], rest: Level) -> Association | None:
    """Chi-squared over the values, with Cramer's V corrected for its bias.

    levels: the values told apart, most frequent first; rest: all others together. Values too rare for the test are pooled with
    the rest. None where fewer than two levels are left, or where nothing or everything was clicked. Sources: Cochran 1954 (the
    least count to expect), Bergsma 2013 (the correction: many values do not make an effect by themselves).
    """
    table = _pooled(levels, rest)
    if len(table) < 2:
        return None
    found = chi2_contingency([[level.clicked, level.rows - level.clicked] for level in table], correction=False)
    n, k = sum(level.rows for level in table), len(table)
    phi2 = max(0.0, float(found.statistic) / n - (k - 1) / (n - 1))
    narrower = min(k - (k - 1) ** 2 / (n - 1), 2 - 1 / (n - 1)) - 1
    v = sqrt(phi2 / narrower) if narrower > 0 else 0.0
    return Association("chi-squared", k, float(found.statistic), float(found.pvalue), "Cramer's V", min(1.0, v))


def of_numbers(levels: Sequence[Level]) -> Association | None:
    """Mann and Whitney's test with midranks for ties; the effect is 2 AUC - 1, positive where larger values are clicked more.

    levels: groups of rows by rising value. None where nothing or everything was clicked, or where all values are one.
    """
    clicked = sum(level.clicked for level in levels)
    n = sum(level.rows for level in levels)
    unclicked = n - clicked
    ties = sum(level.rows**3 - level.rows for level in levels)
    if not clicked or not unclicked or ties == n**3 - n:
        return None
    twice_u = below = 0
    for level in levels:
        without = level.rows - level.clicked
        twice_u += level.clicked * (2 * below + without)
        below += without
    pairs = clicked * unclicked
    deviation = sqrt(pairs / 12 * ((n + 1) - ties / (n * (n - 1))))
    z = (twice_u - pairs) / 2 / deviation
    p = min(1.0, 2 * float(norm.sf(abs(z))))
    return Association("rank", sum(1 for level in levels if level.rows), z, p, "2 AUC - 1", (twice_u - pairs) / pairs)


def holm(ps: Sequence[float]) -> list[float]:
    """Each p as if it were the only one tested: below 0.05, all such are true with 95 % confidence. Source: Holm 1979."""
    order = sorted(range(len(ps)), key=lambda at: ps[at])
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, ps[at] * (len(ps) - rank)))
        adjusted[at] = largest
    return adjusted


def _pooled(levels: Sequence[Level], rest: Level) -> list[Level]:
    """Levels that each let expect EXPECTED of the rarer outcome; what is too rare goes to the rest, a small rest to the last."""
    rows = rest.rows + sum(level.rows for level in levels)
    clicked = rest.clicked + sum(level.clicked for level in levels)
    rarer = min(clicked, rows - clicked)
    kept, pool = [], rest
    for level in levels:
        if level.rows * rarer >= EXPECTED * rows and rarer:
            kept.append(level)
        else:
            pool = _together(pool, level)
    if pool.rows and pool.rows * rarer >= EXPECTED * rows and rarer:
        return [*kept, pool]
    if pool.rows and kept:
        return [*kept[:-1], _together(kept[-1], pool)]
    return kept


def _together(one: Level, other: Level) -> Level:
    return Level(one.rows + other.rows, one.clicked + other.clicked)
