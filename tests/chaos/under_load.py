"""A server that is asked at half of what it can answer, and what a fault cost those who asked."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from conf.contract import Contract
from conf.settings import load_settings
from tests.serving.installation import Installation, Running
from tests.serving.load import request_bytes
from tests.serving.open_load import OpenLoad, Told, mixed, open_load, reasons, saturation, statuses

WITHIN_S = load_settings().serving.redis_deadline_ms / 1e3  # what Redis has not answered by then is unavailable
RECOVERED_S = 2.0
IN_A_ROW = 100
ATTEMPTS = 3
CALM_S = 6.0
FAULT_S = 4.0  # less than CALM_S: the latest of fewer requests is no later, where nothing is wrong
CANDIDATES = 100
USERS = ("known", "42", "never seen")


class Late(AssertionError):
    """An answer came later than it may: by the server's fault, or because the machine had something else to do."""


def tried_again[**P](trial: Callable[P, None]) -> Callable[P, None]:
    """A test that may be late twice, on a machine that is not its own: a server that is always late is found all the same."""

    @wraps(trial)
    def several(*args: P.args, **kwargs: P.kwargs) -> None:
        for left in reversed(range(ATTEMPTS)):
            try:
                return trial(*args, **kwargs)
            except Late:
                if not left:
                    raise

    return several


def installation(folder: Path, redis: str, contract: Contract, **settings: str) -> Installation:
    """With a model that is compiled, the settings' deadline, and bounds that shed nobody: what is late is to show as late."""
    usual = {"drain": "1s", "queue_age_ms": "30000", "in_flight": "10000", "max_connections": "10000", "reload_every": "1s"}
    usual["redis_deadline_ms"] = f"{WITHIN_S * 1e3}"
    made = Installation.make(Path(mkdtemp(dir=folder)), redis, usual | settings)
    made.publish(contract, "0")
    return made


def requests(count: int = 60, candidates: int = CANDIDATES) -> list[bytes]:
    """Of three users, one of them new, and of ads of which one is known to Redis."""
    ads = ["a7", *(f"never seen {number}" for number in range(candidates + count))]
    made = []
    for number in range(count):
        chosen = [ads[0], *ads[1 + number : candidates + number]]
        body: dict[str, Any] = {
            "request_id": f"r-{number}",
            "time": "2026-03-01T10:30:00Z",
            "context": {"user_id": USERS[number % len(USERS)], "placement_id": "placement_id-1"},
            "candidates": [{"ad_id": ad, "campaign_id": f"c{place % 5}"} for place, ad in enumerate(chosen)],
        }
        made.append(request_bytes(body))
    return made


@dataclass
class Trial:
    """calm, begun, ended: from when on nothing was done yet, and the fault's moments, monotonic. busy: cores the server took."""

    installed: Installation
    server: Running
    load: OpenLoad
    rate: float
    calm: float
    busy: float
    begun: float = 0.0
    ended: float = 0.0

    @contextmanager
    def fault(self) -> Iterator[None]:
        """What is done in the block is the fault."""
        self.begun = time.monotonic()
        yield
        self.ended = time.monotonic()

    def judge(self, name: str, expected: set[str]) -> str:
        """Nothing failed or was mixed or was later than the deadline, but for what the machine shows at rest; lacks were named.

        Waits for recovery first, then ends the load. expected: reasons in the fault. Returns what a person wants to know.
        """
        time.sleep(RECOVERED_S + 1)
        self.load.end()
        replies, calm = self.load.replies, self.load.between(self.calm, self.begun)
        hurt = [reply for reply in replies if reply.at - reply.seconds >= self.begun and reply.at < self.ended + RECOVERED_S]
        at_rest, latest = (max(reply.seconds for reply in some) for some in (calm, hurt))
        bound = WITHIN_S + at_rest + 0.005
        late = sum(reply.seconds > bound for reply in hurt)
        failed = {status: count for status, count in statuses(replies).items() if status != 200}
        mixed_up = mixed(replies)
        recovered_s = since(replies, self.ended, lambda reply: reasons([reply]).keys() == {"fresh"}) - self.ended
        lacking = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons(hurt).items()))
        said = (
            f"{name}: {self.rate:,.0f} requests/s ({self.busy:.2f} cores), {len(replies):,} in all, {len(hurt):,} in the fault "
            f"of {self.ended - self.begun:.1f} s ({lacking}); failed {sum(failed.values())}, mixed {mixed_up}, "
            f"over the bound {late}; latest {latest * 1e3:.1f} ms, at rest {at_rest * 1e3:.1f} ms; "
            f"fresh {recovered_s:.2f} s after the end"
        )
        print("\n" + said)  # noqa: T201
        assert "the Booster answers" not in self.installed.log()
        assert not failed, failed
        assert mixed_up == 0
        assert expected <= reasons(hurt).keys() <= expected | {"fresh", "redis_late", "redis_unavailable"}
        if late or recovered_s > RECOVERED_S:
            raise Late(said)
        return said


def since(replies: Sequence[Told], moment: float, good: Callable[[Told], bool]) -> float:
    """From when on all are good: the machine may make one late at any time, so a good many in a row count."""
    begun, count = moment, 0
    for reply in (reply for reply in replies if reply.at >= moment):
        if good(reply):
            count += 1
        else:
            begun, count = reply.at, 0
        if count == IN_A_ROW:
            return begun
    return float("inf")


@contextmanager
def asked(installed: Installation, *arguments: str, calm_s: float = CALM_S) -> Iterator[Trial]:
    """A server under load, after a calm. calm_s: as long as the fault, for the latest of more answers is later."""
    made = requests()
    with installed.started(*arguments) as server:
        rate = saturation(server.port, made, 3.0) / 2
        with open_load(server.port, made, rate) as load:
            time.sleep(2.0)
            begun, used = time.monotonic(), _cpu_s(server)
            time.sleep(calm_s)
            busy = (_cpu_s(server) - used) / calm_s
            yield Trial(installed, server, load, rate, begun, busy)


def _cpu_s(server: Running) -> float:
    """Seconds of CPU of the process and its workers."""
    tasks = [task for pid in (server.process.pid, *server.workers()) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
