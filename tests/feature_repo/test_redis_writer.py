"""What a worker does with its batches, on a real Redis: one that is full, gone or started anew, connections that break, pace."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from threading import Thread
from typing import Any

import pyarrow as pa
import pytest

from conf.errors import ClickoddsError, DataError, UnavailableError
from conf.redis_address import RedisAddress, parse_address
from conf.redis_server import free_port
from conf.settings import ROOT
from feature_repo import redis_wire
from feature_repo.redis_layout import AT, REDIS_KEY, ViewLayout, decode_int64, hash_field, redis_key
from feature_repo.redis_wire import Wire
from feature_repo.redis_writer import TALLY, Plan, Tally, remove_keys, scan_keys, write_rows

LAYOUT = ViewLayout("demo", "v", (("user", "String"),), (("n", "Int64"),))
HOUR_US = 3_600_000_000
ROWS = 10_000  # several parts


@pytest.fixture
def plan(address: str) -> Plan:
    host, _, port = address.rpartition(":")
    at = RedisAddress(host, int(port))
    with Wire(at, patience_s=0) as wire:
        run_id = str(wire.run_id)
    return Plan(LAYOUT, at, run_id, patience_s=5, rows_per_s=0, end_us=10 * HOUR_US, ttl_s=0, remove_zeros=False)


def batch(numbers: dict[str, int | None], hour: int = 1) -> pa.RecordBatch:
    columns = {"user": list(numbers), "n": pa.array(numbers.values(), pa.int64()), AT: [hour * HOUR_US] * len(numbers)}
    return pa.record_batch(columns)


def many() -> pa.RecordBatch:
    return batch({f"u{n}": n for n in range(ROWS)})


def written(plan: Plan, *batches: pa.RecordBatch) -> Tally:
    return tally_of(write_rows(plan, iter(batches)))


def tally_of(said: Iterator[pa.RecordBatch]) -> Tally:
    (batch,) = said
    return Tally.read(batch.to_pylist()[0][TALLY])


def held(client: Any, user: str) -> int | None:
    return decode_int64(client.hget(redis_key("demo", {"user": user}), hash_field("v", "n")))


def test_a_worker_imports_nothing_that_costs_it_seconds(plan: Plan, client: Any) -> None:
    kinds = {"Int64": pa.int64(), "Int32": pa.int32(), "Bool": pa.bool_(), "Float64": pa.float64(), "Float32": pa.float32()}
    columns = {kind: pa.array([0, None, 1]).cast(arrow) for kind, arrow in kinds.items()} | {"String": pa.array(["", None, "a"])}
    layout = ViewLayout("demo", "v", (("user", "String"),), tuple((kind, kind) for kind in columns))
    rows = pa.record_batch({"user": ["a", "b", "c"], **columns, AT: [HOUR_US] * 3})
    script = """
import pickle, sys
from feature_repo.redis_writer import scan_keys, remove_keys, write_rows
plan, rows = pickle.load(sys.stdin.buffer)
done = [tally.column(0)[0].as_py() for tally in (*write_rows(plan, iter([rows])), *remove_keys(plan, scan_keys(plan, iter([]))))]
print(*done, sorted({"feast", "pandas", "pydantic", "pyspark"} & sys.modules.keys()), sep="\\n")
"""
    given = pickle.dumps((replace(plan, layout=layout, ttl_s=10**10, remove_zeros=True), rows))
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, input=given, capture_output=True, check=True).stdout
    *done, imported = said.decode().splitlines()
    assert [Tally.read(tally[2:-1].encode()) for tally in done] == [Tally(written=1), Tally(removed=1)]
    assert imported == "[]"


def test_a_cluster_is_refused() -> None:
    with pytest.raises(ClickoddsError, match="found 2 hosts, expected one"):
        Wire(parse_address("a:1,b:2"), patience_s=0)


def test_batches_are_written_and_counted(plan: Plan, client: Any) -> None:
    assert written(plan, many(), batch({"a": None, "b": -1})) == Tally(written=ROWS + 2)
    assert client.dbsize() == ROWS + 2
    assert [held(client, user) for user in ("u0", f"u{ROWS - 1}", "a", "b")] == [0, ROWS - 1, None, -1]
    assert written(plan) == Tally(), "a worker without rows"


def test_only_what_is_from_after_the_interval_stays(plan: Plan, client: Any) -> None:
    written(replace(plan, end_us=30 * HOUR_US), batch({"a": 1, "b": 1}, hour=20))
    written(plan, batch({"c": 1}, hour=9))
    assert written(plan, batch({"a": 2, "c": 2, "d": 2}, hour=5)) == Tally(written=2, newer=1)
    assert [held(client, user) for user in "abcd"] == [1, 1, 2, 2], "c's later row was taken back by its table"


def test_every_part_gets_its_own_answers(plan: Plan, client: Any) -> None:
    later: dict[str, int | None] = {f"u{n}": -1 for n in range(0, ROWS, 700)}
    written(replace(plan, end_us=30 * HOUR_US), batch(later, hour=20))
    assert written(plan, many()) == Tally(written=ROWS - len(later), newer=len(later))
    assert {user: held(client, user) for user in later} == later
    assert [held(client, f"u{n}") for n in range(1, ROWS, 700)] == list(range(1, ROWS, 700))


def test_zeros_are_removed_where_that_is_wanted(plan: Plan, client: Any) -> None:
    written(plan, batch({"a": 1, "b": 1, "c": 1}))
    assert written(plan, batch({"a": 0})).written == 1
    wanted = replace(plan, remove_zeros=True)
    assert written(wanted, batch({"a": 0, "b": None, "c": 2, "new": 0})) == Tally(written=1, removed=2)
    assert client.keys() == [redis_key("demo", {"user": "c"})]
    written(replace(plan, end_us=30 * HOUR_US), batch({"d": 1}, hour=20))
    assert written(wanted, batch({"d": 0})) == Tally(newer=1)
    assert held(client, "d") == 1


def test_connections_that_break_are_made_again(plan: Plan, client: Any) -> None:
    def break_them() -> None:
        deadline = time.monotonic() + 30
        for size in (1, ROWS // 2):
            while client.dbsize() < size and time.monotonic() < deadline:
                time.sleep(0.01)
            broken.append(client.client_kill_filter(_type="normal", skipme=True))

    broken: list[int] = []
    breaker = Thread(target=break_them)
    breaker.start()
    assert written(replace(plan, rows_per_s=20_000, patience_s=20), many()) == Tally(written=ROWS)
    breaker.join()
    assert len(broken) == 2
    assert all(broken)
    assert [held(client, f"u{n}") for n in range(0, ROWS, 50)] == list(range(0, ROWS, 50))


def test_a_redis_that_stalls_amid_a_command_gets_it_whole(plan: Plan, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_wire, "_TIMEOUT_S", 0.2)
    texts = {f"u{n}": f"{n} {'x' * 6_000}" for n in range(3 * 2_048)}
    rows = pa.record_batch({"user": list(texts), "text": list(texts.values()), AT: [HOUR_US] * len(texts)})
    wide = replace(plan, layout=ViewLayout("demo", "v", (("user", "String"),), (("text", "String"),)))

    process, connected = client.info("server")["process_id"], client.info("stats")["total_connections_received"]

    def stall() -> None:
        while not client.dbsize():
            time.sleep(0.001)
        os.kill(process, signal.SIGSTOP)
        time.sleep(0.3)  # a command is given up half-way, and answers to those before it still come
        os.kill(process, signal.SIGCONT)

    stalling = Thread(target=stall)
    stalling.start()
    assert written(wide, rows) == Tally(written=len(texts))
    stalling.join()
    found = {user: client.hget(redis_key("demo", {"user": user}), hash_field("v", "text"))[3:] for user in texts}
    assert found == {user: text.encode() for user, text in texts.items()}
    assert client.info("stats")["total_error_replies"] == 0
    assert client.info("stats")["total_connections_received"] > connected + 1, "the worker connected again"


def test_a_full_redis_is_said_by_name(plan: Plan, client: Any) -> None:
    client.config_set("maxmemory", "1kb")  # less than an empty one has
    said = written(plan, many())
    assert "is full (maxmemory): OOM" in said.error
    assert isinstance(said.as_error(), UnavailableError)


def test_a_redis_that_is_gone_or_another_is_an_error(plan: Plan, client: Any) -> None:
    begun = time.monotonic()
    gone = written(replace(plan, address=RedisAddress("127.0.0.1", free_port()), patience_s=60), many())
    assert "does not answer" in gone.error
    assert time.monotonic() - begun < 30, "a first connection is not waited for as long as one that broke"
    another = written(replace(plan, run_id="of a server before"), many())
    assert "was restarted meanwhile" in another.error
    assert (gone.exit_code, another.exit_code) == (75, 75)
    assert client.dbsize() == 0


def test_a_row_without_a_key_is_an_error_of_the_data(plan: Plan) -> None:
    rows = pa.record_batch({"user": pa.array([None], pa.string()), "n": [1], AT: [1]})
    assert isinstance(written(plan, rows).as_error(), DataError)


def test_rows_keep_to_the_pace(plan: Plan) -> None:
    begun = time.monotonic()
    written(replace(plan, rows_per_s=20_000), many())
    assert 0.49 < time.monotonic() - begun
    for _ in range(5):  # as small tasks do, one after the other
        written(replace(plan, rows_per_s=20_000), batch({f"u{n}": n for n in range(2_000)}))
    assert 0.99 < time.monotonic() - begun


def test_keys_are_found_and_removed_but_for_other_projects_and_later_rows(plan: Plan, client: Any) -> None:
    odd = replace(plan, layout=ViewLayout("de*mo", "v", (("user", "String"),), (("n", "Int64"),)))
    written(odd, batch({f"[{n}]": n for n in range(3)}))
    client.hset(redis_key("xde*mo", {"user": "a"}), mapping={"_ts:v": b"\x08\x01"})
    client.hset(redis_key("deXmo", {"user": "a"}), mapping={"_ts:v": b"\x08\x01"})
    written(replace(odd, end_us=30 * HOUR_US), batch({"later": 1}, hour=20))
    found = set(held_keys(odd))
    own = {redis_key("de*mo", {"user": user}) for user in ("[0]", "[1]", "[2]", "later")}
    assert found == own | {redis_key("xde*mo", {"user": "a"})}
    keys = pa.record_batch({REDIS_KEY: pa.array(sorted(found), pa.binary()), TALLY: pa.nulls(len(found), pa.binary())})
    assert tally_of(remove_keys(odd, iter([keys]))) == Tally(removed=3)
    assert client.dbsize() == 3


def held_keys(plan: Plan) -> list[bytes]:
    return [key for keys in scan_keys(plan, iter([])) for key in keys.column(REDIS_KEY).drop_null().to_pylist()]


def test_who_may_not_scan_is_told_so_and_nothing_is_removed(plan: Plan, client: Any) -> None:
    written(plan, many())
    client.execute_command("ACL", "SETUSER", "writer", "on", "nopass", "~*", "+@all", "-scan")
    barred = replace(plan, address=replace(plan.address, username="writer", password="any"))  # noqa: S106
    assert held_keys(barred) == []
    said = tally_of(remove_keys(barred, scan_keys(barred, iter([]))))
    assert isinstance(said.as_error(), DataError)
    assert "NOPERM" in said.error
    assert client.dbsize() == ROWS


def test_a_password_and_another_database(address: str, client: Any) -> None:
    host, _, port = address.rpartition(":")
    client.config_set("requirepass", "open sesame")
    with pytest.raises(DataError, match="NOAUTH"), Wire(RedisAddress(host, int(port)), patience_s=0):
        pass
    with Wire(RedisAddress(host, int(port), db=3, password="open sesame"), patience_s=0) as wire:  # noqa: S106
        wire.ask("SET", "a", "b")
        assert wire.ask("GET", "a") == b"b"
    client.execute_command("AUTH", "open sesame")
    assert client.dbsize() == 0, "it is in the other database"
    client.config_set("requirepass", "")
