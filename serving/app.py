"""The HTTP application. Everything it works with is handed to `create_app`; it holds no global."""

import logging
import math
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import perf_counter
from typing import Annotated, Any

from fastapi import Body, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from conf.contract import Contract
from conf.settings import Serving
from feature_repo.catalogue import EVENT_TIMESTAMP
from feature_repo.vectorize import vectorize
from models.published import Champion
from serving.body_limit import BodyLimit
from serving.door import Admission, Door
from serving.explain import EXPLAIN, add_explain
from serving.express import Express
from serving.fast_path import FastPath
from serving.freshness import Reason
from serving.keys import Keys
from serving.metrics import Metrics
from serving.observer import observer
from serving.problems import Fault, documented, problem
from serving.schema import RequestSchema
from serving.served_log import Record, ServedLog
from serving.state import InForce, ServingState

PREDICT = "/v1/predict"
_DEADLINE = "Milliseconds that the request has for Redis, where that is less than the setting serving.redis_deadline_ms."
_ID = re.compile(r"[\w.:-]{1,64}")

log = logging.getLogger("clickodds.serving")


def create_app(
    *, contract: Contract, in_force: InForce, fast: FastPath, settings: Serving, metrics: Metrics, served_log: ServedLog
) -> Door:
    """The application of one contract: the plain routes, the hot one in front of them, and its door."""
    schema = RequestSchema(contract)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await fast.start()
        in_force.state = await fast.ready(in_force.state)
        yield
        await fast.close()

    app = FastAPI(title=f"clickodds: {contract.name}", version="1", description=contract.about, lifespan=lifespan)
    app.add_middleware(BodyLimit, max_kb=settings.max_body_kb)
    _answer_problems(app, schema)
    example = {"a request": {"value": schema.example()}}
    refusals = documented_refusals(settings)

    @app.post(PREDICT, responses={200: {"model": schema.answer}, **refusals}, response_model=None)
    async def predict(
        body: Annotated[schema.request, Body(openapi_examples=example)],  # type: ignore[name-defined]
        x_deadline_ms: Annotated[int | None, Header(ge=0, lt=10**9, description=_DEADLINE)] = None,
    ) -> Response:
        """Click probabilities of the candidates, in the order asked."""
        now = in_force.state
        if (refusal := now.refusal) or (champion := now.champion) is None:
            return problem(503, refusal or "")
        asked: dict[str, Any] = body.model_dump(by_alias=True)
        began = perf_counter()
        time = asked["time"] or datetime.now(UTC)
        seconds = math.inf if x_deadline_ms is None else x_deadline_ms / 1e3
        read = await fast.plain.read(time, asked["context"], asked["candidates"], seconds)
        have = perf_counter()
        bundle = champion.bundle
        margins = None if bundle.kind == "prior" else bundle.margins(vectorize(read.batch, bundle.fitted))
        scores = bundle.probabilities(read.batch) if margins is None else bundle.calibrator.probabilities(margins)
        scored = perf_counter()
        reasons = [Reason.NO_MODEL] if bundle.kind == "prior" else []
        reasons += [read.freshness.reason] if read.freshness.reason else []
        answer = {
            "request_id": asked["request_id"],
            "model_version": champion.version,
            "degraded": bool(reasons),
            "reasons": reasons,
            "predictions": [
                {name: candidate[name] for name in contract.candidate} | {"ctr": ctr}
                for candidate, ctr in zip(asked["candidates"], scores.tolist(), strict=True)
            ],
        }
        response = JSONResponse(answer)
        stages_s = have - began, scored - have, perf_counter() - scored
        metrics.answered(stages_s, reasons=reasons, feature_age_us=read.freshness.age_us, scores=scores)
        metrics.plain.add()
        if served_log.wants(asked["request_id"]):
            as_of_us = read.freshness.as_of_us(read.batch.column(EVENT_TIMESTAMP)[0].value)
            model = champion.version, bundle.identity
            served_log.offer(Record(asked["request_id"], read.batch, as_of_us, margins, scores, *model, reasons))
        return response

    add_explain(app, contract, schema, in_force, fast.plain, refusals)

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """Whether the process answers at all."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: documented("No model can serve.")}, response_model=dict[str, str])
    async def readyz() -> Response:
        """Whether a verified model of this contract and id key is loaded. Redis is not asked: without it answers are degraded."""
        return problem(503, refusal) if (refusal := in_force.state.refusal) else JSONResponse({"status": "ready"})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Prometheus' page, of all workers."""
        return Response(metrics.text(in_force.state), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/model", responses={503: documented("No model was promoted yet.")}, response_model=dict[str, Any])
    async def model() -> Response:
        """The champion that serves."""
        now: ServingState = in_force.state
        return JSONResponse(_about(now.champion, contract)) if now.champion else problem(503, now.refusal or "")

    admission = Admission(in_flight=settings.in_flight, queue_age_s=settings.queue_age_ms / 1e3)
    keys = {PREDICT: Keys(settings.keys), EXPLAIN: Keys(settings.explain_keys)}
    hot = fast.route(app, PREDICT, lambda: in_force.state.engine, observer(metrics, served_log, fast.raw))
    door = Door(hot, keys=keys, open_path=PREDICT, admission=admission, metrics=metrics)
    door.express = Express(
        PREDICT, hot, keys=keys[PREDICT], admission=admission, metrics=metrics, shed=door.shed,
        max_head=settings.max_head_kb << 10, max_body=settings.max_body_kb << 10,
    )  # fmt: skip
    return door


def documented_refusals(settings: Serving) -> dict[int | str, dict[str, Any]]:
    """What else than 200 a route that takes a request may answer."""
    return {
        400: documented("The request is not HTTP/1.1, or its body is not JSON, or not declared as application/json."),
        401: documented("The setting serving.keys asks for a key, and the request brings none of them."),
        408: documented(f"The request was not whole within {settings.request_timeout.total_seconds():g} s."),
        413: documented(f"The body is larger than {settings.max_body_kb} KiB."),
        422: documented("Fields are wrong; `errors` lists every one."),
        431: documented(f"The request's line and headers are larger than {settings.max_head_kb} KiB."),
        500: documented("An error of the server; its log says more."),
        503: documented("No model can serve; or there are too many requests: then `Retry-After` says when to try again."),
    }


def _about(champion: Champion, contract: Contract) -> dict[str, Any]:
    bundle = champion.bundle
    return {
        "version": champion.version,
        "identity": bundle.identity,
        "kind": bundle.kind,
        "contract": {"name": contract.name, "hash": bundle.contract_hash},
        "features": bundle.fitted.names,
        "metrics": dict(bundle.metrics),
    }


def _answer_problems(app: FastAPI, schema: RequestSchema) -> None:
    """Every refusal and error as problem details."""

    @app.exception_handler(RequestValidationError)
    async def refused(_: Request, error: RequestValidationError) -> Response:
        errors: list[Mapping[str, Any]] = list(error.errors())
        if [e["type"] for e in errors] == ["json_invalid"]:
            where = f"{errors[0]['ctx']['error']} at character {errors[0]['loc'][-1]}"
            return problem(400, "the body is not JSON", [Fault("body", where, "a JSON object")])
        if isinstance(error.body, bytes):
            return problem(400, "the body is not declared as JSON", [Fault("content-type", "another", "application/json")])
        faults = schema.faults(errors)
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return problem(422, f"{faults[0]}{more}", faults)

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> Response:
        response = problem(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        named = request.headers.get("x-request-id", "")
        request_id = named if _ID.fullmatch(named) else secrets.token_hex(8)
        log.error("request failed", exc_info=error, extra={"request_id": request_id})
        return problem(500, f"an error of the server ({type(error).__name__}); its log says more of request {request_id}")
