"""For tests of the hot route beside the plain one: a Redis of random counters, random requests, an application on them."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import redis
from starlette.testclient import TestClient

from conf.contract import ALL_KEY, AS_OF, CLOCK, Contract
from feature_repo.redis_layout import encode_int64, hash_field, redis_key
from models.bundle import Bundle
from models.merging import merge
from models.ridge import Ridge
from serving.fast_path import FastPath
from serving.hot import Served
from serving.metrics import Metrics
from serving.served_log import ServedLog
from serving.state import InForce
from tests.serving.parts import AS_OF as AS_OF_TIME
from tests.serving.parts import ID_KEY, make_bundle, microseconds

Entities = dict[tuple[str, tuple[str, ...]], dict[str, int | None]]  # key and canonical values -> counters

HOT = {"content-type": "application/json"}
PLAIN = {"content-type": "application/json; charset=utf-8"}
NOW = (AS_OF_TIME + timedelta(minutes=30)).isoformat()


def exact_bundle(contract: Contract, *, ridge: bool = True) -> Bundle:
    """As training makes them: leaves on the grid, and a ridge part over the counters and the level."""
    bundle = make_bundle(contract)
    names = bundle.fitted.names
    draw = np.random.default_rng(3)
    columns = tuple(n for n, feature in enumerate(bundle.fitted.features) if feature.key or feature.kind == "level")
    weights = [tuple(draw.normal(0, 0.1, len(columns)).tolist()) for _ in range(3)]
    part = Ridge(columns, weights[0], tuple(draw.uniform(0.5, 2, len(columns)).tolist()), weights[1], weights[2], -0.25)
    trees = merge([bundle.booster], names=names, base_rate=0.05, share=0.5)
    return make_bundle(contract, trees=trees, ridge=part if ridge else None)


def without_crosses(contract: Contract) -> Contract:
    """Its candidates' rows follow from their text alone, so they may be known by it."""
    candidate = contract.columns_of("candidate").keys()
    one_sided = {key: columns for key, columns in contract.keys.items() if len({column in candidate for column in columns}) < 2}
    return contract.model_copy(update={"keys": one_sided})


def fill(address: str, contract: Contract, counters: Entities) -> None:
    """Counters by key and canonical values, and the clock."""
    host, _, port = address.partition(":")
    with redis.Redis(host=host, port=int(port)) as client:
        pipe: Any = client.pipeline(transaction=False)
        for (key, values), row in counters.items():
            entity = dict(zip(contract.counted_keys[key], values, strict=True))
            fields = {hash_field(key, name): b"" if value is None else encode_int64(value) for name, value in row.items()}
            pipe.hset(redis_key(contract.name, entity), mapping=fields)
        pipe.hset(redis_key(contract.name, {}), mapping={hash_field(CLOCK, AS_OF): encode_int64(microseconds(AS_OF_TIME))})
        pipe.execute()


def random_counters(contract: Contract, draw: np.random.Generator) -> dict[str, int | None]:
    """Of one entity: mostly small, sometimes zero, large or null."""
    row: dict[str, int | None] = {}
    for name in contract.counter_columns:
        kind = draw.integers(10)
        row[name] = None if kind == 0 else 0 if kind < 3 else int(draw.integers(1, 10 ** int(draw.integers(1, 8))))
    return row


def texts(name: str, contract: Contract) -> list[Any]:
    """Values that a request may bring for a column: some are in Redis, some are not."""
    column = contract.columns[name]
    if column.type == "number":
        low, high = column.min if column.min is not None else -5, column.max if column.max is not None else 5
        values: list[Any] = [low, high, (low + high) / 2, int((low + high) / 2)]
    else:
        values = [f"{name}-{n}" for n in range(1, 6)] + [7, "8", f"{name} ünï 🗝"]
    return [*values, None, ""][: None if column.type != "number" else -1] if column.optional else values


def random_request(contract: Contract, draw: np.random.Generator) -> dict[str, Any]:
    def some(of: Any) -> dict[str, Any]:
        made = {name: texts(name, contract)[draw.integers(len(texts(name, contract)))] for name in contract.columns_of(of)}
        return {name: value for name, value in made.items() if value is not None or draw.integers(2)}

    candidates = {tuple(str(c[name]) for name in contract.candidate): c for c in (some("candidate") for _ in range(30))}
    return {"request_id": "r", "time": NOW, "context": some("request"), "candidates": list(candidates.values())}


def every_entity(contract: Contract, draw: np.random.Generator) -> Entities:
    """Counters for about two of three combinations of the values that requests bring."""
    made: Entities = {(ALL_KEY, ()): {name: int(draw.integers(1000, 10**6)) for name in contract.counter_columns}}
    for key, columns in contract.keys.items():
        for _ in range(60):
            chosen = [texts(name, contract)[draw.integers(6)] for name in columns]
            told = [(str(value), column in contract.personal) for column, value in zip(columns, chosen, strict=True)]
            values = tuple(ID_KEY.digest(text) if personal else text for text, personal in told)
            made[key, values] = random_counters(contract, draw)
    return made


class Started(NamedTuple):
    """An application, what its hot route served, and what it works with."""

    client: TestClient
    served: list[Served]
    fast: FastPath
    in_force: InForce
    folder: Path
    log: ServedLog
    metrics: Metrics


Start = Callable[..., Started]
