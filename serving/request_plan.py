"""What one request asks of Redis, and the rows of doubles that come back: nothing here depends on a model.

One round trip holds the clock, the request's own keys, its crosses (user x ad), and candidates that are not in memory.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from conf.contract import AS_OF, CLOCK, Contract
from conf.personal import IdKey
from feature_repo.redis_layout import key_text
from serving.canonical import raw_text
from serving.key_reader import KeyReader, clock_command
from serving.resident_key import NEW
from serving.residents import Residents
from serving.sides import key_side

if TYPE_CHECKING:
    from serving.known_candidates import Asked

_REMEMBERED = 100_000  # values of a column
_UNSEEN: Any = object()


def field_name(number: int) -> str:
    """Of a column in the decoded request: neutral, so that no column's name can clash."""
    return f"column_{number}"


class Found(NamedTuple):
    """The candidates by one resident key: rows, None where it is looked up; values; of the former value -> (Redis key, place)."""

    rows: list[int | None]
    values: list[Any]
    asked: dict[Any, tuple[bytes, int]]


class Plan(msgspec.Struct, gc=False):
    """commands: the round trip; the places in it are indices of their replies, None where a key has no value.

    texts: context column of a key -> canonical text. candidates: column -> values, `count` of each. request: each request key's
    place. crosses: of each cross key, every candidate's value, and value -> place. known: in place of candidates, residents and
    crosses.
    """

    commands: list[bytes]
    context: Sequence[Any]
    texts: dict[str, str | None]
    candidates: dict[str, list[Any]]
    count: int
    request: list[int | None] = []
    residents: list[Found] = []
    crosses: list[tuple[list[Any], dict[Any, int | None]]] = []
    known: "Asked | None" = None

    @property
    def new(self) -> list[bool]:
        """(count,) whether Redis holds nothing of one of a candidate's resident keys."""
        rows = [found.rows for found in self.residents]
        return [NEW in of_one for of_one in zip(*rows, strict=True)] if rows else [False] * self.count


class Planner:
    """Makes the plan of a request, for one contract."""

    def __init__(self, contract: Contract, id_key: IdKey, residents: Residents) -> None:
        self._residents = residents
        self._clock = clock_command(contract.name, CLOCK, AS_OF)
        of_request, of_candidate = contract.columns_of("request"), contract.columns_of("candidate")
        texts = {name: raw_text(contract, id_key, name) for name, column in contract.columns.items() if column.type != "number"}
        self.context_texts = {name: texts[name] for name in of_request if name in texts}
        self._getters = [(name, attrgetter(field_name(n))) for n, name in enumerate(of_candidate)]
        self.texts = {name: texts[name] for name in of_candidate if name in texts}
        self._key_texts: dict[str, dict[Any, bytes | None]] = {name: {} for name in self.texts}
        sides = {key: key_side(contract, key) for key in contract.keys}
        self.request_keys = {key: KeyReader(contract, key) for key, side in sides.items() if side == "request"}
        self.cross_keys = {key: KeyReader(contract, key) for key, side in sides.items() if side == "cross"}
        asked = {c for reader in (*self.request_keys.values(), *self.cross_keys.values()) for c in reader.columns}
        self._of_keys = [(n, name, texts[name]) for n, name in enumerate(of_request) if name in asked]
        self._of_candidate = {
            key: tuple(column for column in reader.columns if column in of_candidate) for key, reader in self.cross_keys.items()
        }

    def plan(self, context: Sequence[Any], candidates: Sequence[Any]) -> Plan:
        """context: the request's values in the contract's order. candidates: objects with a field for each of their columns."""
        columns = {name: list(map(getter, candidates)) for name, getter in self._getters}
        plan = self._of_request(context, columns, len(candidates))
        for table in self._residents.keys.values():
            values = _values(columns, table.reader.columns)
            rows = list(map(table.rows_of, values))
            plan.residents.append(Found(rows, values, self._misses(plan, table, rows, values) if None in rows else {}))
        for key, reader in self.cross_keys.items():
            plan.crosses.append(self._cross(plan, reader, self._of_candidate[key]))
        return plan

    def plan_known(self, context: Sequence[Any], known: "Asked") -> Plan:
        """The plan of a request that names such candidates only."""
        plan = self._of_request(context, {}, known.count)
        plan.known = known
        return plan

    def _of_request(self, context: Sequence[Any], columns: dict[str, list[Any]], count: int) -> Plan:
        texts = {name: text(context[place]) for place, name, text in self._of_keys}
        plan = Plan([self._clock], context, texts, columns, count)
        for reader in self.request_keys.values():
            values = [texts[column] for column in reader.columns]
            plan.request.append(None if None in values else self._ask(plan, reader, reader.redis_key(values)))  # type: ignore[arg-type]
        return plan

    def _misses(self, plan: Plan, table: Any, rows: list[int | None], values: list[Any]) -> dict[Any, tuple[bytes, int]]:
        asked: dict[Any, tuple[bytes, int]] = {}
        single = len(table.reader.columns) == 1
        for place, value in enumerate(values):
            if rows[place] is not None or value in asked:
                continue
            named = (value,) if single else value
            texts = [self.texts[column](v) for column, v in zip(table.reader.columns, named, strict=True)]
            if None in texts:
                rows[place] = table.missing(value)
                continue
            redis_key = table.reader.redis_key(texts)
            rows[place] = table.named(value, redis_key)
            if rows[place] is None:
                asked[value] = (redis_key, self._ask(plan, table.reader, redis_key))
        return asked

    def _cross(self, plan: Plan, reader: KeyReader, of_candidate: tuple[str, ...]) -> tuple[list[Any], dict[Any, int | None]]:
        values = _values(plan.candidates, of_candidate)
        single = len(of_candidate) == 1
        places: dict[Any, int | None] = {}
        if single:
            self._cross_one(plan, reader, of_candidate[0], dict.fromkeys(values), places)
            return values, places
        for value in dict.fromkeys(values):
            own = dict(zip(of_candidate, (value,) if single else value, strict=True))
            texts = [self.texts[c](own[c]) if c in own else plan.texts[c] for c in reader.columns]
            places[value] = None if None in texts else self._ask(plan, reader, reader.redis_key(texts))  # type: ignore[arg-type]
        return values, places

    def _cross_one(
        self, plan: Plan, reader: KeyReader, column: str, values: Iterable[Any], places: dict[Any, int | None]
    ) -> None:  # fmt: skip
        """Keys that differ in one column's value: what is the same in all of them is made once."""
        texts = [None if name == column else plan.texts[name] for name in reader.columns]
        if texts.count(None) > 1:
            places.update(dict.fromkeys(values))
            return
        before, after = reader.redis_key.around(texts)
        known, commands = self._key_texts[column], plan.commands
        if len(known) > _REMEMBERED:
            known.clear()
        for value in values:
            if (text := known.get(value, _UNSEEN)) is _UNSEEN:
                told = self.texts[column](value)
                text = known[value] = None if told is None else key_text(told)
            if text is None:
                places[value] = None
            else:
                places[value] = len(commands)
                commands.append(reader.hmget(before + text + after))

    @staticmethod
    def _ask(plan: Plan, reader: KeyReader, redis_key: bytes) -> int:
        plan.commands.append(reader.hmget(redis_key))
        return len(plan.commands) - 1


def _values(columns: dict[str, list[Any]], names: Sequence[str]) -> list[Any]:
    """Each candidate's value of one column, or tuple of values of several."""
    return columns[names[0]] if len(names) == 1 else list(zip(*(columns[name] for name in names), strict=True))


def picker(places: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """What takes these places of a sequence."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple(values[place] for place in places)
