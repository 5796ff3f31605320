"""The application's routes, over a real Redis."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from conf.contract import Contract
from conf.personal import IdKey
from conf.redis_server import free_port
from conf.settings import Serving
from feature_repo.catalogue import raw_schema
from models.published import Champion
from serving.app import PREDICT, create_app
from serving.metrics import Metrics
from serving.schema import RequestSchema
from serving.served_log import LogLimits, ServedLog
from serving.state import InForce, ServingState
from tests.serving.parts import AS_OF, CONTRACTS, ID_KEY, make_bundle, make_fast_path, microseconds

BODY: dict[str, Any] = {
    "request_id": "r-1",
    "time": "2026-03-01T10:30:00Z",
    "context": {"user_id": "known", "placement_id": "placement_id-1", "age": 33},
    "candidates": [
        {"ad_id": "a7", "campaign_id": "c1"},
        {"ad_id": 12, "campaign_id": True},
        {"ad_id": "never seen", "campaign_id": "c1"},
    ],
}
HALF_PAST = AS_OF + timedelta(minutes=30)

Serve = Callable[..., TestClient]


@pytest.fixture
def serve(demo: Contract, champion: Champion, serving_settings: Serving, tmp_path: Path) -> Iterator[Serve]:
    """A client of an application; by default the demo's, with a champion, whose Redis is away."""
    with ExitStack() as stack:

        def start(
            redis: str | None = None, *, contract: Contract = demo, champion: Champion | None = champion, id_key: IdKey = ID_KEY,
            in_force: InForce | None = None, log_share: float = 0.0, **changes: Any,
        ) -> TestClient:  # fmt: skip
            section = serving_settings.model_copy(update=changes)
            metrics = Metrics()
            fast = make_fast_path(contract, redis or f"127.0.0.1:{free_port()}", section, metrics, id_key)
            state = in_force or InForce(ServingState(contract.hash, id_key.fingerprint, champion))
            served_log = ServedLog(tmp_path, raw_schema(contract), LogLimits(log_share, 1000, 1 << 20, 60), metrics)
            app = create_app(
                contract=contract, in_force=state, fast=fast, settings=section, metrics=metrics, served_log=served_log
            )
            return stack.enter_context(TestClient(app))

        yield start


def _raw(contract: Contract, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """Raw values by hand; what a row does not name is null."""
    schema = raw_schema(contract)
    rows = [{"event_timestamp": microseconds(HALF_PAST)} | row for row in rows]
    return pa.record_batch([pa.array([row.get(field.name) for row in rows], field.type) for field in schema], schema=schema)


def _demo_row(contract: Contract, ad: str, campaign: str, **counters: int) -> dict[str, Any]:
    new = {
        f"{key}__{counter}": 0
        for key in contract.counted_keys
        for counter in contract.counter_columns
        if not counter.endswith("_us")
    }
    everything = {
        "all__impressions_1h": 500, "all__clicks_1h": 20, "all__impressions_1d": 9000, "all__clicks_1d": 400,
        "all__impressions_7d": 70000, "all__clicks_7d": 3000,
    }  # fmt: skip
    user = {"user__impressions_1h": 3, "user__clicks_1h": 1, "user__impressions_7d": 30, "user__clicks_7d": 4}
    own = {"user_id": ID_KEY.digest("known"), "placement_id": "placement_id-1", "age": 33.0, "ad_id": ad, "campaign_id": campaign}
    return new | everything | user | own | counters


def test_an_answer_equals_the_bundle_s_to_the_bit_in_the_order_asked(
    serve: Serve, demo: Contract, champion: Champion, filled_redis: str
) -> None:
    response = serve(filled_redis).post(PREDICT, json=BODY)
    a7 = {"ad__impressions_1d": 100, "ad__clicks_1d": 9, "ad__impressions_7d": 700, "ad__clicks_7d": 50}
    crossed = {"user_campaign__impressions_7d": 7, "user_campaign__clicks_7d": 2}
    known = _demo_row(demo, "a7", "c1", **a7, **crossed)
    new = _demo_row(demo, "never seen", "c1", **crossed)
    expected = champion.bundle.probabilities(_raw(demo, [known, _demo_row(demo, "12", "true"), new])).tolist()
    assert response.status_code == 200
    assert response.json() == {
        "request_id": "r-1",
        "model_version": "7",
        "degraded": False,
        "reasons": [],
        "predictions": [{"ad_id": ad, "ctr": ctr} for ad, ctr in zip(["a7", 12, "never seen"], expected, strict=True)],
    }
    assert expected[0] != expected[1]
    RequestSchema(demo).answer.model_validate(response.json())


def test_without_redis_there_is_an_answer_that_says_so(serve: Serve, demo: Contract, champion: Champion) -> None:
    answer = serve().post(PREDICT, json=BODY).json()
    own = {"user_id": ID_KEY.digest("known"), "placement_id": "placement_id-1", "age": 33.0}
    rows = [own | {"ad_id": ad, "campaign_id": campaign} for ad, campaign in (("a7", "c1"), ("12", "true"), ("never seen", "c1"))]
    assert (answer["degraded"], answer["reasons"]) == (True, ["redis_unavailable"])
    assert [p["ctr"] for p in answer["predictions"]] == champion.bundle.probabilities(_raw(demo, rows)).tolist()


def test_now_is_the_time_where_none_is_given(serve: Serve, filled_redis: str, feast_stores: Any) -> None:
    client = serve(filled_redis)
    without_time = {name: value for name, value in BODY.items() if name != "time"}
    assert client.post(PREDICT, json=without_time).json()["reasons"] == ["features_too_old"]
    now = datetime.now(UTC)
    feast_stores["demo"].clock(filled_redis, now)
    assert client.post(PREDICT, json=without_time).json()["reasons"] == []
    assert client.post(PREDICT, json=BODY).json()["reasons"] == ["features_newer_than_request"]


def test_prior_rates_answer_with_no_model(serve: Serve, demo: Contract, filled_redis: str) -> None:
    prior = Champion("prior", make_bundle(demo, kind="prior", trees=None))
    answer = serve(filled_redis, champion=prior).post(PREDICT, json=BODY).json()
    rate = (3000 + 20 * 0.05) / (70000 + 20)
    assert (answer["model_version"], answer["degraded"], answer["reasons"]) == ("prior", True, ["no_model"])
    assert [p["ctr"] for p in answer["predictions"]] == [rate] * 3
    answer = serve(champion=prior).post(PREDICT, json=BODY).json()
    assert answer["reasons"] == ["no_model", "redis_unavailable"]
    assert [p["ctr"] for p in answer["predictions"]] == [0.05] * 3


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_example_of_the_openapi_page_is_answered(name: str, serve: Serve, contracts: dict[str, Contract]) -> None:
    contract = contracts[name]
    client = serve(contract=contract, champion=Champion("1", make_bundle(contract)))
    page = client.get("/openapi.json").json()
    content = page["paths"][PREDICT]["post"]["requestBody"]["content"]["application/json"]
    (example,) = content["examples"].values()
    response = client.post(PREDICT, json=example["value"])
    assert response.status_code == 200
    RequestSchema(contract).answer.model_validate(response.json())
    shown = page["components"]["schemas"]
    assert set(shown["Context"]["properties"]) == set(contract.columns_of("request"))
    assert set(shown["Candidate"]["properties"]) == set(contract.columns_of("candidate"))
    assert set(shown["Prediction"]["properties"]) == {*contract.candidate, "ctr"}
    assert shown["PredictRequest"]["properties"]["candidates"]["maxItems"] == contract.limits.candidates
    assert (
        "detail"
        in page["paths"][PREDICT]["post"]["responses"]["422"]["content"]["application/problem+json"]["schema"]["properties"]
    )


def test_wrong_fields_are_a_422_that_names_each(serve: Serve) -> None:
    body = BODY | {"context": BODY["context"] | {"age": "old"}, "candidates": [{"ad_id": 1.5, "campaign_id": "c1"}]}
    response = serve().post(PREDICT, json=body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    said = response.json()
    assert (said["type"], said["status"]) == ("about:blank", 422)
    assert {fault["field"]: fault["found"] for fault in said["errors"]} == {"context.age": '"old"', "candidates.0.ad_id": "1.5"}
    assert "context.age" in said["detail"]


def test_too_many_candidates_are_a_422(serve: Serve, demo: Contract) -> None:
    client = serve()
    candidates = [{"ad_id": number, "campaign_id": "c1"} for number in range(demo.limits.candidates + 1)]
    assert client.post(PREDICT, json=BODY | {"candidates": candidates[1:]}).status_code == 200
    response = client.post(PREDICT, json=BODY | {"candidates": candidates})
    assert response.status_code == 422
    assert response.json()["errors"] == [{"field": "candidates", "found": "201 candidates", "expected": "at most 200"}]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "said"),
    [
        pytest.param(b"{'a': 1}", "application/json", 400, "not JSON", id="not JSON"),
        pytest.param(b'{"request_id": "r', "application/json", 400, "not JSON", id="cut off"),
        pytest.param(b"\xff\xfe", "application/json", 400, "body", id="not UTF-8"),
        pytest.param(b"[" * 50_000, "application/json", 400, "body", id="nested too deep"),
        pytest.param(b'{"request_id": ' + b"9" * 5000 + b"}", "application/json", 400, "body", id="an endless integer"),
        pytest.param(json.dumps(BODY).encode(), "text/plain", 400, "declared as JSON", id="not declared"),
        pytest.param(b"", "application/json", 422, "body: found nothing", id="empty"),
        pytest.param(b"[]", "application/json", 422, "body: found a list, expected a JSON object", id="a list"),
        pytest.param(b"null", "application/json", 422, "expected a JSON object", id="null"),
        pytest.param(b'{"request_id": "\\ud800"}', "application/json", 422, "request_id", id="half a surrogate pair"),
        pytest.param(b'{"context": {"age": NaN}}', "application/json", 422, "context.age", id="NaN"),
    ],
)
def test_a_body_that_is_no_request_is_told_why(serve: Serve, body: bytes, content_type: str, status: int, said: str) -> None:
    response = serve().post(PREDICT, content=body, headers={"content-type": content_type})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert said in response.text.replace("\\", "")


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_a_413(serve: Serve, serving_settings: Serving, declared: bool) -> None:
    client = serve()
    limit = serving_settings.max_body_kb * 1024

    def post(size: int) -> Any:
        body = json.dumps(BODY).encode().ljust(size)
        chunks = (body[at : at + 10_000] for at in range(0, size, 10_000))
        return client.post(PREDICT, content=body if declared else chunks, headers={"content-type": "application/json"})

    assert post(limit).status_code == 200
    response = post(limit + 1)
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
    assert f"{serving_settings.max_body_kb} KiB" in response.json()["detail"]


def test_no_champion_is_a_503_with_the_next_step(serve: Serve) -> None:
    client = serve(champion=None)
    for response in (client.post(PREDICT, json=BODY), client.get("/readyz"), client.get("/v1/model")):
        assert response.status_code == 503
        assert "jobs/promote.py" in response.json()["detail"]
    assert client.get("/livez").status_code == 200
    assert client.get("/metrics").status_code == 200


def test_a_model_of_another_contract_is_not_served(serve: Serve, demo: Contract, champion: Champion) -> None:
    other = replace(champion, bundle=replace(champion.bundle, contract_hash="0123456789ab" + "0" * 52))
    client = serve(champion=other)
    for response in (client.post(PREDICT, json=BODY), client.get("/readyz")):
        assert response.status_code == 503
        assert "0123456789ab" in response.json()["detail"]
        assert demo.hash[:12] in response.json()["detail"]


def test_a_model_of_another_id_key_is_not_served(serve: Serve) -> None:
    key = IdKey(b"another key than the model's own")
    client = serve(id_key=key)
    for response in (client.post(PREDICT, json=BODY), client.get("/readyz")):
        assert response.status_code == 503
        assert key.fingerprint in response.json()["detail"]
        assert ID_KEY.fingerprint in response.json()["detail"]


def test_ready_without_redis(serve: Serve) -> None:
    assert serve().get("/readyz").json() == {"status": "ready"}


def test_a_reload_is_one_swap(serve: Serve, demo: Contract) -> None:
    in_force = InForce(ServingState(demo.hash, ID_KEY.fingerprint, None))
    client = serve(in_force=in_force)
    in_force.state = ServingState(demo.hash, ID_KEY.fingerprint, Champion("8", make_bundle(demo)))
    assert client.get("/readyz").status_code == 200
    assert client.post(PREDICT, json=BODY).json()["model_version"] == "8"


def test_the_model_tells_about_itself(serve: Serve, demo: Contract, champion: Champion) -> None:
    assert serve().get("/v1/model").json() == {
        "version": "7",
        "identity": champion.bundle.identity,
        "kind": "trees",
        "contract": {"name": "demo", "hash": demo.hash},
        "features": champion.bundle.fitted.names,
        "metrics": {"test": {"ne": 0.9}},
    }


def test_metrics_count_what_happened(serve: Serve, filled_redis: str, champion: Champion) -> None:
    client = serve(filled_redis)
    client.post(PREDICT, json=BODY)
    assert "clickodds_feature_age_seconds 1800.0" in client.get("/metrics").text
    client.post(PREDICT, json=BODY | {"time": "2026-03-01T12:00:00Z"})
    client.post(PREDICT, json=[])
    lines = client.get("/metrics").text.splitlines()
    assert "clickodds_candidates_sum 6.0" in lines
    assert 'clickodds_degraded_total{reason="features_stale"} 1.0' in lines
    assert 'clickodds_degraded_total{reason="redis_unavailable"} 0.0' in lines
    assert 'clickodds_request_seconds_count{status="200"} 2.0' in lines
    assert 'clickodds_request_seconds_count{status="422"} 1.0' in lines
    assert "clickodds_feature_age_seconds 7200.0" in lines
    (model,) = [line for line in lines if line.startswith("clickodds_model_info{")]
    assert f'identity="{champion.bundle.identity}"' in model
    assert 'version="7"' in model


def test_the_age_is_unknown_where_the_clock_was_not_read(serve: Serve) -> None:
    client = serve()
    client.post(PREDICT, json=BODY)
    (line,) = [line for line in client.get("/metrics").text.splitlines() if line.startswith("clickodds_feature_age_seconds ")]
    assert math.isnan(float(line.split()[1]))


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("GET", PREDICT, 405)])
def test_other_paths_and_methods_are_problems_too(serve: Serve, method: str, path: str, status: int) -> None:
    response = serve().request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
