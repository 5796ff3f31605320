"""Rows that training sees without a key, so that an answer without it is a calibrated one too.

A key is unavailable when Redis is away or behind: all its features are missing, which is not the zeros of a key that is new.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from feature_repo.catalogue import Feature
from models.shards import Shard


@dataclass(frozen=True)
class Masks:
    """share: of the rows that lose a key, for each key; as many lose all of them. columns: key -> its positions in the vector."""

    share: float
    columns: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, features: Sequence[Feature], share: float) -> Self:
        """The masks of a catalogue's keys."""
        keys = dict.fromkeys(feature.key for feature in features if feature.key)
        columns = {key: tuple(n for n, feature in enumerate(features) if feature.key == key) for key in keys}
        return cls(share, columns)


def masked(shard: Shard, masks: Masks) -> Shard:
    """The shard with features missing where its rows' ids say so: each row loses one key, all of them, or none."""
    if not masks.share:
        return shard
    vectors = shard.vectors.copy()
    place = shard.uniform("mask") / masks.share
    groups = [*masks.columns.values()]
    groups.append(tuple(n for columns in masks.columns.values() for n in columns))
    for number, columns in enumerate(groups):
        rows = (place >= number) & (place < number + 1)
        vectors[np.ix_(rows, columns)] = np.nan
    return shard.with_vectors(vectors)
