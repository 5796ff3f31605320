"""Progressive validation: a model for each of the last days, judged on that day and on those after it.

Source: McMahan et al. 2013, section 5. Here a day is a step, since a model is trained by the day.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.contract import Contract
from conf.errors import DataError
from conf.settings import Train
from feature_repo.catalogue import EVENT_TIMESTAMP
from models.ablation import Variant, feature_groups, fit_variants, withheld
from models.bundle import Bundle
from models.costs import costs
from models.evaluation import CONSTANT, OURS, Answer, constant, frequent, qualities, slice_sums
from models.intervals import Sums, interval, ratio_interval, ratio_of
from models.level import level_of
from models.ranking import Ranked, gain, gauc, order_figures, ranked
from models.selection import Choice
from models.slicing import DAY_US, Cells, days_since, undivided
from models.split import Split, time_split, utc
from models.training import fit_part

log = logging.getLogger("clickodds")

_FEWEST_ROWS = 0.01  # of all, for a day to be judged
_CURVE = (0.25, 0.5, 1.0)  # shares of the training rows
_ALL = ("all", "all")
_TRUTH = "truth"

Figure = tuple[float, float, float]  # value, low and high of its interval


@dataclass(frozen=True)
class _Day:
    """split: its test is the day and all after it. rows: of the day alone."""

    split: Split
    bundle: Bundle
    choice: Choice
    rows: DataFrame
    cells: Cells
    order: Ranked


def evaluate_days(
    rows: DataFrame, contract: Contract, recipe: Train, *, days: int, truth: DataFrame | None = None,
    whole: DataFrame | None = None, variants: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """All figures as JSON takes them. rows: the training set. truth: impression_id and probability, of a simulated log.

    whole: what the days are judged on, where `rows` lack a part of the negatives and the others are to be had.
    variants: also what the last day loses without each group of features, and with fewer rows: a dozen models more.
    Raises DataError where no day can be judged.
    """
    starts = _days(rows)[-days:]
    known = rows if whole is None else whole
    known = known if truth is None else known.join(truth, "impression_id")
    tried = [_judge(rows, known, contract, recipe, start, n, len(starts)) for n, start in enumerate(starts, 1)]
    judged = [day for day in tried if day is not None]
    if not judged:
        raise DataError("training set: found no day with clicks that has enough rows and clicks before it, expected one")
    pooled = _pooled([day.cells for day in judged])
    level = 1 - 0.05 / len(judged)
    last = judged[-1]
    log.info("evaluate: %swithheld keys on the last day", "features, fewer rows and " if variants else "")
    return {
        "days": [_day(day, contract, level) for day in judged],
        "overall": _figures(pooled[_ALL], 0.95),
        "slices": [quality.to_dict() for quality in qualities(pooled)],
        "age": _ages(known, judged, contract),
        "gain": _thinned(gain(last.order)),
        **(_variants(rows, last, contract, recipe) if variants else {}),
        "withheld": _withheld(last, contract),
    }


def _days(rows: DataFrame) -> list[int]:
    """Midnights (UTC, microseconds) of the days with enough rows, but for the first."""
    micros = F.unix_micros(EVENT_TIMESTAMP)
    counted = rows.groupBy((micros - F.pmod(micros, F.lit(DAY_US))).alias("day")).count().orderBy("day").collect()
    total = sum(row["count"] for row in counted)
    return [row["day"] for row in counted[1:] if row["count"] >= _FEWEST_ROWS * total]


def _judge(
    rows: DataFrame, known: DataFrame, contract: Contract, recipe: Train, start: int, number: int, of: int
) -> _Day | None:  # fmt: skip
    """None where the rows before the day have not both labels, or the day has no click. known: what the day is judged on."""
    log.info("evaluate: day %d of %d, %s", number, of, utc(start).date())
    try:
        split = time_split(rows, utc(start))
        bundle, choice = fit_part(rows, split.earlier, split.cuts, contract, recipe, "")
    except DataError as error:
        log.warning("evaluate: %s is left out: %s", utc(start).date(), error)
        return None
    micros = F.unix_micros(EVENT_TIMESTAMP)
    day = known.where((micros >= F.lit(start)) & (micros < F.lit(start + DAY_US)))
    answers = _answers(bundle, known)
    cells = slice_sums(day, answers, contract, frequent(rows.where(split.earlier.within()), contract))
    if not cells[_ALL]["wy"].sum():
        log.warning("evaluate: %s is left out: none of its rows was clicked", utc(start).date())
        return None
    return _Day(split, bundle, choice, day, cells, ranked(day, bundle.probabilities, contract))


def _answers(bundle: Bundle, rows: DataFrame) -> dict[str, Answer]:
    answers: dict[str, Answer] = {OURS: bundle.probabilities, CONSTANT: constant(bundle.fitted.base_rate)}
    if "probability" in rows.columns:
        answers[_TRUTH] = lambda batch: np.asarray(batch.column("probability"), dtype=np.float64)
    return answers


def _figures(sums: Sums, level: float, answer: str = OURS) -> dict[str, Any]:
    """Of one set of rows: counts, and an answer's figures with their intervals."""
    total = {name: float(column.sum()) for name, column in sums.items()}

    def figure(upper: str, lower: str) -> Figure:
        return (total[upper] / total[lower], *ratio_interval(sums, upper, lower, level=level))

    found: dict[str, Any] = {
        "rows": int(total["rows"]), "clicks": int(total["clicks"]), "logloss": figure(f"loss {answer}", "w"),
        "ne": figure(f"loss {answer}", f"loss {CONSTANT}"), "calibration_ratio": figure(f"p {answer}", "wy"),
    }  # fmt: skip
    if f"loss {_TRUTH}" in sums:
        found["ne_of_truth"] = total[f"loss {_TRUTH}"] / total[f"loss {CONSTANT}"]
        found["over_truth"] = figure(f"loss {answer}", f"loss {_TRUTH}")
    return found


def _day(day: _Day, contract: Contract, level: float) -> dict[str, Any]:
    within = gauc(day.rows, day.bundle.probabilities, contract, level)
    choice = {"preset": day.choice.preset, "rounds": day.choice.rounds, "ridge": day.choice.ridge}
    return {
        "until": utc(day.split.test.from_us).isoformat(), "train_rows": day.split.earlier.rows,
        **_figures(day.cells[_ALL], level),
        **order_figures(day.order, level), "gauc": within, **choice, "calibrator": day.choice.calibrator.kind,
    }  # fmt: skip


def _pooled(cells: Sequence[Cells]) -> Cells:
    pooled: Cells = {}
    for one in cells:
        for place, sums in one.items():
            there = pooled.setdefault(place, {name: np.zeros_like(column) for name, column in sums.items()})
            for name, column in sums.items():
                there[name] = there[name] + column
    return pooled


def _ages(rows: DataFrame, judged: Sequence[_Day], contract: Contract) -> list[dict[str, Any]]:
    """NE and calibration by the whole days between the end of a model's training and the row; over all models."""
    found = []
    for day in judged:
        later = rows.where(day.split.test.within())
        answers = _answers(day.bundle, rows)
        found.append(slice_sums(later, answers, contract, {}, by=days_since(day.split.test.from_us)))
    pooled, models = _pooled(found), Counter(place for one in found for place in one)
    ages = sorted(pooled, key=lambda place: int(place[1]))
    return [
        {"days": int(age), "models": models[of, age], **_figures(pooled[of, age], 0.95)}
        for of, age in ages if pooled[of, age]["wy"].sum()
    ]  # fmt: skip


def _variants(rows: DataFrame, day: _Day, contract: Contract, recipe: Train) -> dict[str, Any]:
    """What NE loses without each group of features and with fewer rows, of the same recipe with one seed."""
    groups = feature_groups(day.bundle.fitted.features)
    variants = {f"without {name}": Variant(without=columns) for name, columns in groups.items()}
    curve = {share: OURS if share == 1 else f"{share:.0%} of the rows" for share in _CURVE}
    variants |= {name: Variant(rows=share) for share, name in curve.items()}
    answers = fit_variants(rows, day.split.earlier, day.choice, contract, recipe, variants)
    every = {**answers, CONSTANT: constant(day.bundle.fitted.base_rate)}
    sums = slice_sums(day.rows, every, contract, {}, by=undivided)[_ALL]
    cost = costs(day.rows, day.bundle.fitted, groups, contract)

    def lost(name: str) -> Figure:
        worse = ratio_of(f"loss {name}", f"loss {CONSTANT}", less=f"loss {OURS}")
        once = {what: np.array([column.sum()]) for what, column in sums.items()}
        return (float(worse(once)[0]), *interval(sums, worse))

    many = day.split.earlier.rows
    return {
        "ablation": [{"group": name, "lost": lost(f"without {name}"), **cost[name]} for name in groups],
        "curve": [{"rows": round(share * many), "lost": lost(name)} for share, name in curve.items() if name in answers],
    }


def _withheld(day: _Day, contract: Contract) -> list[dict[str, Any]]:
    """Calibration of the last day's answers with each key's features missing, and with all keys' and the level: an outage."""
    features = day.bundle.fitted.features
    groups = {name: at for name, at in feature_groups(features).items() if name in contract.keys}
    groups["all keys"] = (*(n for columns in groups.values() for n in columns), *level_of(features))
    named = {f"without {name}": withheld(day.bundle, columns) for name, columns in groups.items()}
    answers = {**_answers(day.bundle, day.rows), **named}
    sums = slice_sums(day.rows, answers, contract, {}, by=undivided)[_ALL]
    level = 1 - 0.05 / len(groups)
    return [{"key": name, **_figures(sums, level, f"without {name}")} for name in groups]


def _thinned(curve: npt.NDArray[np.float64]) -> list[list[float]]:
    """Every hundredth of the rows."""
    shares = np.linspace(0.0, 1.0, 101)
    x, y = np.vstack([[0.0, 0.0], curve]).T
    return [[float(share), float(found)] for share, found in zip(shares, np.interp(shares, x, y), strict=True)]
