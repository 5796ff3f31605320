"""The card's sections on why: which features move the answer, and what other rates would make of it."""

from math import exp

from conf.contract import Contract
from feature_repo.catalogue import Feature
from models.blocks import Block, Figure, Heading, Pair, Table, Text
from models.card_facts import Facts
from models.page import Cell
from models.plots import dependence_plot
from models.svg import percent

_SHOWN = 20


def contributions(facts: Facts) -> list[Block]:
    found = facts.contributions
    named = _named(facts)
    largest = max(found.mean_absolute.values(), default=0.0) or 1.0
    shown = list(found.mean_absolute.items())[:_SHOWN]
    rows: list[list[Cell]] = [[named[name], f"{mean:.3f}", f"{exp(mean):.2f}", mean / largest] for name, mean in shown]
    told = (
        f"How far each feature moves the answer up or down, on average over {found.rows:,} impressions of the test. Log odds add "
        "up; the factor is what they make of the odds of a click, either way. Features that tell the same share what they do."
    )
    rest = len(found.mean_absolute) - len(shown)
    more = [Text(f"And {rest} more, each smaller.")] if rest else []
    return [Heading("What moves the answer"), Text(told), Table(["feature", "!log odds", "!factor", "=size"], rows), *more]


def dependence(facts: Facts) -> list[Block]:
    found = facts.contributions
    heading = Heading("If a click rate were another")
    if not found.dependence:
        return [heading, Text("No click rate moves this model.")]
    named = _named(facts)
    top = max(max(curve.probabilities) for curve in found.dependence)
    figures = []
    for curve in found.dependence:
        rows = [[f"{at:.2f}", percent(p)] for at, p in zip(curve.values, curve.probabilities, strict=True)]
        table = Table(["!rate, as a multiple of the overall one", "!mean probability"], rows)
        figures.append(Figure(named[curve.feature], dependence_plot(curve, top), "", table))
    told = (
        f"Mean probability of {found.rows:,} impressions of the test ({percent(found.average)} as they are) if all had this "
        "value of one rate, all else as it is. Across: that rate as a multiple of the overall one, x 1 for a key without "
        "history. One window alone seldom changes without the others: this shows how the model works, not what an ad would gain."
    )
    return [heading, Text(told), Pair(figures)]


def _named(facts: Facts) -> dict[str, str]:
    return {feature.name: _described(feature, facts.contract) for feature in facts.features}


def _described(feature: Feature, contract: Contract) -> str:
    match feature.kind:
        case "log_ratio" | "log_impressions":
            counted = " x ".join(contract.keys[feature.key])
            what = "click rate" if feature.kind == "log_ratio" else "impressions"
            return f"{what} of {counted}, last {feature.window}"
        case "level":
            return f"click rate of everything, last {feature.window}"
        case "hour_of_day" | "day_of_week":
            return feature.name.replace("_", " ")
        case _:
            return feature.column
