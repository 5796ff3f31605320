"""A real Optuna study in a real SQLite file, searched over losses that are made up."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from optuna.trial import TrialState

from conf.settings import TreePreset
from models.study import Tried, all_tried, enqueue, opened, try_next, waiting
from models.tuning_folds import Span

GOOD = TreePreset(depth=4, learning_rate=0.1, l2=1.0, subsample=0.8, colsample=0.8, max_bins=64)
ODD = TreePreset(depth=12, learning_rate=1.0, l2=0.0, subsample=0.1, colsample=0.1, max_bins=100)  # outside what is searched
PRESETS = {"good": GOOD, "odd": ODD}
# the first slice is easier than the second one: only shares of the constant's loss compare
SPANS = [Span(0, 1, rows=100, constant=20.0), Span(1, 2, rows=100, constant=40.0), Span(2, 3, rows=200, constant=60.0)]


def losses(span: Span, preset: TreePreset) -> npt.NDArray[np.float64]:
    """Least at depth 3 and learning rate 0.1; the first span would have 2 rounds, the others 5."""
    share = 0.8 + 0.02 * abs(preset.depth - 3) + 0.05 * abs(np.log(preset.learning_rate / 0.1))
    return np.asarray(span.constant * (share + 0.01 * abs(np.arange(1, 9) - (2 if span.cut_us == 0 else 5))))


def searched(path: Path, trials: int, name: str = "a study") -> list[Tried]:
    with opened(path, name) as study:
        enqueue(study, PRESETS)
        while waiting(study) or len(all_tried(study)) < trials:
            try_next(study, SPANS, losses)
        return all_tried(study)


def test_presets_are_tried_first_whatever_the_space_and_to_the_end(tmp_path: Path) -> None:
    tried = searched(tmp_path / "new" / "study.db", 1)
    assert [(trial.preset, trial.parameters, trial.state) for trial in tried] == [
        ("good", GOOD, "complete"), ("odd", ODD, "complete"),
    ]  # fmt: skip
    assert tried[0].rounds == 5, "the one number of rounds that is best for all folds"
    assert tried[0].by_fold == pytest.approx([20 * 0.85 / 100, 40 * 0.82 / 100, 60 * 0.82 / 200])
    assert tried[0].logloss == pytest.approx((20 * 0.85 + 100 * 0.82) / 400)
    assert searched(tmp_path / "new" / "study.db", 1) == tried, "once only"


def test_the_search_finds_better_and_gives_up_what_is_hopeless_early(tmp_path: Path) -> None:
    tried = searched(tmp_path / "study.db", 24)
    best = min(trial.logloss for trial in tried if trial.logloss is not None)
    assert best < (tried[0].logloss or 0)
    pruned = [trial for trial in tried if trial.state == "pruned"]
    assert len(pruned) >= 3
    assert all(trial.logloss is None and 1 <= len(trial.by_fold) < 3 for trial in pruned)
    for trial in tried[2:]:
        assert trial.parameters is not None
        assert all(float(f"{value:.3g}") == value for value in trial.parameters.model_dump().values()), "short to read"


def test_a_search_that_was_ended_between_two_trials_finds_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    searched(tmp_path / "study.db", 5)
    assert searched(tmp_path / "study.db", 14) == searched(tmp_path / "undisturbed.db", 14)


def test_a_trial_that_a_kill_left_is_a_failed_one_and_a_preset_is_tried_again(tmp_path: Path) -> None:
    def killed(span: Span, preset: TreePreset) -> npt.NDArray[np.float64]:
        if span.cut_us == 1 and preset == ODD:
            raise KeyboardInterrupt
        return losses(span, preset)

    with opened(tmp_path / "study.db", "a study") as study:
        enqueue(study, PRESETS)
        try_next(study, SPANS, killed)
        with pytest.raises(KeyboardInterrupt):
            try_next(study, SPANS, killed)
        assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    tried = searched(tmp_path / "study.db", 4)
    assert [(trial.preset, trial.state) for trial in tried] == [
        ("good", "complete"), ("odd", "fail"), ("odd", "complete"), (None, "complete"),
    ]  # fmt: skip
    assert len(tried[1].by_fold) == 1, "what it had found by then"


def test_studies_of_one_file_know_nothing_of_each_other(tmp_path: Path) -> None:
    searched(tmp_path / "study.db", 5)
    assert len(searched(tmp_path / "study.db", 1, "other data")) == 2
    assert len(searched(tmp_path / "study.db", 1)) == 5
