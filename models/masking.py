"""Rows that training sees without a key, or with a category nobody has seen, so that such answers are calibrated ones too.

A key is unavailable when Redis is away or behind: all its features are missing, which is not the zeros of a key that is new. A
category that was rare or not there in training has the code of "other", which a log without rare values would never show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from feature_repo.vectorize import Fitted, Float32
from models.level import level_of
from models.shards import Shard


@dataclass(frozen=True)
class Masks:
    """share: of the rows that lose a key, for each key; as many lose all of them, and as many have "other" in a category.

    columns: key -> its positions in the vector. others: position of a category -> its code for "other". hidden: positions
    that are missing in every row.
    """

    share: float
    columns: Mapping[str, tuple[int, ...]]
    others: Mapping[int, float] = field(default_factory=dict)
    hidden: tuple[int, ...] = ()

    @classmethod
    def of(cls, fitted: Fitted, share: float) -> Self:
        """The masks of the keys and categories that a model sees."""
        features = fitted.features
        keys = dict.fromkeys(feature.key for feature in features if feature.key)
        columns = {key: tuple(n for n, feature in enumerate(features) if feature.key == key) for key in keys}
        categories = {n: feature.column for n, feature in enumerate(features) if feature.kind == "category"}
        others = {n: float(len(fitted.vocabularies[name])) for n, name in categories.items()}
        return cls(share, columns, others, level_of(features))


def without(vectors: Float32, columns: Sequence[int]) -> Float32:
    """A copy of the vectors, (rows, features), in which these positions are missing."""
    seen = vectors.copy()
    seen[:, list(columns)] = np.nan
    return seen


def masked(shard: Shard, masks: Masks) -> Shard:
    """The shard with features missing or "other" where its rows' ids say so: of one key, of all, of one category, or of none."""
    vectors = without(shard.vectors, masks.hidden)
    if not masks.share:
        return shard.with_vectors(vectors)
    place = shard.uniform("mask") / masks.share
    groups = [*masks.columns.values()]
    groups.append(tuple(n for columns in masks.columns.values() for n in columns))
    for number, columns in enumerate(groups):
        rows = (place >= number) & (place < number + 1)
        vectors[np.ix_(rows, columns)] = np.nan
    for number, (column, code) in enumerate(masks.others.items(), len(groups)):
        rows = (place >= number) & (place < number + 1) & ~np.isnan(vectors[:, column])
        vectors[rows, column] = code
    return shard.with_vectors(vectors)
