"""Twice as many requests as a server can answer: some are refused at once, the others are in time, and then all is as before."""

import time
from pathlib import Path

import httpx2
import numpy as np
import pytest

from conf.contract_file import load_contract
from conf.settings import CONF
from tests.chaos.under_load import requests, since
from tests.serving.both_routes import exact_bundle
from tests.serving.installation import Installation
from tests.serving.load import LOST
from tests.serving.open_load import OpenLoad, open_load, saturation, statuses

pytestmark = pytest.mark.chaos

CALM_S = 6.0
OVERLOAD_S = 60.0
BACK_WITHIN_S = 5.0


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _milliseconds(load: OpenLoad, percentile: float, begun: float = 0.0) -> float:
    """Of the answers from a moment on."""
    return float(np.percentile([r.seconds for r in load.replies if r.status == 200 and r.at >= begun], percentile)) * 1e3


def test_overload_is_shed_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Without Redis, so that the server itself is what there is too little of.

    A caller who finds no place among the connections is shed, too: his is closed at once.
    """
    demo = load_contract(CONF / "contracts" / "demo.yaml")
    installed = Installation.make(tmp_path, "127.0.0.1:1", {"queue_age_ms": "50"})
    exact = exact_bundle(demo)
    installed.publish(demo, trees=exact.trees, ridge=exact.ridge)
    made = requests(candidates=200)
    with installed.started() as server:
        rate = saturation(server.port, made, 3.0)
        with open_load(server.port, made, rate / 2) as calm:
            time.sleep(CALM_S)
        with open_load(server.port, made, 2 * rate) as flood:
            time.sleep(5)
            before_mb = _resident_mb(server.process.pid)
            time.sleep(OVERLOAD_S - 5)
            after_mb = _resident_mb(server.process.pid)
        ended = time.monotonic()
        with open_load(server.port, made, rate / 2) as again:
            time.sleep(BACK_WITHIN_S + CALM_S)
        page = httpx2.get(f"{server.address}/metrics", trust_env=False).text
        closed = float(page.partition('clickodds_shed_total{reason="connections"}')[2].split()[0])
    answered, shed, lost = (statuses(flood.replies)[status] for status in (200, 503, LOST))
    back_s = since(again.replies, ended, lambda reply: reply.status == 200) - ended
    before, after = _milliseconds(calm, 50), _milliseconds(again, 50, ended + BACK_WITHIN_S)
    print(  # noqa: T201
        f"\n{rate:,.0f} requests/s saturate it; {2 * rate:,.0f}/s for {OVERLOAD_S:.0f} s: {len(flood.replies):,} asked, "
        f"{answered:,} answered (median {_milliseconds(flood, 50):.1f} ms, p99 {_milliseconds(flood, 99):.1f} ms), "
        f"{shed:,} shed, {lost:,} closed; memory {before_mb:.0f} -> {after_mb:.0f} MB; as before {back_s:.2f} s after; "
        f"median at half of it {before:.2f} ms before, {after:.2f} ms after"
    )
    assert statuses(flood.replies).keys() <= {200, 503, LOST}
    assert lost <= closed
    assert answered > rate * OVERLOAD_S / 4
    assert shed > rate * OVERLOAD_S / 4
    assert after_mb < before_mb * 1.05 + 5
    assert statuses(again.replies).keys() <= {200, 503}
    assert back_s < BACK_WITHIN_S
    assert after < 2 * before + 5
