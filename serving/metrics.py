"""What the server tells Prometheus: a registry of its own for each application."""

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.freshness import Reason
from serving.state import ServingState

_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_CANDIDATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """The counters of one application; `text` is the page for /metrics."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._seconds = Histogram(
            "clickodds_request_seconds", "Time from a prediction request to its answer, by HTTP status.", ["status"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._candidates = Histogram(
            "clickodds_candidates", "Candidates of an answered request.", buckets=_CANDIDATES, registry=registry
        )
        self._degraded = Counter("clickodds_degraded", "Degraded answers, by reason.", ["reason"], registry=registry)
        self._model = Info("clickodds_model", "The champion that serves.", registry=registry)
        self._age = Gauge(
            "clickodds_feature_age_seconds", "The last request's time minus the features' clock; NaN where it was not read.",
            registry=registry,
        )  # fmt: skip
        self._age.set(float("nan"))
        for reason in Reason:
            self._degraded.labels(reason)

    def answered(self, *, candidates: int, reasons: Sequence[Reason], feature_age_us: int | None) -> None:
        """Count one answer."""
        self._candidates.observe(candidates)
        for reason in reasons:
            self._degraded.labels(reason).inc()
        self._age.set(float("nan") if feature_age_us is None else feature_age_us / 1e6)

    def took(self, seconds: float, status: int) -> None:
        self._seconds.labels(str(status)).observe(seconds)

    def text(self, state: ServingState) -> bytes:
        """All metrics in Prometheus' text format."""
        champion = state.champion
        self._model.info(
            {"version": champion.version, "identity": champion.bundle.identity, "kind": champion.bundle.kind}
            if champion
            else {"version": "", "identity": "", "kind": ""}
        )
        return generate_latest(self.registry)


class Timed:
    """ASGI middleware: times every request to one path, refused ones included."""

    def __init__(self, app: ASGIApp, *, path: str, metrics: Metrics) -> None:
        self._app = app
        self._path = path
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            self._metrics.took(time.perf_counter() - start, status)
