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


def write_whole(path: Path, content: str | bytes) -> None:
    """Write bytes, or text as UTF-8, so that a reader sees the old file or the new one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(content.encode() if isinstance(content, str) else content)
    fresh.replace(path)
