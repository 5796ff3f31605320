"""What the server says of itself: log lines for machines, spans for a collector, and nothing of either that was not asked for."""

import asyncio
import json
import logging
import sys
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from conf.settings import SettingsError
from serving.door import Admission, Door
from serving.keys import Keys
from serving.logs import JsonLines, Seldom
from serving.metrics import Metrics
from serving.traces import ENDPOINT, Traced, traced_if_configured

PATH = "/v1/predict"


def test_a_line_is_one_object_with_the_request_and_the_trace() -> None:
    record = logging.LogRecord("clickodds.serving", logging.ERROR, "", 0, "line one\nline %s", ("two",), None)
    record.request_id = "r-1"
    try:
        raise ValueError("why")
    except ValueError as error:
        record.exc_info = type(error), error, error.__traceback__
    line = JsonLines().format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert (said["message"], said["level"], said["request_id"]) == ("line one\nline two", "error", "r-1")
    assert "ValueError: why" in said["trace"]
    assert said["time"].endswith("+00:00")


def test_what_every_request_finds_is_said_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    seldom = Seldom(logging.getLogger("clickodds.serving"))
    for now_s in (1000.0, 1001.0, 1059.9, 1060.0, 1061.0):  # read by the clock
        seldom.warning("at %g", now_s)
    assert [record.getMessage() for record in caplog.records] == ["at 1000", "at 1060"]


async def _broken(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("a secret of the inside")


def _door(app: Any, in_flight: int = 10) -> tuple[Door, Metrics]:
    metrics = Metrics()
    admission = Admission(in_flight=in_flight, queue_age_s=1.0)
    return Door(app, keys={PATH: Keys([])}, open_path=PATH, admission=admission, metrics=metrics), metrics


def test_an_error_is_logged_and_its_caller_hears_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    door, _ = _door(_broken)
    response = TestClient(door).post(PATH)
    assert (response.status_code, response.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in response.text
    assert "a secret of the inside" in caplog.text
    assert TestClient(door).post(PATH).status_code == 500, "and its place among those in flight is free again"


def test_the_door_counts_those_inside() -> None:
    inside = asyncio.Event()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await inside.wait()
        await PlainTextResponse("done")(scope, receive, send)

    async def asked(door: Door) -> list[int]:
        said: list[int] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                said.append(message["status"])

        async def receive() -> Any:
            return {"type": "http.request"}

        scope = {"type": "http", "path": PATH, "method": "POST", "headers": []}
        tasks = [asyncio.create_task(door(dict(scope), receive, send)) for _ in range(5)]
        await asyncio.sleep(0)
        inside.set()
        await asyncio.gather(*tasks)
        return said

    door, metrics = _door(waits, in_flight=2)
    assert sorted(asyncio.run(asked(door))) == [200, 200, 503, 503, 503]
    assert metrics.shed["in_flight"].total == 3


def test_a_span_is_below_its_caller_s_and_has_the_status() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    client = TestClient(Traced(PlainTextResponse("x", status_code=202), provider))
    client.get("/x", headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
    (span,) = spans.get_finished_spans()
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert dict(span.attributes or {})["http.response.status_code"] == 202


def test_no_span_where_nobody_asked_and_a_refusal_where_the_extra_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    app = PlainTextResponse("x")
    monkeypatch.delenv(ENDPOINT, raising=False)
    assert traced_if_configured(app) is app
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"clickodds\[traces\]"):
        traced_if_configured(app)
