"""A real Redis, filled by Feast's own code, and a small model to serve."""

from collections.abc import Iterator

import pytest
import redis

from conf.contract import Contract
from conf.contract_file import load_contract
from conf.redis_server import redis_server
from conf.settings import CONF, Serving, load_settings
from models.published import Champion
from tests.serving.parts import CONTRACTS, FeastStore, fill, make_bundle


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
