"""The folds that presets are tried on one by one: their rows stay with the workers, what comes back is one curve of losses.

They are the folds and the rows that a training chooses among its presets by (models/selection.py), so that what does best here
stands for election there on equal terms.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame

from conf.contract import Contract
from conf.errors import DataError
from conf.settings import Train, TreePreset
from models.collective import total
from models.fitting import fit_state
from models.folds import fit_fold, folds_of, sampled
from models.masking import Masks
from models.shards import Shard, sharded
from models.split import Split
from models.workers import Task, on_workers

Float64 = npt.NDArray[np.float64]

_FOLDS, _LOSSES = "folds", "losses"


@dataclass(frozen=True)
class Span:
    """A fold: trained on all rows before cut_us, scored on `rows` from there until until_us (microseconds since the epoch).

    constant: what the click rate before the cut loses on the scored rows, in nats.
    """

    cut_us: int
    until_us: int
    rows: int
    constant: float


@dataclass(frozen=True)
class TuningFolds:
    """The folds of a training set that can judge: both labels on both sides of the cut."""

    spans: tuple[Span, ...]
    _shards: DataFrame
    _recipe: Train
    _masks: Masks
    _width: int

    def losses(self, span: Span, preset: TreePreset) -> Float64:
        """(max_rounds,) logloss on the span's rows after each round of trees, in nats summed over the rows. One Spark stage."""
        recipe, masks = self._recipe, self._masks

        def task(shard: Shard) -> Mapping[str, bytes]:
            (fold,) = folds_of(sampled(shard, recipe.selection_rows), (span.cut_us, span.until_us), masks)
            _, losses = fit_fold(fold, preset, recipe)
            return {_LOSSES: losses.tobytes()}

        return np.frombuffer(on_workers(self._shards, recipe.num_workers, recipe.threads, self._width, task)[_LOSSES])


@contextmanager
def tuning_folds(rows: DataFrame, split: Split, contract: Contract, recipe: Train) -> Iterator[TuningFolds]:
    """The folds within `split.earlier` of training rows, kept by Spark for the block. Raises DataError where none can judge."""
    fitted = fit_state(rows, contract, recipe, split.earlier)
    masks = Masks.of(fitted, recipe.masked)
    shards = sharded(rows.where(split.earlier.within()), fitted, recipe.num_workers).persist()
    try:
        counted = on_workers(shards, recipe.num_workers, recipe.threads, len(fitted.names), _counting(split.cuts, recipe, masks))
        spans = [_span(*of_fold) for of_fold in json.loads(counted[_FOLDS])]
        if not any(spans):
            raise DataError(
                f"training set: none of the {len(spans)} folds before the test slice has clicks and other rows on both sides of "
                "its cut, expected one at least to compare parameters on; tune on a longer log"
            )
        yield TuningFolds(tuple(span for span in spans if span), shards, recipe, masks, len(fitted.names))
    finally:
        shards.unpersist()


def _counting(cuts: tuple[int, ...], recipe: Train, masks: Masks) -> Task:
    """Of each fold: cut, end, and the rows and clicks before and after the cut."""

    def task(shard: Shard) -> Mapping[str, bytes]:
        found = []
        folds = folds_of(sampled(shard, recipe.selection_rows), cuts, masks)
        for (cut, until), fold in zip(pairwise(cuts), folds, strict=True):
            counts = [float(count) for part in (fold.train, fold.later) for count in (len(part), part.labels.sum())]
            found.append([cut, until, *(int(count) for count in total(np.array(counts)))])
        return {_FOLDS: json.dumps(found).encode()}

    return task


def _span(cut_us: int, until_us: int, rows_before: int, clicks_before: int, rows: int, clicks: int) -> Span | None:
    if not (0 < clicks_before < rows_before and 0 < clicks < rows):
        return None
    rate = clicks_before / rows_before
    return Span(cut_us, until_us, rows, -clicks * math.log(rate) - (rows - clicks) * math.log1p(-rate))
