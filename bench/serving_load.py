"""A client from outside the server's process: one request after the other, or as many as come in a Poisson stream."""

import asyncio
import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

PATH = "/v1/predict"
PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9}


def as_post(body: bytes, *, content_type: str = "application/json") -> bytes:
    """The bytes of a request."""
    head = f"POST {PATH} HTTP/1.1\r\nhost: bench\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


GET = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n"


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used, all threads, user and system."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


class Client:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        """The body of a 200. Raises RuntimeError for any other."""
        self.send(request)
        return self.answer()

    def send(self, request: bytes) -> None:
        """Without waiting for the answer."""
        self._socket.sendall(request)

    def answer(self) -> bytes:
        """To what was sent, as `ask` has it."""
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            if not (more := self._socket.recv(1 << 16)):
                raise RuntimeError("the server closed the connection")
            data += more
        head = data[:end].lower()
        size = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        while len(data) < end + 4 + size:
            data += self._socket.recv(1 << 16)
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(data.decode(errors="replace")[:500])
        return data[end + 4 :]

    def close(self) -> None:
        self._socket.close()


def wait_for(port: int, seconds: float = 300) -> None:
    """Until something listens."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port} after {seconds} s")


def closed_loop(clients: Sequence[Client], pid: int, requests: Sequence[bytes], seconds: float) -> float:
    """Microseconds of the server's CPU for each request, for so long. Each client sends its next when all have their answers."""
    end, count = time.monotonic() + seconds, 0
    began = cpu_s(pid)
    while time.monotonic() < end:
        for client in clients:
            client.send(requests[count % len(requests)])
            count += 1
        for client in clients:
            client.answer()
    return (cpu_s(pid) - began) / count * 1e6


def fresh(client: Client, request: bytes) -> list[dict[str, Any]]:
    """The predictions of an answer that is not degraded: on a busy machine Redis' is late now and then."""
    for _ in range(100):
        reply = client.ask(request)
        if b'"degraded":false' in reply:
            return predictions(reply)
        time.sleep(0.05)  # where it was late three times it is not asked for a while
    return predictions(reply)


def predictions(reply: bytes) -> list[dict[str, Any]]:
    """Of an answer that is not degraded."""
    answer = json.loads(reply)
    if answer["degraded"]:
        raise RuntimeError(f"degraded: {answer['reasons']}")
    found: list[dict[str, Any]] = answer["predictions"]
    return found


def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float, seed: int = 1) -> dict[str, float]:
    """Latencies in milliseconds, from when a request was due, at `rate` requests a second; and how many failed."""
    due = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds)))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # or the client is what is measured
        took, failed = runner.run(_send(port, requests, due.tolist()))
    done = {name: round(float(np.percentile(took, rank)) * 1e3, 3) for name, rank in PERCENTILES.items()} if took else {}
    return {"rate": round(rate), "requests": len(due), "failed": failed} | done


class _Connection(asyncio.Protocol):
    """Answers are complete when their length is; replies are read no further than that."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[bool] | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        if (end := self._data.find(b"\r\n\r\n")) < 0:
            return
        size = int(self._data[:end].lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self._data) >= end + 4 + size and self.answered:
            good = self._data.startswith(b"HTTP/1.1 200")
            self._data = b""
            self.answered.set_result(good)

    def connection_lost(self, error: Exception | None) -> None:
        if self.answered and not self.answered.done():
            self.answered.set_result(False)


async def _send(port: int, requests: Sequence[bytes], due: Sequence[float]) -> tuple[list[float], int]:
    loop = asyncio.get_running_loop()
    idle: list[_Connection] = []
    took: list[float] = []
    failed = 0

    async def one(number: int, at: float) -> None:
        nonlocal failed
        while idle and idle[-1].transport.is_closing():
            idle.pop()
        connection = idle.pop() if idle else (await loop.create_connection(_Connection, "127.0.0.1", port))[1]
        connection.answered = loop.create_future()
        connection.transport.write(requests[number % len(requests)])
        if await connection.answered:
            took.append(loop.time() - at)
            idle.append(connection)
        else:
            failed += 1
            connection.transport.close()

    began = loop.time() + 0.1
    tasks = set()
    for number, at in enumerate(due):
        if (wait := began + at - loop.time()) > 0:
            await asyncio.sleep(wait)
        task = loop.create_task(one(number, began + at))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.transport.close()
    return took, failed


def resident_mib(pid: int) -> float:
    """Memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
