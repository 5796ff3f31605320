"""MLflow: one run per training, one registered version per new bundle, the alias `champion`.

The bundle's files are logged as plain artifacts; nothing is pickled, nothing goes through MLflow's model flavours.
"""

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.errors import BundleError
from conf.files import first_wins
from models.bundle import load_bundle

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
IDENTITY = "identity"
BUNDLE = "bundle"
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Version:
    """A registered bundle: its number, the folder with its files, its identity as registered."""

    number: str
    folder: Path
    identity: str

    def metrics(self) -> dict[str, Any]:
        """The metrics sealed in the bundle. Raises BundleError where it does not verify."""
        return dict(load_bundle(self.folder, identity=self.identity or None).metrics)


class Registry:
    """Runs and versions of one contract's models."""

    def __init__(self, uri: str, artifacts: Path, name: str) -> None:
        """uri: the tracking database or server. artifacts: where a database's runs keep their files. name: the contract's."""
        self._uri, self._artifacts, self.name = uri, artifacts, name
        self._client = _client(uri)

    def record(
        self, folder: Path, identity: str, *, params: Mapping[str, Any], metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> tuple[str, bool]:
        """Log one run with everything in `folder` (the bundle below `bundle/`) and register the bundle if it is new.

        Returns its version and whether that is new: a bundle of a known identity keeps the version it has.
        """
        run = self._client.create_run(self._experiment(), tags={IDENTITY: identity, **tags})
        run_id = run.info.run_id
        from mlflow.entities import Metric, Param

        logged = [Metric(name, float(value), run.info.start_time, 0) for name, value in metrics.items()]
        self._client.log_batch(run_id, metrics=logged, params=[Param(name, str(value)) for name, value in params.items()])
        self._client.log_artifacts(run_id, str(folder))
        known = self._of_identity(identity)
        version = known or self._register(f"{run.info.artifact_uri}/{BUNDLE}", run_id, identity)
        self._client.set_tag(run_id, "model_version", version)
        self._client.set_terminated(run_id)
        return version, known is None

    def version(self, number: str | None = None) -> Version:
        """A registered version, the newest by default. Raises BundleError where there is none."""
        found = {str(version.version): version for version in self._versions()}
        if not found:
            raise BundleError(f"{self._uri}: no registered model {self.name}, expected what jobs/train.py makes: run it first")
        number = number or max(found, key=int)
        if number not in found:
            known = ", ".join(sorted(found, key=int))
            raise BundleError(f"{self._uri}: {self.name} has no version {number}, expected one of {known}")
        chosen = found[number]
        return Version(number, self._folder(chosen), chosen.tags.get(IDENTITY, ""))

    def champion(self) -> str | None:
        """The version that carries the alias, None where none does."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.get_model_version_by_alias(self.name, CHAMPION).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def set_champion(self, number: str) -> None:
        self._client.set_registered_model_alias(self.name, CHAMPION, number)

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        if found := self._client.get_experiment_by_name(self.name):
            return str(found.experiment_id)
        place = None if self._uri.startswith("http") else (self._artifacts / self.name).resolve().as_uri()  # a server has its own
        try:
            return str(self._client.create_experiment(self.name, artifact_location=place))
        except MlflowException:
            if found := self._client.get_experiment_by_name(self.name):  # another training was first
                return str(found.experiment_id)
            raise

    def _register(self, source: str, run_id: str, identity: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # `source` lies within the run's artifacts and the run is named: what MLflow's server asks of a local path
        made = self._client.create_model_version(self.name, source, run_id, tags={IDENTITY: identity})
        return str(made.version)

    def _versions(self) -> list["ModelVersion"]:
        versions: list[ModelVersion] = []
        token = None
        while True:
            page = self._client.search_model_versions(f"name='{self.name}'", page_token=token)
            versions += page
            token = page.token
            if not token:
                return versions

    def _of_identity(self, identity: str) -> str | None:
        equal = [str(version.version) for version in self._versions() if version.tags.get(IDENTITY) == identity]
        return max(equal, key=int, default=None)

    def _folder(self, version: "ModelVersion") -> Path:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        try:
            return Path(download_artifacts(artifact_uri=version.source, tracking_uri=self._uri))
        except (MlflowException, OSError) as error:
            raise BundleError(f"{version.source}: {error}, expected the files of {self.name} version {version.version}") from None


def _client(uri: str) -> "MlflowClient":
    # Read when MLflow is imported, which is here: a few seconds that only training and promotion pay.
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own packages, about each other
        import mlflow  # noqa: F401  # sets up its logging, to be turned down below

        for chatter in ("mlflow", "alembic"):  # how its own tables are made is nothing a job reports
            logging.getLogger(chatter).setLevel(logging.WARNING)
        if uri.startswith(_SQLITE):
            _make_database(Path(uri.removeprefix(_SQLITE)))
        return _opened(uri)


def _opened(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.search_experiments(max_results=1)  # makes the tables where there are none
    client.search_registered_models(max_results=1)
    return client


def _make_database(path: Path) -> None:
    """Make MLflow's tables beside `path` and put the file there whole: its dozens of migrations do not resume after a crash."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    _opened(f"{_SQLITE}{fresh}")
    first_wins(fresh, path)
