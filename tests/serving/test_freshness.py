from datetime import timedelta

import pytest

from serving.freshness import Reason, judge_clock

HOUR_US = 3_600_000_000
AS_OF_US = 500_000 * HOUR_US


@pytest.mark.parametrize(
    ("age_us", "usable", "reason"),
    [
        pytest.param(-1, False, Reason.FEATURES_NEWER, id="a microsecond before the clock"),
        pytest.param(0, True, None, id="at the clock"),
        pytest.param(HOUR_US - 1, True, None, id="just before the next publication is due"),
        pytest.param(HOUR_US, True, Reason.FEATURES_STALE, id="when the next publication is due"),
        pytest.param(3 * HOUR_US, True, Reason.FEATURES_STALE, id="exactly as old as allowed"),
        pytest.param(3 * HOUR_US + 1, False, Reason.FEATURES_TOO_OLD, id="a microsecond older than allowed"),
    ],
)
def test_age_decides(age_us: int, usable: bool, reason: Reason | None) -> None:
    judged = judge_clock(AS_OF_US, AS_OF_US + age_us, max_age=timedelta(hours=3))
    assert (judged.usable, judged.reason, judged.age_us) == (usable, reason, age_us)


def test_no_clock_means_unavailable_not_new() -> None:
    judged = judge_clock(None, AS_OF_US, max_age=timedelta(hours=3))
    assert (judged.usable, judged.reason) == (False, Reason.FEATURES_MISSING)


def test_a_limit_below_the_publication_interval_holds() -> None:
    judged = judge_clock(AS_OF_US, AS_OF_US + HOUR_US // 2, max_age=timedelta(minutes=10))
    assert (judged.usable, judged.reason) == (False, Reason.FEATURES_TOO_OLD)
