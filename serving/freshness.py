"""How good an answer can be: the clock that tells up to when Redis is filled, and the reasons for a degraded answer."""

from datetime import timedelta
from enum import StrEnum
from functools import lru_cache

import msgspec

PUBLICATION_INTERVAL = timedelta(hours=1)  # counters are published hourly
_MICROSECOND = timedelta(microseconds=1)
_INTERVAL_US = PUBLICATION_INTERVAL // _MICROSECOND


class Reason(StrEnum):
    """Why an answer is degraded. With all but NO_MODEL and FEATURES_STALE counters are unavailable; with the two of Redis only
    those that the request would have read from it, on the hot route."""

    NO_MODEL = "no_model"  # the champion is a bundle of prior rates
    FEATURES_STALE = "features_stale"  # a publication was missed; the last known counters are used
    FEATURES_TOO_OLD = "features_too_old"  # older than the setting serving.max_feature_age
    FEATURES_NEWER = "features_newer_than_request"  # Redis knows what the request's time could not
    FEATURES_MISSING = "features_missing"  # no clock: Redis was never filled, or lost its data
    FEATURES_UNREADABLE = "features_unreadable"  # Redis holds something else than counters
    REDIS_UNAVAILABLE = "redis_unavailable"  # not asked, or the connection broke; the last known are used where they may be
    REDIS_LATE = "redis_late"  # no answer within the request's deadline; the same


class Freshness(msgspec.Struct, frozen=True, gc=False):
    """`usable`: whether counters may be read as they are. `age_us`: the request's time minus the clock's, in microseconds."""

    usable: bool
    reason: Reason | None = None
    age_us: int | None = None

    def as_of_us(self, time_us: int) -> int | None:
        """The clock up to which the counters that a request of `time_us` may use were published; None where it may use none."""
        return time_us - self.age_us if self.usable and self.age_us is not None else None


@lru_cache(maxsize=4)
def _microseconds(span: timedelta) -> int:
    """Dividing them costs more than the rest of a judgement."""
    return span // _MICROSECOND


def judge_clock(as_of_us: int | None, time_us: int, *, max_age: timedelta) -> Freshness:
    """What the clock allows at a request's time; both in microseconds since the epoch, as_of_us None where there is no clock.

    Until the next publication is due (an hour) counters are the newest there are; a clock of exactly max_age is still used.
    """
    if as_of_us is None:
        return Freshness(False, Reason.FEATURES_MISSING)
    age_us = time_us - as_of_us
    if age_us < 0:
        return Freshness(False, Reason.FEATURES_NEWER, age_us)
    if age_us > _microseconds(max_age):
        return Freshness(False, Reason.FEATURES_TOO_OLD, age_us)
    if age_us >= _INTERVAL_US:
        return Freshness(True, Reason.FEATURES_STALE, age_us)
    return Freshness(True, None, age_us)
