"""A cluster that Feast has written is read as a single Redis is, to the bit, while slots move and nodes end."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from conf.contract import Contract
from conf.redis_address import parse_address
from feature_repo.redis_layout import redis_key
from serving.app import PREDICT
from serving.redis_cluster import ClusterLink, slot_of
from serving.redis_link import LinkError, RedisLink, command
from tests.serving.both_routes import HOT, PLAIN, Start, exact_bundle
from tests.serving.cluster import Cluster, redis_cluster, until
from tests.serving.parts import ID_KEY, FeastStore, fill
from tests.serving.test_change_under_load import BODY


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, feast_stores: dict[str, FeastStore]) -> Iterator[Cluster]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        fill(feast_stores["demo"], cluster.address)
        yield cluster


def _answer(client: Any, headers: dict[str, str]) -> Any:
    return client.post(PREDICT, json=BODY, headers=headers).json()


def test_a_slot_is_the_cluster_s_own(cluster: Cluster) -> None:
    keys = [b"", b"a", b"foo{bar}baz", b"foo{}{bar}", b"foo{{bar}}", b"{bar", b"}a{b}", b"\x00\xff{"]
    keys += [redis_key("demo", {"ad_id": "a{7}"}), redis_key("demo", {})]
    assert [slot_of(key) for key in keys] == [cluster.nodes[0]("CLUSTER", "KEYSLOT", key) for key in keys]


def test_answers_are_those_of_a_single_redis(
    cluster: Cluster, filled_redis: str, demo: Contract, start: Start, feast_stores: dict[str, FeastStore]
) -> None:
    for address in (filled_redis, cluster.address):
        for number in range(8):
            feast_stores["demo"].counters(address, "ad", {"ad_id": f"another {number}"}, impressions_7d=9)
    bundle = exact_bundle(demo)
    single, several = (start(demo, bundle, address) for address in (filled_redis, cluster.address))
    expected = _answer(single.client, HOT)
    assert expected["reasons"] == []
    assert _answer(several.client, HOT) == expected
    assert _answer(several.client, PLAIN) == expected
    assert several.fast.residents.keys["ad"].count == single.fast.residents.keys["ad"].count == 2 + 9
    for node in cluster.nodes:
        with redis.Redis(port=node.port) as client:
            assert client.dbsize() > 0, "the keys lie on all nodes"


def test_what_is_written_on_any_node_shows(
    cluster: Cluster, demo: Contract, start: Start, feast_stores: dict[str, FeastStore]
) -> None:
    started = start(demo, exact_bundle(demo), cluster.address)
    seen = [_answer(started.client, HOT)]

    def shows() -> bool:
        return bool(_answer(started.client, HOT) == _answer(started.client, PLAIN) != seen[-1])

    for ad in ("never seen 0", "never seen 1", "never seen 2", "never seen 3"):
        feast_stores["demo"].counters(cluster.address, "ad", {"ad_id": ad}, impressions_7d=900, clicks_7d=450)
        until(shows)
        seen.append(_answer(started.client, HOT))
    owners = {cluster.owner(redis_key(demo.name, {"ad_id": f"never seen {n}"})).port for n in range(4)}
    assert len(owners) > 1, "written on several nodes"


def test_slots_that_move_are_followed(cluster: Cluster, demo: Contract, start: Start) -> None:
    """Back and forth, while it is asked: no answer lacks anything."""
    started = start(demo, exact_bundle(demo), cluster.address)
    expected = _answer(started.client, HOT)
    assert expected["reasons"] == []
    for entity in ({}, {"user_id": ID_KEY.digest("known")}, {"ad_id": "a7"}):
        key = redis_key(demo.name, entity)
        here = cluster.owner(key)
        there = next(node for node in cluster.nodes if node is not here)
        for source, target in ((here, there), (there, here)):
            target("CLUSTER", "SETSLOT", slot_of(key), "IMPORTING", source.id)
            source("CLUSTER", "SETSLOT", slot_of(key), "MIGRATING", target.id)
            source("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)  # the key has gone, the slot not yet: ASK
            assert _answer(started.client, HOT) == expected
            cluster.move(slot_of(key), source, target)
            assert _answer(started.client, HOT) == expected
            assert _answer(started.client, PLAIN) == expected


def test_a_cluster_is_found_by_any_of_its_hosts(cluster: Cluster) -> None:
    async def run() -> None:
        address = parse_address(f"127.0.0.1:1,{cluster.address}")
        link = await ClusterLink.connect(address)
        assert {node for node in link._links} == {("127.0.0.1", node.port) for node in cluster.nodes}
        asked = [command("HMGET", f"key {n}", "field") for n in range(100)]
        assert await link.ask(asked) == [[None]] * 100
        link.nodes[0].close()
        await asyncio.wait_for(link.lost, 10)
        with pytest.raises(LinkError):
            await link.ask(asked)
        with pytest.raises(LinkError):
            await ClusterLink.connect(replace(address, more_hosts=(("127.0.0.1", 1),)))

    asyncio.run(run())


def test_the_first_command_is_answered_before_another_node_is_asked(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, Any]] = []  # commands, and their future
    before: list[list[bool]] = []  # whether those asked earlier were answered by then
    ask = RedisLink.ask

    def spied(self: RedisLink, commands: Sequence[bytes]) -> Any:
        before.append([future.done() for _, future in asked])
        future = ask(self, commands)
        asked.append((len(commands), future))
        return future

    async def run() -> None:
        link = await ClusterLink.connect(parse_address(cluster.address))
        monkeypatch.setattr(RedisLink, "ask", spied)
        await link.ask([command("HMGET", f"key {n}", "field") for n in range(100)])
        link.close()

    asyncio.run(run())
    assert before == [[], [True], [True, False]]
    assert sum(count for count, _ in asked) == 100


def test_a_single_redis_is_no_cluster(redis_address: str, tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(LinkError, match="cluster support disabled"):
            await ClusterLink.connect(parse_address(f"{redis_address},{redis_address}"))

    asyncio.run(run())
