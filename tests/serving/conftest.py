"""A real Redis, filled by Feast's own code, a small model to serve, and an application whose hot route is watched."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from conf.contract import Contract
from conf.contract_file import load_contract
from conf.redis_server import redis_server
from conf.settings import CONF, Serving, load_settings
from feature_repo.catalogue import raw_schema
from models.bundle import Bundle
from models.published import Champion
from serving.app import create_app
from serving.hot import Served
from serving.metrics import Metrics
from serving.observer import observer
from serving.served_log import LogLimits, ServedLog
from serving.served_raw import ServedRaw
from serving.state import InForce, ServingState
from tests.serving.both_routes import Start, Started
from tests.serving.parts import CONTRACTS, ID_KEY, FeastStore, fill, make_bundle, make_fast_path


@pytest.fixture(scope="session")
def contracts() -> dict[str, Contract]:
    return {name: load_contract(CONF / "contracts" / f"{name}.yaml") for name in CONTRACTS}


@pytest.fixture(scope="session")
def demo(contracts: dict[str, Contract]) -> Contract:
    return contracts["demo"]


@pytest.fixture
def serving_settings() -> Serving:
    return load_settings().serving.model_copy(update={"redis_deadline_ms": 500.0})  # the machine may be busy


@pytest.fixture(scope="session")
def champion(demo: Contract) -> Champion:
    return Champion("7", make_bundle(demo))


@pytest.fixture(scope="session")
def feast_stores(contracts: dict[str, Contract], tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeastStore]:
    folder = tmp_path_factory.mktemp("feast")
    return {name: FeastStore(contracts[name], folder) for name in ("demo", "talkingdata")}


@pytest.fixture(scope="session")
def _shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as address:
        yield address


@pytest.fixture
def redis_address(_shared_redis: str) -> str:
    """A running, empty Redis."""
    host, _, port = _shared_redis.partition(":")
    with redis.Redis(host=host, port=int(port)) as client:
        client.flushall()
    return _shared_redis


@pytest.fixture
def filled_redis(redis_address: str, feast_stores: dict[str, FeastStore]) -> str:
    """The demo's Redis at AS_OF: two known users (personal, so hashed) and one known ad; everything else is new."""
    fill(feast_stores["demo"], redis_address)
    return redis_address


@pytest.fixture
def start(serving_settings: Serving, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """Makes an application of a contract, a bundle and a Redis; settings by name."""
    with ExitStack() as stack:

        def make(contract: Contract, bundle: Bundle, address: str, **changes: Any) -> Started:
            patient = {"redis_deadline_ms": 10_000.0, "residents": 1000}  # nobody is in a hurry, and the machine may be busy
            section = serving_settings.model_copy(update=patient | changes)
            metrics = Metrics()
            fast = make_fast_path(contract, address, section, metrics)
            served_log = ServedLog(tmp_path, raw_schema(contract), LogLimits(1.0, 1 << 20, 1 << 30, 60), metrics)
            served: list[Served] = []

            def watched(metrics: Metrics, log: ServedLog, raw: ServedRaw) -> Callable[[Served], None]:
                observe = observer(metrics, log, raw)

                def both(one: Served) -> None:
                    observe(one)
                    served.append(one)

                return both

            monkeypatch.setattr("serving.app.observer", watched)
            in_force = InForce(ServingState(contract.hash, ID_KEY.fingerprint, Champion("7", bundle)))
            app = create_app(
                contract=contract, in_force=in_force, fast=fast, settings=section, metrics=metrics, served_log=served_log
            )
            return Started(stack.enter_context(TestClient(app)), served, fast, in_force, tmp_path, served_log, metrics)

        yield make
