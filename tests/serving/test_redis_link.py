"""The link to Redis under every trouble that Redis can make: an answer in time, or a reason in time, and back by itself."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from conf.redis_address import parse_address
from conf.redis_server import free_port, redis_server
from serving.freshness import Reason
from serving.redis_cluster import connect
from serving.redis_link import LinkError, RedisLink, RedisReader, command

DEADLINE_S = 0.5  # of the tests: the machine may be busy
GET = [command("GET", "a"), command("GET", "b")]


def _direct(address: str) -> redis.Redis:
    host, _, port = address.partition(":")
    return redis.Redis(host=host, port=int(port))


def _reading(address: str, use: Callable[[RedisReader], Awaitable[None]], deadline_s: float = DEADLINE_S) -> None:
    async def run() -> None:
        reader = RedisReader(parse_address(address), deadline_s=deadline_s, connect=connect)
        await reader.start()
        try:
            await use(reader)
        finally:
            await reader.close()

    asyncio.run(run())


async def _back(reader: RedisReader) -> None:
    """Until it answers again."""
    async with asyncio.timeout(30):
        while not isinstance(await reader.ask(GET, DEADLINE_S), list):
            await asyncio.sleep(0.02)


def test_replies_come_in_order_to_whom_they_belong(redis_address: str) -> None:
    with _direct(redis_address) as client:
        for number in range(200):
            client.set(f"k{number}", number)

    async def use(reader: RedisReader) -> None:
        asked = [[command("GET", f"k{n}"), command("GET", f"k{199 - n}")] for n in range(200)]
        answers = await asyncio.gather(*(reader.ask(commands, 5) for commands in asked))
        assert answers == [[str(n).encode(), str(199 - n).encode()] for n in range(200)]

    _reading(redis_address, use)


@pytest.mark.parametrize("late", [False, True])
def test_who_cannot_use_an_answer_costs_nobody_else_his(redis_address: str, late: bool) -> None:
    """Answered by the same bytes, or late at the same moment."""

    async def use(reader: RedisReader) -> None:
        said: list[Any] = []

        def done(answer: Any) -> None:
            said.append(answer)
            if len(said) == 1:
                raise ValueError("of no use")

        if late:
            with _direct(redis_address) as client:
                client.client_pause(int(3_000 * DEADLINE_S))
        for _ in range(2):
            reader.ask_then(GET, DEADLINE_S, done)
        await asyncio.sleep(2 * DEADLINE_S)
        assert said == ([Reason.REDIS_LATE] * 2 if late else [[None, None]] * 2)
        await _back(reader)

    _reading(redis_address, use)


def test_a_frozen_redis_costs_three_deadlines_and_then_nothing(tmp_path: Path) -> None:
    async def use(reader: RedisReader) -> None:
        assert await reader.ask(GET, DEADLINE_S) == [b"1", None]
        os.kill(process, signal.SIGSTOP)
        try:
            for _ in range(3):
                began = time.monotonic()
                assert await reader.ask(GET, DEADLINE_S) == Reason.REDIS_LATE
                assert time.monotonic() - began > DEADLINE_S * 0.9
            assert await reader.ask(GET, DEADLINE_S) == Reason.REDIS_UNAVAILABLE
            await asyncio.sleep(0.5)
        finally:
            os.kill(process, signal.SIGCONT)
        await _back(reader)
        assert await reader.ask([command("GET", "a")], DEADLINE_S) == [b"1"]

    with redis_server(tmp_path) as address:
        with _direct(address) as client:
            client.set("a", 1)
            about: Any = client.info("server")
            process = int(about["process_id"])
        _reading(address, use)


def test_a_late_reply_is_never_another_request_s(redis_address: str) -> None:
    with _direct(redis_address) as client:
        client.set("a", 1)

        async def use(reader: RedisReader) -> None:
            client.client_pause(int(DEADLINE_S * 1500))
            assert await reader.ask([command("GET", "late")], DEADLINE_S) == Reason.REDIS_LATE
            await _back(reader)
            assert await reader.ask([command("GET", "a")], DEADLINE_S) == [b"1"]

        _reading(redis_address, use)


def test_a_request_s_own_deadline_may_be_shorter(redis_address: str) -> None:
    with _direct(redis_address) as client:

        async def use(reader: RedisReader) -> None:
            client.client_pause(2_000)
            assert await reader.ask(GET, 0.01) == Reason.REDIS_LATE

        _reading(redis_address, use, deadline_s=60)


def test_a_redis_that_dies_and_returns(tmp_path: Path) -> None:
    port = free_port()

    async def use(reader: RedisReader) -> None:
        assert await reader.ask(GET, DEADLINE_S) == Reason.REDIS_UNAVAILABLE
        with redis_server(tmp_path, port):
            await _back(reader)
        for _ in range(3):
            assert await reader.ask(GET, DEADLINE_S) == Reason.REDIS_UNAVAILABLE
        with redis_server(tmp_path, port):
            await _back(reader)

    _reading(f"127.0.0.1:{port}", use)


def test_what_is_no_redis_is_said() -> None:
    async def run() -> None:
        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LinkError):
            await RedisLink.connect(parse_address(f"127.0.0.1:{port}"))
        server.close()

    asyncio.run(run())
