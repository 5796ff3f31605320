"""What every job's command line shares: arguments, the context they name, progress on stderr, exit codes."""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from conf.contract import Contract
from conf.contract_file import load_contract
from conf.errors import ClickoddsError
from conf.personal import IdKey, load_id_key
from conf.settings import Settings, load_settings
from conf.tables import Tables
from jobs.session import spark_session
from jobs.warehouse import Warehouse

log = logging.getLogger("clickodds")


@dataclass(frozen=True)
class Context:
    """What a job works on."""

    settings: Settings
    contract: Contract
    warehouse: Warehouse
    id_key: IdKey


Job = Callable[[Context, argparse.Namespace], Mapping[str, int]]


def job_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments of every job; `doc` is the job's own docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contract", metavar="FILE", help="the log contract (default: the setting `contract`)")
    parser.add_argument("--env", metavar="NAME", help="read conf/NAME.yaml over conf/base.yaml (default: CLICKODDS_ENV)")
    return parser


def run_job(name: str, job: Job, parser: argparse.ArgumentParser) -> int:
    """Parse, open a session, run, print one line of counts. Returns the exit code: 0, 2, 65 or 75."""
    args = parser.parse_args()
    say_on_stderr()
    try:
        settings, contract = installation(args)
        id_key = load_id_key(settings, create=True)
        with spark_session(name) as spark:
            warehouse = Warehouse(spark, Tables(str(settings.warehouse), contract), id_key)
            timed(name, job, Context(settings, contract, warehouse, id_key), args)
    except ClickoddsError as error:
        log.error("%s: refused\n%s", name, error)  # the text is for a person; a trace would hide it
        return error.exit_code
    return 0


def say_on_stderr() -> None:
    """What a job does, line by line, for the person who runs it."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    log.setLevel(logging.INFO)


def installation(args: argparse.Namespace) -> tuple[Settings, Contract]:
    """Settings and contract that the arguments name; the settings name that contract too. Raises ClickoddsError."""
    settings = load_settings(args.env)
    if not args.contract:
        return settings, load_contract(settings.contract)
    # for what is opened by the settings alone, such as Feast's repository
    return settings.model_copy(update={"contract": Path(args.contract).resolve()}), load_contract(args.contract)


def timed(name: str, job: Job, context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Run one job and log what it did: `label: impressions 1200, labels 1180 (3.1 s)`."""
    log.info("%s: started, contract %s", name, context.contract.name)
    start = time.monotonic()
    counts = job(context, args)
    said = ", ".join(f"{what} {count:,}" for what, count in counts.items())
    log.info("%s: %s (%.1f s)", name, said, time.monotonic() - start)
    return counts
