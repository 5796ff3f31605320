"""Whatever the OpenAPI page allows, and much that it does not, is sent to a server process: no 5xx, nothing undocumented."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf.contract import Contract
from tests.serving.installation import Installation, Running

KEY = "of those who ask why"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture
def server(demo: Contract, tmp_path: Path, filled_redis: str) -> Iterator[Running]:
    hashed = hashlib.sha256(KEY.encode()).hexdigest()
    installation = Installation.make(tmp_path, filled_redis, {"explain_keys": f'["{hashed}"]'})
    installation.publish(demo)
    with installation.started() as running:
        yield running


def test_schemathesis_finds_no_5xx_and_nothing_undocumented(server: Running, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.address}/openapi.json", "--checks", CHECKS,
        "--max-examples", "60", "--seed", "7", "--suppress-health-check", "all", "--phases", "examples,coverage,fuzzing",
        "--generation-database", "none", "--no-color", "--header", f"authorization: Bearer {KEY}", "--request-timeout", "10",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    print(done.stdout[-3000:])  # noqa: T201
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
