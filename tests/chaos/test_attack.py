"""Broken bytes, slow callers and endless bodies, all at once for a while: those who ask as they should notice nothing."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from conf.contract_file import load_contract
from conf.settings import CONF
from tests.chaos.under_load import requests
from tests.serving.both_routes import exact_bundle
from tests.serving.installation import Installation
from tests.serving.open_load import open_load, statuses

pytestmark = pytest.mark.chaos

ATTACK_S = 30.0
ORDINARY = 50  # requests a second
SLOW, ENDLESS, BROKEN = 200, 4, 4  # attackers of each kind

Attack = Callable[[int, random.Random, Counter[str]], Coroutine[Any, Any, None]]


async def _broken(port: int, draw: random.Random, said: Counter[str]) -> None:
    """A request of which some bytes are others, or bytes that are none."""
    good = requests(1)[0]
    mangled = bytearray(good if draw.random() < 0.7 else draw.randbytes(3000))
    for _ in range(draw.randint(1, 30)):
        mangled[draw.randrange(min(len(mangled), draw.choice((60, 200, 10_000))))] = draw.randrange(256)
    await _send(port, [bytes(mangled)], 0.0, said)


async def _slow(port: int, draw: random.Random, said: Counter[str]) -> None:
    """A byte every now and then."""
    good = requests(1)[0]
    await _send(port, [good[n : n + 1] for n in range(1000)], draw.uniform(0.05, 0.5), said)


async def _endless(port: int, draw: random.Random, said: Counter[str]) -> None:
    """A head, or a body with a length or in chunks, that does not end."""
    head = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    kinds = [
        (b"GET /livez HTTP/1.1\r\n", b"x-more: " + b"x" * 8000 + b"\r\n"),
        (head + b"content-length: 100000000\r\n\r\n", b" " * 8192),
        (head + b"transfer-encoding: chunked\r\n\r\n", b"2000\r\n" + b" " * 8192 + b"\r\n"),
    ]
    begin, more = draw.choice(kinds)
    await _send(port, [begin, *[more] * 10_000], 0.0, said)


async def _send(port: int, parts: list[bytes], pause_s: float, said: Counter[str]) -> None:
    """The parts, until all are sent or something is said."""
    answer = b""
    with suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answered = asyncio.create_task(reader.read(12))
        try:
            with suppress(OSError):
                for part in parts:
                    writer.write(part)
                    await asyncio.wait_for(writer.drain(), 1)
                    await asyncio.sleep(pause_s)
                    if answered.done():
                        break
                writer.write_eof()
            answer = await asyncio.wait_for(answered, 10)
        except TimeoutError:
            pass
        finally:
            answered.cancel()
            writer.transport.abort()
    said[answer[9:12].decode(errors="replace") or "nothing"] += 1


@contextmanager
def _attacked(port: int) -> Iterator[Counter[str]]:
    """By many, each of whom begins anew when the server has done with him."""
    over, said = threading.Event(), Counter[str]()

    async def attacker(attack: Attack, seed: int) -> None:
        draw = random.Random(seed)
        while not over.is_set():
            await attack(port, draw, said)
            await asyncio.sleep(0.02)

    async def all_of_them() -> None:
        many = [_slow] * SLOW + [_endless] * ENDLESS + [_broken] * BROKEN
        tasks = [asyncio.create_task(attacker(attack, seed)) for seed, attack in enumerate(many)]
        await asyncio.to_thread(over.wait)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)

    thread = threading.Thread(target=lambda: asyncio.run(all_of_them()))
    thread.start()
    try:
        yield said
    finally:
        over.set()
        thread.join(30)


def _memory_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


def test_attackers_cost_others_nothing(tmp_path: Path) -> None:
    demo = load_contract(CONF / "contracts" / "demo.yaml")
    installed = Installation.make(tmp_path, "127.0.0.1:1", {"request_timeout": "2s"})
    exact = exact_bundle(demo)
    installed.publish(demo, trees=exact.trees, ridge=exact.ridge)
    with installed.started() as server, open_load(server.port, requests(candidates=10), ORDINARY) as ordinary:
        time.sleep(3)
        with _attacked(server.port) as said:
            time.sleep(5)
            before_mb = _memory_mb(server.process.pid)
            time.sleep(ATTACK_S - 5)
            after_mb = _memory_mb(server.process.pid)
        time.sleep(2)
        descriptors = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
    answered = ", ".join(f"{status} {count:,}" for status, count in sorted(said.items()))
    print(  # noqa: T201
        f"\n{said.total():,} attacks in {ATTACK_S:.0f} s ({answered}); of {len(ordinary.replies):,} others all answered: "
        f"{statuses(ordinary.replies)[200]:,}; memory {before_mb:.0f} -> {after_mb:.0f} MB; {descriptors} descriptors afterwards"
    )
    assert statuses(ordinary.replies).keys() == {200}
    assert set(said) <= {"200", "400", "404", "405", "408", "413", "422", "431", "nothing"}
    assert {"400", "408", "413", "431"} <= set(said)
    assert after_mb < before_mb * 1.02 + 5
    assert descriptors < 60
