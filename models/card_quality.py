"""The card's sections on quality: baselines, reliability, gain, slices."""

import math
from collections.abc import Sequence

from models.blocks import Block, Figure, Heading, Table, Text
from models.card_facts import Facts
from models.comparison import Comparison
from models.evaluation import LARGE, OURS, Quality
from models.page import Cell
from models.plots import deciles, gain_plot, gains, reliability_plot
from models.svg import percent

LOW, HIGH = 0.9, 1.1  # a slice whose calibration ratio lies within is not worth a mark
_SHOWN = 10  # values of one slice, those with most impressions; marked ones are all shown
_TOPS = (0.01, 0.05, 0.1, 0.2, 0.5)
_NOTHING = "\u2013"
_ANSWERS = {
    OURS: "this model",
    "constant": "the same click rate for every impression",
    "trailing": "the click rate of the last days, of everything",
    "ad rate": "the candidate's own click rate",
    "lr": "logistic regression on ids, categories and the hour",
    "ftrl": "FTRL on hashed ids and their pairs, one pass",
    "xgb": "XGBoost with its default settings, on our features",
    "leaves + lr": "the leaves of a few trees into a logistic regression",
    "xgb + ftrl": "the two averaged",
}


def number(value: float | None, digits: int) -> str:
    return _NOTHING if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def span(interval: Sequence[float], digits: int) -> str:
    low, high = interval
    return f"{number(low, digits)} to {number(high, digits)}" if math.isfinite(low) else _NOTHING


def overall(facts: Facts) -> Quality | None:
    """Of all test rows; None where none was clicked."""
    return next((found for found in _slices(facts) if found.slice == "all"), None)


def against_baselines(facts: Facts) -> list[Block]:
    heading = Heading("Against simpler answers")
    found = facts.comparison
    if found is None:
        return [heading, Text("Left out: train.baseline_rows is 0.")]
    rows = []
    for name, of in found.figures.items():
        against = found.difference.get(f"{OURS}-{name}")
        rows.append(
            [
                f"{name}: {_ANSWERS[name]}", number(of["logloss"], 5), number(of["ne"], 4), span(of["ne_interval"], 3),
                number(of["auc"], 3), number(of["calibration_ratio"], 3), span(of["calibration_interval"], 2),
                "" if against is None else span(against, 4),
            ]
        )  # fmt: skip
    head = ["answer", "!logloss", "!NE", "!its 95 %", "!AUC", "!calibration ratio", "!its 95 %", "!NE of ours less its, 95 %"]
    explained = (
        "NE is the logloss over the constant's: 1 is knowing nothing but the overall click rate, 0 knowing every click. In the "
        "last column an interval below 0 says that this model is better, one around 0 that these clicks cannot tell."
    )
    out = [Text(f"Left out: {name}. The reason: {why}.") for name, why in found.left_out.items()]
    return [heading, Text(_verdict(found)), Table(head, rows), Text(f"{_sample(facts, found)} {explained}"), *out]


def _verdict(found: Comparison) -> str:
    if not found.clicks:
        return "No impression of the test was clicked: nothing can be told apart."
    if found.best == found.simplest:
        return f"The best is {_named(found.best)}, and no simpler answer is within its interval."
    told = f"The best is {_named(found.best)}. The simplest that these clicks cannot tell from it is {_named(found.simplest)}"
    return told + ("." if found.simplest == OURS else ": it would do, as far as this test can see.")


def _named(answer: str) -> str:
    return _ANSWERS[answer] if answer == OURS else f"{answer} ({_ANSWERS[answer]})"


def _sample(facts: Facts, found: Comparison) -> str:
    split = facts.metrics["split"]
    tested = f"All were tested on the same {found.rows:,} impressions with {found.clicks:,} clicks"
    if found.rows < split["test"]["rows"]:
        tested += f", drawn from the test's {split['test']['rows']:,}"
    fitted = f"The others were fitted on {found.train_rows:,} impressions before it"
    if found.train_rows < split["earlier"]["rows"]:
        fitted += f", where this model had {split['earlier']['rows']:,}: with more they might do better"
    return f"{tested}. {fitted}."


def reliability(facts: Facts) -> list[Block]:
    groups = deciles(facts.histogram)
    table = Table(
        ["!predicted", "!clicked", "!95 % from", "!to"], [[percent(rate) for rate in group] for group in groups.tolist()]
    )
    caption = (
        f"Predicted (across) and clicked (up), in {len(groups)} groups of about as many impressions by score. A true model is on "
        "the dashed line; lines through the dots are 95 % intervals."
    )
    return [Heading("Is what it promises what comes?"), Figure("Reliability", reliability_plot(groups), caption, table)]


def gain(facts: Facts) -> list[Block]:
    heading = Heading("Does it find the clicks?")
    if not facts.histogram.total("clicks"):
        return [heading, Text("No impression of the test was clicked.")]
    points = gains(facts.histogram)
    shares = {top: float(points[round(top * (len(points) - 1)), 1]) for top in _TOPS}
    rows = [[percent(top), percent(held), f"{held / top:.1f} times"] for top, held in shares.items()]
    caption = "Share of the impressions with the highest scores (across) and of all clicks among them (up). Dashed: by chance."
    table = Table(["!highest scores", "!of the clicks", "!of chance"], rows)
    told = f"The tenth of the impressions with the highest scores has {percent(shares[0.1])} of the clicks."
    return [heading, Text(told), Figure("Gain", gain_plot(points), caption, table)]


def slices(facts: Facts) -> list[Block]:
    """All but those of the score, which reliability shows, and of personal columns."""
    found = [of for of in _slices(facts) if of.slice not in ({"score"} | facts.contract.personal)]
    marked = [of for of in found if not of.calibrated(LOW, HIGH)]
    sure = [of for of in marked if of.large(LARGE)]
    rows: list[list[Cell]] = []
    for name in sorted({of.slice for of in found}, key=lambda name: (name != "all", name)):
        largest = sorted((of for of in found if of.slice == name), key=lambda of: (-of.share, of.value))[:_SHOWN]
        for of in (of for of in found if of.slice == name and (of in largest or of in sure)):
            rows.append(
                [
                    "all" if name == "all" else f"{name}: {of.value}", of.share, f"{of.clicks:,}", number(of.ne, 3),
                    number(of.ratio, 2), span(of.ratio_interval, 2), _judged(of) if of in marked else "",
                ]
            )  # fmt: skip
    told = (
        f"Marked are slices whose calibration ratio is out of {LOW} to {HIGH} with an interval that leaves out 1: {len(sure)} of "
        f"{sum(of.large(LARGE) for of in found)} with {LARGE} clicks or as many promised, and {len(marked) - len(sure)} of "
        f"{sum(not of.large(LARGE) for of in found)} with fewer, where intervals are rough and some marks are luck."
    )
    shown = (
        f"Of each slice the {_SHOWN} values with most impressions are shown, and every marked one of the first kind; all are in "
        "the bundle's metrics.json. Without a click there is no ratio. Intervals of all but the first line allow for the number "
        f"of slices with {LARGE} clicks or as many promised: they are wider than 95 % where there are several."
    )
    head = ["slice", "%share of impressions", "!clicks", "!NE", "!calibration ratio", "!its interval", "marked"]
    return [Heading("Where it is less true"), Text(told), Table(head, rows), Text(shown)]


def _judged(of: Quality) -> str:
    said = "promises too much" if of.ratio > 1 else "promises too little"
    return said + ("" if of.large(LARGE) else ", few clicks")


def _slices(facts: Facts) -> list[Quality]:
    return [Quality(**of) for of in facts.metrics["slices"]]
