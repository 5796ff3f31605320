"""Which features are known together: the request's, each candidate-side key's, each cross's, each candidate column's.

A key whose columns are all the candidate's is read ahead and kept (serving/residents.py); one that mixes both sides is a cross,
and is looked up for each request. Features of one part are made together, so a part is also what the scorer works by.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from conf.contract import Contract
from feature_repo.catalogue import Feature
from feature_repo.vectorize import Fitted

TIMES = ("hour_of_day", "day_of_week")
_MANY = range(4096)  # values of a category that are not worth a row of the scorer's each


@dataclass(frozen=True)
class Part:
    """Features in the order log_ratio, log_impressions, times, level, category, number; `positions` are theirs in the vector."""

    features: tuple[Feature, ...]
    positions: tuple[int, ...]

    @classmethod
    def of(cls, chosen: Sequence[tuple[int, Feature]]) -> "Part":
        """Of positions and features in any order."""
        order = {"log_ratio": 0, "log_impressions": 1} | dict.fromkeys(TIMES, 2) | {"level": 3, "category": 4, "number": 5}
        ordered = sorted(chosen, key=lambda one: order[one[1].kind])
        return cls(tuple(f for _, f in ordered), tuple(p for p, _ in ordered))


@dataclass(frozen=True)
class Sides:
    """Every feature of a catalogue, once. Keys and columns in the contract's order.

    residents: keys of candidate columns alone. crosses: keys of both sides. categories: the candidate's columns of few values.
    direct: its numbers and other categories, made for each request; None where it has none.
    """

    request: Part
    request_keys: tuple[str, ...]
    residents: dict[str, Part]
    crosses: dict[str, Part]
    categories: dict[str, Part]
    direct: Part | None

    @property
    def parts(self) -> list[Part]:
        """All of them, in a fixed order: request, residents, crosses, categories, direct. There are always two at least."""
        others = [*self.residents.values(), *self.crosses.values(), *self.categories.values()]
        others += [self.direct] if self.direct else []
        return [self.request, *(others or [Part((), ())])]


def key_side(contract: Contract, key: str) -> str:
    """request, candidate or cross: where the columns of a key come from."""
    sides = {contract.columns[column].of for column in contract.keys[key]}
    return "cross" if len(sides) == 2 else next(iter(sides), "request")


def split(contract: Contract, fitted: Fitted) -> Sides:
    """The parts of a contract's catalogue."""
    numbered = list(enumerate(fitted.features))
    sides = {key: key_side(contract, key) for key in contract.keys}

    def of_keys(side: str) -> dict[str, Part]:
        return {key: Part.of([n for n in numbered if n[1].key == key]) for key, at in sides.items() if at == side}

    of_candidate = [(p, f) for p, f in numbered if f.column and contract.columns[f.column].of == "candidate"]
    few = {f.column: Part.of([(p, f)]) for p, f in of_candidate if len(fitted.vocabularies.get(f.column, _MANY)) < len(_MANY)}
    direct = [(p, f) for p, f in of_candidate if f.column not in few]
    request = [(p, f) for p, f in numbered if (p, f) not in of_candidate and sides.get(f.key, "request") == "request"]
    return Sides(
        request=Part.of(request),
        request_keys=tuple(key for key, at in sides.items() if at == "request"),
        residents=of_keys("candidate"),
        crosses=of_keys("cross"),
        categories=few,
        direct=Part.of(direct) if direct else None,
    )
