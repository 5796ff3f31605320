"""The profile of ingested logs: its numbers against plain Python, and a page that is whole, safe and always the same."""

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from conf.contract import Contract
from conf.errors import DataError
from jobs.command import Context
from jobs.ingest import ingest
from jobs.label import label
from jobs.profile_log import profile_log
from jobs.profile_page import page
from jobs.profile_report import report
from models.svg import percent, safe, short, ticks
from tests.logs import changed, click, deliver, impression

Make = Callable[[Contract], Context]
Profiled = tuple[Context, dict[str, Any], dict[str, Any]]  # profiles before and after the labels
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
HOSTILE = "<script>alert('&\"')</script>\u202e\x07"


def arguments(folder: Path) -> argparse.Namespace:
    return argparse.Namespace(data=str(folder), out=str(folder), as_of=None)


def random_log() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Impressions of three days and their clicks, most of them soon."""
    draw = random.Random(11)
    shown = []
    for n in range(240):
        ad = draw.randrange(6)
        about = {"user_id": f"person {draw.randrange(30)}", "ad_id": f"a{ad}", "device": draw.choice(["phone", HOSTILE, None])}
        shown.append(impression(n, draw.randrange(3 * DAY), age=draw.choice([None, 20 + ad, 40.5]), **about))
    clicked = [
        click(n, row["served_at"] + draw.randrange(30 * MINUTE), row["served_at"] + draw.randrange(30, 90) * MINUTE)
        for n, row in enumerate(shown)
        if draw.random() < 0.02 + 0.15 * int(row["ad_id"][1:])
    ]
    return shown, clicked


@pytest.fixture(scope="module")
def profiled(make_module_context: Make, demo_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    """A context with an ingested and labelled log, and its profile before and after the labels."""
    context = make_module_context(changed(demo_contract, limits={"refused": "10%"}))
    folder = tmp_path_factory.mktemp("log")
    shown, clicked = random_log()
    extra = [click(0, shown[0]["served_at"] + DAY), click("nobody", DAY)]
    deliver(folder, [*shown, shown[0], impression(999, 0, age=7), "{cut"], [*clicked, *extra])
    ingest(context, arguments(folder))
    before = report(context)
    label(context, arguments(folder))
    return context, before, report(context)


def test_numbers_are_those_of_the_rows(profiled: Profiled) -> None:
    _, _, profile = profiled
    shown, clicked = random_log()
    with_click = {row["impression_id"] for row in clicked}

    by_hour = Counter(row["served_at"] // HOUR * HOUR for row in shown)
    clicked_by_hour = Counter(row["served_at"] // HOUR * HOUR for row in shown if row["impression_id"] in with_click)
    assert profile["unit"] == "hour"
    assert [(row["impressions"], row["clicked"]) for row in profile["by_time"]] == [
        (by_hour[at], clicked_by_hour[at]) for at in sorted(by_hour)
    ]
    of_day = Counter(row["served_at"] // HOUR % 24 for row in shown)
    assert {row["hour"]: row["impressions"] for row in profile["by_hour_of_day"]} == of_day

    logs = {log["log"]: log for log in profile["logs"]}
    assert [logs["impressions"][what] for what in ("raw", "accepted", "duplicates", "refused")] == [243, 240, 1, 2]
    assert all(log["in_table"] == log["accepted"] and log["in_quarantine"] == log["refused"] for log in logs.values())
    assert {row["reason"]: row["rows"] for row in profile["refusals"]} == {"age: below 13": 1, "malformed row": 1}

    kinds = {kind: n for kind, n in profile["clicks"]["kinds"].items() if n}
    assert kinds == {"counted": len(clicked), "after": 1, "orphan": 1}

    columns = {column["name"]: column for column in profile["columns"]}
    for name, column in columns.items():
        given = [row[name] for row in shown if row[name] is not None]
        assert (column["missing"]["rows"], column["values"]) == (len(shown) - len(given), len(set(given))), name
    assert sum(new["values"] for new in columns["user_id"]["new"]) == 30
    phones = next(row for row in columns["device"]["frequent"] if row["value"] == "phone")
    assert phones["rows"] == sum(row["device"] == "phone" for row in shown)
    ages = columns["age"]["groups"]
    assert sum(group["rows"] for group in ages) == sum(row["age"] is not None for row in shown)
    assert (ages[0]["low"], ages[-1]["high"]) == (20, 40.5)


def test_a_column_that_clicks_depend_on_is_found(profiled: Profiled) -> None:
    _, before, profile = profiled
    first = profile["associations"][0]
    assert (first["column"], first["test"]) == ("ad_id", "chi-squared")
    assert first["p"] < first["p_adjusted"] < 0.01
    assert all(test["test"] is None for test in before["associations"]), "there were no labels"


class Seen(HTMLParser):
    """Tags, attributes and text of a page; every tag must be closed by its own."""

    EMPTY = frozenset({"meta", "line", "path", "rect"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text, self.open = set[str](), list[tuple[str, str]](), "", list[str]()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_runs_nothing(profiled: Profiled) -> None:
    _, before, profile = profiled
    for told in (before, profile):
        html = page(told)
        seen = Seen(html)
        assert not seen.open
        assert {"svg", "table", "title"} <= seen.tags
        assert not seen.tags & {"script", "link", "img", "iframe", "object", "image", "use", "a", "base"}
        assert not [
            name for name, _ in seen.attributes if name in {"src", "href", "xlink:href", "srcset"} or name.startswith("on")
        ]
        assert not re.search(r"https?:|url\(|@import|//", html)
    assert "<script>alert('&\"')</script>\\u202e\\u0007" in seen.text, "a hostile value is shown, as text"
    assert not re.search(r"\b(nan|inf|None)\b", html)


def test_no_personal_value_is_on_the_page_or_beside_it(profiled: Profiled) -> None:
    context, _, profile = profiled
    written = page(profile) + json.dumps(profile)
    shown, _ = random_log()
    for person in {row["user_id"] for row in shown}:
        assert person not in written
        assert context.id_key.digest(person) not in written
    assert "user_id is personal: it is counted, its values are not shown." in written
    assert not re.search(r"[0-9a-f]{64}", written.replace(context.contract.hash, ""))


def test_without_labels_the_page_says_so_and_the_rest_is_there(profiled: Profiled) -> None:
    _, before, profile = profiled
    html = page(before)
    assert "no labels yet" in html
    assert "jobs/label.py" in html
    assert "no labels yet" not in page(profile)
    same = ("by_time", "by_hour_of_day", "clicks", "delay", "logs", "refusals")
    assert {part: before[part] for part in same} == {part: profile[part] for part in same}


def test_equal_tables_give_equal_bytes(profiled: Profiled, tmp_path: Path) -> None:
    context, _, profile = profiled
    (tmp_path / "profile.html").write_text("an older page")
    context.warehouse.spark.conf.set("spark.sql.shuffle.partitions", 5)
    try:
        counts = profile_log(context, arguments(tmp_path))
    finally:
        context.warehouse.spark.conf.set("spark.sql.shuffle.partitions", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["profile.html", "profile.json"]
    assert json.loads((tmp_path / "profile.json").read_text()) == profile
    assert (tmp_path / "profile.html").read_text() == page(profile)
    assert counts == {"impressions": 240, "labels": profile["labels"]["rows"], "bytes": len(page(profile).encode())}


def test_a_wide_column_is_told_from_a_sample(profiled: Profiled) -> None:
    context, _, _ = profiled
    columns = {column["name"]: column for column in report(context, exact_values=10)["columns"]}
    assert (columns["user_id"]["about"], columns["user_id"]["one_in"]) == (True, 4)
    assert columns["user_id"]["values"] % 4 == 0
    assert (columns["ad_id"]["about"], columns["ad_id"]["values"]) == (False, 6)


def in_line(**update: Any) -> Contract:
    return Contract.model_validate(
        {
            "name": "flags",
            "zone": "Asia/Kolkata",
            "impressions": {"files": "log*", "format": "csv", "id": "content", "event_time": {"column": "at", "unit": "s"}},
            "clicks": {"flag": "clicked"},
            "label": {"attribution_window": "1h", "complete_through": "2026-12-01"},
            "columns": {"price": {"of": "candidate", "type": "number", "missing": "allowed"}},
            "keys": {"price": ["price"]},
            "candidate": ["price"],
            **update,
        }
    )


def test_a_log_of_flags_and_numbers_without_ids(make_context: Make, tmp_path: Path) -> None:
    context = make_context(in_line())
    rows = [f"{1_772_359_200 + 60 * n},{n % 7 if n % 5 else ''},{int(n % 7 == 3)}" for n in range(70)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "log-1").write_text("\n".join(["at,price,clicked", *rows]))
    ingest(context, arguments(tmp_path / "in"))
    label(context, arguments(tmp_path))
    profile_log(context, arguments(tmp_path / "out"))
    html, profile = (tmp_path / "out" / "profile.html").read_text(), json.loads((tmp_path / "out" / "profile.json").read_text())
    assert profile["clicks"]["kinds"]["counted"] == 10
    assert "a flag without a time" in html
    assert "Times in Asia/Kolkata" in html
    assert profile["by_time"][0]["start"] == "2026-03-01T10:00:00Z"
    assert profile["by_hour_of_day"][0] == {"hour": 15, "impressions": 30, "clicked": 4}, "10:00 is 15:30 there"
    (price,) = profile["columns"]
    assert (price["values"], price["missing"]["rows"], price["low"], price["high"]) == (7, 14, 0, 6)
    assert profile["associations"][0]["test"] == "rank"


def test_a_log_without_any_click_or_with_one_value_is_told(make_context: Make, tmp_path: Path) -> None:
    context = make_context(in_line(name="silent"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "log-1").write_text("at,price,clicked\n1772359200,,0\n")
    ingest(context, arguments(tmp_path / "in"))
    label(context, arguments(tmp_path))
    html = page(report(context))
    assert "Clicks: there are none" in html
    assert "price has no value: it can tell nothing." in html
    assert "none: too few clicks, or one value" in html


def test_a_log_that_is_not_there_yet_is_refused(make_context: Make, demo_contract: Contract, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such table yet, expected the one that jobs/ingest\.py writes"):
        profile_log(make_context(demo_contract), arguments(tmp_path))


def test_a_place_that_is_no_folder_is_refused(profiled: Profiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, _, profile = profiled
    monkeypatch.setattr("jobs.profile_log.report", lambda _: profile)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="cannot be written, expected a folder"):
        profile_log(context, arguments(tmp_path / "file"))


def test_an_audit_that_does_not_add_up_is_the_first_thing_said(profiled: Profiled) -> None:
    _, _, profile = profiled
    assert "does not add up" not in page(profile)
    for wrong in ({"in_table": 239}, {"in_quarantine": 3}, {"unbalanced": 1}):
        logs = [log | wrong if log["log"] == "impressions" else log for log in profile["logs"]]
        html = page(profile | {"logs": logs})
        assert "The audit of impressions does not add up" in html
        assert "rows are not accounted for" in html


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.00031, "0.031 %"), (0.0503, "5.0 %"), (0.05, "5 %"), (0.1249, "12.5 %"), (1, "100 %"), (1e-7, "0.000010 %")],
)
def test_shares_are_written_for_people(share: float, text: str) -> None:
    assert percent(share).replace("\u00a0", " ") == text


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 160) == [0, 50, 100, 150]
    assert ticks(0, 1.0) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0, 0.0032) == [0, 0.001, 0.002, 0.003]
    assert ticks(3, 3) == [3]
    assert [short(at) for at in (0, 950, 12_000, 1_250_000)] == ["0", "950", "12k", "1.25M"]
    assert safe("a\u00a0b") == "a\u00a0b"
