"""Candidates that are known by their text: the same answers as the plain route's, whatever the body looks like."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conf.contract import Contract
from feature_repo.redis_layout import encode_int64
from serving.app import PREDICT
from serving.known_candidates import KnownCandidates, Store
from tests.serving.both_routes import (
    HOT,
    NOW,
    PLAIN,
    Start,
    Started,
    every_entity,
    exact_bundle,
    fill,
    random_request,
    without_crosses,
)

_NAMES = [f"a{n}" for n in range(40)]


def _body(names: list[str], form: Callable[[Any], str] = json.dumps) -> bytes:
    return f'{{"request_id":"r","candidates":{form([{"ad_id": name} for name in names])},"context":{{}}}}'.encode()


@pytest.fixture(scope="module")
def known() -> KnownCandidates:
    """Forty candidates; the row of a7 is 7."""
    made = KnownCandidates(parts=1, most=50)
    answers = [json.dumps({"ad_id": name, "ctr": 0.0}).encode().removesuffix(b"0.0}") for name in _NAMES]
    made.learn(_body(_NAMES), [(name,) for name in _NAMES], answers, np.arange(40)[None], [False] * 40)
    return made


def test_it_finds_what_it_has_learned_in_any_order(known: KnownCandidates) -> None:
    draw = np.random.default_rng(1)
    for _ in range(200):
        chosen = draw.permutation(40)[: draw.integers(1, 41)].tolist()
        found = known.find(_body([_NAMES[n] for n in chosen]))
        assert found is not None
        assert found.rows.tolist() == [chosen]
        numbers = draw.random(len(chosen)).tolist()
        said = json.loads(b"[" + found.predictions(json.dumps(numbers, separators=(",", ":")).encode()) + b"]")
        assert said == [{"ad_id": _NAMES[n], "ctr": number} for n, number in zip(chosen, numbers, strict=True)]
        assert b"ad_id" not in found.rest


@pytest.mark.parametrize(
    "candidates",
    [
        '[{"ad_id": "a1"}, {"ad_id": "b1"}]', '[{"ad_id": "a1"}, {"ad_id": "a1"}]', "[]", "[ ]", '[{"ad_id": "a1"},]',
        '[{"ad_id": "a1"} {"ad_id": "a2"}]', '[{"ad_id": "a1"', '[{"ad_id": "a1"}', '[{"ad_id": "\\u0061\\u0031"}]', "[1]",
        '["a1"]', '[{"ad_id":"a1"}]', '[[{"ad_id": "a1"}]]', '[{"ad_id": "a1", "ad_id": "a1"}]', '[{"ad_id": "a1"}, null]',
        "{}", "null",
        json.dumps([{"ad_id": name} for name in _NAMES] * 2),
    ],
)  # fmt: skip
def test_what_is_not_known_to_the_letter_is_not_found(known: KnownCandidates, candidates: str) -> None:
    assert known.find(f'{{"candidates": {candidates}, "context": {{}}}}'.encode()) is None


def test_what_is_known_is_not_learned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, added, add = KnownCandidates(parts=1, most=50), list[bytes](), Store.add

    def watched(store: Store, text: bytes, *rest: Any) -> None:
        added.append(text)
        add(store, text, *rest)

    monkeypatch.setattr(Store, "add", watched)
    for names in (_NAMES[:3], _NAMES[1:4]):
        made.learn(_body(names), [(name,) for name in names], [b"{"] * 3, np.arange(3)[None], [False] * 3)
    assert [json.loads(text)["ad_id"] for text in added] == _NAMES[:4]


def test_those_that_find_no_room_are_not_known_and_new_ones_get_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.known_candidates._ROOM", 30)
    small = KnownCandidates(parts=1, most=50)

    def learn(names: list[str], new: bool) -> None:
        count = len(names)
        small.learn(_body(names), [(n,) for n in names], [b"{"] * count, np.arange(count)[None], [new] * count)

    def known(names: list[str]) -> int:
        return sum(small.find(_body([name])) is not None for name in names)

    thought_of = [f"thought of {n}" for n in range(25)]
    learn(thought_of, True)
    assert known(thought_of) == 15
    learn(_NAMES, False)
    assert (known(_NAMES), known(_NAMES[:15]), known(thought_of)) == (15, 15, 15)
    small.forget()
    learn(_NAMES, False)
    assert known(_NAMES) == 30


def test_two_texts_of_one_candidate_are_one(known: KnownCandidates) -> None:
    """As the plain route has it: what names a candidate stands once in a request."""
    body, answer = b'{"candidates": [{ "ad_id": "a1"}]}', b'{"ad_id":"a1","ctr":'
    known.learn(body, [("a1",)], [answer], np.ones((1, 1), dtype=np.intp), [False])
    assert known.find(b'{"candidates": [{ "ad_id": "a1"}]}') is not None
    assert known.find(b'{"candidates": [{ "ad_id": "a1"}, {"ad_id": "a1"}]}') is None


@pytest.fixture
def started(demo: Contract, redis_address: str, start: Start) -> Started:
    contract = without_crosses(demo)
    fill(redis_address, contract, every_entity(contract, np.random.default_rng(5)))
    return start(contract, exact_bundle(contract), redis_address)


def test_known_candidates_are_answered_as_the_plain_route_does(started: Started, demo: Contract) -> None:
    draw, by_text = np.random.default_rng(6), 0
    for _ in range(150):
        request = random_request(demo, draw)
        hot, plain = (started.client.post(PREDICT, json=request, headers=headers) for headers in (HOT, PLAIN))
        assert hot.status_code == plain.status_code == 200
        assert hot.json() == plain.json()
        by_text += started.served[-1].asked.plan.known is not None
    assert by_text > 50


def test_a_changed_body_is_refused_or_answered_as_by_the_plain_route(started: Started, demo: Contract) -> None:
    draw = np.random.default_rng(7)
    whole = json.dumps(random_request(demo, draw), ensure_ascii=False)
    for _ in range(3):
        started.client.post(PREDICT, content=whole.encode(), headers=HOT)
    assert started.served[-1].asked.plan.known is not None
    words = '"candidates_"', '"c\\u0061ndidates"', '"context"', '"request_id"'
    bodies = [whole.replace('"candidates"', word) for word in words]
    more = ', "candidates": []}', ', "candidates": 7}', ', "c\\u0061ndidates": []}', ', "x": 1}'
    bodies += [whole[:-1] + end for end in more]
    bodies += ['{"candidates": [], ' + whole[1:], '{"candidates": [{}], ' + whole[1:], whole + whole]
    spots = draw.integers(len(whole), size=300).tolist()
    bodies += [whole[:at] + str(draw.choice(list('{}[]",:\\ a1'))) + whole[at + int(draw.integers(2)) :] for at in spots]
    statuses = set()
    for body in bodies:
        hot, plain = (started.client.post(PREDICT, content=body.encode(), headers=headers) for headers in (HOT, PLAIN))
        statuses.add(hot.status_code)
        assert hot.status_code == plain.status_code, body
        assert hot.json() == plain.json(), body
    assert statuses == {200, 400, 422}


def test_a_new_ad_s_counters_replace_what_was_known_of_it(started: Started, demo: Contract, redis_address: str) -> None:
    context = {name: f"{name}-1" for name, column in demo.columns_of("request").items() if column.type != "number"}
    candidate = {"ad_id": "an ad to come", "campaign_id": "campaign_id-1"}
    request = {"request_id": "r", "time": "2026-03-01T10:30:00Z", "context": context, "candidates": [candidate]}

    def answer(headers: dict[str, str]) -> Any:
        return started.client.post(PREDICT, json=request, headers=headers).json()["predictions"]

    for _ in range(3):
        before = answer(HOT)
    assert started.served[-1].asked.plan.known is not None
    counted = [name for name in demo.counter_columns if not name.endswith("_us")]
    row: dict[str, int | None] = {name: 900 if name.startswith("impressions") else 400 for name in counted}
    fill(redis_address, demo, {("ad", ("an ad to come",)): row})
    for _ in range(500):
        if (now := answer(HOT)) != before:
            break
    assert now == answer(PLAIN) != before


def test_a_plan_that_was_overtaken_teaches_nothing(started: Started, demo: Contract) -> None:
    """Its candidate was new when it was made, and has a row by the time of the answer."""
    engine, table = started.in_force.state.engine, started.fast.residents.keys["ad"]
    assert engine is not None
    candidate = {"ad_id": "an ad to come", "campaign_id": "campaign_id-1"}
    context = {"user_id": "user_id-1", "placement_id": "placement_id-1", "device": "device-1"}
    request = {"request_id": "r", "time": NOW, "context": context, "candidates": [candidate]}
    assert started.client.post(PREDICT, json=request, headers=HOT).status_code == 200
    body = json.dumps(request).encode()
    hot = started.fast.route(started.client.app, PREDICT, lambda: engine, lambda _: None)

    async def overtaken(by: list[bytes]) -> bool:
        prepared = hot.prepared(engine, body)
        assert not prepared.plan.residents[0].asked
        replies = await hot.reader.ask(prepared.plan.commands, 10)
        table.put([table.reader.redis_key(["an ad to come"])], [by])
        hot.finished(prepared, replies)
        return engine.known is not None and engine.known.find(body) is not None

    portal, counters = started.client.portal, len(table.reader.new)
    assert portal is not None
    assert not portal.call(overtaken, [encode_int64(9)] * counters)
    assert portal.call(overtaken, [encode_int64(10)] * counters), "a row that stays the same one may be known"
