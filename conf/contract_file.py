"""Reads a contract file; reports every fault at once, each with its line, what was found and what was expected."""

import difflib
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from conf import contract as model
from conf.contract import HOUR, RESERVED, Contract
from conf.durations import parse_duration
from conf.errors import ContractError

Location = tuple[int | str, ...]
_COUNTER = re.compile(r"(impressions|clicks)_\d+[hd]")


def load_contract(path: str | Path) -> Contract:
    """The contract in a YAML file. Raises ContractError with all faults; reads no data."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ContractError([f"{path}: cannot be read ({error.strerror}), expected a contract file"]) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ContractError([f"{path}:{line}: not YAML: {error.problem}"]) from None
    if not isinstance(raw, dict):
        raise ContractError([f"{path}:1: found {type(raw).__name__}, expected a mapping with name, impressions, ..."])

    faults: list[tuple[Location, str]] = []
    contract = None
    try:
        contract = Contract.model_validate(raw)
    except ValidationError as error:
        faults += [(_location(e["loc"]), _explain(dict(e))) for e in error.errors()]
    faults += _cross_checks(raw)
    if faults or contract is None:
        lines = sorted((_line(node, loc), ".".join(map(str, loc)) or "contract", said) for loc, said in set(faults))
        raise ContractError([f"{path}:{line}: {where}: {said}" for line, where, said in lines])
    return contract


def _location(loc: Location) -> Location:
    """Pydantic's path without the marks it adds for mapping keys and union members."""
    marks = {"[key]", "str", "bool", "int", "function-before[parse_duration(), timedelta]"}
    return tuple(part for part in loc if part not in marks and not str(part).startswith(("tuple[", "function-")))


def _explain(error: dict[str, Any]) -> str:
    kind, found = error["type"], error.get("input")
    if kind == "missing":
        return "missing, expected a value"
    if kind == "extra_forbidden":
        section = _section(error["loc"][:-1])
        known = [f.alias or name for name, f in section.model_fields.items()] if section else []
        return f"unknown key{_did_you_mean(str(error['loc'][-1]), known)}; expected one of {', '.join(known)}"
    if kind == "value_error":
        said = str(error["ctx"]["error"])
        return said if isinstance(found, dict) or said.startswith("found") else f"found {found!r}, {said}"
    if kind == "string_pattern_mismatch":
        return f"found {found!r}, expected a plain name that matches {error['ctx']['pattern']} (rename with from:)"
    return f"found {found!r}, {error['msg'][0].lower()}{error['msg'][1:]}"


def _section(loc: Location) -> type[BaseModel] | None:
    by_place: dict[str, type[BaseModel]] = {
        "": Contract, "impressions": model.Impressions, "clicks": model.Clicks, "label": model.Label, "limits": model.Limits,
        "columns": model.Column, "simulate": model.SimulatedColumn, "sampling": model.Sampling,
        "event_time": model.EventTime, "known_time": model.KnownTime,
    }  # fmt: skip
    last = str(loc[-1]) if loc else ""
    return by_place.get(last) or by_place.get(str(loc[0]))


def _did_you_mean(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


def _cross_checks(raw: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    """Faults between sections; looks only at parts that have the right shape."""
    columns = raw["columns"] if isinstance(raw.get("columns"), dict) else {}
    names = [str(name) for name in columns]

    for name in names:
        if "__" in name or _COUNTER.fullmatch(name.lower()):
            yield ("columns", name), f'names like "{name}" are made for counters, expected another (with from: {name})'
        if name.lower() in RESERVED:
            yield ("columns", name), f'the tables use the name "{name}" themselves, expected another (with from: {name})'
    folded: dict[str, str] = {}
    for name in names:
        if (twin := folded.setdefault(name.lower(), name)) != name:
            yield ("columns", name), f'differs from "{twin}" only by case, expected another name (rename with from:)'

    def referred(section: str, listed: Any, where: Location) -> Iterator[tuple[Location, str]]:
        for index, column in enumerate(listed if isinstance(listed, list) else []):
            if not isinstance(column, str) or column not in columns:
                hint = _did_you_mean(str(column), names)
                yield (*where, index), f'column "{column}" is not in columns{hint}'
            elif section in ("keys", "slices") and isinstance(columns[column], dict) and columns[column].get("type") == "number":
                yield (*where, index), f'column "{column}" is a number, expected an id or a category'

    keys = raw["keys"] if isinstance(raw.get("keys"), dict) else {}
    seen: dict[frozenset[str], str] = {}
    for key, listed in keys.items():
        if str(key) in RESERVED:
            yield ("keys", key), f'"{key}" is counted anyway, expected another name'
        yield from referred("keys", listed, ("keys", key))
        if isinstance(listed, list):
            if not listed:
                yield ("keys", key), 'found no column, expected at least one (the empty key is always there, as "all")'
            if len(set(map(str, listed))) < len(listed):
                yield ("keys", key), "names a column twice"
            if (twin := seen.setdefault(frozenset(map(str, listed)), str(key))) != str(key):
                yield ("keys", key), f'has the columns of "{twin}", expected each set of columns once'
    yield from referred("candidate", raw.get("candidate"), ("candidate",))
    yield from referred("slices", raw.get("slices"), ("slices",))
    for index, column in enumerate(raw["candidate"] if isinstance(raw.get("candidate"), list) else []):
        spec = columns.get(str(column))
        if isinstance(spec, dict) and spec.get("of") != "candidate":
            yield ("candidate", index), f'column "{column}" is of the request, expected one of the candidate'
        if isinstance(spec, dict) and spec.get("missing") == "allowed":
            yield ("candidate", index), f'column "{column}" may be missing, expected one that never is: it names the candidate'
    for column in raw["simulate"] if isinstance(raw.get("simulate"), dict) else {}:
        if column not in columns:
            yield ("simulate", column), f'column "{column}" is not in columns{_did_you_mean(str(column), names)}'

    yield from _whole_hours(raw)


def _whole_hours(raw: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    windows = raw["windows"] if isinstance(raw.get("windows"), list) else []
    if len(set(map(str, windows))) < len(windows):
        yield ("windows",), "names a window twice"
    for index, window in enumerate(windows):
        try:
            duration = parse_duration(window)
        except ValueError:
            continue  # pydantic has said so
        if duration % HOUR or duration == timedelta(0):
            yield ("windows", index), f"found {window}, expected whole hours: counters are hourly"


def _line(node: yaml.Node | None, loc: Location) -> int:
    """Line (from 1) of the deepest node on the path."""
    line = node.start_mark.line + 1 if node else 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                return line
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line
