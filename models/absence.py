"""What an answer lacks when a key is unavailable: a constant for each key, and one for all, so that it still means what it says.

Trees and ridge see few rows without a key, and so learn little of its absence: on average such answers promise too much or too
little. The constants make them promise as many clicks as the whole answers do, on the same rows. No label is asked for that, so a
few rows are enough.
"""

import json
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from feature_repo.vectorize import Float32
from models.collective import total
from models.folds import sampled
from models.masking import Masks, without
from models.shards import Shard

ROWS = 5_000
_ITERATIONS = 30

Float64 = npt.NDArray[np.float64]
Absences = Sequence[tuple[Sequence[int], float]]  # positions that are all missing, and the log odds to add then


def absences(shard: Shard, masks: Masks, negatives: float, margins: Callable[[Float32], Float64]) -> Absences:
    """Of each key, and of all: that adds up with those of the single ones. By all workers together, on about ROWS of their rows.

    margins: of the model, in the world in which a share of the rows without a click was kept.
    """
    some = sampled(shard, ROWS)
    weights = np.where(some.labels == 1, 1.0, 1 / negatives)
    correction = np.log(negatives)
    target = _promised(margins(some.vectors) + correction, weights)
    found: list[tuple[Sequence[int], float]] = []
    for columns in masks.columns.values():
        found.append((columns[:1], _shift(margins(without(some.vectors, columns)) + correction, weights, target)))
    every = [n for columns in masks.columns.values() for n in columns]
    if len(found) > 1:
        alone = sum(shift for _, shift in found)
        of_all = _shift(margins(without(some.vectors, every)) + correction, weights, target)
        found.append(([columns[0] for columns in masks.columns.values()], of_all - alone))
    return found


def to_json(found: Absences) -> bytes:
    return json.dumps([[list(columns), shift] for columns, shift in found]).encode()


def from_json(data: bytes) -> Absences:
    return [(columns, shift) for columns, shift in json.loads(data)]


def _promised(margins: Float64, weights: Float64) -> float:
    """Clicks, over all workers' rows."""
    return float(total(np.array([weights @ (1 / (1 + np.exp(-margins)))]))[0])


def _shift(margins: Float64, weights: Float64, target: float) -> float:
    """What to add to the margins so that they promise `target` clicks. Newton's method; the sum is smooth and rises."""
    shift = 0.0
    for _ in range(_ITERATIONS):
        p = 1 / (1 + np.exp(-(margins + shift)))
        promised, slope = total(np.array([weights @ p, weights @ (p * (1 - p))]))
        step = float(np.clip((target - promised) / max(float(slope), 1e-12), -1.0, 1.0))
        shift += step
        if abs(step) < 1e-9:
            break
    return shift
