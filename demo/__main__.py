"""From a click log to an answered request, each step a process of its own; the last line of stdout is one JSON object.

Without --data the log is simulated, for a contract with a section `simulate`. Everything lies in a folder of its own, the ports
are free ones, and nothing is left running. Exit code: that of the step that failed.
"""

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from conf.contract import Contract
from conf.contract_file import load_contract
from conf.errors import EXIT_USAGE, ClickoddsError, UnavailableError
from conf.redis_server import redis_server
from conf.settings import ROOT, Settings, load_settings
from demo.children import Children, StepFailed
from demo.http import predict, served
from demo.runs import finish, new_run
from demo.settings import child_environment, run_settings, stop_politely
from demo.table import Table, counts_of, show

TEST_FIGURES = ("rows", "clicks", "logloss", "logloss_constant", "ne", "auc", "calibration_ratio")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contract", type=Path, metavar="FILE", help="the log contract (default: the setting `contract`)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the log (default: one is simulated)")
    parser.add_argument("--impressions", type=int, metavar="N", default=60_000, help="to simulate (default: %(default)s)")
    args = parser.parse_args()
    stop_politely()
    try:
        settings = load_settings()
        path = (args.contract or settings.contract).resolve()
        contract = load_contract(path)
        if args.data is None and not contract.simulate:
            print(f"{path}: has no section simulate, expected one, or a log: DATA=folder", file=sys.stderr)
            return EXIT_USAGE
        with new_run(settings.state / "demo", contract.name) as folder:
            result, request = _run(settings, contract, path, folder, args)
            finish(folder, {"contract": str(path), "request": _without_persons(contract, request)})
    except (ClickoddsError, StepFailed) as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    print(json.dumps(result))
    return 0


def _run(
    settings: Settings, contract: Contract, path: Path, folder: Path, args: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    print(f"contract {contract.name}, everything in {folder}\n")
    table = Table()
    with ExitStack() as stack:
        with table.step("redis"):  # first, so that every child gets its address
            address = stack.enter_context(redis_server(folder / "redis"))
        children = Children(ROOT, child_environment(run_settings(settings, folder, path, address)), folder / "logs")
        summary = _log_to_model(table, children, path, _log_folder(table, children, path, folder, args))
        with table.step("feast apply"):
            # the pipeline has just written the tables: asking Spark whether they are there takes another start of it
            children.run("feast-apply", ["feast", "-c", "feature_repo", "apply", "--skip-source-validation"])
        with table.step("feast materialize") as note:
            interval = summary["materialize"]
            children.run("feast-materialize", ["feast", "-c", "feature_repo", "materialize", interval["start"], interval["end"]])
            note["did"] = f"entities in Redis {_entities(address, children):,}"
        with table.step("serve"):
            _, host, port = stack.enter_context(served(children, 0))
        with table.step("predict") as note:
            answer = predict(host, port, summary["request"])
            note["did"] = f"predictions {len(answer['predictions'])}"
    table.total()
    test = {name: summary["test"].get(name) for name in TEST_FIGURES}
    show("on the test slice, by a model that ends before it", test)
    show("request", summary["request"])
    show("answer", answer)
    print()
    result = {
        "contract": contract.name, "rows": summary["rows"], "test": test, "seconds": table.seconds,
        "model_version": answer["model_version"], "answer": answer,
    }  # fmt: skip
    return result, summary["request"]


def _log_folder(table: Table, children: Children, path: Path, folder: Path, args: argparse.Namespace) -> Path:
    """The folder with the log: the one given, or a simulated one."""
    if args.data is not None:
        return Path(args.data).resolve()
    log = folder / "log"
    size = ["--impressions", str(args.impressions)]
    command = ["spark-submit", "jobs/simulate.py", "--contract", str(path), "--out", str(log), *size]
    with table.step("simulate") as note:
        said = children.run("simulate", command)
        note["did"] = next((did for line in reversed(said) if (did := counts_of(line, "simulate"))), "")
    return log


def _log_to_model(table: Table, children: Children, path: Path, data: Path) -> dict[str, Any]:
    """The pipeline's summary; its jobs' rows come while it runs."""
    command = ["spark-submit", "jobs/pipeline.py", "--contract", str(path), "--data", str(data)]
    with table.step("pipeline") as note:
        note["did"] = "(Spark's start, counting rows)"
        said = children.run("pipeline", command, on_line=lambda line: table.job_line(line, inside="pipeline"))
    return dict(json.loads(next(line for line in reversed(said) if line.startswith("{"))))


def _without_persons(contract: Contract, request: dict[str, Any]) -> dict[str, Any]:
    """The request with a stranger's ids in the place of personal ones: what may be kept."""

    def strange(values: dict[str, Any]) -> dict[str, Any]:
        return {name: "a-stranger" if name in contract.personal else value for name, value in values.items()}

    return {**request, "context": strange(request["context"]), "candidates": [strange(c) for c in request["candidates"]]}


def _entities(address: str, children: Children) -> int:
    """How many keys Redis holds. Raises UnavailableError for none: Feast also ends well when it found nothing to do."""
    host, _, port = address.rpartition(":")
    client = redis.Redis(host=host, port=int(port), socket_timeout=10)
    try:
        count = int(client.dbsize())  # type: ignore[arg-type]  # the client's types cover its asynchronous twin too
    finally:
        client.close()
    if not count:
        raise UnavailableError(f"feast materialize: nothing came to Redis; see {children.log('feast-materialize')}")
    return count


if __name__ == "__main__":
    sys.exit(main())
