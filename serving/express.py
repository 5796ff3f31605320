"""POST /v1/predict from a connection's bytes to the answer's, where a request is whole, plain and alone on its connection.

uvicorn's own way (parser, scope, a task, two messages) costs more than the rest of an answer. What is taken here must be beyond
doubt: another method or path, a header that says how to read the body, a wrong key, two requests at once, an answer that nobody
takes, a server that drains, whatever the hot route does not take or fails at: all of it goes uvicorn's way, as ever.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from serving.door import Admission, Refusal
from serving.hot import HotRoute, Prepared, Refused, deadline_of
from serving.keys import Keys
from serving.metrics import Metrics

_END = b"\r\n\r\n"
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e\x80-\xff]+(?:[ \t]+[\x21-\x7e\x80-\xff]+)*)?[ \t]*")
_SIZE = re.compile(rb"[0-9]{1,8}")
_NOT_OURS = {
    b"transfer-encoding", b"expect", b"upgrade", b"connection", b"proxy-connection", b"te", b"trailer", b"content-encoding",
}  # fmt: skip
_KEEP = (b"connection", b"keep-alive")  # as many a client says though it goes without saying
_REMEMBERED = 2048  # heads: a caller's are alike but for the length
_LONGEST = 4096  # bytes of a head that is worth remembering

log = logging.getLogger("clickodds.serving")


@dataclass(frozen=True, slots=True)
class Head:
    """Of a request that may be answered here. size: bytes, of all of it; start: of its head; deadline_s: what Redis may take."""

    size: int
    start: int
    deadline_s: float


class Express:
    """One for each process. path: of the hot route; keys, admission, metrics: as at the door (serving/door.py)."""

    def __init__(
        self, path: str, hot: HotRoute, *, keys: Keys, admission: Admission, metrics: Metrics, shed: Refusal,
        max_head: int, max_body: int,
    ) -> None:
        self._hot, self._keys, self._admission, self._metrics, self._shed = hot, keys, admission, metrics, shed
        self._line = b"POST %b HTTP/1.1\r\n" % path.encode()
        self._max_head, self._max_body = max_head, max_body
        self._heads: dict[bytes, Head | None] = {}
        self._turn: float | None = None  # when the first of the requests was begun that one look of the loop found: others waited

    def head_of(self, data: bytes) -> Head | None:
        """None where the request that begins with these bytes is for uvicorn."""
        if not data.startswith(self._line) or (end := data.find(_END)) < 0 or end > self._max_head:
            return None
        text = data[: end + 4]
        try:
            return self._heads[text]
        except KeyError:
            pass
        head = self._read(text)
        if len(text) <= _LONGEST:
            if len(self._heads) >= _REMEMBERED:
                self._heads.clear()
            self._heads[text] = head
        return head

    def _read(self, text: bytes) -> Head | None:
        headers: list[tuple[bytes, bytes]] = []
        for line in text[len(self._line) : -len(_END)].split(b"\r\n"):
            if (found := _LINE.fullmatch(line)) is None:
                return None
            headers.append((found[1].lower(), found[2] or b""))
        names = [name for name, value in headers if (name, value.lower()) != _KEEP]
        sizes = [value for name, value in headers if name == b"content-length"]
        if len(sizes) != 1 or not _SIZE.fullmatch(sizes[0]) or int(sizes[0]) > self._max_body or not _NOT_OURS.isdisjoint(names):
            return None
        if self._keys and not self._keys.open_to(headers):
            return None
        try:
            deadline_s = deadline_of(headers, self._hot.deadline_s)
        except Refused:
            return None
        return Head(len(text) + int(sizes[0]), len(text), deadline_s)

    def answer(self, data: bytes, head: Head, done: Callable[[int, bytes | Refusal | None], None]) -> bool:
        """Whether the request is taken; `done` gets status and body once, maybe at once; no body: uvicorn's way after all.

        data: all of the request.
        """
        engine = self._hot.engine()
        if engine is None:
            return False
        began = perf_counter()
        if (turn := self._turn) is None:
            self._turn = turn = began
            asyncio.get_running_loop().call_soon(self._end_turn)
        waited_s = began - turn
        admission, metrics = self._admission, self._metrics
        if (why := admission.refusal(waited_s)) is not None:
            metrics.shed[why].add()
            done(503, self._shed)
            metrics.took(waited_s, 503)
            return True
        try:
            prepared = self._hot.prepared(engine, data[head.start :])
        except Refused:
            return False
        except Exception:
            log.exception("the hot route failed; uvicorn's way")
            return False
        admission.now += 1

        def replied(replies: Any) -> None:
            admission.now -= 1
            body = self._finished(prepared, replies)
            done(200, body)
            if body is not None:
                metrics.took(perf_counter() - began + waited_s, 200)

        self._hot.reader.ask_then(prepared.plan.commands, head.deadline_s - (prepared.decoded - began), replied)
        return True

    def _end_turn(self) -> None:
        self._turn = None

    def _finished(self, prepared: Prepared, replies: Any) -> bytes | None:
        try:
            return self._hot.finished(prepared, replies)
        except Exception:
            log.exception("the hot route failed; uvicorn's way")
            return None
