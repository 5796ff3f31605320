"""A lease: of processes that start at the same time on one machine, one goes on and the others say who has it (exit 75).

The operating system gives it back when its holder ends, however it ends. Between machines it is Delta that lets one of two
writers win (jobs/warehouse.py): the lease spares the others their work, it does not guard the tables.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conf.errors import UnavailableError


@contextmanager
def lease(folder: Path, name: str) -> Iterator[None]:
    """Hold `<folder>/<name>.lease` for the block. Raises UnavailableError where another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.lease"
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "a process that has just begun"
            raise UnavailableError(f"{name}: {holder} is at it, expected nobody: try again when it has ended") from None
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield
