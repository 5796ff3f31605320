"""Time-ordered folds: each trains on all rows before a cut and is scored on the rows up to the next one.

Run by every training worker together, on its part of the rows; sums are over all workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from conf.settings import Train, TreePreset
from models.boosting import Start, matrix_of, parameters_of
from models.collective import total
from models.lean import xgb
from models.masking import Masks, masked
from models.shards import Shard

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fold:
    """train: rows before the cut, masked as training masks them. later: rows from the cut on, whole."""

    train: Shard
    later: Shard


def folds_of(shard: Shard, cuts: Sequence[int], masks: Masks) -> list[Fold]:
    """A fold for each cut but the last, scored up to the next. cuts: event times by rise, microseconds since the epoch."""
    beginning = np.iinfo(np.int64).min
    return [Fold(masked(shard.between(beginning, cut), masks), shard.between(cut, until)) for cut, until in pairwise(cuts)]


def sampled(shard: Shard, rows: int) -> Shard:
    """The rows that candidates are compared on: about `rows` of all workers', always the same ones; all where there are fewer."""
    share = min(1.0, rows / max(1.0, float(total(np.array([float(len(shard))]))[0])))
    return shard if share == 1.0 else shard.where(shard.uniform("choose") < share)


def learnable(shard: Shard) -> bool:
    """Whether both labels are there."""
    clicks, rows = total(np.array([shard.labels.sum(), len(shard)], dtype=np.float64))
    return bool(0 < clicks < rows)


def fit_fold(fold: Fold, preset: TreePreset, recipe: Train, start: Start | None = None) -> tuple[xgb.Booster, Float64]:
    """Trees on the earlier rows, stopped early, and their logloss on the later ones after each round.

    The losses: (recipe.max_rounds,), in nats summed over the rows; beyond the stop the last one.
    """
    rows, clicks = total(np.array([len(fold.train), fold.train.labels.sum()], dtype=np.float64))
    parameters = parameters_of(preset, 0, recipe.threads, float(rows), float(clicks)) | {"eval_metric": "logloss"}
    train = matrix_of(fold.train, preset, start)
    later = matrix_of(fold.later, preset, start, bins_of=train)
    told: dict[str, dict[str, list[float]]] = {}
    booster = xgb.train(
        parameters, train, recipe.max_rounds, evals=[(later, "later")], evals_result=told, verbose_eval=False,
        early_stopping_rounds=recipe.early_stopping_rounds,
    )  # fmt: skip
    curve = np.array(told["later"]["logloss"])
    many = float(total(np.array([float(len(fold.later))]))[0])
    return booster, many * np.concatenate([curve, np.full(recipe.max_rounds - len(curve), curve[-1])])


def best_rounds(losses: Sequence[Float64]) -> int:
    """The number of rounds that serves the later slices best, all folds together."""
    return int(np.argmin(np.sum(losses, axis=0))) + 1
