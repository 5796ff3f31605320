"""The model card: every section in HTML and in Markdown, nothing to fetch, nothing of the log taken for markup."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.contract import Contract
from conf.settings import load_settings
from feature_repo.catalogue import catalogue
from models.card import card, glance, write_card
from models.card_facts import Facts
from models.comparison import Comparison
from models.contributions import Contributions, Dependence
from models.evaluation import Quality
from models.metrics import Float64, Histogram, Int64, bin_rows, summarize
from models.tracking import Run

HOSTILE = "<script>alert('&\"')</script>\u202e|`*[x](//y.example)"
SECTIONS = [
    "What it is for, and what not", "Data and dates", "What was chosen", "Against simpler answers",
    "Is what it promises what comes?", "Does it find the clicks?", "Where it is less true", "What moves the answer",
    "If a click rate were another", "Limits", "This training and the last ones", "Where it came from",
]  # fmt: skip


class Reader(HTMLParser):
    """Tags with their attributes, and the text of each heading and cell."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data


def histogram(labels: Int64, probabilities: Float64) -> Histogram:
    sums = bin_rows(probabilities, labels, np.ones(len(labels)), 0.06)
    return Histogram(0.06, sums.pop("bin"), sums)


def figures(logloss: float) -> dict[str, Any]:
    return {
        "logloss": logloss, "ne": logloss / 0.25, "ne_interval": [0.9, 0.97], "auc": 0.6, "calibration_ratio": 1.02,
        "calibration_interval": [0.95, 1.09],
    }  # fmt: skip


def quality(name: str, value: str, ratio: float, interval: tuple[float, float], clicks: int = 900) -> dict[str, Any]:
    return Quality(name, value, 10_000, clicks, clicks * ratio, 0.5, 0.2, 0.93, ratio, interval).to_dict()


@pytest.fixture
def facts(demo_contract: Contract) -> Facts:
    draw = np.random.default_rng(0)
    probabilities = 1 / (1 + np.exp(-draw.normal(-2.5, 1, 4_000)))
    scored = histogram((draw.uniform(size=4_000) < probabilities).astype(np.int64), probabilities)
    test = summarize(scored)
    counts = {"rows": test["rows"], "clicks": test["clicks"]}
    times = {"from": "2026-03-01T00:00:00+00:00", "until": "2026-03-12T06:00:00+00:00"}
    features = catalogue(demo_contract)
    curve = Dependence("user_campaign__log_ratio_7d", [0.5, 1.0, 3.0], [0.05, 0.06, 0.11])
    return Facts(
        contract=demo_contract,
        recipe=load_settings().train,
        features=features,
        metrics={
            "test": test,
            "split": {"earlier": {**times, "rows": 90_000, "clicks": 5_000}, "test": {**times, **counts}},
            "choice": {
                "preset": "shallow", "rounds": 120, "ridge": 0.003, "calibrator": {"kind": "none"}, "folds": 3,
                "losses": {"shallow": 0.2101, "shallow + ridge 0.003": 0.2093},
            },
            "slices": [
                quality("all", "all", 1.01, (0.97, 1.05)),
                quality("placement_id", HOSTILE, 1.31, (1.1, 1.6)),
                quality("device", "phone", 0.7, (0.5, 0.8), clicks=20),
                quality("device", "tablet", 0.7, (0.4, 1.1)),
                quality("score", "-2.00", 3.0, (2.0, 4.0)),
            ],
        },
        histogram=scored,
        origin={
            "contract_hash": demo_contract.hash, "commit": None, "lock_sha256": "0" * 64, "tables": {"training_set": 7},
        },
        comparison=Comparison(
            {"ours": figures(0.23), "constant": figures(0.25), "xgb": figures(0.231)},
            {"ours-constant": (-0.09, -0.02), "ours-xgb": (-0.01, 0.002)}, best="ours", simplest="xgb",
            left_out={"lr": f"it failed on {HOSTILE}"}, train_rows=30_000, rows=4_000, clicks=300,
        ),
        contributions=Contributions({feature.name: 0.3 / (n + 1) for n, feature in enumerate(features)}, [curve], 0.06, 2_000),
        recent=[
            Run(datetime(2026, 3, day, tzinfo=UTC), str(day), {"test_ne": 0.9 + day / 1000, "test_rows": 4_000.0})
            for day in range(10, 0, -1)
        ],
    )  # fmt: skip


def written(facts: Facts, folder: Path) -> tuple[str, str]:
    write_card(folder, facts)
    return folder.joinpath("card.html").read_text("utf-8"), folder.joinpath("card.md").read_text("utf-8")


def test_every_section_is_in_both(facts: Facts, tmp_path: Path) -> None:
    html, markdown = written(facts, tmp_path)
    assert Reader(html).texts["h2"] == SECTIONS
    assert re.findall(r"^## (.*)$", markdown, re.M) == SECTIONS
    assert Reader(html).texts["h1"] == ["Model card: demo"]
    assert html.count("<svg") == 3
    assert "click rate of user_id, last 1h" in Reader(html).texts["td"]
    assert "click rate of user_id x campaign_id, last 7d" in Reader(html).texts["b"]


def test_every_cell_of_the_page_is_in_the_markdown(facts: Facts, tmp_path: Path) -> None:
    html, markdown = written(facts, tmp_path)
    plain = unescape(markdown).replace("\\", "")
    cells = [cell for cell in Reader(html).texts["td"] if cell]
    assert len(cells) > 200
    assert [cell for cell in cells if cell.replace("\\", "") not in plain] == []


def test_there_is_nothing_to_fetch_and_no_markup_of_the_log(facts: Facts, tmp_path: Path) -> None:
    html, markdown = written(facts, tmp_path)
    page = Reader(html)
    assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "a", "base"} == set()
    assert not {name for _, attributes in page.tags for name in attributes} & {"src", "href", "onload", "onclick"}
    assert not re.search(r"https?:|url\(|@import", html)
    assert "placement_id: <script>alert('&\"')</script>\\u202e|`*[x](//y.example)" in page.texts["td"]
    assert "<script" not in markdown
    assert r"\|\`\*\[x\](//y.example)" in markdown


def test_marks_are_on_slices_out_of_bounds_whose_interval_leaves_out_one(facts: Facts, tmp_path: Path) -> None:
    lines = written(facts, tmp_path)[1].splitlines()
    ends = {name: next(line for line in lines if line.startswith(f"| {name}")).split(" | ")[-1] for name in
            ("all", "placement", "device: phone", "device: tablet")}  # fmt: skip
    assert ends == {
        "all": " |", "placement": "promises too much |", "device: phone": "promises too little, few clicks |",
        "device: tablet": " |",
    }  # fmt: skip
    assert not any("score" in line for line in lines if line.startswith("| s"))


def test_the_simplest_within_reach_of_the_best_is_named(facts: Facts, tmp_path: Path) -> None:
    _, markdown = written(facts, tmp_path)
    assert "The best is this model. The simplest that these clicks cannot tell from it is xgb" in markdown
    assert "fitted on 30,000 impressions before it, where this model had 90,000" in markdown
    assert facts.comparison is not None
    alone = replace(facts, comparison=replace(facts.comparison, simplest="ours"))
    assert "no simpler answer is within its interval" in written(alone, tmp_path)[1]


def test_a_personal_slice_is_not_shown(facts: Facts, tmp_path: Path) -> None:
    facts.metrics["slices"].append(quality("user_id", "a hash", 1.5, (1.2, 1.8)))
    assert "a hash" not in written(facts, tmp_path)[1]


def test_the_last_ten_trainings_stand_beside_this_one(facts: Facts) -> None:
    lines = glance(facts).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["", *map(str, range(10, 0, -1))]
    assert lines[0].startswith("| this one |  | " + f"{facts.metrics['test']['ne']:.4f}")
    assert lines[1] == "| 2026-03-10 00:00 | 10 | 0.9100 | \u2013 | \u2013 | 4,000 |"


def test_a_first_training_without_clicks_folds_or_baselines_has_a_card(facts: Facts, tmp_path: Path) -> None:
    none = histogram(np.zeros(5, dtype=np.int64), np.full(5, 0.1))
    choice = {**facts.metrics["choice"], "losses": {}, "ridge": None}
    metrics = {**facts.metrics, "test": summarize(none), "slices": [], "choice": choice}
    bare = replace(
        facts, metrics=metrics, histogram=none, comparison=None, recent=[], contributions=Contributions({}, [], 0.1, 5)
    )
    html, _ = written(bare, tmp_path)
    assert Reader(html).texts["h2"] == SECTIONS
    assert "nan" not in html.lower()
    assert "first training" in html


def test_the_same_facts_give_the_same_bytes(facts: Facts, tmp_path: Path) -> None:
    assert written(facts, tmp_path) == written(facts, tmp_path)
    assert card(facts) == card(facts)
