"""`feast materialize` of what the counters gained since the last time, in the Spark session at hand."""

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
from pyspark.sql import functions as F

from conf.contract import AS_OF, CLOCK
from conf.environment import environment
from conf.errors import ClickoddsError, DataError
from conf.files import write_whole
from conf.redis_address import parse_address
from conf.settings import ROOT
from feature_repo.redis_layout import decode_int64, hash_field, redis_key
from feature_repo.redis_wire import Wire
from jobs.command import Context, log
from jobs.touched import date_rebuilt

_HOUR_US = 3_600_000_000
_FEAST_SETS = "spark.sql.parser.quotedRegexColumnNames"  # in the session it is given; Delta's own queries fail under it


def materialize(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Fill Redis up to the clock table's newest hour; how many hours of the log were moved. Applies the feature repository too.

    What was left there is kept in a file of the state folder, written when all is done; where Redis' own clock says otherwise,
    everything is moved again. Raises UnavailableError where Redis does not answer.
    """
    warehouse, contract = context.warehouse, context.contract
    tables = [warehouse.tables.counters(key) for key in contract.counted_keys]
    versions = {table: warehouse.version(table) for table in tables}
    published = F.unix_micros("published_at")
    oldest, end = warehouse.read(CLOCK).agg(F.min(published), F.max(published)).collect()[0]
    if end is None:
        raise DataError(f"{warehouse.tables.path(CLOCK)}: no row, expected the clock's: run jobs/count.py")
    path = context.settings.state / f"materialized-{contract.name}.json"
    last = json.loads(path.read_text()) if path.exists() else None
    if last and _clock(context) != last["end"]:
        log.warning("materialize: Redis does not hold what was left there: filled anew")
        last = None
    if last and (end, versions) == (last["end"], last["versions"]):
        log.info("materialize: nothing new since the last time")
        return {"hours materialized": 0}
    start = min(_start(context, tables, last), end) if last else oldest  # the clock may have been set back
    with _feature_store(context) as store:
        # from 1970 on: keys that the tables do not have leave Redis
        store.materialize(_utc(start if last else 0), _utc(end))
    write_whole(path, json.dumps({"versions": versions, "end": end}))
    return {"hours materialized": (end - start) // _HOUR_US}


def _start(context: Context, tables: list[str], last: Mapping[str, Any]) -> int:
    """From where on rows are new since `last`: its end, or the midnight from which counters were rebuilt."""
    since = date_rebuilt(context.warehouse, tables, last["versions"])
    if since is None:
        return int(last["end"])
    return min(int(last["end"]), int(datetime(since.year, since.month, since.day, tzinfo=UTC).timestamp()) * 1_000_000)


@contextmanager
def _feature_store(context: Context) -> Iterator[Any]:
    """The feature repository, applied. Its own settings are this installation's, by the environment."""
    os.environ.update(environment(context.settings) | {"CLICKODDS_WAREHOUSE": str(context.settings.warehouse)})
    from feast import FeatureStore  # seconds that --help need not wait for

    from feature_repo.definitions import entities, service, views

    objects: Any = [*entities(context.contract).values(), *views(context.contract, context.warehouse.tables), service]
    try:
        (context.settings.state / "feast").mkdir(parents=True, exist_ok=True)
        store = FeatureStore(repo_path=str(ROOT / "feature_repo"))
        store.apply(objects)
        yield store
    except click.ClickException as error:
        if isinstance(error.__cause__, ClickoddsError):
            raise error.__cause__ from None
        raise
    finally:
        context.warehouse.spark.conf.unset(_FEAST_SETS)


def _clock(context: Context) -> int | None:
    """The clock that Redis holds, in microseconds. Raises UnavailableError where Redis does not answer."""
    with Wire(parse_address(context.settings.redis), patience_s=0) as wire:
        return decode_int64(wire.ask("HGET", redis_key(context.contract.name, {}), hash_field(CLOCK, AS_OF)))


def _utc(micros: int) -> datetime:
    return datetime.fromtimestamp(micros // 1_000_000, UTC)
