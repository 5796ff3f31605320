"""POST /v1/explain: what one request is answered with, and why. For the people who run the server: it has keys of its own.

It costs a hundred times what a prediction does, and tells raw values; so nobody may ask until the setting serving.explain_keys
names a key. jobs/explain.py says the same of an impression in the tables.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import Body, FastAPI
from starlette.responses import JSONResponse, Response

from conf.contract import Contract
from feature_repo.catalogue import EVENT_TIMESTAMP
from models.explanation import explained
from serving.features import OnlineFeatures
from serving.freshness import Reason
from serving.problems import documented, problem
from serving.schema import RequestSchema
from serving.state import InForce

EXPLAIN = "/v1/explain"
MOST = 20  # candidates
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def add_explain(
    app: FastAPI,
    contract: Contract,
    schema: RequestSchema,
    in_force: InForce,
    features: OnlineFeatures,
    refusals: dict[int | str, dict[str, Any]],
) -> None:
    """Add the route."""
    refusals = {**refusals, 403: documented("The setting serving.explain_keys names no key, so nobody may ask.")}
    example = {"a request": {"value": schema.example()}}

    @app.post(EXPLAIN, responses=refusals, response_model=dict[str, Any])
    async def explain(body: Annotated[schema.request, Body(openapi_examples=example)]) -> Response:  # type: ignore[name-defined]
        """Of each candidate: raw values, the vector by feature, what trees, ridge and calibrator add, and the probability."""
        now = in_force.state
        if (refusal := now.refusal) or (champion := now.champion) is None:
            return problem(503, refusal or "")
        asked: dict[str, Any] = body.model_dump(by_alias=True)
        if len(asked["candidates"]) > MOST:
            return problem(422, f"candidates: found {len(asked['candidates'])}, expected at most {MOST} to explain")
        time = asked["time"] or datetime.now(UTC)
        read = await features.read(time, asked["context"], asked["candidates"])
        rows = await asyncio.to_thread(explained, champion.bundle, read.batch)
        reason = read.freshness.reason
        as_of_us = read.freshness.as_of_us(read.batch.column(EVENT_TIMESTAMP)[0].value)
        return JSONResponse(
            {
                "request_id": asked["request_id"],
                "model_version": champion.version,
                "model_identity": champion.bundle.identity,
                "contract_hash": contract.hash,
                "as_of": None if as_of_us is None else (_EPOCH + timedelta(microseconds=as_of_us)).isoformat(),
                "reasons": [*([Reason.NO_MODEL] if champion.bundle.kind == "prior" else []), *([reason] if reason else [])],
                "candidates": [
                    {**{name: candidate[name] for name in contract.candidate}, **row}
                    for candidate, row in zip(asked["candidates"], rows, strict=True)
                ],
            }
        )
