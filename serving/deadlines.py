"""Who waits no longer than until a moment, at the price of a place in a heap: a timer for each costs several times that."""

import asyncio
from heapq import heappop, heappush
from itertools import count
from typing import Protocol


class Waiting(Protocol):
    """ended: whether it waits no more. late: called once where it still does when its time is over."""

    ended: bool

    def late(self) -> None: ...


_HELD_UP_S = 0.002  # a timer that fires so much later than it was to: this process had no processor, or something to do


class Deadlines:
    """Of one loop. Only the earliest moment has a timer.

    uvloop looks at timers before it looks at what was received. Where this process was held up, answers may lie there: they are
    read first, for it was not who answers that was late.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Waiting]] = []
        self._number = count()  # moments may be the same; who waits has no order
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")

    def add(self, seconds: float, waiting: Waiting) -> None:
        """From now on."""
        due = self._loop.time() + seconds
        heappush(self._heap, (due, next(self._number), waiting))
        if due < self._due:
            self._set(due)

    def _set(self, due: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._due, self._timer = due, self._loop.call_at(due, self._look)

    def _look(self) -> None:
        if self._loop.time() - self._due < _HELD_UP_S:
            self._end()
        else:
            self._loop.call_soon(self._loop.call_soon, self._end)  # when it has looked

    def _end(self) -> None:
        self._due, self._timer = float("inf"), None
        heap, now = self._heap, self._loop.time()
        late = []
        while heap and (heap[0][0] <= now or heap[0][2].ended):
            waiting = heappop(heap)[2]
            if not waiting.ended:
                late.append(waiting)
        if heap:
            self._set(heap[0][0])
        for waiting in late:
            waiting.late()
