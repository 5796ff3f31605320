"""Feast's local engine with two promises more: the clock goes last, and a Redis that is away is said in one line.

Feast materializes views in its registry's order, which moves with every run; a clock written before its counters would call
old counters fresh (docs/adr/0003-feast.md).
"""

from typing import Any

import click
import redis
from feast.infra.common.materialization_job import MaterializationJob, MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry
from redis.backoff import NoBackoff
from redis.retry import Retry

from conf.contract import CLOCK
from conf.errors import EXIT_TRY_AGAIN


class ClockLastEngineConfig(LocalComputeEngineConfig):
    type: str = "feature_repo.engine.ClockLastEngine"  # type: ignore[assignment]  # Feast wants the class's own name here


class Unreachable(click.ClickException):
    exit_code = EXIT_TRY_AGAIN


class ClockLastEngine(LocalComputeEngine):
    """Takes all views in one call, so that it settles their order."""

    @property
    def supports_batch(self) -> bool:
        return True

    def materialize(
        self, registry: BaseRegistry, tasks: MaterializationTask | list[MaterializationTask], **kwargs: Any
    ) -> list[MaterializationJob]:
        """A job for each task, in the tasks' order. After a first failure nothing more is written, so the clock stays behind."""
        tasks = [tasks] if isinstance(tasks, MaterializationTask) else tasks
        self._require_redis()
        jobs: dict[str, MaterializationJob] = {}
        failed: BaseException | None = None
        for task in sorted(tasks, key=lambda task: task.feature_view.name == CLOCK):
            name = task.feature_view.name
            if failed is None:
                click.echo(f"materializing {name}")
                jobs[name] = self._materialize_one(registry, task)
                if jobs[name].status() == MaterializationJobStatus.ERROR:
                    failed = jobs[name].error()
            else:
                jobs[name] = LocalMaterializationJob(job_id=name, status=MaterializationJobStatus.ERROR, error=failed)
        return [jobs[task.feature_view.name] for task in tasks]

    def _require_redis(self) -> None:
        address = self.repo_config.online_store.connection_string
        host, _, port = address.split(",")[0].rpartition(":")
        client = redis.Redis(
            host=host, port=int(port), socket_timeout=5, socket_connect_timeout=5, retry=Retry(NoBackoff(), 0)
        )
        try:
            client.ping()
        except redis.RedisError as error:
            raise Unreachable(f"redis at {host}:{port} does not answer ({error}); start it, or set CLICKODDS_REDIS") from None
        finally:
            client.close()
