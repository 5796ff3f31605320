"""Ingests that run at the same time, on one machine and on two, beside a label job: no row is lost or doubled."""

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from pyspark.sql import functions as F

from conf.contract import Contract
from conf.settings import ROOT
from jobs.command import Context
from jobs.ingest import ingest
from jobs.label import label
from tests.increments import arguments, days_of_log
from tests.killing import submitted, table_contents
from tests.logs import as_yaml, changed, write_lines

PIECES = 3


def test_ingests_at_once_neither_lose_nor_double_a_row(
    make_context: Callable[[Contract], Context], demo_contract: Contract, tmp_path: Path
) -> None:
    at_once = make_context(changed(demo_contract, name="at_once", windows=["1h", "6h"], keys={"ad": ["ad_id"]}))
    shown, clicked = days_of_log(3, seed=7)
    folder = tmp_path / "pieces"

    def deliver(piece: int) -> None:
        for log, rows in (("impressions", shown), ("clicks", clicked)):
            of_piece = [row for n, row in enumerate(rows) if n * PIECES // len(rows) == piece]
            write_lines(folder / f"{log}-{piece}.json", of_piece)

    deliver(0)
    ingest(at_once, arguments(data=str(folder)))
    deliver(1)
    here = at_once.settings.state
    codes = _ingests(at_once, folder, [here, here], meanwhile=lambda: label(at_once, arguments()))
    assert sorted(codes) == [0, 75], "one wins, the other says who is at it"
    deliver(2)
    # a state folder each is what two machines have: no lease stands between them
    codes = _ingests(at_once, folder, [here, tmp_path / "elsewhere"], meanwhile=lambda: None)
    assert 0 in codes
    assert set(codes) <= {0, 75}
    for job in (ingest, label):
        job(at_once, arguments(data=str(folder)))
    read = at_once.warehouse.read
    assert sorted(row[0] for row in read("impressions").select("impression_id").collect()) == sorted(
        row["impression_id"] for row in shown
    )
    assert read("clicks").count() == len({(row["impression_id"], row["clicked_at"]) for row in clicked})
    audit = read("audit").agg(F.count("*"), F.sum("raw"), F.sum("accepted"), F.sum("duplicates")).collect()[0]
    assert tuple(audit) == (2 * PIECES, len(shown) + len(clicked), len(shown) + len(clicked), 0)
    labels = table_contents(at_once, {"label"})
    label(at_once, arguments(full=True))
    assert table_contents(at_once, {"label"}) == labels, "what label saw piece by piece, beside an ingest, is the whole"


def _ingests(context: Context, folder: Path, states: Iterable[Path], meanwhile: Callable[[], object]) -> list[int]:
    """Exit codes of one ingest for each state folder, all started together."""
    contract_file = context.settings.state / "at_once.yaml"
    contract_file.write_text(as_yaml(context.contract))
    settings = context.settings.model_copy(update={"contract": contract_file})
    env = submitted(settings) | {"CLICKODDS_WAREHOUSE": str(settings.warehouse)}
    command = ["spark-submit", str(ROOT / "jobs" / "ingest.py"), "--data", str(folder)]
    running = [
        subprocess.Popen(command, env={**env, "CLICKODDS_STATE": str(state)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for state in states
    ]
    meanwhile()
    said = [process.communicate(timeout=300)[0].decode() for process in running]
    assert all(process.returncode in (0, 75) for process in running), "\n".join(said)
    return [process.returncode for process in running]
