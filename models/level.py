"""How far the model follows the level of all clicks: half of what the trailing rate of everything has moved since training.

A model of weeks of log has their mean level, and the days that it answers come after. Trees that see the trailing rate learn the
date; so it enters beside them, as one term of the ridge regression whose weight is not fitted: a log has few days to tell a trend
from a day's whim by (docs/adr/0004-features.md has the figures).
"""

from collections.abc import Sequence

import numpy as np

from feature_repo.catalogue import Feature
from models.collective import total
from models.ridge import Ridge
from models.shards import Shard

FOLLOWED = 0.5


def level_of(features: Sequence[Feature]) -> tuple[int, ...]:
    """Positions of what trees and the fitted part of the ridge regression must not see."""
    return tuple(n for n, feature in enumerate(features) if feature.kind == "level")


def level_term(shard: Shard, columns: Sequence[int]) -> Ridge:
    """FOLLOWED times the level above its mean over the rows of all workers; nothing where it is missing. Exact, as a Ridge is."""
    if not columns:
        return Ridge((), (), (), (), (), 0.0)
    levels = shard.vectors[:, list(columns)].astype(np.float64)
    there = ~np.isnan(levels)
    count, summed = total(np.stack([there.sum(axis=0), np.nansum(levels, axis=0)]))
    means = np.divide(summed, count, out=np.zeros_like(summed), where=count > 0)
    weights = np.where(count > 0, FOLLOWED, 0.0)  # of a level that training never knew nothing can be said
    each = len(columns)
    return Ridge(tuple(columns), tuple(means.tolist()), (1.0,) * each, tuple(weights.tolist()), (0.0,) * each, 0.0)
