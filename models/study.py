"""Optuna's side of a tuning: the space that is searched, and a study that a killed search goes on from.

The study is the record: a search keeps nothing else between two trials. Each trial's draws depend on its number and on what was
found before it, so that a search that was resumed is as good as an undisturbed one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from conf.settings import TreePreset
from models.folds import best_rounds
from models.tuning_folds import Span

Float64 = npt.NDArray[np.float64]

SPACE: Mapping[str, BaseDistribution] = {
    "depth": IntDistribution(1, 8),
    "learning_rate": FloatDistribution(0.02, 0.3, log=True),
    "l2": FloatDistribution(0.1, 100.0, log=True),
    "subsample": FloatDistribution(0.5, 1.0),
    "colsample": FloatDistribution(0.3, 1.0),
    "max_bins": CategoricalDistribution((64, 256)),
}
_PRESET, _PARAMETERS, _ROUNDS, _BY_FOLD = "preset", "parameters", "rounds", "by_fold"  # of a trial


@dataclass(frozen=True)
class Tried:
    """What became of a trial. preset: its name in the settings, None for one that was searched.

    logloss: on the later slices of all folds, nats a row, after `rounds` rounds; None where the trial was pruned or killed.
    by_fold: the same of each fold, of those that were reached.
    """

    number: int
    state: str
    preset: str | None
    parameters: TreePreset | None
    logloss: float | None
    rounds: int | None
    by_fold: tuple[float, ...]

    @classmethod
    def of(cls, trial: FrozenTrial) -> "Tried":
        known = trial.user_attrs
        return cls(
            trial.number, trial.state.name.lower(), known.get(_PRESET),
            TreePreset(**known[_PARAMETERS]) if _PARAMETERS in known else None,
            trial.value if trial.state == TrialState.COMPLETE else None, known.get(_ROUNDS), tuple(known.get(_BY_FOLD, ())),
        )  # fmt: skip


@contextmanager
def opened(path: Path, name: str) -> Iterator[optuna.Study]:
    """The study of this name in the SQLite file, made where there is none. Trials that a kill left running are failed ones.

    For one process at a time: another's running trials would be taken for dead.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    storage = RDBStorage(f"sqlite:///{path}")
    try:
        study = optuna.create_study(storage=storage, study_name=name, pruner=MedianPruner(), load_if_exists=True)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def enqueue(study: optuna.Study, presets: Mapping[str, TreePreset]) -> None:
    """Have each preset tried before anything is searched, unless it was; the search then begins from what is known to do well."""
    there = {trial.user_attrs.get(_PRESET) for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL}
    for name, preset in presets.items():
        if name not in there:
            study.enqueue_trial(_nearest(preset), user_attrs={_PRESET: name, _PARAMETERS: preset.model_dump()})


def waiting(study: optuna.Study) -> bool:
    """Whether a preset is still to be tried."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def try_next(study: optuna.Study, spans: Sequence[Span], losses: Callable[[Span, TreePreset], Float64]) -> Tried:
    """One trial: fold by fold, until the last or until Optuna calls it hopeless. A preset is tried to the end.

    losses: of a preset on a span, (rounds,) nats.
    """
    study.sampler = TPESampler(seed=len(study.get_trials(deepcopy=False)))
    trial = study.ask(fixed_distributions=dict(SPACE))
    chosen = trial.user_attrs.get(_PARAMETERS) or _rounded(trial.params)
    trial.set_user_attr(_PARAMETERS, chosen)
    preset = TreePreset(**chosen)
    curves: list[Float64] = []
    for number, span in enumerate(spans):
        curves.append(losses(span, preset))
        rounds = best_rounds(curves)
        by_fold = [float(curve[rounds - 1]) for curve in curves]
        trial.set_user_attr(_ROUNDS, rounds)
        trial.set_user_attr(_BY_FOLD, [loss / of.rows for loss, of in zip(by_fold, spans, strict=False)])
        # as a share of the constant's: of slices with unlike click rates the plain losses say nothing about each other
        trial.report(sum(by_fold) / sum(span.constant for span in spans[: number + 1]), number)
        if _PRESET not in trial.user_attrs and number + 1 < len(spans) and trial.should_prune():
            return Tried.of(study.tell(trial, state=TrialState.PRUNED))
    return Tried.of(study.tell(trial, sum(by_fold) / sum(span.rows for span in spans)))


def all_tried(study: optuna.Study) -> list[Tried]:
    """Every trial that has ended, by number."""
    return [Tried.of(trial) for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _nearest(preset: TreePreset) -> dict[str, Any]:
    """What the sampler is told of a preset: the point of the space that is nearest. What is tried is the preset itself."""
    near: dict[str, Any] = {}
    for name, value in preset.model_dump().items():
        match SPACE[name]:
            case CategoricalDistribution(choices=choices):
                near[name] = min(choices, key=lambda choice: abs(float(choice or 0) - value))
            case IntDistribution(low=low, high=high) | FloatDistribution(low=low, high=high):
                near[name] = min(max(value, low), high)
    return near


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Three digits: what a person reviews is then exactly what was tried."""
    return {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in values.items()}
