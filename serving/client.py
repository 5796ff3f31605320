"""A small client of POST /v1/predict, with the standard library alone: copy this file where clickodds is not installed.

    with Client("http://127.0.0.1:8080") as client:
        context = {"user_id": "u42", "placement_id": "p6", "device": "d2"}
        answer = client.predict(context, [{"ad_id": "a1", "campaign_id": "c13"}], request_id="r-1")
        answer.predictions[0]["ctr"]

The same by hand:

    curl -s localhost:8080/v1/predict -H 'content-type: application/json' -H 'authorization: Bearer KEY' -d '{
      "request_id": "r-1", "context": {"user_id": "u42", "placement_id": "p6"},
      "candidates": [{"ad_id": "a1", "campaign_id": "c13"}]}'
"""

import http.client
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

Values = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Answer:
    """predictions: in the order asked, each with what names its candidate and `ctr`, a probability in (0, 1)."""

    request_id: str
    model_version: str
    degraded: bool
    reasons: Sequence[str]
    predictions: Sequence[Mapping[str, Any]]


class PredictError(Exception):
    """Any status but 200. retry_after_s: when to come again, where the server is too busy. errors: field, found, expected."""

    def __init__(self, status: int, detail: str, errors: Sequence[Mapping[str, str]], retry_after_s: float | None) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.errors = errors
        self.retry_after_s = retry_after_s


class Client:
    """One kept connection, for one thread. timeout_s: of connecting, and of each wait for bytes; then TimeoutError."""

    def __init__(self, address: str, *, key: str | None = None, timeout_s: float = 0.1) -> None:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"found {address!r}, expected http://host:port")
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = make(parts.hostname, parts.port, timeout=timeout_s)
        self._headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}

    def predict(self, context: Values, candidates: Sequence[Values], *, request_id: str, time: datetime | None = None) -> Answer:
        """Raises PredictError for what the server refuses, OSError (TimeoutError among them) where it does not answer."""
        said = {"time": time.isoformat()} if time else {}
        body = json.dumps({"request_id": request_id, **said, "context": context, "candidates": candidates})
        status, headers, content = self._post("/v1/predict", body.encode())
        if status != http.client.OK:
            raise _refused(status, headers, content)
        return Answer(**json.loads(content))

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _post(self, path: str, body: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
        for kept in (self._connection.sock is not None, False):
            try:
                self._connection.request("POST", path, body, self._headers)
                response = self._connection.getresponse()
                return response.status, response.headers, response.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._connection.close()
                if not kept:  # a kept connection may have ended meanwhile; asking twice does no harm
                    raise
            except (OSError, http.client.HTTPException):
                self._connection.close()  # the late answer must not be taken for the next one's
                raise
        raise AssertionError


def _refused(status: int, headers: http.client.HTTPMessage, content: bytes) -> PredictError:
    try:
        problem = dict(json.loads(content))
    except ValueError:
        problem = {}
    retry = headers.get("retry-after", "")
    return PredictError(status, problem.get("detail", ""), problem.get("errors", []), float(retry) if retry.isdigit() else None)
