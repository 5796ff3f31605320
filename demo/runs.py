"""The folders of demo runs. Each run has one of its own, held by a lock, so that two copies never meet."""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conf.errors import DataError, UnavailableError

FINISHED = "finished.json"  # written last


@contextmanager
def new_run(runs: Path, contract_name: str) -> Iterator[Path]:
    """A new folder `<contract>-<number>`. Of this contract's earlier runs stay those in use and the newest finished one."""
    runs.mkdir(parents=True, exist_ok=True)
    with open(runs / ".lock", "w") as all_runs:
        fcntl.flock(all_runs, fcntl.LOCK_EX)
        mine = _runs_of(runs, contract_name)
        newest = max((run for run in mine.values() if (run / FINISHED).is_file()), key=_finished_at, default=None)
        for run in mine.values():
            if run != newest and not _in_use(run):
                shutil.rmtree(run)
        folder = runs / f"{contract_name}-{max(mine, default=0) + 1}"
        folder.mkdir()
        lock = open(folder / ".lock", "w")  # held as long as the run
        fcntl.flock(lock, fcntl.LOCK_EX)
    with lock:
        yield folder


def finish(run: Path, about: Mapping[str, Any]) -> None:
    """Mark a run as finished, with what `make serve` needs of it."""
    (run / FINISHED).write_text(json.dumps(about, indent=1) + "\n")


@contextmanager
def newest_finished(runs: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The run that finished last, for nobody else meanwhile. Raises DataError without one, UnavailableError where it is used."""
    finished = [path.parent for path in runs.glob(f"*/{FINISHED}")]
    if not finished:
        raise DataError(f"{runs}: no finished demo, expected one: run `make demo` first")
    run = max(finished, key=_finished_at)
    with open(run / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError(f"{run}: is served already, by another `make serve`; stop that one") from None
        yield run, dict(json.loads((run / FINISHED).read_text()))


def _runs_of(runs: Path, contract_name: str) -> dict[int, Path]:
    found = {path.name.removeprefix(f"{contract_name}-"): path for path in runs.glob(f"{contract_name}-*") if path.is_dir()}
    return {int(number): path for number, path in found.items() if number.isdecimal()}


def _finished_at(run: Path) -> float:
    return (run / FINISHED).stat().st_mtime


def _in_use(run: Path) -> bool:
    with open(run / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
