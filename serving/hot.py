"""POST /v1/predict ahead of FastAPI: the same answer for a request that needs no explanation.

Whatever this does not take (a refused body, another content type, no compiled model, an error of its own) goes on to the plain
route with nothing lost, so that every refusal and every documented behaviour has one implementation.
"""

import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from pydantic_core import PydanticCustomError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conf.contract import Contract
from serving.engine import Engine, Scored
from serving.hot_schema import prediction_type, request_type, rest_type
from serving.redis_link import RedisReader
from serving.request_plan import Plan, Planner
from serving.schema import check_time

DEADLINE = b"x-deadline-ms"
_DIGITS = 9  # of a deadline; what has more is the plain route's to say
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_JSON = (b"content-type", b"application/json")

log = logging.getLogger("clickodds.serving")


class Refused(Exception):
    """The plain route is to say what is wrong, or to answer."""


class Prepared(msgspec.Struct, gc=False):
    """A request that is ready to be answered once Redis has. decoded: time.perf_counter() when it was."""

    engine: Engine
    body: bytes
    request_id: str
    plan: Plan
    time_us: int
    decoded: float


class Served(msgspec.Struct, gc=False):
    """An answer that was given, for whoever counts or records it. Times of time.perf_counter: when each stage had ended."""

    asked: Prepared
    replies: Any
    scored: Scored
    read: float
    ended: float
    encoded: float


class HotRoute:
    """ASGI application. engine: what answers now, None where only the plain route can; read once a request.
    observe: is told of each answer."""

    def __init__(
        self, app: ASGIApp, *, path: str, contract: Contract, planner: Planner, reader: RedisReader,
        engine: Callable[[], Engine | None], observe: Callable[[Served], None], deadline_s: float, max_body_kb: int,
    ) -> None:  # fmt: skip
        self._app, self._path, self.engine, self._observe = app, path, engine, observe
        self._planner, self.reader = planner, reader
        self.deadline_s, self._most = deadline_s, max_body_kb * 1024
        self._decode = msgspec.json.Decoder(request_type(contract)).decode
        self._decode_rest = msgspec.json.Decoder(rest_type(contract)).decode
        self._prediction = prediction_type(contract)
        self._encode = msgspec.json.Encoder().encode
        self._names = list(contract.candidate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        engine = self.engine()
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
        deadline_s = deadline_of(scope["headers"], self.deadline_s)
        prepared = self.prepared(engine, await self._body(receive, received))
        replies = await self.reader.ask(prepared.plan.commands, deadline_s - (prepared.decoded - began))
        return self.finished(prepared, replies)

    def prepared(self, engine: Engine, body: bytes) -> Prepared:
        """What is asked, and of Redis. Raises Refused."""
        request, plan = self._known(engine, body) or self._asked(body)
        at = _checked(request.time)
        time_us = time.time_ns() // 1000 if at is None else (at - _EPOCH) // _MICROSECOND
        return Prepared(engine, body, request.request_id, plan, time_us, time.perf_counter())

    def finished(self, asked: Prepared, replies: Any) -> bytes:
        """The body of the answer. replies: of Redis to the plan's commands, or why there are none."""
        engine, plan = asked.engine, asked.plan
        read = time.perf_counter()
        scored = engine.score(plan, replies, asked.time_us)
        ended = time.perf_counter()
        answer = self._encoded(engine, asked.request_id, plan, scored)
        self._observe(Served(asked, replies, scored, read, ended, time.perf_counter()))
        if plan.known is None:
            self._learn(engine, asked)
        return answer

    def _learn(self, engine: Engine, asked: Prepared) -> None:
        """Know the candidates from now on. An answer that is there does not fail by it."""
        try:
            if (known := engine.known) is None or known.full:
                return
            if (rows := engine.rows_of(asked.plan)) is not None:
                named = self._named(asked.plan)
                known.learn(asked.body, named, [self._before_number(*one) for one in named], rows, asked.plan.new)
        except Exception:
            log.exception("candidates could not be remembered")

    def _known(self, engine: Engine, body: bytes) -> tuple[Any, Plan] | None:
        """A request that names known candidates only."""
        if (known := engine.known) is None or (asked := known.find(body)) is None:
            return None
        try:
            request: Any = self._decode_rest(asked.rest)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return request, self._planner.plan_known(msgspec.structs.astuple(request.context), asked)

    def _asked(self, body: bytes) -> tuple[Any, Plan]:
        """Any other request. Raises Refused."""
        try:
            request: Any = self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Refused from None
        plan = self._planner.plan(msgspec.structs.astuple(request.context), request.candidates)
        if len(set(self._named(plan))) < plan.count:
            raise Refused
        return request, plan

    def _named(self, plan: Plan) -> list[tuple[Any, ...]]:
        """What names each candidate."""
        return list(zip(*(plan.candidates[name] for name in self._names), strict=True))

    def _before_number(self, *named: Any) -> bytes:
        return self._encode(self._prediction(*named, 0.0)).removesuffix(b"0.0}")

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

    def _encoded(self, engine: Engine, request_id: str, plan: Plan, scored: Scored) -> bytes:
        numbers = scored.probabilities.tolist()
        if plan.known is not None:
            predictions = plan.known.predictions(self._encode(numbers))
        else:
            named = (plan.candidates[name] for name in self._names)
            predictions = self._encode(list(map(self._prediction, *named, numbers)))[1:-1]
        said = self._encode(scored.reasons) if scored.reasons else b"[]"
        return b'{"request_id":%b,"model_version":%b,"degraded":%b,"reasons":%b,"predictions":[%b]}' % (
            self._encode(request_id), engine.version_text, b"true" if scored.reasons else b"false", said, predictions
        )  # fmt: skip


def deadline_of(headers: Iterable[tuple[bytes, bytes]], seconds: float) -> float:
    """Seconds for Redis, at most these. Raises Refused unless its body is declared as JSON, and its deadline is a number."""
    declared = False
    for name, value in headers:
        if name == b"content-type":
            declared = value == b"application/json"
        elif name == DEADLINE:
            if not value.isdigit() or len(value) > _DIGITS:
                raise Refused
            seconds = min(seconds, int(value) / 1000)
    if not declared:
        raise Refused
    return seconds


def _checked(text: str | None) -> datetime | None:
    try:
        return check_time(text)
    except PydanticCustomError:
        raise Refused from None


def _replayed(received: list[Message], receive: Receive) -> Receive:
    left = iter(received)

    async def replay() -> Message:
        return next(left, None) or await receive()

    return replay
