"""The engine on Delta, Spark and a real Redis: it leaves there what Feast's own engine leaves, or what its settings say."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from conf.lease import lease
from conf.redis_server import free_port
from feature_repo.redis_layout import encode_int64, hash_field, redis_key
from tests.feature_repo.stores import EVERYTHING, HOUR, LOCAL, OURS, START, View, dumps, feast_store, move, write_table
from tests.serving.parts import quiet

FEATURES = {"n": "Int64", "small": "Int32", "ratio": "Float64", "share": "Float32", "yes": "Bool", "text": "String"}
VIEWS = (
    View("by_text", {"user": "String"}, FEATURES),
    View("by_number", {"account": "Int64"}, {"n": "Int64", "ratio": "Float64"}),
    View("by_both", {"user": "String", "account": "Int64", "ad": "Int32"}, {"n": "Int64", "text": "String"}),
    View("also_by_text", {"user": "String"}, {"m": "Int64"}),
)
SIMPLE = View("simple", {"user": "String"}, {"clicks": "Int64", "seen": "Int64"})


def random_rows(view: View, rng: random.Random) -> list[tuple[Any, ...]]:
    """Some hours of a few keys, with nulls, extremes, and rows of the same hour that were created later."""
    values: dict[str, Callable[[], Any]] = {
        "Int64": lambda: rng.choice([0, 1, -1, 127, 128, 2**53, -(2**53), rng.randrange(-(10**12), 10**12)]),
        "Int32": lambda: rng.choice([0, 2**31 - 1, -(2**31), rng.randrange(-300, 300)]),
        "Float64": lambda: rng.choice([0.0, -0.0, float("nan"), float("inf"), 1e-300, rng.gauss(0, 1)]),
        "Float32": lambda: rng.choice([0.0, 0.5, -2.25, float("nan")]),
        "Bool": lambda: rng.random() < 0.5,
        "String": lambda: rng.choice(["", "plain", "ключ 🗝", "x" * 200]),
    }
    keys: dict[str, list[Any]] = {"String": ["", "u1", "ü2", "a long user " * 20], "Int64": [0, -5, 2**62], "Int32": [7, -8]}
    rows: list[tuple[Any, ...]] = []
    for hour in range(12):
        for _ in range(rng.randrange(4)):
            key = [rng.choice(keys[kind]) for kind in view.keys.values()]
            features = [None if rng.random() < 0.2 else values[kind]() for kind in view.features.values()]
            rows.append((*key, *features, START + hour * HOUR, START + hour * HOUR + timedelta(microseconds=len(rows))))
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("seed", [1, 2])
def test_redis_holds_what_feast_s_own_engine_writes(
    spark: SparkSession, tmp_path: Path, address: str, client: Any, seed: int
) -> None:
    """DUMP for DUMP, all at once. In increments, of which one finds nothing, a hash has the same fields in another order.

    Views with the same key share it.
    """
    rng = random.Random(seed)
    for view in VIEWS:
        write_table(spark, tmp_path, view, random_rows(view, rng))
    found = []
    for engine, hours in ((LOCAL, [-2, 20]), (OURS, [-2, 20]), (OURS, [-2, 5, 6, 6.5, 20])):
        client.flushall()
        store = feast_store(tmp_path, address, VIEWS, engine)
        for start, end in pairwise(START + hour * HOUR for hour in hours):
            move(spark, store, start, end)
        found.append((dumps(client), {key: client.hgetall(key) for key in client.keys()}))
    (feast_dumps, feast_fields), (our_dumps, _), (_, fields_in_increments) = found
    assert len(feast_dumps) > 8
    assert our_dumps == feast_dumps
    assert fields_in_increments == feast_fields


def simple_rows(*rows: tuple[str, int, int, float]) -> list[tuple[Any, ...]]:
    """(user, clicks, hour, created hours later)."""
    return [(user, clicks, None, START + hour * HOUR, START + (hour + later) * HOUR) for user, clicks, hour, later in rows]


def clicks_of(client: Any) -> dict[str, int]:
    """What Feast would read, by user."""
    from feature_repo.redis_layout import decode_int64

    users = ["a", "b", "c", "d"]
    found = {user: client.hget(redis_key("demo", {"user": user}), hash_field("simple", "clicks")) for user in users}
    return {user: number for user, data in found.items() if (number := decode_int64(data)) is not None}


def test_the_same_hour_created_later_is_rewritten_and_nothing_older_wins(
    spark: SparkSession, tmp_path: Path, address: str, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store = feast_store(tmp_path, address, [SIMPLE], OURS)
    write_table(spark, tmp_path, SIMPLE, simple_rows(("a", 1, 1, 0), ("b", 1, 5, 0)))
    move(spark, store, START, START + 5 * HOUR)
    write_table(spark, tmp_path, SIMPLE, simple_rows(("a", 1, 1, 0), ("a", 2, 1, 0.5), ("b", 1, 5, 0), ("b", 9, 2, 0)))
    move(spark, store, START, START + 3 * HOUR)
    assert clicks_of(client) == {"a": 2, "b": 1}, "b is known from a later hour"
    assert "1 left that are newer" in capsys.readouterr().out


def test_zero_rows_remove_a_key_and_later_rows_bring_it_back(
    spark: SparkSession, tmp_path: Path, address: str, client: Any
) -> None:
    other = View("other", {"user": "String"}, {"m": "Int64"})
    store = feast_store(tmp_path, address, [SIMPLE, other], OURS, remove_zeros=True)
    write_table(spark, tmp_path, other, [("a", 5, START, START)])
    write_table(spark, tmp_path, SIMPLE, simple_rows(("a", 1, 1, 0), ("b", 1, 1, 0), ("c", 0, 1, 0)))
    move(spark, store, START, START + HOUR)
    assert clicks_of(client) == {"a": 1, "b": 1}
    write_table(spark, tmp_path, SIMPLE, simple_rows(("a", 1, 1, 0), ("b", 1, 1, 0), ("a", 0, 2, 0), ("b", 0, 2, 0)))
    move(spark, store, START + HOUR, START + 2 * HOUR)
    assert client.keys() == [redis_key("demo", {"user": "a"})], "of a the other view's row stays"
    assert client.hlen(redis_key("demo", {"user": "a"})) == 2
    write_table(spark, tmp_path, SIMPLE, simple_rows(("b", 0, 2, 0), ("b", 7, 3, 0)))
    move(spark, store, START + 2 * HOUR, START + 3 * HOUR)
    assert clicks_of(client) == {"b": 7}
    after_all_that = dumps(client)
    client.flushall()
    move(spark, store, START, START + 3 * HOUR)
    assert dumps(client) == after_all_that, "a key that came back is as one that never left"


def test_a_full_interval_removes_what_the_source_no_longer_has(
    spark: SparkSession, tmp_path: Path, address: str, client: Any
) -> None:
    store = feast_store(tmp_path, address, [SIMPLE], OURS)
    write_table(spark, tmp_path, SIMPLE, simple_rows(("a", 1, 1, 0), ("b", 1, 1, 0), ("b", 2, 2, 0), ("c", 3, 9, 0)))
    move(spark, store, EVERYTHING, START + 10 * HOUR)
    foreign = {redis_key("mydemo", {"user": "a"}): {b"_ts:simple": b"\x08\x01"}, b"not feast's": {b"x": b"y"}}
    for key, fields in foreign.items():
        client.hset(key, mapping=fields)
    write_table(spark, tmp_path, SIMPLE, simple_rows(("b", 1, 1, 0)))
    move(spark, store, START, START + 10 * HOUR)
    assert clicks_of(client) == {"a": 1, "b": 1, "c": 3}, "an interval that is not full removes nothing"
    move(spark, store, EVERYTHING, START + 5 * HOUR)
    assert clicks_of(client) == {"b": 1, "c": 3}, "c is from after the interval"
    move(spark, store, EVERYTHING, START + 10 * HOUR)
    assert clicks_of(client) == {"b": 1}
    assert {key: client.hgetall(key) for key in foreign} == foreign


def test_a_full_run_that_may_not_look_for_keys_says_so(spark: SparkSession, tmp_path: Path, address: str, client: Any) -> None:
    import click

    write_table(spark, tmp_path, SIMPLE, simple_rows(("a", 1, 1, 0)))
    client.execute_command("ACL", "SETUSER", "writer", "on", "nopass", "~*", "+@all", "-scan")
    store = feast_store(tmp_path, f"{address},username=writer,password=any", [SIMPLE], OURS)
    with pytest.raises(click.ClickException, match="NOPERM") as failed:
        move(spark, store, EVERYTHING, START + HOUR)
    assert failed.value.exit_code == 65


def test_a_view_s_ttl_is_the_keys_expiry(spark: SparkSession, tmp_path: Path, address: str, client: Any) -> None:
    day, week = timedelta(days=40_000), timedelta(days=50_000)  # the log's time may lie behind the clock on the wall
    views = [View("simple", SIMPLE.keys, SIMPLE.features, week), View("other", {"user": "String"}, {"m": "Int64"}, day)]
    store = feast_store(tmp_path, address, views, OURS)
    write_table(spark, tmp_path, views[0], simple_rows(("a", 1, 1, 0)))
    write_table(spark, tmp_path, views[1], [("a", 5, START, START), ("b", 5, START, START)])
    move(spark, store, START, START + HOUR)
    assert client.expiretime(redis_key("demo", {"user": "a"})) == int((START + HOUR + week).timestamp()), "the longer of two"
    assert client.expiretime(redis_key("demo", {"user": "b"})) == int((START + day).timestamp())


def test_a_view_without_ttl_keeps_the_key_that_it_shares(spark: SparkSession, tmp_path: Path, address: str, client: Any) -> None:
    """A key expires as a whole, and the other view's row is long past its own time."""
    other = View("other", {"user": "String"}, {"m": "Int64"}, timedelta(days=1))
    store = feast_store(tmp_path, address, [SIMPLE, other], OURS)
    write_table(spark, tmp_path, SIMPLE, simple_rows(("a", 1, 1, 0)))
    write_table(spark, tmp_path, other, [("a", 5, START, START)])
    move(spark, store, START, START + HOUR)
    assert clicks_of(client) == {"a": 1}
    assert client.ttl(redis_key("demo", {"user": "a"})) == -1


def test_after_a_failure_no_other_view_is_begun_and_the_clock_is_not_moved(
    spark: SparkSession, tmp_path: Path, address: str, client: Any
) -> None:
    import click

    views = [View(name, {"user": "String"}, {"n": "Int64"}) for name in ("clock", "first", "second", "third")]
    store = feast_store(tmp_path, address, views, OURS)
    for view in views:
        write_table(spark, tmp_path, view, [(None if view.name == "second" else "a", 1, START, START)])
    with pytest.raises(click.ClickException, match="view second: found rows without user"):
        move(spark, store, START, START + HOUR)
    assert client.hkeys(redis_key("demo", {"user": "a"})) == [b"_ts:first", hash_field("first", "n")]
    with quiet():
        done = [view.name for view in views if store.get_feature_view(view.name).materialization_intervals]
    assert done == ["first"]
    write_table(spark, tmp_path, views[2], [("a", 1, START, START)])
    move(spark, store, START, START + HOUR)
    fields = client.hkeys(redis_key("demo", {"user": "a"}))
    assert [name for name in fields if name.startswith(b"_ts")] == [b"_ts:first", b"_ts:second", b"_ts:third", b"_ts:clock"]


def test_a_redis_that_restarts_between_two_views_leaves_no_interval_done(
    spark: SparkSession, tmp_path: Path, address: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import click

    from feature_repo import engine

    views = [View(name, {"user": "String"}, {"n": "Int64"}) for name in ("first", "second")]
    store = feast_store(tmp_path, address, views, OURS)
    for view in views:
        write_table(spark, tmp_path, view, [("a", 1, START, START)])
    asked = 0

    def same_redis(plan: Any) -> None:
        nonlocal asked
        asked += 1
        real(plan if asked == 1 else replace(plan, run_id="of a process that is gone"))

    real = engine._require_same_redis
    monkeypatch.setattr(engine, "_require_same_redis", same_redis)
    with pytest.raises(click.ClickException, match="restarted meanwhile") as failed:
        move(spark, store, START, START + HOUR)
    assert failed.value.exit_code == 75
    with quiet():
        assert not any(store.get_feature_view(view.name).materialization_intervals for view in views)


def test_the_newest_row_is_that_of_the_key_as_redis_has_it(
    spark: SparkSession, tmp_path: Path, address: str, client: Any
) -> None:
    view = View("typed", {"account": "Int64"}, {"n": "Int64"})
    store = feast_store(tmp_path, address, [view], OURS)
    rows = [(f"{'0' * hour}{account}", hour, START + hour * HOUR, START) for account in range(1, 51) for hour in range(3)]
    spark.createDataFrame(rows, "account string, n bigint, at timestamp, created timestamp").write.format("delta").save(
        str(tmp_path / view.name)
    )
    move(spark, store, START, START + 3 * HOUR)
    assert client.dbsize() == 50
    assert {client.hget(key, hash_field("typed", "n")) for key in client.keys()} == {encode_int64(2)}


def test_a_feature_with_a_name_of_the_engine_s_own_is_refused(spark: SparkSession, tmp_path: Path, address: str) -> None:
    import click

    view = View("odd", {"user": "String"}, {"__place": "Int64"})
    write_table(spark, tmp_path, view, [("a", 7, START, START)])
    with pytest.raises(click.ClickException, match="view odd: found a column __place"):
        move(spark, feast_store(tmp_path, address, [view], OURS), START, START + HOUR)


def test_what_cannot_be_done_is_refused_before_anything_is_written(
    spark: SparkSession, tmp_path: Path, address: str, client: Any
) -> None:
    import click

    write_table(spark, tmp_path, SIMPLE, simple_rows(("a", 1, 1, 0)))
    store = feast_store(tmp_path, address, [SIMPLE], OURS)
    with lease(tmp_path / "leases", "materialize-demo-simple"), pytest.raises(click.ClickException, match="is at it") as busy:
        move(spark, store, START, START + HOUR)
    away = feast_store(tmp_path, f"127.0.0.1:{free_port()}", [SIMPLE], OURS)
    with pytest.raises(click.ClickException, match="does not answer") as gone:
        move(spark, away, START, START + HOUR)
    assert (busy.value.exit_code, gone.value.exit_code) == (75, 75)
    assert client.dbsize() == 0


def test_a_full_redis_and_rows_without_a_key_are_said_by_name_and_the_interval_stays_open(
    spark: SparkSession, tmp_path: Path, address: str, client: Any
) -> None:
    import click

    write_table(spark, tmp_path, SIMPLE, simple_rows(("a", 1, 1, 0)))
    store = feast_store(tmp_path, address, [SIMPLE], OURS)
    client.config_set("maxmemory", "1kb")  # less than an empty one has
    with pytest.raises(click.ClickException, match=r"full \(maxmemory\)") as full:
        move(spark, store, START, START + HOUR)
    assert full.value.exit_code == 75
    client.config_set("maxmemory", "0")
    write_table(spark, tmp_path, SIMPLE, [(None, 1, 1, START, START), ("a", 1, 1, START, START)])
    with pytest.raises(click.ClickException, match="view simple: found rows without user") as refused:
        move(spark, store, START, START + HOUR)
    assert refused.value.exit_code == 65
    with quiet():
        assert store.get_feature_view("simple").materialization_intervals == []


def test_files_from_outside_the_interval_are_not_read(spark: SparkSession, tmp_path: Path, address: str) -> None:
    for hour in range(3):
        write_table(spark, tmp_path, SIMPLE, simple_rows(("a", 1, hour, 0)), mode="append")
    store = feast_store(tmp_path, address, [SIMPLE], OURS)
    with quiet():
        from feature_repo.view_source import source_rows

        view = store.get_feature_view("simple")
    assert len(source_rows(spark, view, START, START + 2 * HOUR).inputFiles()) == 3
    assert len(source_rows(spark, view, START + HOUR, START + HOUR).inputFiles()) == 1
