"""Which features are known together: the request's, each candidate-side key's, each cross's, each candidate column's.

A key whose columns are all the candidate's is read ahead and kept (serving/residents.py); one that mixes both sides is a cross,
and is looked up for each request. Features of one part are made together, so a part is also what the scorer works by.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from conf.contract import Contract
from feature_repo.catalogue import Feature


@dataclass(frozen=True)
class Part:
    """Features in the order log_ratio, log_impressions, direct values; `positions` are theirs in the model's vector."""

    features: tuple[Feature, ...]
    positions: tuple[int, ...]

    @classmethod
    def of(cls, chosen: Sequence[tuple[int, Feature]]) -> "Part":
        """Of positions and features in any order."""
        order = {"log_ratio": 0, "log_impressions": 1}
        ordered = sorted(chosen, key=lambda one: order.get(one[1].kind, 2))
        return cls(tuple(f for _, f in ordered), tuple(p for p, _ in ordered))


@dataclass(frozen=True)
class Sides:
    """Every feature of a catalogue, once. Keys and columns in the contract's order.

    residents: keys of candidate columns alone. crosses: keys of both sides. categories: candidate columns that are features.
    numbers: the candidate's numbers; None where it has none.
    """

    request: Part
    request_keys: tuple[str, ...]
    residents: dict[str, Part]
    crosses: dict[str, Part]
    categories: dict[str, Part]
    numbers: Part | None

    @property
    def parts(self) -> list[Part]:
        """All of them, in a fixed order: request, residents, crosses, categories, numbers."""
        others = [*self.residents.values(), *self.crosses.values(), *self.categories.values()]
        return [self.request, *others, *([self.numbers] if self.numbers else [])]


def key_side(contract: Contract, key: str) -> str:
    """request, candidate or cross: where the columns of a key come from."""
    sides = {contract.columns[column].of for column in contract.keys[key]}
    return "cross" if len(sides) == 2 else next(iter(sides), "request")


def split(contract: Contract, features: Sequence[Feature]) -> Sides:
    """The parts of a contract's catalogue."""
    numbered = list(enumerate(features))
    sides = {key: key_side(contract, key) for key in contract.keys}

    def of_keys(side: str) -> dict[str, Part]:
        return {key: Part.of([n for n in numbered if n[1].key == key]) for key, at in sides.items() if at == side}

    of_candidate = contract.columns_of("candidate")
    categories = {f.column: Part.of([(p, f)]) for p, f in numbered if f.kind == "category" and f.column in of_candidate}
    numbers = [(p, f) for p, f in numbered if f.kind == "number" and f.column in of_candidate]
    taken = {f.column for _, f in numbers} | set(categories)
    request = [(p, f) for p, f in numbered if (sides[f.key] == "request" if f.key else f.column not in taken)]
    return Sides(
        request=Part.of(request),
        request_keys=tuple(key for key, at in sides.items() if at == "request"),
        residents=of_keys("candidate"),
        crosses=of_keys("cross"),
        categories=categories,
        numbers=Part.of(numbers) if numbers else None,
    )
