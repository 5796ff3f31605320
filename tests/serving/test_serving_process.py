"""`python -m serving` as its users start it: a process, a socket, a Redis."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conf.contract import Contract
from serving.app import PREDICT
from tests.serving.installation import Installation

BODY: dict[str, Any] = {
    "request_id": "r-1",
    "time": "2026-03-01T10:30:00Z",
    "context": {"user_id": "known", "placement_id": "placement_id-1"},
    "candidates": [{"ad_id": "a7", "campaign_id": "c1"}, {"ad_id": "never seen", "campaign_id": "c1"}],
}
# Runs the server and writes at its end which modules its process has.
WATCHED = (
    "import json, runpy, sys; target = sys.argv.pop(1)\n"
    "try: runpy.run_module('serving', run_name='__main__', alter_sys=True)\n"
    "finally: open(target, 'w').write(json.dumps(sorted(n for n, m in sys.modules.items() if m is not None)))"
)


# Calls main once for each start on its stdin, in that start's environment.
STARTED_IN_TURN = """
import contextlib, io, json, os, sys
from serving.__main__ import main

ended = {}
for name, (environment, arguments) in json.load(sys.stdin).items():
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    with contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            code = main()
        except SystemExit as end:
            code = end.code
    ended[name] = {"code": code, "stdout": stdout.getvalue(), "stderr": stderr.getvalue()}
print(json.dumps(ended))
"""


@pytest.fixture
def installation(tmp_path: Path, redis_address: str) -> Installation:
    return Installation.make(tmp_path, redis_address)


def test_it_serves_without_heavy_modules(installation: Installation, filled_redis: str, demo: Contract, tmp_path: Path) -> None:
    installation.publish(demo)
    with installation.serving(program=("-c", WATCHED, str(tmp_path / "modules"))) as (client, said):
        assert said.endswith(": ready\n")
        fresh = client.post(PREDICT, json=BODY)
        assert (fresh.status_code, fresh.json()["reasons"]) == (200, [])
        assert client.post(PREDICT, json=BODY | {"time": None}).json()["reasons"] == ["features_too_old"]
        assert client.post(PREDICT, json=[]).status_code == 422
        assert client.post(PREDICT, content=b" " * 300_000).status_code == 413
        for path in ("/livez", "/readyz", "/metrics", "/v1/model", "/openapi.json", "/docs"):
            assert client.get(path).status_code == 200, path
    modules = {name.partition(".")[0] for name in json.loads((tmp_path / "modules").read_text())}
    assert {"xgboost", "pyarrow", "hiredis", "llvmlite"} <= modules
    assert modules & {"pyspark", "py4j", "pandas", "mlflow", "feast", "sklearn", "matplotlib", "redis", "numba"} == set()


def test_without_a_champion_it_starts_and_says_what_to_do(installation: Installation) -> None:
    with installation.serving() as (client, said):
        assert "jobs/promote.py" in said
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 503
        assert "jobs/promote.py" in client.post(PREDICT, json=BODY).json()["detail"]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a start says and ends with, for each installation that is not fit to serve; all in one process."""
    root = tmp_path_factory.mktemp("refused")
    starts: dict[str, tuple[dict[str, str], list[str]]] = {}

    def start(name: str, *arguments: str) -> Installation:
        installation = Installation.make(root / name, "127.0.0.1:1")
        starts[name] = (installation.environment(), list(arguments))
        return installation

    (start("no id key").state / "id.key").unlink()
    (root / "wrong.yaml").write_text("name: wrong\n")
    start("wrong contract", "--contract", str(root / "wrong.yaml"))
    start("wrong environment", "--env", "moon")
    start("no workers", "--workers", "0", "--port", "0")
    start("help", "--help")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        start("port taken", "--port", str(taken.getsockname()[1]))
        command = [sys.executable, "-c", STARTED_IN_TURN]
        environment = Installation(root, "").environment()
        ended = subprocess.run(
            command, input=json.dumps(starts), env=environment, cwd="/", capture_output=True, text=True, timeout=120, check=True
        )
    said: dict[str, dict[str, Any]] = json.loads(ended.stdout)
    return said


@pytest.mark.parametrize(
    ("case", "code", "said"),
    [
        ("no id key", 65, "no id key yet"),
        ("wrong contract", 65, "wrong.yaml:1: impressions: missing"),
        ("wrong environment", 2, "environment 'moon'"),
        ("port taken", 75, "--port 0"),
        ("no workers", 2, "--workers: found 0"),
    ],
)
def test_an_unfit_start_is_refused_with_its_code(refusals: dict[str, dict[str, Any]], case: str, code: int, said: str) -> None:
    assert (refusals[case]["code"], refusals[case]["stdout"]) == (code, "")
    assert said in refusals[case]["stderr"]


def test_help_tells_the_arguments_and_exit_codes(refusals: dict[str, dict[str, Any]]) -> None:
    assert refusals["help"]["code"] == 0
    for word in ("--contract", "--env", "--port", "--workers", "65"):
        assert word in refusals["help"]["stdout"]
