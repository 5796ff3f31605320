"""A tuning in MLflow: one run for its study, below it a child run for each trial. A mirror: what counts is in the study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.study import Tried
from models.tracking import Registry

if TYPE_CHECKING:
    from mlflow.entities import Run

_STUDY, _TRIAL, _PARENT, _NAME = "study", "trial", "mlflow.parentRunId", "mlflow.runName"
_MOST = 50_000  # that MLflow hands out at once; a study has hundreds


class TrialRuns:
    """The runs of one study: those that an earlier, perhaps killed, process made are found and gone on with."""

    def __init__(self, registry: Registry, study: str, tags: Mapping[str, str]) -> None:
        """study: its name, which tells its runs from all others. tags: of the parent run."""
        self._client, self._experiment = registry.client, registry.experiment()
        found = self._search(f"tags.{_STUDY} = '{study}'")
        if found:
            self.parent = found[0].info.run_id
            self._client.update_run(self.parent, status="RUNNING")
        else:
            named = {_STUDY: study, _NAME: f"tuning {study}", **tags}
            self.parent = self._client.create_run(self._experiment, tags=named).info.run_id
        children = self._search(f"tags.`{_PARENT}` = '{self.parent}'")
        self._runs = {int(run.data.tags[_TRIAL]): run for run in children}

    def record(self, trial: Tried) -> None:
        """Log one trial, unless its run is there and complete."""
        from mlflow.entities import Metric, Param

        run = self._runs.get(trial.number)
        if run is not None and run.info.status != "RUNNING":
            return
        if run is None:
            tags = {_PARENT: self.parent, _NAME: f"trial {trial.number}", _TRIAL: str(trial.number), "state": trial.state}
            tags |= {"preset": trial.preset} if trial.preset else {}
            run = self._client.create_run(self._experiment, tags=tags)
        figures: dict[str, Any] = {"logloss": trial.logloss, "rounds": trial.rounds}
        figures |= {f"logloss_fold_{number}": loss for number, loss in enumerate(trial.by_fold)}
        logged = [Metric(name, float(value), run.info.start_time, 0) for name, value in figures.items() if value is not None]
        parameters = trial.parameters.model_dump() if trial.parameters else {}
        params = [Param(name, str(value)) for name, value in parameters.items()]
        self._client.log_batch(run.info.run_id, metrics=logged, params=params)
        self._client.set_terminated(run.info.run_id, status="FAILED" if trial.state == "fail" else "FINISHED")
        self._runs[trial.number] = self._client.get_run(run.info.run_id)

    def end(self, metrics: Mapping[str, float], file: Path | None) -> None:
        """Close the parent run, with the file that was written."""
        for name, value in metrics.items():
            self._client.log_metric(self.parent, name, value)
        if file is not None:
            self._client.log_artifact(self.parent, str(file))
        self._client.set_terminated(self.parent)

    def _search(self, condition: str) -> Sequence["Run"]:
        return self._client.search_runs([self._experiment], condition, max_results=_MOST)
