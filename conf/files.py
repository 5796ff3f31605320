"""Files that several processes may make at the same time."""

import os
from pathlib import Path


def first_wins(fresh: Path, path: Path) -> None:
    """Give the whole file `fresh` the name `path`, unless another process was first: then its file is the file."""
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
