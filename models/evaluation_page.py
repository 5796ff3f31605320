"""The evaluation for people: the figures of models/progressive.py as one HTML page, and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from models.blocks import Block, Heading, Table, Text, to_html, to_markdown
from models.evaluation import LARGE, Quality

_TRUE, _ORDER = ("ne", "calibration_ratio", "ece"), ("auc", "gauc", "average_precision", "lift")
_LOW, _HIGH = 0.9, 1.1


def page(found: Mapping[str, Any]) -> tuple[str, str]:
    """HTML and Markdown."""
    sections = (_head, _days, _slices, _ages, _ablation, _curve, _withheld, _gain)
    blocks = [block for section in sections for block in section(found)]
    return to_html(f"{found['contract']}: evaluation", blocks), to_markdown(blocks)


def _head(found: Mapping[str, Any]) -> list[Block]:
    overall = found["overall"]
    told = (
        f"A model for each of {len(found['days'])} days, trained on what came before it and on nothing else, and judged on the "
        f"day: {overall['rows']:,} impressions, {overall['clicks']:,} clicks. Together NE {_span(overall['ne'], 4)}, "
        f"calibration ratio {_span(overall['calibration_ratio'], 3)}. NE is logloss over that of the training rows' click rate; "
        "intervals are of 95 %, by users drawn again, and allow for the number of days or slices that stand together."
    )
    blocks: list[Block] = [Heading(f"Evaluation: {found['contract']}", 1), Text(told)]
    if "over_truth" in overall:
        over = _span(overall["over_truth"], 4)
        truth = f"The true probabilities' own NE is {overall['ne_of_truth']:.4f}"
        blocks.append(Text(f"{truth}; our logloss is {over} times theirs."))
    return blocks


def _days(found: Mapping[str, Any]) -> list[Block]:
    true = [
        [day["until"][:10], f"{day['rows']:,}", f"{day['clicks']:,}", *(_span(day[name], 3) for name in _TRUE), _chosen(day)]
        for day in found["days"]
    ]
    order = [[day["until"][:10], *(_span(day[name], 3) for name in _ORDER)] for day in found["days"]]
    return [
        Heading("Day by day"),
        Table(["day", "!impressions", "!clicks", "!NE", "!calibration ratio", "!ECE", "chosen"], true),
        Table(["day", "!AUC", "!gAUC by user", "!average precision", "!lift of the top tenth"], order),
    ]


def _chosen(day: Mapping[str, Any]) -> str:
    ridge = f" + ridge {day['ridge']:g}" if day["ridge"] else ""
    calibrator = "" if day["calibrator"] == "none" else f", {day['calibrator']}"
    return f"{day['preset']}, {day['rounds']} rounds{ridge}{calibrator}"


def _slices(found: Mapping[str, Any]) -> list[Block]:
    rows: list[list[str | float | None]] = []
    for of in (Quality(**slice_) for slice_ in found["slices"]):
        if of.large(LARGE):
            off = "" if of.calibrated(_LOW, _HIGH) else "off"
            ratio = _span((of.ratio, *of.ratio_interval), 3)
            rows.append([of.slice, of.value, of.share, f"{of.clicks:,}", f"{of.ne:.3f}", ratio, off])
    told = (
        f"All days together, slices of {LARGE} clicks, or as many promised. Off: beyond {_LOW} to {_HIGH}, and the interval "
        "leaves out 1. Scores are in tenths of the impressions, the lowest first."
    )
    head = ["slice", "value", "%share of impressions", "!clicks", "!NE", "!calibration ratio", "off"]
    return [Heading("By slice"), Table(head, rows), Text(told)]


def _ages(found: Mapping[str, Any]) -> list[Block]:
    rows = [
        [str(age["days"]), str(age["models"]), f"{age['clicks']:,}", _span(age["ne"], 3), _span(age["calibration_ratio"], 3)]
        for age in found["age"]
    ]
    told = "Whole days between the end of a model's training and the impression. Other days are other impressions, too."
    return [
        Heading("How a model grows old"),
        Table(["!days old", "!models", "!clicks", "!NE", "!calibration ratio"], rows),
        Text(told),
    ]


def _ablation(found: Mapping[str, Any]) -> list[Block]:
    rows = [
        [of["group"], _span(of["lost"], 4), f"{of['redis_bytes']:.0f}", f"{of['vector_us']:.0f}"] for of in found["ablation"]
    ]
    told = "NE that is lost without the group, on the last day, refitted with one seed; below 0 the model is better without it."
    head = ["features", "!NE lost without", "!bytes a key in Redis", "!microseconds a vector"]
    return [Heading("What each group of features is worth"), Table(head, rows), Text(told)]


def _curve(found: Mapping[str, Any]) -> list[Block]:
    rows = [[f"{of['rows']:,}", _span(of["lost"], 4)] for of in found["curve"]]
    return [Heading("What fewer rows would have cost"), Table(["!training impressions", "!NE lost"], rows)]


def _withheld(found: Mapping[str, Any]) -> list[Block]:
    rows = [[of["key"], _span(of["ne"], 3), _span(of["calibration_ratio"], 3)] for of in found["withheld"]]
    told = "The last day's answers as if the key could not be looked up, which is not a key that is new."
    return [Heading("With a key withheld"), Table(["key", "!NE", "!calibration ratio"], rows), Text(told)]


def _gain(found: Mapping[str, Any]) -> list[Block]:
    shown = [point for point in found["gain"] if round(point[0] * 100) in (1, 2, 5, 10, 20, 30, 50, 75)]
    rows = [[f"{share:.0%}", f"{clicks:.1%}"] for share, clicks in shown]
    head = ["!impressions, by falling score", "!of all clicks"]
    return [Heading("Gain"), Table(head, rows)]


def _span(figure: Sequence[float] | None, digits: int) -> str:
    if figure is None:
        return "-"
    value, low, high = figure
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
