"""The candidates' side of one bundle: every key, cross and category has rows in a scorer, made before requests ask for them.

A key's first two rows are "unavailable" and "new"; then come the entities that are in memory, and at the end room for what one
request looked up. All of it runs in one loop and between awaits, so no request sees half a row, or rows of two priors.
"""

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from conf.contract import Contract
from feature_repo.vectorize import Float32, Float64
from models.bundle import Bundle
from serving.canonical import Text
from serving.category import Category
from serving.key_reader import KeyReader, used_counters
from serving.known_candidates import KnownCandidates
from serving.native import NoMachineCode
from serving.raw_batches import PartBatches
from serving.request_plan import Plan
from serving.resident_key import NEW, UNAVAILABLE
from serving.residents import Residents
from serving.scorer import Rows, Scorer, make_scorer
from serving.sides import Part, Sides
from serving.vectors import PartVectors

_TOGETHER = 200  # rows that are made in one go: about a millisecond in which no request is answered


@dataclass(frozen=True)
class Kept:
    """What moves with the hour: rows made with one prior, which follows from `everything` as the level does, and their clock.

    level: one value for each feature of the kind.
    """

    scorer: Scorer
    everything: Float64
    prior: float
    level: list[float]
    as_of_us: int | None


class CandidateRows:
    """`kept` is read once by each answer. Listens to the residents from `start` on, for as long as an answer may need it."""

    def __init__(self, contract: Contract, bundle: Bundle, sides: Sides, residents: Residents, texts: Mapping[str, Text]) -> None:
        self._residents, self._sides = residents, sides
        self._batches = PartBatches(contract, bundle.fitted)
        counters = used_counters(contract)
        self._crosses = [PartVectors(part, [key], counters, bundle.fitted) for key, part in sides.crosses.items()]
        self._cross_readers = [KeyReader(contract, key) for key in sides.crosses]
        words = bundle.fitted.vocabularies
        self._categories = [Category(words[c], texts[c], len(words[c]) + 1) for c in sides.categories]
        direct = sides.direct.features if sides.direct else ()
        self._direct = [
            (f.column, Category(words[f.column], texts[f.column], math.nan) if f.kind == "category" else None) for f in direct
        ]
        most = contract.limits.candidates
        self._room = {key: len(residents.keys[key].counters) for key in sides.residents}  # behind it is what a request looked up
        sizes = [room + most for room in self._room.values()] + [most + 2] * len(self._crosses)
        sizes += [len(category.every_kind) for category in self._categories]
        sizes += [most] * (len(sides.parts) - 1 - len(sizes))
        base = list(accumulate(sizes, initial=0))
        self._base = np.array(base[:-1], dtype=np.intp)[:, None]
        self._number = {name: n for n, name in enumerate([*sides.residents, *sides.crosses])}
        nothing = np.full(len(counters), np.nan)
        self._level = Part.of([(n, f) for n, f in enumerate(sides.request.features) if f.kind == "level"])
        self.kept = self._keep(make_scorer(bundle, sides.parts, base[-1]), nothing, None)
        self._next: Kept | None = None
        self._publishing = asyncio.Lock()
        self._moved = 0
        self._known = _known(sides, most)

    async def start(self) -> None:
        """Make all rows, then follow the residents."""
        self._residents.listeners.add(self)
        async with self._publishing:
            await self._fill(self._residents.everything, self._residents.as_of_us)

    def changed(self, key: str, rows: Sequence[int]) -> None:
        """Make these rows of a resident key again."""
        for kept in (self.kept, self._next):
            if kept:
                self._write_residents(kept, key, np.asarray(rows, dtype=np.intp))

    async def published(self, everything: Float64, as_of_us: int | None) -> None:
        """Move the clock; where the prior moved, make all rows anew beside the old ones first."""
        async with self._publishing:
            kept = self.kept
            if self._batches.prior(everything) == kept.prior:
                self.kept = self._keep(kept.scorer, everything, as_of_us)
            else:
                await self._fill(everything, as_of_us)

    def _keep(self, scorer: Scorer, everything: Float64, as_of_us: int | None) -> Kept:
        level = self._batches.of_level(self._level, everything).tolist()
        return Kept(scorer, everything, self._batches.prior(everything), level, as_of_us)

    async def _fill(self, everything: Float64, as_of_us: int | None) -> None:
        fresh = self._keep(self.kept.scorer.emptied(), everything, as_of_us)
        special = np.array([np.full(len(everything), np.nan), np.zeros(len(everything))])
        for number, vectors_of in enumerate(self._crosses):
            self._write(fresh, len(self._room) + number, vectors_of(special, fresh.prior), np.arange(2))
        for number, (category, part) in enumerate(zip(self._categories, self._sides.categories.values(), strict=True)):
            made = self._batches.of_column(part, category.every_kind)
            self._write(fresh, len(self._number) + number, made, np.arange(len(made)))
        if len(self._base) > len(self._number) + len(self._categories) and not self._direct:  # no part at all
            self._write(fresh, len(self._base) - 1, np.empty((1, 0), dtype=np.float32), np.arange(1))
        self._next = fresh
        try:
            for key, table in ((key, self._residents.keys[key]) for key in self._room):
                for start in range(0, table.count, _TOGETHER):  # what is added from here on comes through `changed`
                    self._write_residents(fresh, key, np.arange(start, min(start + _TOGETHER, table.count)))
                    await asyncio.sleep(0)
            self.kept = fresh
        finally:
            self._next = None

    def rows(self, plan: Plan, replies: Sequence[Any] | None, usable: bool) -> Rows:
        """(parts - 1, candidates) rows of the kept scorer. Raises LayoutError.

        replies: None where Redis did not answer. usable: whether counters are.
        """
        count = plan.count
        if plan.known:
            if usable:
                return plan.known.rows
            known = plan.known.rows.copy()
            known[: len(self._room)] = UNAVAILABLE + self._base[: len(self._room)]
            return known
        rows: list[Sequence[float]] = []
        for key, found in zip(self._room, plan.residents, strict=True):
            if not usable:
                rows.append([UNAVAILABLE] * count)
            elif found.asked:
                learned = self._learned(key, found.asked, replies)
                rows.append([learned[v] if row is None else row for row, v in zip(found.rows, found.values, strict=True)])
            else:
                rows.append(found.rows)  # type: ignore[arg-type]  # none is None
        for number, (values, places) in enumerate(plan.crosses):
            if not usable or replies is None:
                rows.append([UNAVAILABLE] * count)
            else:
                crossed = self._crossed(number, places, replies)
                rows.append([crossed[value] for value in values])
        for category, column in zip(self._categories, self._sides.categories, strict=True):
            rows.append(category.codes(plan.candidates[column]))
        if self._direct:
            rows.append(self._write_direct(plan))
        elif not rows:
            rows.append([0] * count)
        return np.array(rows, dtype=np.intp) + self._base

    def lasting(self, plan: Plan) -> bool:
        """Whether every candidate's rows were there when the plan was made, and are the same ones now."""
        for table, found in zip(self._residents.keys.values(), plan.residents, strict=True):
            if found.asked or list(map(table.rows_of, found.values)) != found.rows:
                return False
        return True

    def residents_of(self, plan: Plan, answered: bool) -> Iterator[tuple[str, Rows, dict[int, int]]]:
        """Where an answer's counters are, in the turn of the loop that has scored it with usable ones: of each resident key the
        (candidates,) rows in its table, and the candidates that found no row there, each with the place of its reply.

        answered: whether Redis did.
        """
        if plan.known:
            for key, known, base in zip(self._room, plan.known.rows, self._base, strict=False):  # behind them are categories
                yield key, known - base, {}
            return
        for key, found in zip(self._room, plan.residents, strict=True):
            rows, in_replies = found.rows, dict[int, int]()
            if found.asked and answered:
                rows_of = self._residents.keys[key].rows_of  # what was learned has a row by now
                rows = [rows_of(value) if row is None else row for row, value in zip(rows, found.values, strict=True)]
                in_replies = {n: found.asked[found.values[n]][1] for n, row in enumerate(rows) if row is None}
            yield key, np.array([UNAVAILABLE if row is None else row for row in rows], dtype=np.intp), in_replies

    @property
    def known(self) -> KnownCandidates | None:
        """Candidates whose rows follow from their text alone; None where there are no such ones."""
        if self._known and (moved := self._residents.moves.count) != self._moved:
            self._moved = moved
            self._known.forget()
        return self._known

    def _learned(self, key: str, asked: Mapping[Any, tuple[bytes, int]], replies: Sequence[Any] | None) -> dict[Any, int]:
        """The rows of candidates that were not in memory; they are from now on, as far as there is room."""
        if replies is None:
            return dict.fromkeys(asked, UNAVAILABLE)
        table, rows = self._residents.keys[key], dict[Any, int]()
        new: list[int] = []
        passing: list[list[float]] = []
        try:
            for value, (redis_key, place) in asked.items():
                row, changed = table.learn(value, redis_key, replies[place])
                if row is None:
                    row = self._room[key] + len(passing)
                    passing.append(table.reader.row(replies[place]))
                elif changed:
                    new.append(row)
                rows[value] = row
        finally:  # what was learned before one that cannot be read is in the table and must have its row
            for listener in list(self._residents.listeners) if new else ():
                listener.changed(key, new)
        if passing:
            part, kept = self._sides.residents[key], self.kept
            made = self._batches.of_key(part, key, np.array(passing), kept.everything)
            self._write(kept, self._number[key], made, self._room[key] + np.arange(len(passing)))
        return rows

    def _crossed(self, number: int, places: Mapping[Any, int | None], replies: Sequence[Any]) -> dict[Any, int]:
        """The row of each value of a cross; most are new, the others' are made now."""
        reader, rows = self._cross_readers[number], dict[Any, int]()
        counters: list[list[float]] = []
        for value, place in places.items():
            if place is None:
                rows[value] = UNAVAILABLE
            elif reader.is_absent(replies[place]):
                rows[value] = NEW
            else:
                rows[value] = 2 + len(counters)
                counters.append(reader.row(replies[place]))
        if counters:
            made = self._crosses[number](np.array(counters), self.kept.prior)
            self._write(self.kept, len(self._room) + number, made, 2 + np.arange(len(counters)))
        return rows

    def _write_direct(self, plan: Plan) -> list[int]:
        made = np.empty((plan.count, len(self._direct)), dtype=np.float32)
        for number, (column, category) in enumerate(self._direct):
            values = plan.candidates[column]
            made[:, number] = np.array(category.codes(values) if category else values, dtype=np.float64)
        self._write(self.kept, len(self._base) - 1, made, np.arange(plan.count))
        return list(range(plan.count))

    def _write_residents(self, kept: Kept, key: str, rows: Rows) -> None:
        counters = self._residents.keys[key].counters[rows]
        made = self._batches.of_key(self._sides.residents[key], key, counters, kept.everything)
        self._write(kept, self._number[key], made, rows)

    def _write(self, kept: Kept, number: int, vectors: Float32, rows: Rows) -> None:
        kept.scorer.write(number + 1, vectors, rows + self._base[number, 0])


def _known(sides: Sides, most: int) -> KnownCandidates | None:
    """None where rows depend on more than the candidate, or on its numbers; and without machine code."""
    parts = len(sides.residents) + len(sides.categories)
    if sides.crosses or sides.direct or not parts:
        return None
    try:
        return KnownCandidates(parts=parts, most=most)
    except NoMachineCode:
        return None
