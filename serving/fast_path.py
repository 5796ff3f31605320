"""The fast path's parts, put together: planner, link and residents of a contract, engines of its champions, the hot route."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from starlette.types import ASGIApp

from conf.contract import Contract
from conf.personal import IdKey
from conf.redis_address import RedisAddress
from conf.settings import Serving
from models.published import Champion
from serving import native
from serving.engine import Engine
from serving.features import OnlineFeatures
from serving.hot import HotRoute, Served
from serving.metrics import Metrics
from serving.redis_cluster import connect
from serving.redis_link import RedisReader
from serving.request_plan import Planner
from serving.residents import Residents
from serving.served_raw import ServedRaw
from serving.state import ServingState

_FIRST_READ_S = 10.0  # a start waits no longer for Redis


class FastPath:
    """One for each process. `start` before the first engine, in the loop that serves; `close` at the end.

    plain: what the plain route reads. compiled: the folder of the kernels' machine code, which the first start makes.
    """

    def __init__(
        self, contract: Contract, id_key: IdKey, address: RedisAddress, settings: Serving, metrics: Metrics, *, compiled: Path
    ) -> None:
        native.keep_in(compiled)
        self._contract, self._settings = contract, settings
        self._reader = RedisReader(address, deadline_s=settings.redis_deadline_ms / 1e3, connect=connect)
        self.plain = OnlineFeatures(contract, id_key, self._reader, max_age=settings.max_feature_age)
        every_s = settings.reconcile_every.total_seconds()
        self.residents = Residents(
            contract, address, limit=settings.residents, reconcile_s=every_s, refreshed=metrics.refresh_lag.set,
            connect=connect,
        )
        self._planner = Planner(contract, id_key, self.residents)
        self.raw = ServedRaw(contract, self._planner, self.residents)

    async def start(self) -> None:
        """Connect and read the candidates; where Redis is away, go on trying."""
        await self._reader.start()
        await self.residents.start(_FIRST_READ_S if self._reader.available else 0.0)

    async def close(self) -> None:
        await self.residents.close()
        await self._reader.close()

    async def ready(self, state: ServingState) -> ServingState:
        """The state with an engine, unless it has no model; what takes long is done in a thread."""
        champion = state.champion
        if champion is None or state.refusal or champion.bundle.kind != "trees":
            return state
        engine = await asyncio.to_thread(self._compiled, champion)
        await engine.start()
        return replace(state, engine=engine)

    def _compiled(self, champion: Champion) -> Engine:
        return Engine(self._contract, champion, self._planner, self.residents, max_age=self._settings.max_feature_age)

    def route(
        self, app: ASGIApp, path: str, engine: Callable[[], Engine | None], observe: Callable[[Served], None]
    ) -> HotRoute:
        """The hot route in front of `app`; see HotRoute."""
        return HotRoute(
            app, path=path, contract=self._contract, planner=self._planner, reader=self._reader, engine=engine, observe=observe,
            deadline_s=self._settings.redis_deadline_ms / 1e3, max_body_kb=self._settings.max_body_kb,
        )  # fmt: skip
