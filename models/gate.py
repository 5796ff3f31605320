"""What a bundle must show before it may serve, on later rows that neither it nor its rival has learned from.

Compared are recipes: the candidate's and the champion's, both fitted to the rows before the same cut. The registered bundle, the
candidate's recipe on all rows, must be as good and as calibrated on them, or something went wrong after the recipe was judged.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from conf.settings import Gate
from models.evaluation import CONSTANT, OURS, Quality, difference, qualities
from models.intervals import Sums, interval, ratio_of
from models.slicing import SCORE

RIVAL, REGISTERED = "rival", "registered"
_EVERYTHING = ("all", "all")

Cells = Mapping[tuple[str, str], Sums]


@dataclass(frozen=True)
class Check:
    """One question of the gate, and its answer."""

    name: str
    passed: bool
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'REFUSED'}: {self.name}: found {self.found}, expected {self.expected}"


@dataclass(frozen=True)
class Verdict:
    checks: Sequence[Check]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def refusals(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def judge(cells: Cells, limits: Gate) -> Verdict:
    """The gate's answer.

    cells: (slice, value) -> sums by group of users (models/evaluation.py) of OURS (the candidate's recipe before the cut),
    REGISTERED (the bundle that would serve), CONSTANT and, where there is a champion, RIVAL.
    """
    everything = cells.get(_EVERYTHING)
    if everything is None or not everything["wy"].sum():
        rows = 0 if everything is None else everything["rows"].sum()
        return Verdict([Check("clicks", False, f"none in {rows:,.0f} later rows", "some to judge by")])
    checks = [_not_worse("NE against the constant", everything, OURS, CONSTANT)]
    rivalled = f"loss {RIVAL}" in everything
    if rivalled:
        checks.append(_not_worse("NE against the champion's recipe", everything, OURS, RIVAL))
    # it has learned from these rows too: as good as the judged one at least, or it is not the model that was judged
    checks.append(_not_worse("NE of the bundle that would serve, against the judged one", everything, REGISTERED, OURS))
    for who, answer in (("", OURS), ("of the bundle that would serve, ", REGISTERED)):
        of_answer = {of: sums for of, sums in cells.items() if answer == OURS or of[0] != SCORE}  # bins are of our score
        found = qualities(of_answer, answer, large=limits.slice_clicks)
        checks += _calibrated(who, found, limits)
    if rivalled:
        checks += _no_slice_worse(cells, limits)
    return Verdict(checks)


def _not_worse(name: str, sums: Sums, answer: str, rival: str) -> Check:
    low, high = difference(sums, answer, rival)
    found = sums[f"loss {answer}"].sum() / sums[f"loss {CONSTANT}"].sum()
    other = sums[f"loss {rival}"].sum() / sums[f"loss {CONSTANT}"].sum()
    said = f"{found:.4f} to {other:.4f}, difference {low:+.4f} to {high:+.4f}"
    return Check(name, low <= 0, said, "a 95 % interval of the difference that is not wholly above 0")


def _calibrated(who: str, found: Sequence[Quality], limits: Gate) -> Iterator[Check]:
    low, high = limits.calibration
    said = f"within {low:g} to {high:g}, or an interval that covers 1"
    overall = next(quality for quality in found if (quality.slice, quality.value) == _EVERYTHING)
    yield Check(f"calibration {who}overall", overall.calibrated(low, high), _ratio(overall), said)
    large = [q for q in found if q.large(limits.slice_clicks) and (q.slice, q.value) != _EVERYTHING]
    broken = [q for q in large if not q.calibrated(low, high)]
    for quality in broken:
        yield Check(f"calibration {who}in {quality.slice} {quality.value}", False, _ratio(quality), said)
    if not broken:
        slices = f"all of {len(large)} slices with {limits.slice_clicks} clicks, or as many promised"
        yield Check(f"calibration {who}by slice", True, slices, said)


def _ratio(quality: Quality) -> str:
    low, high = quality.ratio_interval
    return f"{quality.ratio:.3f} [{low:.3f}, {high:.3f}] from {quality.clicks:,} clicks"


def _no_slice_worse(cells: Cells, limits: Gate) -> Iterator[Check]:
    """In NE, against the champion's recipe: by more than the limit, and beyond an interval that allows for all slices."""
    name, said = "NE by slice against the champion's recipe", f"no slice worse by more than {limits.slice_worse:g}"
    # by our own score's bins we would look better than a rival that is as good
    large = {of: sums for of, sums in cells.items() if of[0] != SCORE and sums["clicks"].sum() >= limits.slice_clicks}
    worse = ratio_of(f"loss {OURS}", f"loss {CONSTANT}", less=f"loss {RIVAL}")
    broken = 0
    for (of, value), sums in large.items():
        found = float(worse({what: np.array([column.sum()]) for what, column in sums.items()})[0])
        low, high = interval(sums, worse, level=1 - 0.05 / len(large))
        if found > limits.slice_worse and low > 0:
            broken += 1
            yield Check(f"{name}, {of} {value}", False, f"worse by {found:.4f} [{low:.4f}, {high:.4f}]", said)
    if not broken:
        yield Check(name, True, f"all of {len(large)} slices", said)
