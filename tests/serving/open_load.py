"""Requests that come when they come, whether or not the ones before are answered, and what became of each.

They come from a process of their own: what a test does meanwhile must not make them late.
"""

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import uvloop

from conf.settings import ROOT
from tests.serving.load import LOST, REFUSED


class Told(NamedTuple):
    """number: of the request, its place among those that take turns. seconds: since it was due. at: when it ended, monotonic."""

    number: int
    status: int
    body: bytes
    seconds: float
    at: float


@dataclass
class OpenLoad:
    """replies: in the order they came, once it has ended; equal bodies are one object."""

    process: "subprocess.Popen[bytes] | None" = None
    said: Path = Path(os.devnull)  # where the process writes what became of its requests
    replies: list[Told] = field(default_factory=list)
    bodies: dict[bytes, bytes] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def end(self) -> None:
        """Ask no more, and hear what became of all."""
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            assert self.process.wait(60) == 0
            self.replies = [Told(*reply) for reply in pickle.loads(self.said.read_bytes())]  # noqa: S301  # our own
            self.process = None

    def between(self, begun: float, ended: float) -> list[Told]:
        """Those that ended between two moments."""
        return [reply for reply in self.replies if begun <= reply.at < ended]


def statuses(replies: Sequence[Told]) -> Counter[int]:
    return Counter(reply.status for reply in replies)


@lru_cache(maxsize=4096)
def answered(body: bytes) -> tuple[str, tuple[str, ...], tuple[float, ...]]:
    """Of a 200: the model's version, what it lacked, the probabilities."""
    answer: Any = msgspec.json.decode(body)
    return answer["model_version"], tuple(answer["reasons"]), tuple(p["ctr"] for p in answer["predictions"])


def reasons(replies: Sequence[Told]) -> Counter[str]:
    """What answers said they lacked; "fresh" where nothing."""
    good = (reply.body for reply in replies if reply.status == 200)
    return Counter(reason for body in good for reason in answered(body)[1] or ("fresh",))


def mixed(replies: Sequence[Told]) -> int:
    """Requests that one model, lacking nothing, answered in more ways than one."""
    found: dict[tuple[int, str], set[tuple[float, ...]]] = {}
    for number, body in {(reply.number, reply.body) for reply in replies if reply.status == 200}:
        version, lacking, probabilities = answered(body)
        if not lacking:
            found.setdefault((number, version), set()).add(probabilities)
    return sum(len(ways) > 1 for ways in found.values())


@contextmanager
def open_load(port: int, requests: Sequence[bytes], rate: float, seed: int = 1) -> Iterator[OpenLoad]:
    """Poisson arrivals at `rate` requests a second, until `end` or the end of the block; the requests take turns."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said"
        command = [sys.executable, "-m", __name__, str(port), str(rate), str(seed), str(said)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)
        found = OpenLoad(process, said)
        assert process.stdin is not None
        pickle.dump(list(requests), process.stdin)
        process.stdin.flush()
        try:
            yield found
            found.end()
        finally:
            process.kill()
            process.wait()
            process.stdin.close()


def saturation(port: int, requests: Sequence[bytes], seconds: float, callers: int = 16) -> float:
    """Answers a second where each caller asks as soon as it is answered; one that is shed is none."""
    found = OpenLoad()

    async def run() -> None:
        async def caller(first: int) -> None:
            connection = await _connect(port)
            for number in range(first, 1 << 60):
                await _ask(connection, requests[number % len(requests)], number % len(requests), time.monotonic(), found)
                if found.stop.is_set():
                    connection.transport.abort()
                    return

        asyncio.get_running_loop().call_later(seconds, found.stop.set)
        await asyncio.gather(*map(caller, range(callers)))
        await asyncio.sleep(0.1)  # what is closed is gone in the loop's next round

    uvloop.run(run())
    counts = statuses(found.replies)
    assert counts.keys() <= {200, 503}, counts
    return counts[200] / seconds


class _Connection(asyncio.Protocol):
    """One question at a time."""

    answered: "asyncio.Future[tuple[int, bytes]]"
    closing = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.lower()
        if len(body) < int(lines.partition(b"content-length:")[2].partition(b"\r\n")[0]):
            return
        self._data = b""
        self.closing = b"connection: close" in lines
        if not self.answered.done():
            self.answered.set_result((int(head[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        self.closing = True
        if hasattr(self, "answered") and not self.answered.done():
            self.answered.set_result((LOST, b""))


async def _connect(port: int) -> _Connection:
    return (await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", port))[1]


async def _ask(connection: _Connection, request: bytes, number: int, due: float, found: OpenLoad) -> None:
    connection.answered = asyncio.get_running_loop().create_future()
    connection.transport.write(request)
    status, body = await connection.answered
    now = time.monotonic()
    found.replies.append(Told(number, status, found.bodies.setdefault(body, body), now - due, now))


async def _send(port: int, requests: Sequence[bytes], rate: float, seed: int, found: OpenLoad) -> None:
    draw = np.random.default_rng(seed)
    idle = deque[_Connection]()  # each has asked already: one that never does is closed by the server
    tasks = set[asyncio.Task[None]]()

    async def one(number: int, due: float) -> None:
        while idle and idle[-1].closing:
            idle.pop()
        try:
            connection = idle.pop() if idle else await _connect(port)
        except OSError:
            found.replies.append(Told(number, REFUSED, b"", time.monotonic() - due, time.monotonic()))
            return
        await _ask(connection, requests[number], number, due, found)
        if connection.closing:
            connection.transport.abort()
        else:
            idle.append(connection)

    due, number = time.monotonic(), 0
    while not found.stop.is_set():
        due += draw.exponential(1 / rate)
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(number % len(requests), due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.transport.abort()
    await asyncio.sleep(0.1)


def main() -> None:
    """The process that asks. Reads the requests, ends when nothing more can come, says what became of them."""
    found = OpenLoad()
    requests = pickle.load(sys.stdin.buffer)  # noqa: S301

    def until_told() -> None:
        sys.stdin.buffer.read()
        found.stop.set()

    threading.Thread(target=until_told, daemon=True).start()
    port, rate, seed, said = sys.argv[1:]
    gc.disable()  # a pause of ours would be taken for one of the server's
    uvloop.run(_send(int(port), requests, float(rate), int(seed), found))
    Path(said).write_bytes(pickle.dumps([tuple(reply) for reply in found.replies]))


if __name__ == "__main__":
    main()
