"""A real Redis, filled by Feast's own code, and a small model to serve."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis

from conf.contract import ALL_KEY, Contract
from conf.contract_file import load_contract
from conf.redis_server import redis_server
from conf.settings import CONF, Serving, load_settings
from models.published import Champion
from tests.serving.parts import CONTRACTS, ID_KEY, FeastStore, make_bundle


@pytest.fixture(scope="session")
def contracts() -> dict[str, Contract]:
    return {name: load_contract(CONF / "contracts" / f"{name}.yaml") for name in CONTRACTS}


@pytest.fixture(scope="session")
def demo(contracts: dict[str, Contract]) -> Contract:
    return contracts["demo"]


@pytest.fixture
def serving_settings() -> Serving:
    return load_settings().serving.model_copy(update={"redis_timeout": timedelta(seconds=0.5)})


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
    store = feast_stores["demo"]
    store.counters(redis_address, ALL_KEY, {}, impressions_1h=500, clicks_1h=20, impressions_1d=9000, clicks_1d=400,
                   impressions_7d=70000, clicks_7d=3000)  # fmt: skip
    store.counters(redis_address, "user", {"user_id": ID_KEY.digest("known")}, impressions_1h=3, clicks_1h=1,
                   impressions_7d=30, clicks_7d=4, last_impression_us=1_772_323_200_000_001)  # fmt: skip
    store.counters(redis_address, "user", {"user_id": ID_KEY.digest("42")}, impressions_1h=8, impressions_7d=80)
    store.counters(redis_address, "ad", {"ad_id": "a7"}, impressions_1d=100, clicks_1d=9, impressions_7d=700, clicks_7d=50)
    store.counters(
        redis_address, "user_campaign", {"user_id": ID_KEY.digest("known"), "campaign_id": "c1"}, impressions_7d=7, clicks_7d=2
    )
    store.clock(redis_address)
    return redis_address
