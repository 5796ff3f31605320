"""POST /v1/predict ahead of FastAPI: the same answer for a request that needs no explanation.

Whatever this does not take (a refused body, another content type, no compiled model, an error of its own) goes on to the plain
route with nothing lost, so that every refusal and every documented behaviour has one implementation.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from pydantic_core import PydanticCustomError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conf.contract import Contract
from models.published import Champion
from serving.engine import Engine, Scored
from serving.hot_schema import prediction_type, request_type
from serving.redis_link import RedisReader
from serving.request_plan import Plan, Planner
from serving.schema import check_time

DEADLINE = b"x-deadline-ms"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_JSON = (b"content-type", b"application/json")

log = logging.getLogger("clickodds.serving")


class Refused(Exception):
    """The plain route is to say what is wrong, or to answer."""


@dataclass(slots=True)
class Served:
    """An answer that was given, for whoever counts or records it. Times of time.perf_counter: when each stage had ended."""

    champion: Champion
    request_id: str
    plan: Plan
    replies: Any
    time_us: int
    scored: Scored
    decoded: float
    read: float
    ended: float
    encoded: float


class HotRoute:
    """ASGI application. engine: what answers now, None where only the plain route can; read once a request."""

    def __init__(
        self, app: ASGIApp, *, path: str, contract: Contract, planner: Planner, reader: RedisReader,
        engine: Callable[[], Engine | None], observe: Callable[[Served], None], deadline_s: float, max_body_kb: int,
    ) -> None:  # fmt: skip
        self._app, self._path, self._engine, self._observe = app, path, engine, observe
        self._planner, self._reader = planner, reader
        self._deadline_s, self._most = deadline_s, max_body_kb * 1024
        self._decode = msgspec.json.Decoder(request_type(contract)).decode
        self._prediction = prediction_type(contract)
        self._encode = msgspec.json.Encoder().encode
        of_candidate = list(contract.columns_of("candidate"))
        self._named = [of_candidate.index(name) for name in contract.candidate]
        self._names = [of_candidate[n] for n in self._named]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        engine = self._engine()
        if engine is None:
            await self._app(scope, receive, send)
            return
        received: list[Message] = []
        try:
            answer = await self._answer(engine, scope, receive, received, began)
        except Refused:
            await self._app(scope, _replayed(received, receive), send)
            return
        except Exception:
            log.exception("the hot route failed; the plain route answers")
            await self._app(scope, _replayed(received, receive), send)
            return
        head = [_JSON, (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": answer})

    async def _answer(self, engine: Engine, scope: Scope, receive: Receive, received: list[Message], began: float) -> bytes:
        """The body of the answer. Raises Refused; `received` has what was read of the request until then."""
        deadline_s = self._deadline(scope["headers"])
        body = await self._body(receive, received)
        try:
            request: Any = self._decode(body)
            at = check_time(request.time)
        except (msgspec.MsgspecError, UnicodeDecodeError, PydanticCustomError):
            raise Refused from None
        time_us = time.time_ns() // 1000 if at is None else (at - _EPOCH) // _MICROSECOND
        plan = self._planner.plan(msgspec.structs.astuple(request.context), request.candidates)
        named = [plan.candidates[name] for name in self._names]
        if len(set(named[0] if len(named) == 1 else zip(*named, strict=True))) < plan.count:
            raise Refused
        decoded = time.perf_counter()
        replies = await self._reader.ask(plan.commands, deadline_s - (decoded - began))
        read = time.perf_counter()
        scored = engine.score(plan, replies, time_us)
        ended = time.perf_counter()
        answer = self._encoded(engine, request, named, scored)
        times = decoded, read, ended, time.perf_counter()
        self._observe(Served(engine.champion, request.request_id, plan, replies, time_us, scored, *times))
        return answer

    def _deadline(self, headers: Sequence[tuple[bytes, bytes]]) -> float:
        """Seconds that the request has. Raises Refused unless the body is declared as JSON, and the deadline a number."""
        seconds, declared = self._deadline_s, False
        for name, value in headers:
            if name == b"content-type":
                declared = value == b"application/json"
            elif name == DEADLINE:
                if not value.isdigit():
                    raise Refused
                seconds = min(seconds, int(value) / 1000)
        if not declared:
            raise Refused
        return seconds

    async def _body(self, receive: Receive, received: list[Message]) -> bytes:
        size = 0
        while True:
            message = await receive()
            received.append(message)
            if message["type"] == "http.disconnect":
                raise Refused
            size += len(message.get("body", b""))
            if size > self._most:
                raise Refused
            if not message.get("more_body", False):
                break
        return received[0]["body"] if len(received) == 1 else b"".join(message.get("body", b"") for message in received)

    def _encoded(self, engine: Engine, request: Any, named: list[list[Any]], scored: Scored) -> bytes:
        body: bytes = self._encode(
            {
                "request_id": request.request_id,
                "model_version": engine.champion.version,
                "degraded": bool(scored.reasons),
                "reasons": scored.reasons,
                "predictions": list(map(self._prediction, *named, scored.probabilities.tolist())),
            }
        )
        return body


def _replayed(received: list[Message], receive: Receive) -> Receive:
    left = iter(received)

    async def replay() -> Message:
        return next(left, None) or await receive()

    return replay
