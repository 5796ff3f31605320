"""Files that are there whole or not at all, whoever reads or makes them at the same time."""

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


def write_whole(path: Path, text: str) -> None:
    """Write UTF-8 text so that a reader sees the old file or the new one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8", newline="\n")
    fresh.replace(path)
