"""The servers that ours is measured against, each a process: `python -m bench.serving_servers naive STATE CONTRACT REDIS`.

naive: FastAPI, the Feast SDK with a row for each candidate, pandas, an mlflow pyfunc. feast_sdk: the same stores used well: one
look-up of the user, one of the ads, NumPy, the Booster with one thread. empty: a FastAPI route that does nothing. The feature
formulas are `vectorize` in each, so that all must answer alike; prints its port.
"""

import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import uvicorn
from fastapi import FastAPI, Request

from conf.contract import ALL_KEY, AS_OF, CLOCK, SCOPE, Contract
from conf.contract_file import load_contract
from conf.personal import IdKey
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_schema
from feature_repo.vectorize import vectorize
from models.bundle import Bundle
from models.published import load_champion

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def feast_store(contract: Contract, redis: str, state: Path) -> Any:
    """A Feast store with the contract's views; applied where it is new."""
    warnings.simplefilter("ignore")
    from feast import FeatureStore, RepoConfig

    from conf.tables import Tables
    from feature_repo.definitions import entities, views

    registry = state / "feast.db"
    online = {"type": "redis", "connection_string": f"{redis},db=0"}
    config: dict[str, Any] = {"project": contract.name, "provider": "local", "registry": str(registry), "online_store": online}
    config |= {"offline_store": {"type": "spark"}, "entity_key_serialization_version": 3}
    fresh = not registry.exists()
    store = FeatureStore(config=RepoConfig(**config))
    if fresh:
        store.apply([*entities(contract).values(), *views(contract, Tables(str(state), contract))])
    return store


class _Server:
    """What both servers of Feast share: the stores, the names of features, raw rows from Feast's columns."""

    def __init__(self, state: Path, contract: Contract, redis: str) -> None:
        champion = load_champion(state / "bundles" / contract.name)
        if champion is None:
            raise SystemExit(f"{state}: no champion")
        self.bundle: Bundle = champion.bundle
        self.contract, self.store, self.version = contract, feast_store(contract, redis, state), champion.version
        self.id_key = IdKey(bytes.fromhex((state / "id.key").read_text()))
        self.names = {key: [f"{key}:{c}" for c in contract.counter_columns] for key in contract.counted_keys}
        self.schema = raw_schema(contract)

    def entity(self, values: dict[str, Any]) -> dict[str, str]:
        columns = {column for key in self.contract.keys.values() for column in key} & values.keys()
        return {c: self.id_key.digest(values[c]) if c in self.contract.personal else values[c] for c in columns}

    def answer(self, body: dict[str, Any], ctr: Any) -> dict[str, Any]:
        pairs = zip(body["candidates"], ctr.tolist(), strict=True)
        predictions = [{"ad_id": candidate["ad_id"], "ctr": value} for candidate, value in pairs]
        head = {"request_id": body["request_id"], "model_version": self.version, "degraded": False, "reasons": []}
        return head | {"predictions": predictions}


def naive(state: Path, contract: Contract, redis: str) -> FastAPI:
    """What most write."""
    import mlflow
    import pandas as pd

    server = _Server(state, contract, redis)
    server.bundle.booster.feature_names = None
    mlflow.set_tracking_uri(f"file:{state / 'mlruns'}")
    folder = state / "pyfunc"
    if not folder.exists():
        mlflow.xgboost.save_model(server.bundle.booster, str(folder), model_format="ubj")
    model = mlflow.pyfunc.load_model(str(folder))
    features = [*(name for names in server.names.values() for name in names), f"{CLOCK}:{AS_OF}"]
    app = FastAPI()

    @app.post("/v1/predict")
    async def predict(request: Request) -> dict[str, Any]:
        body = await request.json()
        shared = server.entity(body["context"]) | {SCOPE: ALL_KEY}
        entities = [shared | server.entity(candidate) for candidate in body["candidates"]]
        found = server.store.get_online_features(features=features, entity_rows=entities, full_feature_names=True).to_df()
        rows = pd.DataFrame([body["context"] | candidate for candidate in body["candidates"]])
        rows = rows.drop(columns=[c for c in rows if c in found.columns]).join(found)
        rows[EVENT_TIMESTAMP] = datetime.fromisoformat(body["time"])
        rows = rows.reindex(columns=server.schema.names)
        counters = [name for name in server.schema.names if "__" in name]
        rows[counters] = rows[counters].astype("Int64").fillna(0)
        batch = pa.RecordBatch.from_pandas(rows, schema=server.schema, preserve_index=False)
        vectors = pd.DataFrame(vectorize(batch, server.bundle.fitted))
        odds = np.log((p := model.predict(vectors).astype(np.float64)) / (1 - p))
        if server.bundle.ridge:
            odds = odds + server.bundle.ridge.log_odds(vectors.to_numpy())
        return server.answer(body, server.bundle.calibrator.probabilities(odds))

    return app


def feast_sdk(state: Path, contract: Contract, redis: str) -> FastAPI:
    """The same parts in the hands of someone who measures."""
    server = _Server(state, contract, redis)
    sides = {key: {contract.columns[c].of for c in columns} for key, columns in contract.keys.items()}
    asked = [f"{CLOCK}:{AS_OF}", *server.names[ALL_KEY]]
    shared_names = asked + [n for key, of in sides.items() if of == {"request"} for n in server.names[key]]
    own_names = [n for key, of in sides.items() if "candidate" in of for n in server.names[key]]
    app = FastAPI()

    @app.post("/v1/predict")
    async def predict(request: Request) -> dict[str, Any]:
        body = await request.json()
        count, context = len(body["candidates"]), body["context"]
        shared = server.entity(context)
        user = await server.store.get_online_features_async(shared_names, [shared | {SCOPE: ALL_KEY}], full_feature_names=True)
        entities = [server.entity(candidate) for candidate in body["candidates"]]
        if any(len(of) > 1 for of in sides.values()):
            entities = [shared | own for own in entities]
        ads = await server.store.get_online_features_async(own_names, entities, full_feature_names=True)
        columns = {name: values * count for name, values in user.to_dict().items()} | ads.to_dict()
        columns[EVENT_TIMESTAMP] = [datetime.fromisoformat(body["time"])] * count
        arrays = []
        for field in server.schema:
            name = field.name
            if "__" in name:
                arrays.append(pa.array([0 if v is None else v for v in columns[name]], field.type))
            elif name in contract.columns and contract.columns[name].of == "candidate":
                arrays.append(pa.array([candidate[name] for candidate in body["candidates"]], field.type))
            else:
                arrays.append(pa.array(columns.get(name) if name == EVENT_TIMESTAMP else [context.get(name)] * count, field.type))
        return server.answer(body, server.bundle.probabilities(pa.record_batch(arrays, schema=server.schema)))

    return app


def empty(*_: Any) -> FastAPI:
    """A route that does nothing."""
    app = FastAPI()

    @app.get("/")
    async def nothing() -> dict[str, str]:
        return {}

    return app


SERVERS: dict[str, Callable[..., FastAPI]] = {"naive": naive, "feast_sdk": feast_sdk, "empty": empty}


def main() -> int:
    kind, state, contract, redis = sys.argv[1:5]
    app = SERVERS[kind](Path(state), load_contract(Path(contract)), redis)
    server = uvicorn.Server(uvicorn.Config(app, port=int(sys.argv[5]), access_log=False, log_level="warning"))
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
