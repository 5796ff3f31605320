"""Callers that keep a server busy, each on a connection of its own, and what became of their requests."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

REFUSED, LOST = 0, -1


@dataclass(frozen=True)
class Reply:
    """status REFUSED: no connection was to be had; LOST: it ended without an answer. seconds: from sending to
    the last byte. at: when it came, monotonic."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Load:
    """Replies so far, in the order they came."""

    replies: list[Reply] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def statuses(self) -> Counter[int]:
        return Counter(reply.status for reply in self.replies)

    def wait(self, more: int, within_s: float = 30.0) -> Self:
        """Until so many more replies have come."""
        enough, until = len(self.replies) + more, time.monotonic() + within_s
        while len(self.replies) < enough and time.monotonic() < until:
            time.sleep(0.02)
        assert len(self.replies) >= enough, f"{len(self.replies)} replies, expected {enough}"
        return self


@contextmanager
def load(port: int, body: Mapping[str, Any], *, callers: int = 4, pause_s: float = 0.0) -> Iterator[Load]:
    """Callers that each ask, wait for the answer, and ask again; a connection that says close is replaced, as a client would."""
    found = Load()

    async def all_of_them() -> None:
        await asyncio.gather(*(_caller(port, request_bytes(body), found, pause_s) for _ in range(callers)))

    thread = threading.Thread(target=lambda: asyncio.run(all_of_them()))
    thread.start()
    try:
        yield found
    finally:
        found.stop.set()
        thread.join(30)


def request_bytes(body: Mapping[str, Any], path: str = "/v1/predict") -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def _caller(port: int, request: bytes, found: Load, pause_s: float) -> None:
    writer = None
    while not found.stop.is_set():
        sent = time.monotonic()
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            status, headers, content = await read_reply(reader)
        except (OSError, asyncio.IncompleteReadError):
            status, headers, content = REFUSED if writer is None else LOST, {}, b""
        now = time.monotonic()
        found.replies.append(Reply(status, headers, content, now - sent, now))
        if writer is not None and (status == LOST or headers.get("connection") == "close"):
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            writer = None
        await asyncio.sleep(pause_s)
    if writer is not None:
        writer.close()


async def read_reply(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers by lower name, body of a known length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return int(head[0].split()[1]), headers, body
