"""The HTTP application. Everything it works with is handed to `create_app`; it holds no global."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from conf.contract import Contract
from conf.settings import Serving
from models.published import Champion
from serving.body_limit import BodyLimit
from serving.fast_path import FastPath
from serving.features import OnlineFeatures
from serving.freshness import Reason
from serving.metrics import Metrics, Timed
from serving.problems import Fault, documented, problem
from serving.schema import RequestSchema
from serving.state import ServingState

PREDICT = "/v1/predict"


def create_app(
    *, contract: Contract, state: ServingState, features: OnlineFeatures, settings: Serving, fast: FastPath | None = None
) -> FastAPI:
    """The application of one contract. `app.state.serving` is the state in force: a reload assigns another.

    fast: the hot route that answers where it can.
    """
    schema = RequestSchema(contract)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if fast:
            await fast.start()
            if state.champion and not state.refusal and (engine := fast.compile(state.champion)):
                await engine.start()
                app.state.serving = replace(state, engine=engine)
        yield
        if fast:
            await fast.close()
        await features.close()

    app = FastAPI(title=f"clickodds: {contract.name}", version="1", description=contract.about, lifespan=lifespan)
    app.state.serving = state
    app.add_middleware(BodyLimit, max_kb=settings.max_body_kb)
    if fast:
        app.add_middleware(
            fast.route,
            path=PREDICT,
            engine=lambda: app.state.serving.engine,
            max_body_kb=settings.max_body_kb,
        )
        fast.observers.append(
            lambda one: metrics.answered(candidates=one.plan.count, reasons=one.scored.reasons, feature_age_us=one.scored.age_us)
        )
    app.add_middleware(Timed, path=PREDICT, metrics=metrics)
    _answer_problems(app, schema)
    example = {"a request": {"value": schema.example()}}
    refusals: dict[int | str, dict[str, Any]] = {
        200: {"model": schema.answer},
        400: documented("The body is not JSON, or not declared as application/json."),
        413: documented(f"The body is larger than {settings.max_body_kb} KiB."),
        422: documented("Fields are wrong; `errors` lists every one."),
        503: documented("No model can serve; `detail` says why and what to do."),
    }

    @app.post(PREDICT, responses=refusals, response_model=None)
    async def predict(body: Annotated[schema.request, Body(openapi_examples=example)]) -> Response:  # type: ignore[name-defined]
        """Click probabilities of the candidates, in the order asked."""
        now: ServingState = app.state.serving
        if (refusal := now.refusal) or (champion := now.champion) is None:
            return problem(503, refusal or "")
        asked: dict[str, Any] = body.model_dump(by_alias=True)
        read = await features.read(asked["time"] or datetime.now(UTC), asked["context"], asked["candidates"])
        probabilities = champion.bundle.probabilities(read.batch).tolist()
        reasons = [Reason.NO_MODEL] if champion.bundle.kind == "prior" else []
        reasons += [read.freshness.reason] if read.freshness.reason else []
        metrics.answered(candidates=len(probabilities), reasons=reasons, feature_age_us=read.freshness.age_us)
        answer = {
            "request_id": asked["request_id"],
            "model_version": champion.version,
            "degraded": bool(reasons),
            "reasons": reasons,
            "predictions": [
                {name: candidate[name] for name in contract.candidate} | {"ctr": ctr}
                for candidate, ctr in zip(asked["candidates"], probabilities, strict=True)
            ],
        }
        return JSONResponse(answer)

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """Whether the process answers at all."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: documented("No model can serve.")}, response_model=dict[str, str])
    async def readyz() -> Response:
        """Whether a verified model of this contract and id key is loaded. Redis is not asked: without it answers are degraded."""
        now: ServingState = app.state.serving
        return problem(503, refusal) if (refusal := now.refusal) else JSONResponse({"status": "ready"})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Prometheus' page."""
        return Response(metrics.text(app.state.serving), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/model", responses={503: documented("No model was promoted yet.")}, response_model=dict[str, Any])
    async def model() -> Response:
        """The champion that serves."""
        now: ServingState = app.state.serving
        return JSONResponse(_about(now.champion, contract)) if now.champion else problem(503, now.refusal or "")

    return app


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
    async def broken(_: Request, error: Exception) -> Response:
        return problem(500, f"an error of the server ({type(error).__name__}); its log says more")
