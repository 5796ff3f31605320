"""MLflow: one run per training, one registered version per new bundle, the alias `champion`.

The bundle's files are logged as plain artifacts; nothing is pickled, nothing goes through MLflow's model flavours.
"""

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from conf.contract import Contract
from conf.errors import BundleError
from conf.files import first_wins
from conf.settings import Settings
from models.bundle import Bundle, load_bundle, seal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
IDENTITY = "identity"
BUNDLE = "bundle"
JUDGED = "judged"  # beside the bundle: the same recipe, ended before the test slice
GATE = "gate"
ROLLED_BACK = "rolled_back"
NOTE = "mlflow.note.content"  # what MLflow shows as the run's description, in Markdown
VERSION = "model_version"
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Version:
    """A registered bundle: its number, the folder with its files, its identity as registered, and of its judged one."""

    number: str
    folder: Path
    identity: str
    run_id: str = ""
    seals: Mapping[str, str] = field(default_factory=dict)  # BUNDLE, JUDGED -> sha256 of its manifest, which seals all else

    def bundle(self) -> Bundle:
        """What would serve. Raises BundleError where it is not what was registered, metrics and all."""
        return self._sealed(self.folder, BUNDLE)

    def judged(self) -> Bundle:
        """The same recipe, ended before the test slice. Raises BundleError as `bundle` does."""
        return self._sealed(self.folder.parent / JUDGED, JUDGED)

    def _sealed(self, folder: Path, name: str) -> Bundle:
        bundle = load_bundle(folder)
        if (found := seal(folder)) != self.seals.get(name):
            known = self.seals.get(name, "")[:12] or "nothing"
            raise BundleError(f"{folder}: its manifest is {found[:12]}, the registry knows {known}: changed after it was made")
        return bundle


@dataclass(frozen=True)
class Run:
    """A training that ended: when it began, the version that its bundle has, its figures by MLflow's names."""

    at: datetime
    version: str
    figures: Mapping[str, float]


class Registry:
    """Runs and versions of one contract's models."""

    def __init__(self, uri: str, artifacts: Path, name: str) -> None:
        """uri: the tracking database or server. artifacts: where a database's runs keep their files. name: the contract's."""
        self._uri, self._artifacts, self.name = uri, artifacts, name
        self.client = _client(uri)

    @classmethod
    def of(cls, settings: Settings, contract: Contract) -> Self:
        """That of this installation."""
        return cls(str(settings.mlflow), settings.state / "mlartifacts", contract.name)

    def record(
        self, folder: Path, identity: str, *, params: Mapping[str, Any], metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> tuple[str, bool]:
        """Log one run with everything in `folder` (bundles below `bundle/` and `judged/`) and register the bundle if it is new.

        Returns the version and whether it is new: a bundle of a known identity keeps the version it has.
        """
        run = self.client.create_run(self.experiment(), tags={IDENTITY: identity, **tags})
        run_id = run.info.run_id
        from mlflow.entities import Metric, Param

        logged = [Metric(name, float(value), run.info.start_time, 0) for name, value in metrics.items()]
        self.client.log_batch(run_id, metrics=logged, params=[Param(name, str(value)) for name, value in params.items()])
        self.client.log_artifacts(run_id, str(folder))
        known = self.of_identity(identity)
        seals = {name: seal(folder / name) for name in (BUNDLE, JUDGED) if (folder / name).is_dir()}
        version = known or self._register(f"{run.info.artifact_uri}/{BUNDLE}", run_id, {IDENTITY: identity, **seals})
        self.client.set_tag(run_id, VERSION, version)
        self.client.set_terminated(run_id)
        return version, known is None

    def keep(self, folder: Path, kind: str, metrics: Mapping[str, float]) -> None:
        """Log one run of another kind than a training, with everything in `folder`; nothing is registered."""
        from mlflow.entities import Metric

        run = self.client.create_run(self.experiment(), run_name=kind, tags={"kind": kind})
        logged = [Metric(name, float(value), run.info.start_time, 0) for name, value in metrics.items()]
        self.client.log_batch(run.info.run_id, metrics=logged)
        self.client.log_artifacts(run.info.run_id, str(folder))
        self.client.set_terminated(run.info.run_id)

    def recent(self, most: int) -> list[Run]:
        """The last trainings that were tested, newest first."""
        experiment = self.client.get_experiment_by_name(self.name)
        if experiment is None:
            return []
        found = self.client.search_runs(
            [experiment.experiment_id], "attributes.status = 'FINISHED' AND metrics.test_logloss >= 0", max_results=most,
            order_by=["attributes.start_time DESC"],
        )  # fmt: skip
        return [
            Run(datetime.fromtimestamp(run.info.start_time / 1000, UTC), run.data.tags.get(VERSION, ""), dict(run.data.metrics))
            for run in found
        ]

    def version(self, number: str | None = None) -> Version:
        """A registered version, by default the newest that was not rolled back. Raises BundleError where there is none."""
        found = {str(version.version): version for version in self._versions()}
        if not found:
            raise BundleError(f"{self._uri}: no registered model {self.name}, expected what jobs/train.py makes: run it first")
        number = number or max((n for n, of in found.items() if ROLLED_BACK not in of.tags), key=int, default=None)
        if number is None:
            raise BundleError(f"{self._uri}: every version of {self.name} was rolled back, expected a newer one, or --version N")
        if number not in found:
            known = ", ".join(sorted(found, key=int))
            raise BundleError(f"{self._uri}: {self.name} has no version {number}, expected one of {known}")
        chosen = found[number]
        seals = {name: chosen.tags[name] for name in (BUNDLE, JUDGED) if name in chosen.tags}
        return Version(number, self._folder(chosen), chosen.tags.get(IDENTITY, ""), str(chosen.run_id), seals)

    def of_identity(self, identity: str) -> str | None:
        """The newest version of a bundle, None where it is not registered."""
        equal = [str(version.version) for version in self._versions() if version.tags.get(IDENTITY) == identity]
        return max(equal, key=int, default=None)

    def note(self, version: Version, tag: str, said: str, details: Mapping[str, Any]) -> None:
        """Keep what was decided of a version: in short as its tag, in full as TAG.json in its run."""
        self.client.set_model_version_tag(self.name, version.number, tag, said[:5_000])  # MLflow's limit
        self.client.log_dict(version.run_id, dict(details), f"{tag}.json")

    def roll_back(self, number: str, to: str | None) -> None:
        """Mark a version as rolled back, so that it is no default any more, and move the alias."""
        if number in {str(version.version) for version in self._versions()}:
            self.client.set_model_version_tag(self.name, number, ROLLED_BACK, to or "no version")
        self.set_champion(to)

    def crown(self, number: str) -> None:
        """Give a version the alias; that it was once rolled back does not count any more."""
        if ROLLED_BACK in self.tags(number):
            self.client.delete_model_version_tag(self.name, number, ROLLED_BACK)
        if self.champion() != number:
            self.set_champion(number)

    def tags(self, number: str) -> dict[str, str]:
        """What is noted of a version."""
        return dict(self.client.get_model_version(self.name, number).tags)

    def noted(self, number: str, tag: str) -> dict[str, Any]:
        """A decision's details, as `note` kept them."""
        from mlflow.artifacts import load_dict

        run = self.client.get_run(str(self.client.get_model_version(self.name, number).run_id))
        return dict(load_dict(f"{run.info.artifact_uri}/{tag}.json"))

    def champion(self) -> str | None:
        """The version that carries the alias, None where none does."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_model_version_by_alias(self.name, CHAMPION).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def set_champion(self, number: str | None) -> None:
        """Move the alias, or take it away."""
        if number is None and self.champion() is None:
            return
        if number is None:
            self.client.delete_registered_model_alias(self.name, CHAMPION)
        else:
            self.client.set_registered_model_alias(self.name, CHAMPION, number)

    def experiment(self) -> str:
        """The id of the experiment that holds the contract's runs, made where there is none."""
        from mlflow.exceptions import MlflowException

        if found := self.client.get_experiment_by_name(self.name):
            return str(found.experiment_id)
        place = None if self._uri.startswith("http") else (self._artifacts / self.name).resolve().as_uri()  # a server has its own
        try:
            return str(self.client.create_experiment(self.name, artifact_location=place))
        except MlflowException:
            if found := self.client.get_experiment_by_name(self.name):  # another training was first
                return str(found.experiment_id)
            raise

    def _register(self, source: str, run_id: str, tags: Mapping[str, str]) -> str:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # `source` lies within the run's artifacts and the run is named: what MLflow's server asks of a local path
        made = self.client.create_model_version(self.name, source, run_id, tags=dict(tags))
        return str(made.version)

    def _versions(self) -> list["ModelVersion"]:
        versions: list[ModelVersion] = []
        token = None
        while True:
            page = self.client.search_model_versions(f"name='{self.name}'", page_token=token)
            versions += page
            token = page.token
            if not token:
                return versions

    def _folder(self, version: "ModelVersion") -> Path:
        """The bundle's files, with the judged one's beside them where there is one."""
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        try:
            if version.tags.get(JUDGED):
                parent = str(version.source).removesuffix(f"/{BUNDLE}")
                return Path(download_artifacts(artifact_uri=parent, tracking_uri=self._uri)) / BUNDLE
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
