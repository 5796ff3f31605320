"""The candidates' counters in memory follow Redis: what changes, what comes too many, what cannot be read, who is told."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import redis

from conf.contract import ALL_KEY, Contract
from conf.contract_file import load_contract
from conf.settings import CONF
from feature_repo.redis_layout import LayoutError, encode_int64, hash_field, redis_key
from models.published import Champion
from serving.app import PREDICT
from serving.key_reader import KeyReader
from serving.resident_key import Moves, ResidentKey
from tests.serving.both_routes import HOT, PLAIN, Start, every_entity, exact_bundle, fill, random_request, without_crosses
from tests.serving.parts import AS_OF as AS_OF_TIME
from tests.serving.parts import make_bundle, microseconds
from tests.serving.proxy import proxy


def test_candidates_beyond_the_room_are_looked_up(demo: Contract, redis_address: str, start: Start) -> None:
    draw = np.random.default_rng(8)
    fill(redis_address, demo, every_entity(demo, draw))
    client, served, *_ = start(demo, exact_bundle(demo), redis_address, residents=4)
    for number in range(20):
        request = random_request(demo, draw)
        hot, plain = (client.post(PREDICT, json=request, headers=headers).json() for headers in (HOT, PLAIN))
        assert hot == plain
        assert len(served) == number + 1


def test_what_was_new_and_finds_no_room_is_looked_up(demo: Contract, redis_address: str, start: Start) -> None:
    contract, draw = without_crosses(demo), np.random.default_rng(8)
    started = start(contract, exact_bundle(contract), redis_address, residents=4)
    request = random_request(contract, draw) | {"candidates": [{"ad_id": "late", "campaign_id": "late too"}]}

    def ask() -> tuple[Any, Any]:
        hot, plain = (started.client.post(PREDICT, json=request, headers=headers).json() for headers in (HOT, PLAIN))
        return hot, plain

    fill(redis_address, contract, {(ALL_KEY, ()): dict.fromkeys(contract.counter_columns, 9)})
    _eventually(lambda: (found := ask())[0] == found[1] and not found[0]["degraded"])
    counters: dict[str, int | None] = dict.fromkeys(contract.counter_columns, 900)
    new = ask()[0]
    for name in ("one", "another", "late"):
        fill(redis_address, contract, {("ad", (name,)): counters})
        _eventually(lambda: started.fast.residents.keys["ad"].full or name == "one")  # noqa: B023
    _eventually(lambda: ask()[1] != new)
    _eventually(lambda: (found := ask())[0] == found[1])


def test_an_unreadable_candidate_keeps_its_row_for_later() -> None:
    contract = load_contract(CONF / "contracts" / "demo.yaml")
    reader = KeyReader(contract, "ad")
    table = ResidentKey(reader, 4, Moves())
    good, bad = [encode_int64(3)] * len(reader.new), [b"?"] * len(reader.new)
    assert table.put([b"a", b"b"], [good, good]) == [2, 3]
    assert [table.named(name, key) for name, key in (("a", b"a"), ("A", b"a"), ("b", b"b"))] == [2, 2, 3]
    for _ in range(3):
        table.forget([b"a"])
        assert list(map(table.rows_of, ("a", "A", "b"))) == [None, None, 3]
        assert table.named("a", b"a") is None, "it is looked up"
        with pytest.raises(LayoutError):
            table.learn("a", b"a", bad)
        assert table.learn("a", b"a", good)[0] == 2
        assert (table.rows_of("a"), table.count) == (2, 4)


def _eventually(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not what():
        assert time.monotonic() < until, "it never was"
        time.sleep(0.01)


def test_changes_in_redis_show_soon(demo: Contract, redis_address: str, start: Start) -> None:
    """A candidate's counters, a new candidate, and the prior with the clock: all without a request's looking."""
    draw = np.random.default_rng(9)
    entities = every_entity(demo, draw)
    fill(redis_address, demo, entities)
    started = start(demo, exact_bundle(demo), redis_address)
    client = started.client
    request = random_request(demo, draw)
    request["candidates"] = [{"ad_id": "ad_id-1", "campaign_id": "never"}, {"ad_id": "new one", "campaign_id": "never"}]

    def same() -> bool:
        hot, plain = (client.post(PREDICT, json=request, headers=headers).json() for headers in (HOT, PLAIN))
        return bool(hot == plain)

    assert same()
    before = client.post(PREDICT, json=request, headers=HOT).json()
    counters: dict[str, int | None] = dict.fromkeys(demo.counter_columns, 900_000)
    for entity in (("ad", ("ad_id-1",)), ("ad", ("new one",)), ("campaign", ("never",)), (ALL_KEY, ())):
        fill(redis_address, demo, {entity: counters})
        _eventually(same)
    assert client.post(PREDICT, json=request, headers=HOT).json() != before
    assert 0 < started.metrics.refresh_lag.newest < 20


def test_a_connection_that_the_network_forgot_is_made_anew(demo: Contract, redis_address: str, start: Start) -> None:
    """Nothing is pushed over it any more, and nothing says so: silence is."""
    fill(redis_address, demo, every_entity(demo, np.random.default_rng(9)))
    with proxy(int(redis_address.rpartition(":")[2])) as network:
        started = start(demo, exact_bundle(demo), f"127.0.0.1:{network.port}", redis_deadline_ms=500.0)
        request = random_request(demo, np.random.default_rng(9)) | {"candidates": [{"ad_id": "ad_id-1", "campaign_id": "never"}]}

        def ask() -> Any:
            return started.client.post(PREDICT, json=request, headers=HOT).json()

        _eventually(lambda: not ask()["degraded"])
        before = ask()
        network.forget()
        fill(redis_address, demo, {("ad", ("ad_id-1",)): dict.fromkeys(demo.counter_columns, 900_000)})
        _eventually(lambda: not (found := ask())["degraded"] and found["predictions"] != before["predictions"])


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("a_hash", [True, False])
def test_what_cannot_be_read_costs_those_who_ask_for_it_alone(
    demo: Contract, redis_address: str, start: Start, before: bool, a_hash: bool
) -> None:
    """A candidate's key that holds something else, when the server starts and afterwards, and until it is mended."""
    draw, ad = np.random.default_rng(15), redis_key("demo", {"ad_id": "ad_id-1"})
    fill(redis_address, demo, every_entity(demo, draw))
    host, _, port = redis_address.partition(":")
    request = random_request(demo, draw)

    def spoil() -> None:
        with redis.Redis(host=host, port=int(port)) as client:
            client.delete(ad)
            if a_hash:
                client.hset(ad, hash_field("ad", "clicks_7d"), b"\x10no")
            else:
                client.set(ad, "something else")

    if before:
        spoil()
    client = start(demo, exact_bundle(demo), redis_address).client

    def reasons(named: str) -> list[str] | None:
        asked = request | {"candidates": [{"ad_id": named, "campaign_id": "campaign_id-1"}]}
        hot, plain = (client.post(PREDICT, json=asked, headers=headers).json() for headers in (HOT, PLAIN))
        return hot["reasons"] if hot == plain else None

    if not before:
        assert reasons("ad_id-1") == []
        spoil()
    _eventually(lambda: reasons("ad_id-1") == ["features_unreadable"])
    assert reasons("ad_id-2") == []
    with redis.Redis(host=host, port=int(port)) as whole:
        whole.delete(ad)
    fill(redis_address, demo, {("ad", ("ad_id-1",)): dict.fromkeys(demo.counter_columns, 9)})
    _eventually(lambda: reasons("ad_id-1") == [])


def test_counters_of_different_hours_are_written_down_without_a_clock(demo: Contract, redis_address: str, start: Start) -> None:
    """As in the moment when an hour's publication has reached Redis and not yet the memory: no replay could count them again."""
    draw = np.random.default_rng(13)
    fill(redis_address, demo, every_entity(demo, draw))
    client, served, _, in_force, *_ = start(demo, exact_bundle(demo), redis_address)
    assert in_force.state.engine is not None
    rows = in_force.state.engine._rows
    rows.kept = replace(rows.kept, as_of_us=microseconds(AS_OF_TIME - timedelta(hours=1)))
    client.post(PREDICT, json=random_request(demo, draw), headers=HOT)
    assert (served[0].scored.as_of_us, served[0].scored.reasons) == (None, ["features_stale"])
    assert served[0].scored.freshness.usable


def test_a_replaced_model_is_followed_no_longer_once_no_answer_needs_it(
    demo: Contract, redis_address: str, start: Start
) -> None:
    client, _, fast, in_force, *_ = start(demo, exact_bundle(demo), redis_address)
    before = in_force.state
    assert client.portal is not None
    in_force.state = client.portal.call(fast.ready, replace(before, champion=Champion("8", make_bundle(demo)), engine=None))
    assert len(fast.residents.listeners) == 2  # somebody may be answered by the old one still
    del before
    (left,) = fast.residents.listeners
    assert in_force.state.engine is not None
    assert left is in_force.state.engine._rows
