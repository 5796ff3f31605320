"""Child processes that never outlive us: each in a process group of its own, its chatter in a log file, stopped as a group."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TERM_S = 15.0  # from SIGTERM to SIGKILL
TAIL_LINES = 25
_LAST_OF_IVY = "already retrieved"

OnLine = Callable[[str], None]


class StepFailed(Exception):
    """A step ended with an exit code other than 0; the text has the tail of its log."""

    def __init__(self, step: str, code: int, log: Path) -> None:
        super().__init__(step, code, log)
        self.exit_code = code if code >= 0 else 128 - code

    def __str__(self) -> str:
        step, code, log = self.args
        own = log.read_text(errors="replace").rpartition(_LAST_OF_IVY)[2]  # Spark's start tells every jar it has
        tail = "\n".join(own.splitlines()[-TAIL_LINES:])
        return f"{step}: ended with exit code {code}; {log} ends with\n{tail}"


@dataclass(frozen=True)
class Children:
    """How children are started: where, with which variables, and the folder of their logs."""

    folder: Path
    env: Mapping[str, str]
    logs: Path

    def run(self, step: str, command: Sequence[str], *, on_line: OnLine | None = None) -> list[str]:
        """Run to the end and return the lines of stdout; `on_line` sees each as it comes. Raises StepFailed."""
        said = []
        with self.running(step, command) as child:
            for line in self.lines(step, child):
                said.append(line)
                if on_line is not None:
                    on_line(line)
            if code := child.wait():
                raise StepFailed(step, code, self.log(step))
        return said

    def lines(self, step: str, child: subprocess.Popen[str]) -> Iterator[str]:
        """What a child writes to stdout, line by line; its log gets it too, but for JSON: a summary names ids in clear.

        Under spark-submit that is stderr as well: Spark merges the two for a driver in Python.
        """
        with open(self.log(step), "a", buffering=1) as log:
            for line in child.stdout or ():
                if not line.startswith("{"):
                    log.write(line)
                yield line.rstrip("\n")

    @contextmanager
    def running(self, step: str, command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
        """A child with stdout to read, gone with its whole group when the block is left."""
        self.logs.mkdir(exist_ok=True)
        with open(self.log(step), "a") as log:
            child = subprocess.Popen(
                command, cwd=self.folder, env=dict(self.env), process_group=0, text=True, errors="replace",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
            try:
                yield child
            finally:
                _stop(child)

    def log(self, step: str) -> Path:
        return self.logs / f"{step}.log"


def _stop(child: subprocess.Popen[str]) -> None:
    """End the group: also what the child left behind."""
    _signal(child, signal.SIGTERM)
    try:
        child.wait(TERM_S)
    except subprocess.TimeoutExpired:
        pass
    _signal(child, signal.SIGKILL)
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _signal(child: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):  # the group is gone; macOS says the latter of a group of zombies
        pass
