"""An explanation adds up to what is answered, for a served request and for any raw rows."""

import hashlib
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pytest

from conf.contract import Contract
from feature_repo.catalogue import raw_schema
from feature_repo.vectorize import vectorize
from models.bundle import Bundle
from models.calibration import Calibrator
from models.explanation import explained
from models.ridge import Ridge
from serving.app import PREDICT
from serving.explain import EXPLAIN, MOST
from tests.serving.installation import Installation
from tests.serving.parts import AS_OF, ID_KEY, make_bundle, microseconds
from tests.serving.test_change_under_load import BODY


def _raw(contract: Contract, rows: int) -> pa.RecordBatch:
    schema = raw_schema(contract)
    draw = np.random.default_rng(1)

    def values(field: pa.Field) -> list[Any]:
        if field.name == "event_timestamp":
            return [microseconds(AS_OF)] * rows
        if pa.types.is_string(field.type):
            return ["c1", None] * (rows // 2)
        return [int(value) for value in draw.integers(0, 100, rows)]

    return pa.record_batch([pa.array(values(field), field.type) for field in schema], schema=schema)


def _with_ridge(contract: Contract) -> Bundle:
    ridge = Ridge((0, 3), (1.0, 2.0), (1.0, 3.0), (0.5, -0.25), (0.1, 0.2), -1.5)
    return make_bundle(contract, ridge=ridge, calibrator=Calibrator("platt", (0.9, -0.1)))


def test_the_parts_add_up_to_the_answer(demo: Contract) -> None:
    bundle, raw = _with_ridge(demo), _raw(demo, 4)
    rows = explained(bundle, raw)
    margins = bundle.margins(vectorize(raw, bundle.fitted))
    for row, margin, answer in zip(rows, margins, bundle.probabilities(raw), strict=True):
        assert (row["margin"], row["ctr"]) == (margin, answer)
        assert sum(row["trees"].values()) + sum(row["ridge"].values()) == pytest.approx(margin, abs=1e-5)
        assert row["margin"] + row["calibrator"]["adds"] == pytest.approx(row["log_odds"], abs=1e-12)
        assert 1 / (1 + np.exp(-row["log_odds"])) == pytest.approx(row["ctr"], rel=1e-12)
        assert list(row["vector"]) == bundle.fitted.names
        assert set(row["raw"]) == set(raw.schema.names)


def test_prior_rates_explain_themselves(demo: Contract) -> None:
    prior = make_bundle(demo, kind="prior", trees=None)
    (row,) = explained(prior, _raw(demo, 2).slice(0, 1))
    assert row["ctr"] == row["prior"]
    assert set(row) == {"raw", "prior", "ctr"}


def test_a_request_is_explained_as_it_is_answered(demo: Contract, tmp_path: Any, filled_redis: str) -> None:
    hashed = hashlib.sha256(b"secret").hexdigest()
    installation = Installation.make(tmp_path, filled_redis, {"explain_keys": f'["{hashed}"]'})
    installation.publish(demo)
    with installation.started() as server, httpx2.Client(base_url=server.address, trust_env=False) as client:
        client.headers["authorization"] = "Bearer secret"
        answer = client.post(PREDICT, json=BODY).json()
        found = client.post(EXPLAIN, json=BODY).json()
        many = [{"ad_id": number, "campaign_id": "c1"} for number in range(MOST + 1)]
        assert "at most 20" in client.post(EXPLAIN, json={**BODY, "candidates": many}).json()["detail"]
        away = client.post(EXPLAIN, json={**BODY, "time": "2020-01-01T00:00:00Z"}).json()
    assert [each["ctr"] for each in found["candidates"]] == [each["ctr"] for each in answer["predictions"]]
    assert [each["ad_id"] for each in found["candidates"]] == [each["ad_id"] for each in answer["predictions"]]
    assert (found["as_of"], found["reasons"]) == (AS_OF.isoformat(), [])
    assert (away["as_of"], away["reasons"]) == (None, ["features_newer_than_request"])
    assert found["candidates"][0]["raw"]["user_id"] == ID_KEY.digest("known"), "no person in clear"
    assert found["candidates"][0]["raw"]["user__impressions_7d"] == 30
    assert away["candidates"][0]["raw"]["user__impressions_7d"] is None
