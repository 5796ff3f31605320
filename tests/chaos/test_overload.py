"""More callers than a server can answer: some are refused at once, the others are in time, and afterwards all is as before."""

import time
from pathlib import Path

import httpx2
import pytest

from conf.contract import Contract
from conf.contract_file import load_contract
from conf.settings import CONF
from serving.app import PREDICT
from tests.serving.installation import Installation, Running
from tests.serving.load import Load, load
from tests.serving.test_change_under_load import BODY

pytestmark = pytest.mark.chaos

CALLERS = 200
MANY = {**BODY, "candidates": [{"ad_id": number, "campaign_id": "c1"} for number in range(200)]}  # more work than asking is
OVERLOAD_S = 20.0
BACK_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def demo() -> Contract:
    return load_contract(CONF / "contracts" / "demo.yaml")


def _resident_mb(server: Running) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _median(found: Load, begun: int) -> float:
    seconds = sorted(reply.seconds for reply in found.replies[begun:] if reply.status == 200)
    return seconds[len(seconds) // 2]


def test_overload_is_shed_and_leaves_nothing_behind(demo: Contract, tmp_path: Path) -> None:
    installation = Installation.make(tmp_path, "127.0.0.1:1", {"queue_age_ms": "20", "in_flight": "32"})
    installation.publish(demo)
    with installation.started() as server:
        with load(server.port, MANY, callers=1) as calm:
            calm.wait(300)
        with load(server.port, MANY, callers=CALLERS) as flood:
            time.sleep(2)
            before_mb = _resident_mb(server)
            time.sleep(OVERLOAD_S)
            after_mb = _resident_mb(server)
        ended = time.monotonic()
        with load(server.port, MANY, callers=1) as again:
            again.wait(300)
        took = httpx2.post(f"{server.address}{PREDICT}", json=MANY, trust_env=False)
    answered, shed = flood.statuses[200], flood.statuses[503]
    first_s = again.replies[0].at - ended
    print(  # noqa: T201
        f"\n{CALLERS} callers: {answered} answered (median {_median(flood, 0) * 1e3:.1f} ms, {_median(calm, 0) * 1e3:.1f} ms "
        f"alone), {shed} shed, 0 otherwise; memory {before_mb:.0f} -> {after_mb:.0f} MB; the first answer {first_s:.2f} s after"
    )
    assert set(flood.statuses) == {200, 503}
    assert answered > 100
    assert shed > 100
    assert after_mb < before_mb * 1.05 + 5
    assert first_s < BACK_WITHIN_S
    assert set(again.statuses) == {200}
    assert took.status_code == 200
    assert _median(again, 100) < 2 * _median(calm, 100) + 0.005
