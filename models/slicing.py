"""Into which slices a row falls: the contract's slice columns, how much is known of its user and its ad, the hour, the score."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from conf.contract import Contract
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_counter

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

DAY_US = 86_400_000_000
SCORE = "score"
VALUES = 50  # of one slice column, the most frequent training values; all others are "other"
_HISTORY = (0, 1, 10, 100, 1_000)  # impressions within the longest window, from each number on
_SCORES = 128  # bins over the score, of which `in_tenths` makes ten
_TENTHS = 10

Values = dict[str, tuple[str, ...]]  # slice column -> its values by falling frequency
Slice = tuple[str, list[str], Int64]  # its name, its values, and of each row the value's position
Cells = dict[tuple[str, str], dict[str, Float64]]  # (slice, value) -> name -> (groups,) sums
Slicer = Callable[[pa.RecordBatch, Float64, Contract, Values], Iterator[Slice]]


def slices(raw: pa.RecordBatch, scores: Float64, contract: Contract, values: Values) -> Iterator[Slice]:
    """Every slice of a batch. scores: ours, in (0, 1)."""
    yield from undivided(raw, scores, contract, values)
    for column in contract.slices:
        known = list(values.get(column, ())[:VALUES])
        found = pc.index_in(raw.column(column).cast(pa.string()), value_set=pa.array(known, pa.string()))
        found = pc.fill_null(found, len(known))
        place = np.asarray(found, dtype=np.int64)
        place[np.asarray(pc.is_null(raw.column(column)))] = len(known) + 1
        yield column, [*known, "other", "missing"], place
    for name, columns in (("user history", (contract.user,)), ("ad history", contract.candidate)):
        if key := contract.key_of(columns):
            counter = raw_counter(key, f"impressions_{contract.longest_window}")
            yield name, [*_history_names(), "unavailable"], _history(raw, counter)
    hours = np.asarray(raw.column(EVENT_TIMESTAMP).cast(pa.int64()), dtype=np.int64) // 3_600_000_000 % 24
    yield "hour (UTC)", [f"{hour:02}" for hour in range(24)], hours
    log_odds = np.log(scores) - np.log1p(-scores)
    bins = np.clip(((log_odds + 8) * (_SCORES / 12)).astype(np.int64), 0, _SCORES - 1)
    yield SCORE, [f"{at / (_SCORES / 12) - 8:+.2f}" for at in range(_SCORES)], bins


def in_tenths(cells: Cells) -> Cells:
    """The cells with the score's bins joined to tenths of the rows, as nearly as bins allow; "01" has the lowest scores."""
    bins = sorted((of for of in cells if of[0] == SCORE), key=lambda of: float(of[1]))
    joined = {of: sums for of, sums in cells.items() if of[0] != SCORE}
    rows = np.array([cells[of]["rows"].sum() for of in bins])
    middles = (np.cumsum(rows) - rows / 2) / max(rows.sum(), 1.0)
    for of, middle in zip(bins, middles, strict=True):
        nothing = {name: np.zeros_like(sums) for name, sums in cells[of].items()}
        tenth = joined.setdefault((SCORE, f"{int(middle * _TENTHS) + 1:02}"), nothing)
        for name, sums in cells[of].items():
            tenth[name] = tenth[name] + sums
    return joined


def undivided(raw: pa.RecordBatch, scores: Float64, contract: Contract, values: Values) -> Iterator[Slice]:
    """All rows in one."""
    yield "all", ["all"], np.zeros(raw.num_rows, dtype=np.int64)


def days_since(from_us: int) -> Slicer:
    """Rows by the number of whole days since a time."""

    def by_day(raw: pa.RecordBatch, scores: Float64, contract: Contract, values: Values) -> Iterator[Slice]:
        at = np.asarray(raw.column(EVENT_TIMESTAMP).cast(pa.int64()), dtype=np.int64)
        days = (at - from_us) // DAY_US
        yield "days since", [str(day) for day in range(int(days.max(initial=0)) + 1)], days

    return by_day


def _history_names() -> list[str]:
    return ["new", *(f"{low:,} to {high - 1:,}" for low, high in pairwise(_HISTORY[1:])), f"{_HISTORY[-1]:,} and more"]


def _history(raw: pa.RecordBatch, counter: str) -> Int64:
    counts = np.asarray(raw.column(counter).to_numpy(zero_copy_only=False), dtype=np.float64)
    place = np.searchsorted(_HISTORY, counts, side="right").astype(np.int64) - 1
    place[np.isnan(counts)] = len(_HISTORY)
    return place
