"""One model, ready to answer: from a request's plan and Redis' replies to probabilities, equal to the bundle's to the bit."""

import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from conf.contract import Contract
from feature_repo.redis_layout import LayoutError
from feature_repo.vectorize import Float64
from models.published import Champion
from serving.candidate_rows import CandidateRows
from serving.category import Category
from serving.freshness import Freshness, Reason, judge_clock
from serving.key_reader import decode_clock, used_counters
from serving.logs import Seldom
from serving.raw_batches import PartBatches
from serving.request_plan import Plan, Planner, picker
from serving.residents import Residents
from serving.scorer import MaskScorer
from serving.sides import TIMES, Part, split
from serving.vectors import PartVectors

if TYPE_CHECKING:
    from serving.known_candidates import KnownCandidates
    from serving.scorer import Rows

_QUARTER_HOUR_US = 900_000_000  # hour and day are the same for so long, in every zone
_QUARTERS = 10_000
_MISSING = float("nan")

log = logging.getLogger("clickodds.serving")


class Scored(msgspec.Struct, gc=False):
    """Of one request: log odds and probabilities, (candidates,), why the answer is degraded."""

    margins: Float64
    probabilities: Float64
    reasons: list[Reason]
    freshness: Freshness
    as_of_us: int | None  # the clock of all counters that were used; None where there is no such one
    everything: Float64  # (counters,) of the key `all` that the candidates' rows were made with


class Engine:
    """Answers for one champion of a contract. May be made in any thread; `start` and all else belong to the residents' loop."""

    def __init__(
        self, contract: Contract, champion: Champion, planner: Planner, residents: Residents, *, max_age: timedelta
    ) -> None:
        self.champion, self._planner, self._max_age = champion, planner, max_age
        self.version_text = msgspec.json.encode(champion.version)  # as an answer says it
        fitted = champion.bundle.fitted
        sides = split(contract, fitted)
        self._rows = CandidateRows(contract, champion.bundle, sides, residents, planner.texts)
        self._vectors = PartVectors(sides.request, sides.request_keys, used_counters(contract), fitted)
        self._batches = PartBatches(contract, fitted)
        self._times = Part.of([(n, f) for n, f in enumerate(self._vectors.direct) if f.kind in TIMES])
        self._of_quarter: dict[int, list[float]] = {}
        self._unreadable = Seldom(log)
        places = {name: place for place, name in enumerate(contract.columns_of("request"))}
        of_kind = {kind: [f.column for f in self._vectors.direct if f.kind == kind] for kind in ("category", "number")}
        self._codes = [Category(fitted.vocabularies[c], planner.context_texts[c], _MISSING) for c in of_kind["category"]]
        self._categories = picker([places[column] for column in of_kind["category"]])
        self._numbers = picker([places[column] for column in of_kind["number"]])

    async def start(self) -> None:
        """Make the candidates' rows; afterwards they follow the residents."""
        await self._rows.start()

    @property
    def compiled(self) -> bool:
        """Whether the kernels score, and not the Booster."""
        return isinstance(self._rows.kept.scorer, MaskScorer)

    @property
    def known(self) -> "KnownCandidates | None":
        """See CandidateRows.known."""
        return self._rows.known

    def rows_of(self, plan: Plan) -> "Rows | None":
        """(parts, candidates) rows of a plan's candidates, for as long as none of them moves; None where one has none, or did."""
        return self._rows.rows(plan, None, True) if self._rows.lasting(plan) else None

    def residents_of(self, plan: Plan, answered: bool) -> Iterable[tuple[str, "Rows", dict[int, int]]]:
        """See CandidateRows.residents_of."""
        return self._rows.residents_of(plan, answered)

    def score(self, plan: Plan, replies: Sequence[Any] | Reason, time_us: int) -> Scored:
        """The answer at time_us (microseconds since the epoch). replies: to the plan's commands, or why there are none."""
        try:
            freshness, as_of_us = self._judged(replies, time_us)
            answered = None if isinstance(replies, Reason) else replies
            margins, probabilities = self._answer(plan, answered, freshness.usable, time_us)
        except LayoutError as error:
            freshness, as_of_us = Freshness(False, Reason.FEATURES_UNREADABLE), None
            self._unreadable.warning("%s: %s", freshness.reason, error)
            margins, probabilities = self._answer(plan, None, False, time_us)
        reasons = [replies] if isinstance(replies, Reason) else []
        if freshness.reason and not (reasons and freshness.age_us is None):  # that nothing was ever read says no more
            reasons.append(freshness.reason)
        return Scored(margins, probabilities, reasons, freshness, as_of_us, self._rows.kept.everything)

    def _judged(self, replies: Sequence[Any] | Reason, time_us: int) -> tuple[Freshness, int | None]:
        """By the older of two clocks, Redis' own and the one that the candidates' rows are known to have reached.

        And what both say: where they differ, or Redis' was not read, the parts of the answer are of different hours.
        """
        own = self._rows.kept.as_of_us
        if type(replies) is list and own is not None and decode_clock(replies[0]) == own:  # as nearly always
            freshness = judge_clock(own, time_us, max_age=self._max_age)
            return freshness, own if freshness.usable else None
        clocks = [own]
        if not isinstance(replies, Reason):
            clocks.append(decode_clock(replies[0]))
        known = [clock for clock in clocks if clock is not None]
        if len(known) < len(clocks):
            return judge_clock(None, time_us, max_age=self._max_age), None
        telling = max(known) if max(known) > time_us else min(known)
        freshness = judge_clock(telling, time_us, max_age=self._max_age)
        return freshness, telling if freshness.usable and known == [telling] * 2 else None

    def _answer(self, plan: Plan, replies: Sequence[Any] | None, usable: bool, time_us: int) -> tuple[Float64, Float64]:
        """Margins and probabilities."""
        rows = self._rows.rows(plan, replies, usable)
        kept = self._rows.kept
        level = kept.level if usable else [_MISSING] * len(kept.level)
        return kept.scorer.answer(self._request(plan, replies if usable else None, kept.prior, level, time_us), rows)

    def _request(
        self, plan: Plan, replies: Sequence[Any] | None, prior: float, level: Sequence[float], time_us: int
    ) -> list[float]:
        """(features,) of the request's part."""
        counters: list[float] = []
        for reader, place in zip(self._planner.request_keys.values(), plan.request, strict=True):
            counters += reader.unavailable if place is None or replies is None else reader.row(replies[place])
        codes = [of[value] for of, value in zip(self._codes, self._categories(plan.context), strict=True)]
        numbers = [_MISSING if value is None else value for value in self._numbers(plan.context)]
        return self._vectors.of_one(counters, [*self._of_time(time_us), *level, *codes, *numbers], prior)

    def _of_time(self, time_us: int) -> list[float]:
        quarter = time_us // _QUARTER_HOUR_US
        if (found := self._of_quarter.get(quarter)) is None:
            if len(self._of_quarter) >= _QUARTERS:
                self._of_quarter.clear()
            found = self._of_quarter[quarter] = self._batches.of_times(self._times, [time_us])[0].tolist()
        return found
