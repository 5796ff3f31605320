"""Search better parameters of the trees than the settings' presets have, and write them to a file for review.

Looks only at rows before the test slice, on the folds by which a training chooses among the presets. The presets are tried
first, so that what is found is no worse than they are there. The study is kept in the state folder: a killed tuning that is
started again goes on with it; other data, another contract or another recipe is another study. Every trial is a run in MLflow
below the tuning's own. Exit code 65: no training set, or no fold that can judge; 75: another tuning of this contract is at it.

    spark-submit jobs/tune.py --contract conf/contracts/demo.yaml --minutes 30
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import optuna

from conf.files import write_whole
from conf.lease import lease
from conf.settings import Settings
from jobs.command import Context, job_parser, log, run_job
from models.split import time_split
from models.study import Tried, all_tried, enqueue, opened, try_next, waiting
from models.tracking import Registry
from models.training import require_learnable
from models.trial_runs import TrialRuns
from models.tuned_file import best_of, tuned_file
from models.tuning_folds import TuningFolds, tuning_folds


def tune(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Search until the budget is spent and write what was found; counts of trials. Raises DataError, see the module.

    args.minutes: no trial begins later. args.trials: nor when the study has so many; None for no limit. Presets are always tried.
    """
    until = time.monotonic() + 60 * args.minutes
    contract, settings = context.contract, context.settings
    folder = settings.state / "tuning"
    with lease(folder, contract.name):
        version, rows = context.warehouse.pinned("training_set")
        name = _study_name(context, version)
        split = time_split(rows)
        require_learnable(split.earlier)
        registry = Registry.of(settings, contract)
        with tuning_folds(rows, split, contract, settings.train) as folds, opened(folder / f"{contract.name}.db", name) as study:
            runs = TrialRuns(registry, name, {"contract_hash": contract.hash})
            _search(study, folds, settings, runs, until, args.trials)
            tried = all_tried(study)
        found, preset = best_of(tried)
        out = Path(args.out or folder / f"{contract.name}.yaml")
        if found is preset:
            out.unlink(missing_ok=True)  # one of an earlier study would look like this one's
            log.info("tune: nothing better than the preset %s was found, no file is written", preset.preset)
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(out, tuned_file(name, tried, folds.spans))
            into = "copy it to conf/tuned.yaml" if settings.env == "base" else f"copy its preset into conf/{settings.env}.yaml"
            env = "tuned" if settings.env == "base" else settings.env
            log.info("tune: wrote %s; review it, %s, then: spark-submit jobs/train.py --env %s", out, into, env)
        figures = {"logloss": found.logloss, "logloss_preset": preset.logloss}
        runs.end({name: value for name, value in figures.items() if value is not None}, None if found is preset else out)
    return {"trials": len(tried), "pruned": sum(trial.state == "pruned" for trial in tried), "best_trial": found.number}


def _study_name(context: Context, version: int) -> str:
    """Tells what the trials' figures depend on: figures of anything else do not compare."""
    recipe = json.dumps([context.contract.hash, version, context.settings.train.model_dump(mode="json")], sort_keys=True)
    return f"{context.contract.name} training_set {version} {hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def _search(
    study: optuna.Study, folds: TuningFolds, settings: Settings, runs: TrialRuns, until: float, most: int | None
) -> None:
    before = all_tried(study)
    for trial in before:
        runs.record(trial)
    if before:
        log.info("tune: going on with a study of %d trials", len(before))
    enqueue(study, settings.train.presets)
    while waiting(study) or (time.monotonic() < until and (most is None or len(all_tried(study)) < most)):
        trial = try_next(study, folds.spans, folds.losses)
        runs.record(trial)
        log.info("tune: %s", _said(trial))


def _said(trial: Tried) -> str:
    parameters = trial.parameters.model_dump() if trial.parameters else {}
    what = trial.preset or " ".join(f"{name} {value:g}" for name, value in parameters.items())
    if trial.logloss is None:
        return f"trial {trial.number}: {trial.state} after {len(trial.by_fold)} folds; {what}"
    return f"trial {trial.number}: logloss {trial.logloss:.5f} at {trial.rounds} rounds; {what}"


def parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    add = parser.add_argument
    add("--minutes", type=_minutes, default=30.0, metavar="M", help="start no trial after so many; default: %(default)g")
    add("--trials", type=_natural, metavar="N", help="start no trial once the study has so many, of all runs together")
    add("--out", metavar="FILE", help="the file to review (default: tuning/<contract's name>.yaml in the state folder)")
    return parser


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 <= minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected minutes, 0 or more")
    return minutes


def _natural(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(run_job("tune", tune, parser()))
