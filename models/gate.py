"""Whether a bundle may serve, by its own metrics on the test slice."""

from collections.abc import Mapping
from typing import Any


def refusal(metrics: Mapping[str, Any]) -> str | None:
    """Why a bundle with these metrics may not serve, or None.

    Refused: worse than the constant training rate beyond the interval of the difference, or nothing to tell by.
    """
    test = metrics.get("test")
    if not test or test.get("difference") is None or test.get("logloss") is None:
        return "it has no metrics on a test slice, expected logloss and its difference to the constant's; run jobs/train.py again"
    low, high = test["difference"]
    if low > 0:
        return (
            f"its logloss on {test['rows']:,} test rows is {test['logloss']:.5f}, the constant's {test['logloss_constant']:.5f}: "
            f"worse by {low:.5f} to {high:.5f}, expected an interval that reaches 0"
        )
    if not low <= high:  # NaN
        return f"the interval of its logloss is [{low}, {high}], expected numbers"
    return None
