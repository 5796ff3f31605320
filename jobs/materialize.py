"""`feast materialize` of what the counters gained since the last time, in the Spark session at hand."""

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
import redis
from pyspark.sql import functions as F

from conf.contract import ALL_KEY, AS_OF, CLOCK, SCOPE
from conf.environment import environment
from conf.errors import DataError, UnavailableError
from conf.files import write_whole
from conf.settings import ROOT
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
    with _feature_store(context) as store:
        there = _clock(store) if last else None
        if last and there == end == last["end"] and versions == last["versions"]:
            log.info("materialize: nothing new since the last time")
            return {"hours materialized": 0}
        if last and there != last["end"]:
            log.warning("materialize: Redis does not hold what was left there: filled anew")
        start = _start(context, tables, last) if last and there == last["end"] else oldest
        store.materialize(_utc(start), _utc(end))
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
        # an hour that a late file changed has the time that it had: Feast would keep what Redis holds; nothing newer is there
        store.config.online_store.skip_dedup = True
        store.apply(objects)
        yield store
    except click.ClickException as error:
        raise UnavailableError(error.format_message()) from error
    except redis.RedisError as error:
        raise UnavailableError(f"redis at {context.settings.redis}: {error}; start it, or set CLICKODDS_REDIS") from error
    finally:
        context.warehouse.spark.conf.unset(_FEAST_SETS)


def _clock(store: Any) -> int | None:
    """The clock that Redis holds, in microseconds."""
    found = store.get_online_features(features=[f"{CLOCK}:{AS_OF}"], entity_rows=[{SCOPE: ALL_KEY}]).to_dict()
    return next(iter(found[AS_OF]), None)


def _utc(micros: int) -> datetime:
    return datetime.fromtimestamp(micros // 1_000_000, UTC)
