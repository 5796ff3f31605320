"""OpenTelemetry traces of requests, where OTEL_EXPORTER_OTLP_ENDPOINT names a collector; without it nothing of this is imported.

The other variables of the OpenTelemetry specification hold too: OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_*. A
span costs some 50 microseconds: sample (OTEL_TRACES_SAMPLER=parentbased_traceidratio, OTEL_TRACES_SAMPLER_ARG=0.001).
"""

import os
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conf.settings import SettingsError

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def traced_if_configured(app: ASGIApp) -> ASGIApp:
    """`app`, with a span around each request where the environment asks for it. Raises SettingsError without the extra."""
    if not os.environ.get(ENDPOINT):
        return app
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError(f"{ENDPOINT}: found, but {error.name} is not there: install the extra clickodds[traces]") from None
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traced(app, provider)


class Traced:
    """ASGI: a server span for each request, below the caller's where its `traceparent` names one. provider: OpenTelemetry's."""

    def __init__(self, app: ASGIApp, provider: Any) -> None:
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        self._app = app
        self._extract = extract
        self._server = SpanKind.SERVER
        self._tracer = provider.get_tracer("clickodds.serving")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        said = {"http.request.method": scope["method"], "url.path": scope["path"][:100]}
        with self._tracer.start_as_current_span(
            f"{scope['method']} request", context=self._extract(carrier), kind=self._server, attributes=said
        ) as span:

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            await self._app(scope, receive, watched)
