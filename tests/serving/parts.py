"""What the serving tests are made from: Feast's own writer and reader, and a small model."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from conf.contract import ALL_KEY, CLOCK, SCOPE, Contract
from conf.personal import IdKey
from conf.redis_address import parse_address
from conf.settings import Serving, load_settings
from conf.tables import Tables
from feature_repo.vectorize import Fitted
from models.bundle import Bundle
from models.lean import xgb
from serving.fast_path import FastPath
from serving.metrics import Metrics
from serving.native import keep_in

AS_OF = datetime(2026, 3, 1, 10, tzinfo=UTC)
KEY = b"a key for tests only, 32 bytes.."
ID_KEY = IdKey(KEY)
COMPILED = load_settings().state / "kernels"  # kept between runs: compiling takes longer than most tests
keep_in(COMPILED)
CONTRACTS = ("demo", "amexpert", "talkingdata")


@contextmanager
def quiet() -> Iterator[None]:
    """Feast warns when it is imported and whenever it sees a Spark source, and sets filters of its own."""
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        yield


class FeastStore:
    """Feast with one contract's views applied; writes and reads any Redis through Feast's own code."""

    def __init__(self, contract: Contract, folder: Path) -> None:
        with quiet():
            from feast import FeatureStore, RepoConfig

            from feature_repo.definitions import entities, views

            self.contract = contract
            config: dict[str, Any] = {
                "project": contract.name,
                "provider": "local",
                "registry": str(folder / f"{contract.name}.db"),
                "offline_store": {"type": "spark"},
                "entity_key_serialization_version": 3,
            }

            def make(address: str) -> Any:
                kind = "redis_cluster" if "," in address else "redis"
                online = {"type": "redis", "redis_type": kind, "connection_string": address}
                return FeatureStore(config=RepoConfig(**config, online_store=online))

            self._make = make
            store = make("127.0.0.1:1")
            store.apply([*entities(contract).values(), *views(contract, Tables(str(folder), contract))])
            self._views = {view.name: view for view in store._get_feature_views_to_materialize(None)}

    def write(self, address: str, view: str, key: Mapping[str, str], values: Mapping[str, int | None], at: datetime) -> None:
        """One row of a view, published `at`; Feast skips it where Redis has one as new."""
        import pandas as pd

        entity = key or {SCOPE: ALL_KEY}
        row = pd.DataFrame([{**entity, **values, "published_at": at, "created": at}])
        row = row.astype({name: "Int64" for name in values})
        with quiet():
            self._make(address)._get_provider().ingest_df(self._views[view], row)

    def counters(self, address: str, key: str, of: Mapping[str, str], *, at: datetime = AS_OF, **values: int | None) -> None:
        """A key's row; counters that are not named are 0, last-seen times null."""
        zeros = {name: None if name.endswith("_us") else 0 for name in self.contract.counter_columns}
        self.write(address, key, of, zeros | values, at)

    def clock(self, address: str, at: datetime = AS_OF) -> None:
        self.write(address, CLOCK, {}, {"as_of_us": microseconds(at)}, at)

    def read(self, address: str, entity: Mapping[str, str]) -> dict[str, Any]:
        """What get_online_features says of every view: key__counter -> value."""
        features = [f"{key}:{counter}" for key in self.contract.counted_keys for counter in self.contract.counter_columns]
        with quiet():
            response = self._make(address).get_online_features(features, [{SCOPE: ALL_KEY, **entity}], full_feature_names=True)
            return {name: values[0] for name, values in response.to_dict().items()}


def fill(store: FeastStore, address: str) -> None:
    """The demo's Redis at AS_OF: two known users (personal, so hashed) and one known ad; everything else is new."""
    store.counters(address, ALL_KEY, {}, impressions_1h=500, clicks_1h=20, impressions_1d=9000, clicks_1d=400,
                   impressions_7d=70000, clicks_7d=3000)  # fmt: skip
    store.counters(address, "user", {"user_id": ID_KEY.digest("known")}, impressions_1h=3, clicks_1h=1,
                   impressions_7d=30, clicks_7d=4, last_impression_us=1_772_323_200_000_001)  # fmt: skip
    store.counters(address, "user", {"user_id": ID_KEY.digest("42")}, impressions_1h=8, impressions_7d=80)
    store.counters(address, "ad", {"ad_id": "a7"}, impressions_1d=100, clicks_1d=9, impressions_7d=700, clicks_7d=50)
    store.counters(
        address, "user_campaign", {"user_id": ID_KEY.digest("known"), "campaign_id": "c1"}, impressions_7d=7, clicks_7d=2
    )
    store.clock(address)


def microseconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def make_bundle(contract: Contract, **changes: Any) -> Bundle:
    """A few trees over the contract's features that answer differently for different inputs."""
    vocabularies = {n: (f"{n}-1", f"{n}-2") for n, c in contract.columns.items() if c.type == "category"}
    fitted = Fitted.of(contract, base_rate=0.05, strength=20.0, vocabularies=vocabularies)
    rng = np.random.default_rng(0)
    vectors = rng.normal(1, 2, (400, len(fitted.features))).astype(np.float32)
    labels = (vectors.sum(axis=1) + rng.normal(0, 3, 400) > len(fitted.features)).astype(int)
    settings = {"objective": "binary:logistic", "max_depth": 4, "nthread": 1, "eta": 0.3}
    booster = xgb.train(settings, xgb.DMatrix(vectors, label=labels), 20)
    values: dict[str, Any] = {
        "kind": "trees",
        "contract_hash": contract.hash,
        "id_key_fingerprint": ID_KEY.fingerprint,
        "fitted": fitted,
        "trees": bytes(booster.save_raw("ubj")),
        "metrics": {"test": {"ne": 0.9}},
    }
    return Bundle(**(values | changes))


def make_fast_path(
    contract: Contract, address: str, settings: Serving, metrics: Metrics, id_key: IdKey = ID_KEY
) -> FastPath:
    """As the server makes it."""
    return FastPath(contract, id_key, parse_address(address), settings, metrics, compiled=COMPILED)
