"""A wrong contract is refused whole: every fault with its line, what was found, what was expected."""

from pathlib import Path

import pytest

from conf.contract import Contract
from conf.contract_file import load_contract
from conf.errors import ContractError
from conf.settings import CONF

DEMO = (CONF / "contracts" / "demo.yaml").read_text()


def faults_of(text: str, folder: Path) -> list[str]:
    path = folder / "log.yaml"
    path.write_text(text)
    with pytest.raises(ContractError) as refused:
        load_contract(path)
    return [fault.removeprefix(f"{path}:") for fault in refused.value.faults]


def line_of(needle: str) -> int:
    return next(number for number, line in enumerate(DEMO.splitlines(), 1) if needle in line)


@pytest.mark.parametrize("name", ["demo", "amexpert", "talkingdata"])
def test_the_contracts_we_ship_are_valid(name: str) -> None:
    assert load_contract(CONF / "contracts" / f"{name}.yaml").name == name


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("unit: ms}\n  known", "unt: ms}\n  known", "event_time: {column: served_at", 'unknown key; did you mean "unit"?'),
        ("user: [user_id]", "user: [usr_id]", "user: [user_id]", 'column "usr_id" is not in columns; did you mean "user_id"?'),
        ("windows: [1h, 1d, 7d]", "windows: [90m]", "windows:", "found 90m, expected whole hours"),
        ("windows: [1h, 1d, 7d]", "windows: [1w]", "windows:", "expected a whole number and a unit of s, m, h or d"),
        ("candidate: [ad_id]", "candidate: [device]", "candidate:", "is of the request, expected one of the candidate"),
        ("slices: [placement_id, device]", "sampling: {negatives: 0.5%}", "slices: [", "greater than or equal to 0.01"),
        ("placement: [placement_id]", "placement: [ad_id]", "placement: [", 'has the columns of "ad"'),
        ("  ad: [ad_id]", "  all: [ad_id]", "  ad: [", '"all" is counted anyway'),
        ("user: [user_id]", "user: [age]", "user: [user_id]", 'column "age" is a number, expected an id or a category'),
        ("of: request, type: category, mi", "of: reqest, type: category, mi", "device:", "input should be 'request' or"),
        ("  device: ", "  clicks_1h: ", "  device: ", 'names like "clicks_1h" are made for counters'),
        ("user: [user_id]", "user: [[user_id]]", "user: [user_id]", "input should be a valid string"),
        ("  id: impression_id", "  id: []", "  id: impression_id", "should have at least 1 item"),
        ("skew: 5m", "skew: 99999999999d", "label:", "expected a duration that a calendar holds"),
        ("skew: 5m", "skew: 25h", "label:", "expected at most 1d"),
        ("candidate: [ad_id]", "candidate: 5", "candidate:", "input should be a valid tuple"),
        ("  impression_id: impression_id", "  impression_id: [a, b]", "name: demo", "its id has 1"),
        ("  device: ", "  label: ", "  device: ", 'the tables use the name "label" themselves'),
        ("  device: ", "  USER_ID: ", "  device: ", 'differs from "user_id" only by case'),
        ("skew: 5m", "skew: 5m, window: 1h", "label:", 'unknown key; expected one of attribution_window'),
        ("refused: 3%", "refused: 300%", "limits:", "less than or equal to 1"),
        ("refused: 3%", "redelivered: 1h", "name: demo", "expected at least attribution_window + allowed_lateness, 2h"),
        ("impression_id: impression_id\n", "flag: clicked\n", "clicks:", "expected one source of clicks"),
    ],
)
def test_each_fault_names_its_line_and_what_was_expected(tmp_path: Path, old: str, new: str, line: str, said: str) -> None:
    assert old in DEMO
    faults = faults_of(DEMO.replace(old, new, 1), tmp_path)
    assert any(fault.startswith(f"{line_of(line)}:") and said in fault for fault in faults), faults


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    text = DEMO.replace("user: [user_id]", "user: [usr_id]").replace("skew: 5m", "skew: 5x").replace("slices:", "slicez:")
    assert len(faults_of(text, tmp_path)) == 3


def test_a_file_that_is_no_contract_is_refused(tmp_path: Path) -> None:
    assert "expected a mapping" in faults_of("- a\n- b\n", tmp_path)[0]
    assert "not YAML" in faults_of("a: [1\nb: {", tmp_path)[0]


def test_the_hash_follows_what_settles_the_tables_and_not_the_prose(demo_contract: Contract, tmp_path: Path) -> None:
    def hash_of(text: str) -> str:
        path = tmp_path / "changed.yaml"
        path.write_text(text)
        return load_contract(path).hash

    assert hash_of("# a comment\n" + DEMO.replace("small simulated", "tiny simulated")) == demo_contract.hash
    assert hash_of(DEMO.replace("windows: [1h, 1d, 7d]", "windows: [1h, 1d]")) != demo_contract.hash
    ad, campaign = "  ad: [ad_id]\n", "  campaign: [campaign_id]\n"
    assert hash_of(DEMO.replace(ad + campaign, campaign + ad)) != demo_contract.hash, "the order of the model's inputs"
