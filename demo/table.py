"""The demo's table of steps, a row as soon as its step is done, and what was asked and answered."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

# a job's line of counts on stderr: `08:09:23 label: impressions 1,200, labels 1,180 (3.1 s)`
_JOB_LINE = re.compile(r"\d\d:\d\d:\d\d (\w+): (.*) \((\d+\.\d) s\)")

WIDTH = 100  # characters of a row's counts


@dataclass
class Table:
    """Step -> seconds in `seconds`; prints while they come."""

    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        print(f"{'step':<20}{'seconds':>8}  rows")

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, str]]:
        """Time a step; put what it did under "did" of the mapping. Rows that its jobs add are taken off its seconds."""
        start, before, note = time.monotonic(), sum(self.seconds.values()), dict[str, str]()
        yield note
        spent = time.monotonic() - start - (sum(self.seconds.values()) - before)
        self.row(name, spent, note.get("did", ""))

    def row(self, name: str, seconds: float, did: str) -> None:
        self.seconds[name] = round(seconds, 1)
        print(f"{name:<20}{seconds:>8.1f}  {_shortened(did)}".rstrip(), flush=True)

    def job_line(self, line: str, *, inside: str) -> None:
        """A row for a line of counts, but for the job `inside` which the lines come from; a refusal as it stands."""
        if (found := _JOB_LINE.fullmatch(line)) and found[1] != inside:
            self.row(found[1], float(found[3]), found[2])
        elif ": refused" in line:
            print(line, flush=True)

    def total(self) -> None:
        print(f"{'total':<20}{sum(self.seconds.values()):>8.1f}")


def _shortened(did: str) -> str:
    """The counts that fit into a line; all of them stand in the logs."""
    while len(did) > WIDTH:
        did = did.removesuffix(", ...").rpartition(", ")[0] + ", ..."
    return did


def counts_of(line: str, job: str) -> str | None:
    """What a job's line of counts says, None for any other line."""
    found = _JOB_LINE.fullmatch(line)
    return found[2] if found and found[1] == job else None


def show(title: str, value: Mapping[str, Any]) -> None:
    print(f"\n{title}\n{json.dumps(value, indent=1, ensure_ascii=False)}")
