"""The file that a tuning leaves for review: settings of an environment, and above them, as comments, why to believe them."""

from collections.abc import Sequence

import yaml

from conf.errors import DataError
from models.split import utc
from models.study import Tried
from models.tuning_folds import Span

PRESET = "tuned"


def best_of(tried: Sequence[Tried]) -> tuple[Tried, Tried]:
    """The trial of least logloss, and the best preset's: the same one where nothing better was found, the first one of equals."""
    ended = sorted((trial for trial in tried if trial.logloss is not None), key=lambda trial: (trial.logloss, trial.number))
    presets = [trial for trial in ended if trial.preset]
    if not presets:
        raise DataError("tuning: no preset was tried to the end, expected all of them: run jobs/tune.py again")
    return ended[0], presets[0]


def tuned_file(study: str, tried: Sequence[Tried], spans: Sequence[Span]) -> str:
    """YAML with the best trial's parameters as the preset `tuned`, to be read over conf/base.yaml."""
    best, _ = best_of(tried)
    assert best.parameters is not None  # noqa: S101
    pruned = sum(trial.state == "pruned" for trial in tried)
    lines = [
        f"Parameters of the trees, found by jobs/tune.py: study {study}, {len(tried)} trials, {pruned} of them pruned.",
        "Logloss in nats a row on the later slices of the folds: all, then each.",
        *(f"  {trial.preset or 'found'} {_figures(trial)}" for trial in (best, *(trial for trial in tried if trial.preset))),
        "Folds, trained on all before the first time and scored on the rows up to the second:",
        *(f"  {utc(span.cut_us).isoformat()} {utc(span.until_us).isoformat()} {span.rows:,} rows" for span in spans),
        "The best of many trials looks better than it is: the judge is the test slice of a training, that no trial has seen.",
    ]
    settings = {"train": {"presets": {PRESET: best.parameters.model_dump()}}}
    return "".join(f"# {line}\n" for line in lines) + yaml.safe_dump(settings, sort_keys=False)


def _figures(trial: Tried) -> str:
    if trial.logloss is None:
        return f"({trial.state})"
    folds = ", ".join(f"{loss:.6f}" for loss in trial.by_fold)
    return f"(trial {trial.number}, {trial.rounds} rounds): {trial.logloss:.6f}; {folds}"
