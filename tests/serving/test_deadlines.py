"""Who waits too long is told so in time, each once, whatever else is added or ends meanwhile."""

import asyncio
import socket
import time
from collections.abc import Callable

import numpy as np
import pytest
import uvloop

from serving.deadlines import Deadlines

LATE_S = 0.25  # of a busy machine


class Waiter:
    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop, self.due, self.ended = loop, loop.time() + seconds, False
        self.told: list[float] = []

    def late(self) -> None:
        self.told.append(self._loop.time() - self.due)


def test_each_is_told_once_and_in_time() -> None:
    async def run() -> list[Waiter]:
        loop, draw = asyncio.get_running_loop(), np.random.default_rng(3)
        deadlines, waiters = Deadlines(loop), list[Waiter]()
        for seconds in draw.permutation(np.repeat(np.linspace(-0.01, 0.3, 60), 3)).tolist():
            waiters.append(Waiter(loop, seconds))
            deadlines.add(seconds, waiters[-1])
            await asyncio.sleep(0.001)
        for waiter in waiters[::2]:
            waiter.ended = True
        await asyncio.sleep(0.4 + LATE_S)
        late = Waiter(loop, 0.01)
        deadlines.add(0.01, late)  # and the heap is not dead when it was empty
        await asyncio.sleep(0.02 + LATE_S)
        return [*waiters, late]

    waiters = asyncio.run(run())
    ended = waiters[:-1:2]
    assert all(len(waiter.told) <= 1 for waiter in ended)  # some before they ended
    assert any(not waiter.told for waiter in ended)
    others = [*waiters[1:-1:2], waiters[-1]]
    assert all(len(waiter.told) == 1 for waiter in others)
    assert all(-0.002 < waiter.told[0] < LATE_S for waiter in others)


def test_a_shorter_time_does_not_wait_for_a_longer_one() -> None:
    async def run() -> list[Waiter]:
        loop = asyncio.get_running_loop()
        deadlines, waiters = Deadlines(loop), [Waiter(loop, seconds) for seconds in (60, 0.01, 30)]
        for waiter, seconds in zip(waiters, (60, 0.01, 30), strict=True):
            deadlines.add(seconds, waiter)
        await asyncio.sleep(0.01 + LATE_S)
        return waiters

    assert [len(waiter.told) for waiter in asyncio.run(run())] == [0, 1, 0]


def test_one_that_adds_another_when_it_is_late() -> None:
    async def run() -> list[str]:
        loop, said = asyncio.get_running_loop(), list[str]()
        deadlines = Deadlines(loop)

        class Adds:
            ended = False

            def __init__(self, name: str, more: int) -> None:
                self._name, self._more = name, more

            def late(self) -> None:
                said.append(self._name)
                if self._more:
                    deadlines.add(0.0, Adds(self._name, self._more - 1))

        deadlines.add(0.02, Adds("a", 2))
        deadlines.add(0.01, Adds("b", 1))
        await asyncio.sleep(LATE_S)
        return said

    assert sorted(asyncio.run(run())) == ["a", "a", "a", "b", "b"]


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_was_answered_in_time_is_read_before_anybody_is_late(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def run(answered: bool) -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        (ours, theirs), (others, caller) = socket.socketpair(), socket.socketpair()
        deadlines, waiter, asleep = Deadlines(loop), Waiter(loop, 0.02), loop.create_future()

        def read() -> None:
            ours.recv(1)
            waiter.ended = True

        def answer_another() -> None:
            others.recv(1)
            if answered:
                theirs.send(b"+")
            time.sleep(0.1)  # much to do, or no processor

        with ours, theirs, others, caller:
            loop.add_reader(ours, read)
            loop.add_reader(others, answer_another)
            deadlines.add(0.02, waiter)
            caller.send(b"?")
            loop.call_later(0.2, asleep.set_result, None)
            await asleep
            loop.remove_reader(ours)
            loop.remove_reader(others)
        return len(waiter.told), len(deadlines._heap)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(run(answered=True)) == (0, 0)
        assert runner.run(run(answered=False)) == (1, 0)
