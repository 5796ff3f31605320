"""Feast's materialization engine for Delta and Redis: the newest row of every key, moved by Spark's workers.

Used by the unchanged `feast materialize` and `materialize-incremental`; feature_store.yaml names it as batch_engine. Views go in
the registry's order but for the clock, which vouches for the others and goes last; after a failure no other view is begun, and
the command fails. What it promises, and its settings, stand in docs/materialize.md.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from feast import FeatureView
from feast.infra.common.materialization_job import MaterializationJob, MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.online_stores.redis import RedisType
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import NonNegativeFloat
from pyspark.sql import SparkSession

from conf.contract import CLOCK
from conf.errors import EXIT_TRY_AGAIN, ClickoddsError, DataError
from conf.lease import lease
from conf.redis_address import parse_address
from feature_repo.move import move
from feature_repo.redis_wire import Wire
from feature_repo.redis_writer import Plan
from feature_repo.view_source import layout_of


class RedisEngineConfig(FeastConfigBaseModel):
    type: str = "feature_repo.engine.RedisEngine"
    leases: Path  # the folder of the leases, one a view
    max_rows_per_s: NonNegativeFloat = 25_000.0  # of all workers together; 0: as fast as it goes
    patience_s: NonNegativeFloat = 30.0  # how long a Redis that goes away is waited for
    remove_zeros: bool = False  # a key whose newest row is nothing but zeros and nulls is removed


class Failed(click.ClickException):
    """A failure that a person can act on, with its exit code; its cause is the ClickoddsError."""

    def __init__(self, cause: ClickoddsError) -> None:
        super().__init__(str(cause))
        self.exit_code = cause.exit_code  # type: ignore[misc]  # click declares it of the class
        self.__cause__ = cause


class RedisEngine(ComputeEngine):
    """Takes all views in one call, so that it settles their order."""

    def __init__(self, *, repo_config: RepoConfig, **others: Any) -> None:
        super().__init__(repo_config=repo_config, **others)
        self._settings: RedisEngineConfig = repo_config.batch_engine

    @property
    def supports_batch(self) -> bool:
        return True

    def update(self, *_: Any, **__: Any) -> None:
        """Feast's online store needs nothing made before it is written."""

    def teardown_infra(self, *_: Any, **__: Any) -> None:
        """Feast's online store removes what it holds."""

    def materialize(
        self, registry: BaseRegistry, tasks: MaterializationTask | list[MaterializationTask], **kwargs: Any
    ) -> list[MaterializationJob]:
        """A job for each task, in the tasks' order. Raises Failed before anything is written: another run, no Redis, a view that
        cannot be moved."""
        tasks = [tasks] if isinstance(tasks, MaterializationTask) else tasks
        jobs: dict[str, MaterializationJob] = {}
        failed: Exception | None = None
        try:
            with ExitStack() as leases:
                for name in sorted(task.feature_view.name for task in tasks):
                    leases.enter_context(lease(self._settings.leases, f"materialize-{self.repo_config.project}-{name}"))
                views = registry.list_feature_views(self.repo_config.project)
                plans = {task.feature_view.name: self._plan(task, views) for task in tasks}
                for task in sorted(tasks, key=lambda task: task.feature_view.name == CLOCK):
                    name = task.feature_view.name
                    failed = failed or _error_of(task, plans[name])
                    jobs[name] = _job(name, failed)
                if isinstance(failed, Failed) and failed.exit_code == EXIT_TRY_AGAIN:
                    _require_same_redis(plans[name])  # or views that were done may have been lost with it
        except ClickoddsError as error:
            if not jobs:
                raise Failed(error) from error
            jobs = {name: _job(name, Failed(error)) for name in jobs}
        return [jobs[task.feature_view.name] for task in tasks]

    def _plan(self, task: MaterializationTask, views: Sequence[FeatureView]) -> Plan:
        config, settings = self.repo_config, self._settings
        online = config.online_store
        if online.redis_type != RedisType.redis or online.key_ttl_seconds is not None:
            raise DataError("online_store: found redis_type or key_ttl_seconds, expected a single Redis, and the views' own ttl")
        address = parse_address(online.connection_string)
        with Wire(address, patience_s=0) as wire:
            run_id = str(wire.run_id)
        end_us = round(task.end_time.timestamp() * 1_000_000)
        return Plan(
            layout=layout_of(task.feature_view, config),
            address=address,
            run_id=run_id,
            patience_s=settings.patience_s,
            rows_per_s=settings.max_rows_per_s,
            end_us=end_us,
            ttl_s=_expiry_s(task.feature_view, views),
            remove_zeros=settings.remove_zeros,
        )


def _job(name: str, error: Exception | None) -> MaterializationJob:
    status = MaterializationJobStatus.ERROR if error else MaterializationJobStatus.SUCCEEDED
    return LocalMaterializationJob(job_id=name, status=status, error=error)


def _expiry_s(view: FeatureView, views: Sequence[FeatureView]) -> int:
    """The view's ttl in seconds; 0, for ever, where a view that shares its hash has none: a key expires as a whole."""
    sharing = [other for other in views if sorted(other.join_keys) == sorted(view.join_keys)]
    return int(view.ttl.total_seconds()) if view.ttl and all(other.ttl for other in sharing) else 0


def _error_of(task: MaterializationTask, plan: Plan) -> Exception | None:
    """Move one view; what went wrong, if anything did."""
    view = task.feature_view
    click.echo(f"materializing {view.name}")
    begun = time.monotonic()
    try:
        done = move(_session(), view, plan, task.start_time, task.end_time)
        _require_same_redis(plan)
    except ClickoddsError as error:
        return Failed(error)
    except Exception as error:  # Spark's or the tables', unless Redis went away where only Spark heard of it
        try:
            _require_same_redis(plan)
        except ClickoddsError as cause:
            return Failed(cause)
        return error
    seconds = time.monotonic() - begun
    left = f", {done.newer:,} left that are newer" if done.newer else ""
    click.echo(f"{view.name}: {done.written:,} rows written, {done.removed:,} keys removed{left} ({seconds:.1f} s)")
    return None


def _require_same_redis(plan: Plan) -> None:
    """Raises UnavailableError where Redis is away, or was restarted and may have lost what was written first."""
    with Wire(plan.address, patience_s=plan.patience_s, run_id=plan.run_id):
        pass


def _session() -> SparkSession:
    """The session at hand, else one of conf/spark-defaults.conf that shows its progress."""
    if (running := SparkSession.getActiveSession()) is not None:
        return running
    mine = SparkSession.builder.appName("clickodds materialize").config("spark.ui.showConsoleProgress", "true")
    # a command's own JVM: Java's optimizing compiler would cost it more than it gives back before it ends
    return mine.config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1").getOrCreate()
