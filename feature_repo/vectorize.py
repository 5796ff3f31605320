"""From raw values to the model's inputs: one function, called by training on Arrow batches and by serving on one request."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from conf.contract import ALL_KEY, Contract
from feature_repo.catalogue import EVENT_TIMESTAMP, Feature, catalogue, raw_counter

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

_QUARTER_HOUR_US = 900_000_000  # no zone's offset changes at a finer grain


@dataclass(frozen=True)
class Fitted:
    """What vectors need beyond raw values; learned from training rows and kept in the bundle.

    base_rate: clicks per impression of the training rows, in (0, 1). strength: pseudo-impressions of the prior, > 0.
    vocabularies: category column -> its values by falling frequency; the position is the code, any other value is "other".
    """

    features: tuple[Feature, ...]
    zone: str
    longest_window: str
    base_rate: float
    strength: float
    vocabularies: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(
        cls, contract: Contract, *, base_rate: float, strength: float, vocabularies: Mapping[str, tuple[str, ...]],
        without: Collection[str] = (),
    ) -> Self:  # fmt: skip
        """The fitted state of a contract's catalogue, but for the features named in `without`."""
        features = tuple(feature for feature in catalogue(contract) if feature.name not in without)
        return cls(features, contract.zone, contract.longest_window, base_rate, strength, vocabularies)

    @property
    def names(self) -> list[str]:
        return [feature.name for feature in self.features]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        features = tuple(Feature(**feature) for feature in values["features"])
        vocabularies = {name: tuple(words) for name, words in values["vocabularies"].items()}
        return cls(**{**values, "features": features, "vocabularies": vocabularies})


def smoothed_rate(clicks: Float64, impressions: Float64, *, prior: Float64 | float, strength: float) -> Float64:
    """Posterior-mean click-through rate, clicks per impression, in (0, 1).

    prior: base rate in (0, 1); strength: pseudo-impressions > 0. Equals `prior` at zero impressions; NaN where a count is.
    Source: Wang et al. 2011, Beta-binomial smoothing.
    """
    return (clicks + strength * prior) / (impressions + strength)


def log_ratio(clicks: Float64, impressions: Float64, *, prior: Float64 | float, strength: float) -> Float64:
    """How far the smoothed rate is from the prior, as a log: 0 at zero impressions, NaN where a count is."""
    return np.log(smoothed_rate(clicks, impressions, prior=prior, strength=strength) / prior)


def prior_rate(raw: pa.RecordBatch, fitted: Fitted) -> Float64:
    """Each row's prior: the rate of everything over the longest window, shrunk to the base rate; that itself where unknown."""
    clicks = _floats(raw, raw_counter(ALL_KEY, f"clicks_{fitted.longest_window}"))
    impressions = _floats(raw, raw_counter(ALL_KEY, f"impressions_{fitted.longest_window}"))
    # a click may be counted hours after its impression has left the window
    rate = smoothed_rate(clicks, np.maximum(impressions, clicks), prior=fitted.base_rate, strength=fitted.strength)
    return np.where(np.isnan(rate), fitted.base_rate, rate)


def vectorize(raw: pa.RecordBatch, fitted: Fitted) -> Float32:
    """The model's inputs, shape (rows, features), NaN where a value is missing. float64 inside, float32 at the end.

    raw: a batch of `raw_schema`; more columns do no harm. A value depends on its own row alone.
    """
    prior = prior_rate(raw, fitted)
    vectors = np.empty((raw.num_rows, len(fitted.features)), dtype=np.float32)
    for index, feature in enumerate(fitted.features):
        vectors[:, index] = _values(feature, raw, prior, fitted)
    return vectors


def _values(feature: Feature, raw: pa.RecordBatch, prior: Float64, fitted: Fitted) -> Float64:
    match feature.kind:
        case "log_ratio":
            clicks = _floats(raw, raw_counter(feature.key, f"clicks_{feature.window}"))
            impressions = _floats(raw, raw_counter(feature.key, f"impressions_{feature.window}"))
            return log_ratio(clicks, impressions, prior=prior, strength=fitted.strength)
        case "log_impressions":
            return np.log1p(_floats(raw, raw_counter(feature.key, f"impressions_{feature.window}")))
        case "category":
            return _codes(raw.column(feature.column), fitted.vocabularies[feature.column])
        case "number":
            return _floats(raw, feature.column)
        case "hour_of_day":
            return _local_quarter_hours(raw, fitted.zone) // 4 % 24
        case "day_of_week":  # 0 is Monday; the epoch's first day was a Thursday
            return (_local_quarter_hours(raw, fitted.zone) // 96 + 3) % 7
        case "level":
            known = ~np.isnan(_floats(raw, raw_counter(ALL_KEY, f"impressions_{feature.window}")))
            return np.where(known, np.log(prior / (1 - prior)), np.nan)


def _floats(raw: pa.RecordBatch, name: str) -> Float64:
    return np.asarray(raw.column(name).to_numpy(zero_copy_only=False), dtype=np.float64)


def _codes(values: pa.Array, vocabulary: tuple[str, ...]) -> Float64:
    found = pc.index_in(values, value_set=pa.array(vocabulary, pa.string()))
    codes = np.asarray(pc.fill_null(found, len(vocabulary)).to_numpy(zero_copy_only=False), dtype=np.float64)
    codes[np.asarray(pc.is_null(values))] = np.nan
    return codes


def _local_quarter_hours(raw: pa.RecordBatch, zone: str) -> Float64:
    """Quarter hours since the epoch on the wall clock of `zone`."""
    microseconds = np.asarray(raw.column(EVENT_TIMESTAMP).cast(pa.int64()))
    quarters, where = np.unique(microseconds // _QUARTER_HOUR_US, return_inverse=True)
    if zone != "UTC":
        quarters = quarters + np.array([_offset_quarter_hours(int(q), zone) for q in quarters], dtype=np.int64)
    return quarters[where].astype(np.float64)


def _offset_quarter_hours(quarter: int, zone: str) -> int:
    offset = datetime.fromtimestamp(quarter * 900, ZoneInfo(zone)).utcoffset()
    return int(offset.total_seconds()) // 900 if offset else 0
