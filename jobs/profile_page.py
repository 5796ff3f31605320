"""The profile's page: one HTML file drawn from the profile's JSON, without scripts or anything to fetch. Knows no Spark."""

from collections.abc import Mapping
from typing import Any

from jobs import profile_charts as charts
from jobs import profile_columns as columns
from jobs.profile_parts import Profile, counted, local, share
from models.page import document, figure, note, table, tiles
from models.svg import percent, safe, short

_STRANGE = 0.01  # a share of rows or clicks that is worth a line at the top
_FATES = ("raw", "accepted", "duplicates", "refused")
_CLICKS = {
    "counted": "counted: the first known within window and lateness",
    "repeated": "repeated: another one counts for that impression",
    "before": "before the impression, by more than the skew",
    "after": "after the attribution window",
    "late": "late: in the window, known after the lateness",
    "orphan": "orphan: its impression is not in the log, or was refused",
}


def page(profile: Profile) -> str:
    """The whole HTML text; the same profile gives the same text. All that comes from data is escaped."""
    sections = (_head, _findings, _volumes, _landing, columns.missing, columns.values, _clicks, columns.associations, _about)
    body = "\n".join(section(profile) for section in sections)
    return document(f"{profile['contract']['name']}: profile of the log", body)


def _head(profile: Profile) -> str:
    raw, refused = (sum(log[what] for log in profile["logs"]) for what in ("raw", "refused"))
    n, clicked = profile["impressions"], sum(row["clicked"] for row in profile["by_time"])
    figures = {
        "impressions": f"{n:,}",
        "of them clicked": f"{clicked:,}",
        "click rate": percent(clicked / n),
        "raw rows refused": percent(share(refused, raw)),
        "columns": f"{len(profile['columns'])}",
        "of them labelled": f"{profile['labels']['rows']:,}",
    }
    first, last, as_of = (local(profile, profile[name]) for name in ("first_event", "last_event", "as_of"))
    return (
        f"<h1>The log {safe(profile['contract']['name'])}</h1>\n"
        f'<p class="soft">Events of {first} to {last}, as known at {as_of}. Times in {safe(profile["contract"]["zone"])}.</p>\n'
        + tiles(list(figures.items()))
    )


def _findings(profile: Profile) -> str:
    """What stands out; nothing here that a section below does not show."""
    said = []
    for log in profile["logs"]:
        if not _adds_up(log):
            said.append(f'<span class="warn">The audit of {safe(log["log"])} does not add up</span>: see Files.')
        if (refused := share(log["refused"], log["raw"])) >= _STRANGE:
            said.append(f"{percent(refused)} of the raw rows of {safe(log['log'])} were refused.")
    kinds = profile["clicks"]["kinds"]
    total = sum(kinds.values())
    if share(total - kinds["counted"], total) >= _STRANGE:
        others = ", ".join(f"{percent(kinds[kind] / total)} {kind}" for kind in _CLICKS if kind != "counted" and kinds[kind])
        said.append(f"Not every click counts: {others}.")
    for column in profile["columns"]:
        if column["values"] <= 1:
            said.append(f"{safe(column['name'])} has {'one value' if column['values'] else 'no value'}: it can tell nothing.")
        if (gone := column["missing"]["rows"] / profile["impressions"]) >= 0.5:
            said.append(f"{safe(column['name'])} is missing in {percent(gone)} of the impressions.")
    clear = [test for test in profile["associations"] if test["test"] and test["p_adjusted"] < columns.SEEN][:3]
    if clear:
        named = ", ".join(f"{safe(test['column'])} ({safe(test['effect_name'])} = {test['effect']:.2g})" for test in clear)
        said.append(f"Going together with the label most: {named}.")
    if not profile["labels"]["rows"]:
        said.append("There are no labels yet, so nothing is said about columns and label.")
    return "<h2>What stands out</h2>\n<ul>" + "".join(f"<li>{line}</li>" for line in said or ["Nothing."]) + "</ul>"


def _volumes(profile: Profile) -> str:
    rows, unit, zone = profile["by_time"], profile["unit"], profile["contract"]["zone"]
    busiest = max(row["impressions"] for row in rows)
    peak = max(profile["by_hour_of_day"], key=lambda row: row["impressions"])["hour"]
    points = "Points are days, small dots hours (on the upper edge: higher)" if unit == "hour" else f"Points are {unit}s"
    told = f"{points}; lines are 95 % intervals."
    if profile["mature_until"] <= profile["last_event"]:
        told += f" Shaded, from {local(profile, profile['mature_until'])}: clicks may still come, so the rate there is too low."
    return (
        f"<h2>Volume: impressions in {counted(len(rows), unit)}, {short(busiest)} in the busiest</h2>\n"
        f"<p>By the event's time; days begin at midnight in {safe(zone)}, the contract's zone. A click stands at the time of "
        "its impression.</p>\n"
        + figure(f"Impressions by {unit}", charts.impressions_over_time(profile))
        + figure("Share of impressions clicked", charts.rate_over_time(profile), told)
        + '<div class="pair">'
        + figure(f"Most impressions from {peak}:00 to {peak + 1}:00", charts.impressions_by_hour_of_day(profile))
        + figure("Click rate by hour of the day", charts.rate_by_hour_of_day(profile))
        + "</div>"
        + note(f"Hours of the day in {zone}.")
    )


def _landing(profile: Profile) -> str:
    logs, n = profile["logs"], sum(log["files"] for log in profile["logs"])
    raw, refused = (sum(log[what] for log in logs) for what in ("raw", "refused"))
    verdict = "every row is accounted for" if all(map(_adds_up, logs)) else "rows are not accounted for"
    counts = ("files", *_FATES, "in_table", "in_quarantine")
    of_logs = [[log["log"], *(f"{log[what]:,}" for what in counts)] for log in logs]
    of_files = [[file["source_file"], file["log"], *(f"{file[what]:,}" for what in _FATES)] for file in profile["files"]]
    reasons = [[why["reason"], why["log"], f"{why['rows']:,}", share(why["rows"], refused)] for why in profile["refusals"]]
    shown = f"{len(of_files):,} of {n:,} files" if len(of_files) < n else "All files"
    return (
        f"<h2>Files: {raw:,} raw rows in {counted(n, 'file')}, {verdict}</h2>\n"
        "<p>Raw = accepted + duplicates + refused, in each file. Accepted rows are in the log's table, refused ones in "
        "quarantine.</p>\n"
        + table(["log", *(f"!{what.replace('_', ' ')}" for what in counts)], of_logs)
        + "<h3>Why rows were refused</h3>\n"
        + (table(["reason", "log", "!rows", "%share of refused"], reasons) if reasons else "<p>No row was refused.</p>")
        + f"<details><summary>{shown}: those that do not add up and those with most refused rows first</summary>"
        + table(["file", "log", *(f"!{what}" for what in _FATES)], of_files)
        + "</details>"
    )


def _adds_up(log: Mapping[str, Any]) -> bool:
    return not log["unbalanced"] and log["in_table"] == log["accepted"] and log["in_quarantine"] == log["refused"]


def _clicks(profile: Profile) -> str:
    kinds, rule = profile["clicks"]["kinds"], profile["rule"]
    total = sum(kinds.values())
    if not total:
        return "<h2>Clicks: there are none</h2>"
    rows = [[text, f"{kinds[kind]:,}", kinds[kind] / total] for kind, text in _CLICKS.items()]
    if rule["clicks"] == "in-line without a time":
        told = "<p>The log's clicks are a flag without a time: there is no delay to show.</p>"
    elif not profile["delay"]["in_window"]:
        told = "<p>No mature impression has a click in its window yet: there is no delay to show.</p>"
    else:
        told = _delays(profile)
    return (
        f"<h2>Clicks: {percent(kinds['counted'] / total)} of {total:,} count</h2>\n"
        f"<p>Attribution window W {rule['attribution_window']}, lateness L {rule['allowed_lateness']}, skew {rule['skew']}.</p>\n"
        + table(["kind", "!clicks", "%share of clicks"], rows)
        + told
    )


def _delays(profile: Profile) -> str:
    delay, window = profile["delay"], profile["rule"]["attribution_window"]
    at_w, at_both = (percent(_lost(delay, "known_within", "in_window", wait)) for wait in delay["waits_s"])
    too_late = percent(_lost(delay, "click_within", "clicked", delay["waits_s"][0]))
    half = next((s for s, n in zip(delay["within_s"], delay["click_within"], strict=True) if 2 * n >= delay["clicked"]), None)
    fast = "half of them take more than a month" if half is None else f"half of them fall within {charts.delay_text(half)}"
    return (
        f"<h3>How long clicks take: {fast}</h3>\n<figure>{charts.click_delays(profile)}<figcaption>"
        '<span class="key"></span>fell: the first click of each clicked impression. '
        '<span class="key warm"></span>known: a click in the window, when it reached the log. '
        f"Mature impressions only, {delay['clicked']:,} of them clicked. The time axis is stretched near zero."
        "</figcaption></figure>\n"
        "<p>Of the mature impressions with a click,</p><ul>"
        f"<li>waiting for W ({window}) only would lose <b>{at_w}</b> of those clicked in the window: their click is known "
        "later;</li>"
        f"<li>waiting for W + L, as the labels do, loses <b>{at_both}</b>;</li>"
        f"<li>and <b>{too_late}</b> of all have their first click after the window, where only another W would find it.</li></ul>"
    )


def _lost(delay: Mapping[str, Any], what: str, of: str, wait_s: int) -> float:
    return 1 - share(delay[what][delay["within_s"].index(wait_s)], delay[of])


def _about(profile: Profile) -> str:
    contract = profile["contract"]
    return "<h2>About this page</h2>\n" + note(
        f"Drawn from profile.json beside it, which holds every number. Contract {contract['name']}, hash "
        f"{contract['hash'][:16]}. Equal tables give an equal page, whenever the job runs. Personal columns are hashed in the "
        "tables; here they are counted only."
    )
