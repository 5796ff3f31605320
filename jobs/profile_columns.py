"""The profile's sections on columns: what is missing, values, how they go together with the label. Knows no Spark."""

from collections.abc import Mapping
from typing import Any

from jobs import profile_charts as charts
from jobs.profile_parts import Profile, cardinality, counted, kind, local, rate
from models.page import figure, note, table
from models.svg import percent, safe

SEEN = 0.05  # adjusted p below it: more than chance would do
_HOLM = (
    '{tests} at once: "adjusted" is Holm\'s p; those below 0.05 hold all together with 95 % confidence. The tests take '
    "impressions for independent, which those of one user are not, so p is too small; and of many impressions the smallest "
    "effect has a small p. Look at the effect first. Each column stands alone: what two say together is not here."
)
_TESTS = (
    "Categories and ids: chi-squared; values with fewer than 5 clicks to expect are pooled, the missing value is one of the "
    "values; Cramer's V is corrected for bias. Numbers: Mann and Whitney's rank test, statistic z; 2 AUC - 1 is positive where "
    "larger values are clicked more."
)
_FIRST_BARS = (
    "The first bar holds what was there already. Where bars stay high, values do not last, and the counters of such a column are "
    "often empty."
)


def missing(profile: Profile) -> str:
    n, labels = profile["impressions"], profile["labels"]
    often = max(profile["columns"], key=lambda column: column["missing"]["rows"])
    said = f"{safe(often['name'])} is missing most often" if often["missing"]["rows"] else "there are none"
    rows = []
    for column in profile["columns"]:
        gone = column["missing"]
        where_given = rate(labels["clicked"] - gone["clicked"], labels["rows"] - gone["labelled"])
        where_missing = rate(gone["clicked"], gone["labelled"])
        rows.append([column["name"], kind(column), f"{gone['rows']:,}", gone["rows"] / n, where_missing, where_given])
    head = ["column", "kind", "!missing", "%share of impressions", "!clicked where missing", "!where given"]
    told = "Click rates are of labelled impressions." if labels["rows"] else "No click rates: there are no labels yet."
    return f"<h2>Missing values: {said}</h2>\n{table(head, rows)}{note(told)}"


def values(profile: Profile) -> str:
    widest = max(profile["columns"], key=lambda column: column["values"])
    rows = []
    for column in profile["columns"]:
        ends = f"{column['low']:g} to {column['high']:g}" if column.get("low") is not None else ""
        last = column["new"][-1] if column.get("new") else None
        newest = f"{last['values']:,} on {local(profile, last['start'], '%Y-%m-%d')}" if last else ""
        rows.append([column["name"], kind(column), cardinality(column), ends, newest])
    parts = [
        f"<h2>Values: {safe(widest['name'])} has the most, {cardinality(widest)}</h2>",
        table(["column", "kind", "!values", "!range", "!newest values"], rows),
    ]
    if any(column["about"] for column in profile["columns"]):
        parts.append(note("About: counted in a sample of the values by hash (categories, ids), or estimated (numbers)."))
    texts = [column for column in profile["columns"] if column["type"] != "number" and column["new"]]
    numbers = [column for column in profile["columns"] if column["type"] == "number"]
    return "\n".join([*parts, *_new(texts, profile), *_numbers(numbers)])


def _new(texts: list[Mapping[str, Any]], profile: Profile) -> list[str]:
    if not texts:
        return []
    unit = "month" if profile["unit"] == "month" else "day"
    figures = [figure(f"{column['name']}: {cardinality(column)} values", charts.new_values(column, profile)) for column in texts]
    title = f"<h3>Values never seen before, by {unit}</h3>"
    return [title, f'<div class="pair">{"".join(figures)}</div>', note(_FIRST_BARS), *(_frequent(c, profile) for c in texts)]


def _frequent(column: Mapping[str, Any], profile: Profile) -> str:
    if column["personal"]:
        return note(f"{column['name']} is personal: it is counted, its values are not shown.")
    rows = [
        [row["value"], f"{row['rows']:,}", row["rows"] / profile["impressions"], rate(row["clicked"], row["labelled"])]
        for row in column["frequent"]
    ]
    among = " in the sample" if column["about"] else ""
    shown = table([column["name"], "!impressions", "%share of impressions", "!clicked"], rows)
    return f"<details><summary>The most frequent values of {safe(column['name'])}{among}</summary>{shown}</details>"


def _numbers(numbers: list[Mapping[str, Any]]) -> list[str]:
    drawn = [column for column in numbers if any(group["labelled"] for group in column["groups"])]
    if not drawn:
        return []
    figures = [figure(f"{c['name']}, from {c['low']:g} to {c['high']:g}", charts.rate_by_number(c)) for c in drawn]
    told = note("Groups of about equally many impressions, with 95 % intervals; below each its lowest value.")
    return ["<h3>Click rate by number</h3>", f'<div class="pair">{"".join(figures)}</div>', told]


def associations(profile: Profile) -> str:
    labels, tests = profile["labels"], profile["associations"]
    if not labels["rows"]:
        return "<h2>Columns and label: no labels yet</h2>\n<p>Run <code>jobs/label.py</code>, then this job again.</p>"
    tested = [test for test in tests if test["test"]]
    seen = [test for test in tested if test["p_adjusted"] < SEEN]
    rows: list[list[str | float | None]] = []
    for test in tests:
        if not test["test"]:
            rows.append([test["column"], "", None, "", "", "none: too few clicks, or one value", "", ""])
            continue
        effect = f"{test['effect_name']} = {test['effect']:.2g}"
        how = test["test"], f"{test['levels']:,}", f"{test['statistic']:.4g}"
        rows.append([test["column"], effect, abs(test["effect"]), _p(test["p_adjusted"]), _p(test["p"]), *how])
    head = ["column", "!effect", "=its size, 0 to 1", "!p, adjusted", "!p", "test", "!levels", "!statistic"]
    return (
        f"<h2>Columns and label: {len(seen)} of {len(tests)} go together with clicks more than chance would</h2>\n"
        f"<p>Over {labels['rows']:,} labelled impressions, {percent(labels['clicked'] / labels['rows'])} of them clicked.</p>\n"
        + table(head, rows)
        + note(_HOLM.format(tests=counted(len(tested), "test")))
        + note(_TESTS)
    )


def _p(p: float) -> str:
    return "< 1e-300" if p < 1e-300 else f"{p:.2g}"
