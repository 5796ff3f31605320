"""Ours against the baselines on the same later rows, with intervals: groups of users are drawn again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from conf.contract import Contract
from models.baselines import Rows, baselines
from models.bundle import Bundle
from models.evaluation import CONSTANT, OURS, difference
from models.intervals import GROUPS, ratio_interval
from models.sampling import drawn, in_one_task
from models.split import Split

Float64 = npt.NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """figures: answer -> logloss (nats), ne over the constant's, auc, calibration_ratio, and of two of them the `_interval`; NaN
    where there is none (no clicks). difference: "ours-X" -> interval of our NE less that of X; below 0 is better.

    best: of the least logloss. simplest: the first, by rising cost, whose NE cannot be told from the best's. left_out: baseline
    -> why it could not be fitted. Intervals are of 95 %. train_rows: what the baselines are fitted on.
    """

    figures: Mapping[str, Mapping[str, Any]]
    difference: Mapping[str, Interval]
    best: str
    simplest: str
    left_out: Mapping[str, str]
    train_rows: int
    rows: int
    clicks: int


def compare_sample(rows: DataFrame, judged: Bundle, split: Split, contract: Contract, most: int) -> Comparison:
    """On about `most` rows before the test slice and as many of it at most. One Spark job, its one task fits the baselines.

    judged: fitted on all rows before the test slice. rows: raw values with label, weight and impression_id.
    """

    def task(sample: pa.Table) -> dict[str, Any]:
        return asdict(compare(judged, Rows.of(sample, judged.fitted), split, contract))

    chosen = rows.where(drawn(split.earlier, most) | drawn(split.test, most))
    return Comparison(**in_one_task(chosen, task))


def compare(judged: Bundle, rows: Rows, split: Split, contract: Contract) -> Comparison:
    """Fit the baselines on the rows before the test slice, and judge all on those in it."""
    train, test = rows.parted(split.test.from_us)
    _, stop = train.parted(split.cuts[-2])
    fitted, left_out = baselines(train, stop, test, contract, judged.fitted)
    answers = {OURS: judged.probabilities(test.raw), **fitted}
    sums = _sums(answers, test, contract)
    figures = {name: _figures(name, p, sums, test) for name, p in answers.items()}
    best = min(figures, key=lambda name: float(figures[name]["logloss"]))
    by_cost = [*fitted, OURS]
    simplest = next(name for name in by_cost if name == best or difference(sums, name, best)[0] <= 0)
    beaten = {f"{OURS}-{rival}": difference(sums, OURS, rival) for rival in fitted}
    return Comparison(
        figures, beaten, best, simplest, left_out, train_rows=len(train.labels), rows=len(test.labels),
        clicks=int(test.labels.sum()),
    )  # fmt: skip


def _sums(answers: Mapping[str, Float64], test: Rows, contract: Contract) -> dict[str, Float64]:
    """Name -> (groups,) weighted sums, as models/evaluation.py names them."""
    labels, weights, groups = test.labels, _weights(test), _groups(test.raw, contract)
    rows = {"w": weights, "wy": weights * labels}
    for name, p in answers.items():
        rows |= {f"p {name}": weights * p, f"loss {name}": -weights * np.where(labels == 1, np.log(p), np.log1p(-p))}
    return {name: np.bincount(groups, column, GROUPS) for name, column in rows.items()}


def _figures(name: str, p: Float64, sums: Mapping[str, Float64], test: Rows) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    loss, clicked = sums[f"loss {name}"].sum(), sums["wy"].sum()
    both = 0 < test.labels.sum() < len(test.labels)
    return {
        "logloss": float(loss / sums["w"].sum()),
        "ne": float(loss / sums[f"loss {CONSTANT}"].sum()),
        "ne_interval": ratio_interval(sums, f"loss {name}", f"loss {CONSTANT}"),
        "auc": float(roc_auc_score(test.labels, p, sample_weight=_weights(test))) if both else float("nan"),
        "calibration_ratio": float(sums[f"p {name}"].sum() / clicked) if clicked else float("nan"),
        "calibration_interval": ratio_interval(sums, f"p {name}", "wy"),
    }


def _weights(rows: Rows) -> Float64:
    return np.asarray(rows.raw.column("weight"), dtype=np.float64)


def _groups(raw: pa.RecordBatch, contract: Contract) -> npt.NDArray[np.int64]:
    """(rows,) the group that the row's user is dealt to; a row without one is a user of its own."""
    ids = raw.column("impression_id")
    users = pc.coalesce(raw.column(contract.user), ids) if contract.user else ids
    codes = np.asarray(pc.dictionary_encode(users).indices, dtype=np.int64)
    dealt: npt.NDArray[np.int64] = np.random.default_rng(0).integers(0, GROUPS, codes.max() + 1)
    return np.asarray(dealt[codes], dtype=np.int64)
