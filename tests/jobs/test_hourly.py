"""The hourly round, on a real Redis: what it moves, what it leaves alone, and what it does when Redis lost its data."""

import argparse
import os
from collections.abc import Iterator
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.contract import AS_OF, CLOCK, Contract
from conf.errors import UnavailableError
from conf.lease import lease
from conf.redis_server import free_port, redis_server
from feature_repo.redis_layout import hash_field, redis_key
from jobs.command import Context
from jobs.hourly import hourly
from tests.conftest import context_in
from tests.logs import as_yaml, changed, click, impression, write_lines

HOUR_MS = 3_600_000


@pytest.fixture
def environment_restored() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.filterwarnings("ignore")  # Feast warns of every Spark source
@pytest.mark.usefixtures("environment_restored")
def test_rounds_move_what_is_new_and_fill_a_redis_that_lost_its_data(
    spark: SparkSession, demo_contract: Contract, tmp_path: Path
) -> None:
    contract = changed(demo_contract, name="rounds", windows=["1h"], keys={"ad": ["ad_id"]})
    (tmp_path / "rounds.yaml").write_text(as_yaml(contract))
    data = tmp_path / "landing"

    def deliver(hour: int) -> None:
        at = hour * HOUR_MS
        write_lines(data / f"impressions-{hour}.json", [impression(f"{hour}-{n}", at + n, ad_id=f"a{hour}") for n in range(5)])
        write_lines(data / f"clicks-{hour}.json", [click(f"{hour}-0", at + 9)])

    with redis_server(tmp_path / "redis") as address:
        context = context_in(tmp_path / "state", spark, contract)
        settings = context.settings.model_copy(update={"redis": address, "contract": tmp_path / "rounds.yaml"})
        context = Context(settings, contract, context.warehouse, context.id_key)
        arguments = argparse.Namespace(data=str(data), as_of=None, full=False)
        host, _, port = address.rpartition(":")
        client: Any = redis.Redis(host=host, port=int(port))

        deliver(0)
        deliver(2)
        assert hourly(context, arguments)["hours materialized"] == 1
        first = client.dbsize()
        assert hourly(context, arguments)["hours materialized"] == 0, "nothing new"
        deliver(5)
        assert hourly(context, arguments)["hours materialized"] >= 3
        assert client.dbsize() == first, "an ad came, fell silent, and left"
        deliver(6)
        hourly(context, arguments)
        before = held_by(client)
        late = [impression(f"late-{n}", 5 * HOUR_MS + n, ad_id="a5") for n in range(3)]
        write_lines(data / "impressions-late.json", late)
        hourly(context, arguments)
        corrected = held_by(client)
        assert corrected != before, "a late file changes an hour that Redis had"
        client.flushall()
        assert hourly(context, arguments)["hours materialized"] >= 4
        assert held_by(client) == corrected, "a Redis that lost its data is filled anew"
        newest = context.warehouse.read(CLOCK).agg(F.max("hour")).collect()[0][0].replace(tzinfo=UTC)
        hourly(context, argparse.Namespace(data=str(data), as_of=newest + timedelta(hours=6), full=False))
        clock = redis_key("rounds", {}), hash_field(CLOCK, AS_OF)
        ahead = client.hget(*clock)
        hourly(context, arguments)
        assert client.hget(*clock) == ahead, "the clock was set back: Redis keeps what is newer"
        with lease(settings.state / "leases", "hourly-rounds"), pytest.raises(UnavailableError, match="is at it"):
            hourly(context, arguments)
        client.close()
    nowhere = settings.model_copy(update={"redis": f"127.0.0.1:{free_port()}"})
    deliver(7)
    with pytest.raises(UnavailableError, match=r"does not answer|redis at"):
        hourly(Context(nowhere, contract, context.warehouse, context.id_key), arguments)


def held_by(client: Any) -> dict[bytes, dict[bytes, bytes]]:
    return {key: client.hgetall(key) for key in client.keys()}
