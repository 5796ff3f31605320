"""What bench/serving.py asks its servers about: contracts, models, a filled Redis, requests; made anew by seed in a folder."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import redis
import xgboost as xgb
import yaml

from conf.contract import ALL_KEY, AS_OF, CLOCK, Contract
from conf.contract_file import load_contract
from conf.personal import IdKey
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_counter, raw_schema
from feature_repo.redis_layout import encode_int64, hash_field, redis_key
from feature_repo.vectorize import Fitted, Float32, vectorize
from models.bundle import Bundle, save_bundle
from models.calibration import Calibrator
from models.merging import merge
from models.published import publish
from models.ridge import Ridge

KEY = b"the key of the serving bench, 32"
CLOCK_AT = datetime(2026, 3, 1, 10, tzinfo=UTC)
USERS, ADS, CAMPAIGNS = 20_000, 5_000, 200
_ROWS = 60_000  # that a model is trained on
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Shape:
    """A model to be served: what its contract counts, and its trees. `ridge`: whether a ridge part is averaged in."""

    name: str
    crosses: bool
    trees: int
    depth: int
    ridge: bool


PLAIN = Shape("deep", crosses=False, trees=300, depth=6, ridge=False)
CROSSES = Shape("crosses", crosses=True, trees=300, depth=6, ridge=False)
SMALL_LOG = Shape("small_log", crosses=True, trees=1_200, depth=2, ridge=True)
SHAPES = {shape.name: shape for shape in (PLAIN, CROSSES, SMALL_LOG)}


def write_contract(shape: Shape, folder: Path) -> Contract:
    """Five windows, so that a key has ten features; twenty more come from the request. With crosses a campaign joins the ad."""
    number = {"of": "request", "type": "number", "missing": "allowed"}
    columns: dict[str, Any] = {"user_id": {"of": "request", "type": "id", "personal": True}}
    columns |= {f"place_{n}": {"of": "request", "type": "category"} for n in range(3)}
    columns |= {f"number_{n}": number for n in range(15)}
    columns |= {"ad_id": {"of": "candidate", "type": "id"}}
    keys = {"user": ["user_id"], "ad": ["ad_id"]}
    if shape.crosses:
        columns["campaign_id"] = {"of": "candidate", "type": "category"}
        keys |= {"campaign": ["campaign_id"], "user_campaign": ["user_id", "campaign_id"]}
    document = {
        "name": f"bench_{shape.name}",
        "impressions": {"files": "*.json", "format": "json", "id": "i", "event_time": {"column": "t", "unit": "ms"}},
        "clicks": {"flag": "clicked"},
        "label": {"attribution_window": "1h"},
        "columns": columns,
        "keys": keys,
        "windows": ["1h", "3h", "1d", "3d", "7d"],
        "candidate": ["ad_id"],
    }
    path = folder / "contract.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return load_contract(path)


class World:
    """Entities and their counters, the same for every run of a seed."""

    def __init__(self, contract: Contract, seed: int = 1) -> None:
        self.contract, self.id_key = contract, IdKey(KEY)
        self._draw = np.random.default_rng(seed)
        self.counted = [c for c in contract.counter_columns if not c.endswith("_us")]
        sizes = {"user": USERS, "ad": ADS, "campaign": CAMPAIGNS}
        self.counters = {key: self._counters(sizes.get(key, 4 * USERS)) for key in contract.keys}
        self.everything = np.array([10_000 * 3 ** (n // 2) // (25 if n % 2 else 1) for n in range(len(self.counted))])
        self.crossed = {(int(u), int(c)) for u, c in self._draw.integers((USERS, CAMPAIGNS), size=(4 * USERS, 2))}

    def _counters(self, rows: int) -> Any:
        """Impressions and clicks of growing windows, many of them zero."""
        hourly = self._draw.poisson(self._draw.gamma(0.5, 4, (rows, 1)) * np.array([1, 2, 8, 20, 40]))
        impressions = np.cumsum(hourly, axis=1)
        clicks = self._draw.binomial(impressions, self._draw.beta(1, 20, (rows, 1)))
        both = np.stack([impressions, np.maximum.accumulate(clicks, axis=1)], axis=2)
        return both.reshape(rows, -1)[:, : len(self.counted)]

    def fill(self, address: str) -> None:
        """Redis as `feast materialize` leaves it."""
        host, _, port = address.partition(":")
        with redis.Redis(host=host, port=int(port)) as client:
            pipe: Any = client.pipeline(transaction=False)
            for key, entity, row in self._entities():
                fields = {hash_field(key, name): encode_int64(int(value)) for name, value in zip(self.counted, row, strict=True)}
                pipe.hset(redis_key(self.contract.name, entity), mapping=fields | {f"_ts:{key}".encode(): b"\x08\x01"})
                if len(pipe) >= 2_000:
                    pipe.execute()
            scope = {hash_field(ALL_KEY, n): encode_int64(int(v)) for n, v in zip(self.counted, self.everything, strict=True)}
            scope[hash_field(CLOCK, AS_OF)] = encode_int64((CLOCK_AT - _EPOCH) // _MICROSECOND)
            pipe.hset(redis_key(self.contract.name, {}), mapping=scope)
            pipe.execute()

    def fill_more_ads(self, address: str, count: int) -> None:
        """Ads besides, which no request names."""
        host, _, port = address.partition(":")
        with redis.Redis(host=host, port=int(port)) as client:
            pipe: Any = client.pipeline(transaction=False)
            for number in range(count):
                row = self.counters["ad"][number % ADS]
                fields = {hash_field("ad", name): encode_int64(int(value)) for name, value in zip(self.counted, row, strict=True)}
                pipe.hset(redis_key(self.contract.name, {"ad_id": f"more-{number}"}), mapping=fields)
            pipe.execute()

    def _entities(self) -> Iterator[tuple[str, dict[str, str], Any]]:
        texts: dict[str, Any] = {"user_id": lambda n: self.id_key.digest(f"u{n}")}
        texts |= {"ad_id": "a{}".format, "campaign_id": "c{}".format}
        for key, columns in self.contract.keys.items():
            named = sorted(self.crossed) if len(columns) > 1 else [(n,) for n in range(len(self.counters[key]))]
            for place, numbers in enumerate(named):
                entity = {column: texts[column](n) for column, n in zip(columns, numbers, strict=True)}
                yield key, entity, self.counters[key][place]

    def requests(self, candidates: int, count: int, seed: int) -> list[bytes]:
        """Bodies; nine of ten users and ads are known, popular ads come more often."""
        draw = np.random.default_rng(seed)
        made = []
        for number in range(count):
            popular = np.unique((ADS * 1.1 * draw.random(4 * candidates) ** 2).astype(int))
            ads = draw.permutation(popular)[:candidates]
            context: dict[str, Any] = {"user_id": f"u{draw.integers(int(USERS * 1.1))}"}
            context |= {f"place_{n}": f"place_{n}-{draw.integers(12)}" for n in range(3)}
            context |= {f"number_{n}": round(float(draw.normal()), 4) for n in range(15) if draw.random() < 0.9}
            asked = [{"ad_id": f"a{ad}"} for ad in ads]
            if "campaign_id" in self.contract.columns:
                asked = [one | {"campaign_id": f"c{ad % CAMPAIGNS}"} for one, ad in zip(asked, ads, strict=True)]
            at = (CLOCK_AT + timedelta(seconds=int(draw.integers(3_000)))).isoformat()
            made.append(json.dumps({"request_id": f"r-{number}", "time": at, "context": context, "candidates": asked}).encode())
        return made


def make_bundle(shape: Shape, world: World) -> Bundle:
    """Trained on rows of the world and a made-up truth, so that the trees ask everything."""
    contract, draw = world.contract, np.random.default_rng(2)
    words = {n: tuple(f"{n}-{w}" for w in range(10)) for n, c in contract.columns.items() if c.type == "category"}
    if "campaign_id" in words:
        words["campaign_id"] = tuple(f"c{n}" for n in range(CAMPAIGNS))
    fitted = Fitted.of(contract, base_rate=0.04, strength=20.0, vocabularies=words)
    vectors = vectorize(_training_rows(world, draw), fitted)
    known = np.nan_to_num((vectors - np.nanmean(vectors, 0)) / np.maximum(np.nanstd(vectors, 0), 1e-3))
    truth = known @ draw.normal(0, 0.3, known.shape[1]) + 0.3 * known[:, 3] * known[:, 8] - 3
    labels = (draw.random(len(truth)) < 1 / (1 + np.exp(-truth))).astype(np.int8)
    settings: dict[str, Any] = {"objective": "binary:logistic", "max_depth": shape.depth, "eta": 0.05, "base_score": 0.04}
    booster = xgb.train(settings, xgb.DMatrix(vectors, label=labels), shape.trees)
    share = 0.5 if shape.ridge else 1.0
    trees = merge([booster], names=fitted.names, base_rate=0.04, share=share)
    at = np.linspace(-7, 3, 40)
    calibrator = Calibrator("isotonic", at=tuple(at.tolist()), to=tuple((0.9 * at - 0.1 + 0.05 * np.sin(at)).tolist()))
    ridge = _ridge(fitted, vectors, share) if shape.ridge else None
    id_key = world.id_key.fingerprint
    return Bundle("trees", contract.hash, id_key, fitted, calibrator=calibrator, trees=trees, ridge=ridge)


def _ridge(fitted: Fitted, vectors: Float32, share: float) -> Ridge:
    columns = tuple(n for n, feature in enumerate(fitted.features) if feature.key or feature.kind == "level")
    chosen = vectors[:, columns].astype(np.float64)
    draw = np.random.default_rng(4)
    weights, missing = (tuple((share * draw.normal(0, 0.1, len(columns))).tolist()) for _ in range(2))
    means, scales = np.nanmean(chosen, 0), np.maximum(np.nanstd(chosen, 0), 1e-3)
    return Ridge(columns, tuple(means.tolist()), tuple(scales.tolist()), weights, missing, -1.5 * share)


def _training_rows(world: World, draw: np.random.Generator) -> pa.RecordBatch:
    contract, schema = world.contract, raw_schema(world.contract)
    columns: dict[str, Any] = {EVENT_TIMESTAMP: (CLOCK_AT - _EPOCH) // _MICROSECOND - draw.integers(0, 86_400_000_000, _ROWS)}
    for name, column in contract.columns.items():
        if column.type == "number":
            columns[name] = draw.normal(size=_ROWS)
        else:
            prefix, values = ("c", CAMPAIGNS) if name == "campaign_id" else (f"{name}-", 12)
            columns[name] = [f"{prefix}{n}" for n in draw.integers(values, size=_ROWS)]
    for key in contract.counted_keys:
        rows = draw.integers(len(world.counters[key]), size=_ROWS) if key != ALL_KEY else None
        for n, counter in enumerate(world.counted):
            values_of = np.full(_ROWS, world.everything[n]) if rows is None else world.counters[key][rows, n]
            columns[raw_counter(key, counter)] = values_of
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(_ROWS, f.type) for f in schema]
    return pa.record_batch(arrays, schema=schema)


def install(shape: Shape, world: World, state: Path) -> Bundle:
    """Publish the model as the champion of a new installation in `state`."""
    bundle = make_bundle(shape, world)
    save_bundle(bundle, state / "made", {})
    publish(state / "bundles" / world.contract.name, state / "made", "1")
    (state / "id.key").write_text(KEY.hex())
    return bundle
