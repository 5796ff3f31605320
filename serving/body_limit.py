"""Refuses a body that is too large before it is all in memory."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.problems import problem


class BodyLimit:
    """ASGI middleware: 413 for a body above max_kb kibibytes. (Starlette's own answers in plain text.)"""

    def __init__(self, app: ASGIApp, *, max_kb: int) -> None:
        self._app = app
        self._max_kb = max_kb
        self._max = max_kb * 1024

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max:
                refusal = problem(413, f"the body is larger than {self._max_kb} KiB (setting serving.max_body_kb)")
                await refusal(scope, receive, send)
                return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)
