"""The table's rows are the jobs' own lines."""

import pytest

from demo.table import Table, counts_of

LINE = "08:09:23 label: impressions 1,200, labels 1,180 (3.1 s)"


def test_a_jobs_line_becomes_a_row_and_is_taken_off_the_step_around_it(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table()
    with table.step("pipeline") as note:
        table.job_line(LINE, inside="pipeline")
        table.job_line("08:09:24 pipeline: impressions 1,200 (4.0 s)", inside="pipeline")
        table.job_line("08:09:24 a line of something else", inside="pipeline")
        note["did"] = "the rest"
    assert table.seconds == {"label": 3.1, "pipeline": pytest.approx(-3.1, abs=0.1)}
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["label", "3.1", "impressions", "1,200,", "labels", "1,180"]
    assert printed[2].endswith("the rest")


def test_a_long_row_is_cut_between_counts(capsys: pytest.CaptureFixture[str]) -> None:
    Table().row("count", 1.0, ", ".join(f"counters_{n} 1,000" for n in range(40)))
    row = capsys.readouterr().out.splitlines()[1]
    assert len(row) < 135
    assert row.endswith("1,000, ...")


def test_counts_are_found_in_the_right_jobs_line() -> None:
    assert counts_of(LINE, "label") == "impressions 1,200, labels 1,180"
    assert counts_of(LINE, "ingest") is None
