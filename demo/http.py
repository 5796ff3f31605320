"""The demo's caller: it waits for the server and asks it, over a real connection."""

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from conf.errors import UnavailableError
from demo.children import Children, StepFailed

STEP = "serve"
READY_S = 60.0
_ADDRESS = re.compile(r"http://([^\s:]+):(\d+)")


@contextmanager
def served(children: Children, port: int) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """The server, ready, with its host and port; port 0 takes a free one. Raises StepFailed or UnavailableError."""
    with children.running(STEP, [sys.executable, "-m", "serving", "--port", str(port)]) as server:
        for line in children.lines(STEP, server):
            if found := _ADDRESS.search(line):
                break
        else:
            raise StepFailed(STEP, server.wait(), children.log(STEP))
        host, port = found[1], int(found[2])
        _wait_until_ready(server, children, host, port)
        yield server, host, port


def predict(host: str, port: int, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to POST /v1/predict. Raises UnavailableError for any status but 200."""
    status, answer = _ask(host, port, "POST", "/v1/predict", json.dumps(request))
    if status != http.client.OK:
        raise UnavailableError(f"POST /v1/predict: status {status}: {answer}")
    return dict(json.loads(answer))


def _wait_until_ready(server: subprocess.Popen[str], children: Children, host: str, port: int) -> None:
    deadline, said = time.monotonic() + READY_S, "no answer"
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise StepFailed(STEP, server.returncode, children.log(STEP))
        try:
            status, said = _ask(host, port, "GET", "/readyz")
        except OSError:
            status = 0
        if status == http.client.OK:
            return
        time.sleep(0.1)
    raise UnavailableError(f"http://{host}:{port}/readyz: {said}")


def _ask(host: str, port: int, method: str, path: str, body: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
