"""Bins of the score become tenths of the rows; other slices stay as they are."""

import numpy as np

from models.slicing import SCORE, in_tenths


def cell(rows: float, clicks: float) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    return {"rows": np.array([rows, 0.0]), "clicks": np.array([0.0, clicks])}


def test_bins_are_joined_by_rising_score_and_nothing_is_lost() -> None:
    cells = {("device", "d1"): cell(100, 7)} | {(SCORE, f"{n / 5 - 8:+.2f}"): cell(10, n) for n in range(40)}
    found = in_tenths(cells)
    tenths = {value: sums for (of, value), sums in found.items() if of == SCORE}
    assert sorted(tenths) == [f"{n:02}" for n in range(1, 11)]
    assert [sums["rows"].sum() for _, sums in sorted(tenths.items())] == [40.0] * 10
    assert tenths["01"]["clicks"].sum() == 0 + 1 + 2 + 3, "the lowest scores first"
    assert sum(sums["clicks"].sum() for sums in tenths.values()) == sum(range(40))
    assert found["device", "d1"] is cells["device", "d1"]


def test_one_bin_of_all_rows_is_the_middle_one_and_no_bin_is_none() -> None:
    assert list(in_tenths({(SCORE, "-3.00"): cell(10, 1)})) == [(SCORE, "06")]
    assert in_tenths({("all", "all"): cell(10, 1)}).keys() == {("all", "all")}
