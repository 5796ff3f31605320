"""How far the model follows the level of all clicks: half of what the trailing rate of everything has moved since training.

A model of weeks of log has their mean level, and the days that it answers come after. Trees that see the trailing rate learn the
date; so it enters beside them, as one term of the ridge regression whose weight is not fitted: a log has few days to tell a trend
from a day's whim by (docs/adr/0004-features.md has the figures).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from feature_repo.catalogue import Feature
from models.collective import largest, total
from models.ridge import Ridge
from models.shards import Shard

Float64 = npt.NDArray[np.float64]

FOLLOWED = 0.5
_DAY_US = 86_400_000_000


def level_of(features: Sequence[Feature]) -> tuple[int, ...]:
    """Positions of what trees and the fitted part of the ridge regression must not see."""
    return tuple(n for n, feature in enumerate(features) if feature.kind == "level")


def level_term(shard: Shard, columns: Sequence[int]) -> Ridge:
    """FOLLOWED times the level above its mean over the rows of all workers; where it is missing, that of their newest day.

    Exact, as a Ridge is.
    """
    if not columns:
        return Ridge((), (), (), (), (), 0.0)
    levels = shard.vectors[:, list(columns)].astype(np.float64)
    newest = largest(np.array([shard.at_us.max(initial=0)], dtype=np.float64))[0]
    last_day = shard.at_us > newest - _DAY_US
    (means, known), (latest, known_lately) = (_means(some) for some in (levels, levels[last_day]))
    weights = np.where(known, FOLLOWED, 0.0)  # of a level that training never knew nothing can be said
    missing = np.where(known_lately, weights * (latest - means), 0.0)
    scales = (1.0,) * len(columns)
    return Ridge(tuple(columns), tuple(means.tolist()), scales, tuple(weights.tolist()), tuple(missing.tolist()), 0.0)


def _means(levels: Float64) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """Of each column the mean of the values that are there, of all workers, and whether there are any."""
    there = ~np.isnan(levels)
    count, summed = total(np.stack([there.sum(axis=0), np.nansum(levels, axis=0)]))
    return np.divide(summed, count, out=np.zeros_like(summed), where=count > 0), count > 0
