"""A log that comes in pieces ends in the same tables as the same log at once; what the breaker holds stays out until released."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from conf.contract import CLOCK, Contract
from conf.errors import HeldError, UnavailableError
from conf.lease import lease
from jobs.admission import admitted
from jobs.command import Context
from jobs.compact import compact
from jobs.count import count
from jobs.ingest import ingest
from jobs.ingestion import store_audit
from jobs.label import label
from jobs.release import release
from tests.increments import BELOW, DAY_MS, arguments, contents, days_of_log
from tests.logs import changed, click, impression, write_lines

Make = Callable[[Contract], Context]


def test_pieces_end_as_the_whole(make_context: Make, demo_contract: Contract, tmp_path: Path) -> None:
    keys = {"ad": ["ad_id"], "user": ["user_id"]}
    parts = {"windows": ["1h", "6h"], "keys": keys, "sampling": {"negatives": 0.5}}
    whole = make_context(changed(demo_contract, name="whole", **parts))
    pieces = make_context(changed(demo_contract, name="pieces", **parts))
    shown, clicked = days_of_log(5, seed=11)
    write_lines(tmp_path / "whole" / "impressions-0.json", shown)
    write_lines(tmp_path / "whole" / "clicks-0.json", clicked)
    for job in (ingest, *BELOW):
        job(whole, arguments(data=str(tmp_path / "whole")))

    rng = random.Random(5)
    folder = tmp_path / "pieces"
    turn = [0, 0, 0, 1, 1]  # rows in the order of time, some once more
    for piece in range(2):
        for log, rows in (("impressions", shown), ("clicks", clicked)):
            mine = [row for n, row in enumerate(rows) if turn[n * 5 // len(rows)] == piece]
            copies = [row for row in rows if rng.random() < 0.1] if piece else []
            write_lines(folder / f"{log}-{piece}.json", mine + copies)
        for job in (ingest, *BELOW):
            job(pieces, arguments(data=str(folder)))
    assert contents(pieces) == contents(whole)

    before = {table: pieces.warehouse.version(table) for table in pieces.warehouse.tables.made_by}
    for job in (ingest, *BELOW):
        job(pieces, arguments(data=str(folder)))
    assert {table: pieces.warehouse.version(table) for table in before} == before, "nothing new: no commit"
    pieces.warehouse.replace(CLOCK, pieces.warehouse.read(CLOCK).limit(0), partition_by=[])
    count(pieces, arguments())
    assert contents(pieces) == contents(whole), "a clock that a killed run left behind"

    told = pieces.warehouse.read("click_fates").groupBy("fate").agg(F.sum("clicks"))
    fates: dict[str, int] = dict(told.collect())
    assert sum(fates.values()) == len(clicked)
    assert {"counted", "repeated", "late", "after"} <= set(fates)


def test_compaction_leaves_rows_and_what_commits_say(make_context: Make, demo_contract: Contract) -> None:
    context = make_context(demo_contract)
    warehouse = context.warehouse
    hours = warehouse.spark.range(8).select(F.timestamp_seconds(F.col("id") * 3600).alias("hour")).repartition(4)
    Path(warehouse.tables.path(CLOCK), "_delta_log", "_staged_commits").mkdir(parents=True)  # as a kill may leave it
    warehouse.replace(CLOCK, hours, partition_by=[], note={"as_of": "then"})
    before, version = warehouse.note(CLOCK), warehouse.version(CLOCK)
    assert compact(context, arguments()) == {"files before": 4, "files after": 1}
    assert warehouse.count(CLOCK) == 8
    assert warehouse.version(CLOCK) > version
    assert warehouse.note(CLOCK) == before
    assert warehouse.notes_after(CLOCK, version) == []
    assert warehouse.notes_after(CLOCK, version - 1) == [before]
    assert warehouse.notes_after(CLOCK, 99) is None, "a version that Delta's log does not have"


def test_a_held_day_stays_out_until_it_is_released(
    make_context: Make, demo_contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"volume": [0.5, 2], "click_rate": [0.5, 2], "new_category": 0.5}
    contract = changed(demo_contract, windows=["1h"], keys={"ad": ["ad_id"]}, limits=limits)
    context = make_context(contract)
    folder = tmp_path / "log"

    def day(number: int, rows: int, device: str = "phone") -> None:
        start, step = number * DAY_MS, DAY_MS // rows
        shown = [impression(f"{number}-{n}", start + n * step, device=device) for n in range(rows)]
        clicked = [click(f"{number}-{n}", start + n * step + 5) for n in range(0, rows, 10)]
        write_lines(folder / f"impressions-{number}.json", shown)
        write_lines(folder / f"clicks-{number}.json", clicked)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for number in range(3):
        day(number, 480)
    store_audit(context.warehouse, [])  # as a run that is killed before its first audit row leaves it
    ingest(context, arguments(data=str(folder)))
    before = admitted(context.warehouse, "impressions")
    day(3, 4_800, device="fridge")
    day(4, 480, device="fridge")  # no longer new
    monkeypatch.setattr("jobs.ingest.store_audit", killed)
    with pytest.raises(KeyboardInterrupt):
        ingest(context, arguments(data=str(folder)))
    monkeypatch.undo()
    said = r"\Abatch 2, 2026-03-04: volume .*; device: 'fridge', never seen before, takes 100%.*\nstored"
    with pytest.raises(HeldError, match=said) as alarm:
        ingest(context, arguments(data=str(folder)))
    assert "jobs/release.py --batch 2" in str(alarm.value)
    assert context.warehouse.count("impressions") == 4 * 480 + 4_800, "stored"
    assert before.count() == 3 * 480, "what was admitted does not change under a job's hands"
    audited = [tuple(row) for row in context.warehouse.read("audit").collect()]
    with pytest.raises(UnavailableError, match="0 of 10 rows are new"):
        store_audit(context.warehouse, audited)  # as another machine's ingest that ended a batch of the same number
    label(context, arguments())
    count(context, arguments())
    impressions = context.warehouse.read(context.warehouse.tables.counters("all")).agg(F.sum("impressions_1h")).collect()[0][0]
    assert impressions == 4 * 480
    assert release(context, arguments(batch=2, date=None, reason="looked at")) == {"released": 1, "held": 0}
    assert label(context, arguments())["labels"] > 4 * 480
    count(context, arguments())
    impressions = context.warehouse.read(context.warehouse.tables.counters("all")).agg(F.sum("impressions_1h")).collect()[0][0]
    assert impressions == 4 * 480 + 4_800
    assert context.warehouse.exists(CLOCK)


def test_of_two_ingests_one_says_that_the_other_is_at_it(make_context: Make, demo_contract: Contract, tmp_path: Path) -> None:
    context = make_context(demo_contract)
    with lease(context.settings.state / "leases", f"ingest-{demo_contract.name}"):
        with pytest.raises(UnavailableError, match=r"ingest-demo: process \d+ is at it") as refused:
            ingest(context, arguments(data=str(tmp_path)))
    assert refused.value.exit_code == 75
