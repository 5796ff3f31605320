"""What a request passes before a model is asked: its key, and whether there is time for it. Counts and times what came of it."""

import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Self

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.keys import Keys
from serving.metrics import Metrics
from serving.problems import MEDIA_TYPE, problem_body

if TYPE_CHECKING:
    from serving.express import Express

RETRY_AFTER_S = 1
ARRIVED = "clickodds.arrived"  # in a scope: perf_counter() when the request was whole

log = logging.getLogger("clickodds.serving")


class Admission:
    """Whether one more request is taken. Refusing costs a fraction of answering, so those that are taken stay in time.

    in_flight: requests that are being answered, at most. queue_age_s: so long one may have waited since it was whole.
    """

    def __init__(self, *, in_flight: int, queue_age_s: float) -> None:
        self._most = in_flight
        self._queue_age_s = queue_age_s
        self.now = 0

    def refusal(self, waited_s: float) -> str | None:
        """Why not (of metrics.SHED), None where it is taken."""
        if self.now >= self._most:
            return "in_flight"
        return "queue_age" if waited_s > self._queue_age_s else None


class Door:
    """ASGI: in front of the paths of `keys`; others pass. What is refused here costs neither parsing nor a look into Redis.

    express: the way around it, which asks the same (serving/express.py).
    open_path: needs no key where it has none; another path without keys is closed. It is the one that is timed.
    """

    express: "Express | None" = None

    def __init__(
        self, app: ASGIApp, *, keys: Mapping[str, Keys], open_path: str, admission: Admission, metrics: Metrics
    ) -> None:
        self._app = app
        self._keys = keys
        self._open_path = open_path
        self._admission = admission
        self._metrics = metrics
        retry, bearer = (b"retry-after", b"%d" % RETRY_AFTER_S), (b"www-authenticate", b"Bearer")
        self.shed = Refusal.of(503, "more requests than can be answered in time: try again after Retry-After seconds", retry)
        self._locked = Refusal.of(401, "no valid key, expected authorization: Bearer KEY", bearer)
        self._closed = Refusal.of(403, "nobody may ask this: no key is set (setting serving.explain_keys)")
        self._broken = Refusal.of(500, "an error of the server; its log says more")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keys = self._keys.get(scope["path"]) if scope["type"] == "http" else None
        if keys is None:
            await self._app(scope, receive, send)
            return
        now = perf_counter()
        arrived = scope.get(ARRIVED, now)
        refusal: Refusal | None = None
        if keys:
            refusal = None if keys.open_to(scope["headers"]) else self._locked
        elif scope["path"] != self._open_path:
            refusal = self._closed
        admission = self._admission
        if refusal is None and (why := admission.refusal(now - arrived)) is not None:
            self._metrics.shed[why].add()
            refusal = self.shed
        if refusal is not None:
            for message in refusal.messages:
                await send(message)
            self._metrics.took(perf_counter() - arrived, refusal.status)
            return
        if scope["path"] != self._open_path:  # a person's question, which waits for nobody and delays no count
            await self._app(scope, receive, send)
            return
        status = 0

        def watched(message: Message) -> Awaitable[None]:  # no coroutine of its own: that would cost a microsecond a message
            nonlocal status
            if not status:
                status = message["status"]
            return send(message)

        admission.now += 1
        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if status != 500:  # else it was answered and logged
                log.error("request failed", exc_info=error)
            if not status:
                for message in self._broken.messages:
                    await watched(message)
        finally:
            admission.now -= 1
            self._metrics.took(perf_counter() - arrived, status)


@dataclass(frozen=True)
class Refusal:
    """Made once, so that refusing is cheap."""

    status: int
    messages: tuple[Message, Message]

    @classmethod
    def of(cls, status: int, detail: str, *headers: tuple[bytes, bytes]) -> Self:
        body = problem_body(status, detail)
        own = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode()), *headers]
        start = {"type": "http.response.start", "status": status, "headers": own}
        return cls(status, (start, {"type": "http.response.body", "body": body}))
