"""Two copies of the demo never share a folder, and the newest finished one is what `make serve` gets."""

import os
from pathlib import Path

import pytest

from conf.errors import DataError, UnavailableError
from demo.runs import FINISHED, finish, new_run, newest_finished


def finished_run(runs: Path, contract: str, at: float) -> Path:
    with new_run(runs, contract) as run:
        finish(run, {"contract": contract})
    os.utime(run / FINISHED, (at, at))
    return run


def test_runs_side_by_side_have_folders_of_their_own(tmp_path: Path) -> None:
    with new_run(tmp_path, "demo") as one, new_run(tmp_path, "demo") as other:
        assert one != other
        assert one.is_dir()
        assert other.is_dir()


def test_the_newest_finished_run_stays_and_older_ones_go(tmp_path: Path) -> None:
    first, second = finished_run(tmp_path, "demo", 100.0), finished_run(tmp_path, "demo", 200.0)
    with new_run(tmp_path, "demo") as failed:
        pass
    other_log = finished_run(tmp_path, "other", 50.0)
    with new_run(tmp_path, "demo") as running:
        assert [path.is_dir() for path in (first, second, failed, other_log, running)] == [False, True, False, True, True]


def test_the_newest_of_all_contracts_is_served_by_one_at_a_time(tmp_path: Path) -> None:
    finished_run(tmp_path, "demo", 200.0)
    finished_run(tmp_path, "other", 100.0)
    with newest_finished(tmp_path) as (run, about):
        assert (run.name, about) == ("demo-1", {"contract": "demo"})
        with pytest.raises(UnavailableError, match="is served already"), newest_finished(tmp_path):
            pass
        with new_run(tmp_path, "demo"):
            assert run.is_dir()


def test_without_a_finished_run_the_next_step_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="make demo"), newest_finished(tmp_path):
        pass
