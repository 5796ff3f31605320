"""New connections wait for no round of the loop each."""

import asyncio
import resource
import socket
import time
from contextlib import ExitStack

import uvloop

from serving.acceptor import Acceptor


def _connected(rounds: int, callers: int, files: int | None = None) -> list[int]:
    """In which round of a busy loop each caller's connection was there."""
    made: list[int] = []
    now = 0

    class Greeted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(now)

    async def run() -> None:
        nonlocal now
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener, ExitStack() as stack:
            acceptor = Acceptor(listener, Greeted)
            for _ in range(callers):
                stack.enter_context(socket.create_connection(listener.getsockname()))
            if files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, limits[1]))
            for _ in range(rounds):
                time.sleep(0.02)  # what others' requests take
                await asyncio.sleep(0)
                now += 1
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            await asyncio.sleep(0.5)
            acceptor.close()
            refused = stack.enter_context(socket.create_connection(listener.getsockname()))
            await asyncio.sleep(0.1)
            assert refused is not None

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        uvloop.run(run())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    return made


def test_many_callers_at_once_are_taken_at_once() -> None:
    made = _connected(rounds=20, callers=100)
    assert len(made) == 100, "and the one that came after the end is not among them"
    assert max(made) - min(made) <= 2


def test_where_no_file_may_be_opened_they_are_taken_later() -> None:
    assert len(_connected(rounds=20, callers=20, files=3)) == 20
