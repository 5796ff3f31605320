"""Cost of a piece of work over a whole process tree, from /proc: Linux only."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 2.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Cost:
    """wall_s and cpu_s of the block; of cpu_s children that ended and were waited for count too."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def cost() -> Iterator[Cost]:
    """Cost of the block in this process and its descendants: the JVM, Python workers."""
    measured = Cost()
    cpu, wall = _cpu_s(os.getpid()), time.perf_counter()
    yield measured
    measured.wall_s, measured.cpu_s = time.perf_counter() - wall, _cpu_s(os.getpid()) - cpu


@contextmanager
def peak_mib(pid: int) -> Iterator[list[float]]:
    """The list's one entry: the largest sum of PSS (a shared page counts once) of `pid` and its descendants, in MiB.

    It is taken from the caller's process, whose own cost stays out; but Linux keeps a process from taking memory while it counts
    what that process has: so it is done seldom.
    """
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(_EVERY_S):
            peak[0] = max(peak[0], sum(_pss_mib(process) for process in _tree(pid)))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _cpu_s(pid: int) -> float:
    return sum(sum(int(ticks) for ticks in _stat(process)[11:15]) for process in _tree(pid)) / _TICKS


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the state on; none where the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _pss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
