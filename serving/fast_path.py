"""The fast path's parts, put together: planner, link and residents of a contract, engines of its champions, the hot route."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from starlette.types import ASGIApp

from conf.contract import Contract
from conf.personal import IdKey
from models.published import Champion
from serving.engine import Engine
from serving.hot import HotRoute, Served
from serving.redis_address import RedisAddress
from serving.redis_link import RedisReader
from serving.request_plan import Planner
from serving.residents import Residents
from serving.served_raw import ServedRaw

RESIDENTS = 100_000  # entities of each candidate-side key in memory
RECONCILE = timedelta(minutes=5)
DEADLINE = timedelta(milliseconds=20)
_FIRST_READ_S = 10.0  # a start waits no longer for Redis


class FastPath:
    """One for each process. `start` before the first engine, in the loop that serves; `close` at the end.

    residents: entities of each candidate-side key in memory at most. reconcile: between two readings of all of them.
    compiled: the folder where numba keeps machine code, so that only the first start compiles.
    """

    def __init__(
        self, contract: Contract, id_key: IdKey, address: RedisAddress, *, max_age: timedelta, deadline: timedelta = DEADLINE,
        residents: int = RESIDENTS, reconcile: timedelta = RECONCILE, compiled: Path | None = None,
    ) -> None:  # fmt: skip
        if compiled:
            os.environ["NUMBA_CACHE_DIR"] = str(compiled)  # read when serving/kernels.py is imported, which is later
        self._contract, self._max_age, self._deadline = contract, max_age, deadline
        self.observers: list[Callable[[Served], None]] = []
        self.residents = Residents(contract, address, limit=residents, reconcile_s=reconcile.total_seconds())
        self.reader = RedisReader(address, deadline_s=deadline.total_seconds())
        self._planner = Planner(contract, id_key, self.residents)
        self.raw = ServedRaw(contract, self._planner, self.residents)

    async def start(self) -> None:
        """Connect and read the candidates; where Redis is away, go on trying."""
        await self.reader.start()
        await self.residents.start(_FIRST_READ_S if self.reader.available else 0.0)

    async def close(self) -> None:
        await self.residents.close()
        await self.reader.close()

    def compile(self, champion: Champion) -> Engine | None:
        """An engine that is to be started, None for a bundle without a model. Takes a second: for a thread."""
        if champion.bundle.kind != "trees":
            return None
        return Engine(self._contract, champion, self._planner, self.residents, max_age=self._max_age)

    def route(self, app: ASGIApp, path: str, engine: Callable[[], Engine | None], *, max_body_kb: int) -> HotRoute:
        """The hot route in front of `app`; `observers` are told of each answer."""
        return HotRoute(
            app, path=path, contract=self._contract, planner=self._planner, reader=self.reader, engine=engine,
            deadline=self._deadline, max_body_kb=max_body_kb, observers=self.observers,
        )  # fmt: skip
