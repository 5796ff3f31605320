"""Where each Delta table of a contract lies. One row of each is described in docs/tables.md."""

from dataclasses import dataclass

from conf.contract import CLOCK, Contract

MADE_OF_ANSWERS = {"predictions": "ingest_predictions"}  # by servers, whose log may not be there


@dataclass(frozen=True)
class Tables:
    """Table name -> path, below `<warehouse>/<contract name>/`."""

    warehouse: str
    contract: Contract

    def path(self, table: str) -> str:
        """Path of a table by its name; raises KeyError for one that nobody writes."""
        self.maker(table)
        return f"{self.warehouse.rstrip('/')}/{self.contract.name}/{table}"

    def maker(self, table: str) -> str:
        """The job that writes a table; raises KeyError where there is none."""
        return {**self.made_by, **MADE_OF_ANSWERS}[table]

    def counters(self, key: str) -> str:
        """Name of the table that holds a key's counters."""
        return f"counters_{key}"

    @property
    def made_by(self) -> dict[str, str]:
        """Table of the log -> the job that writes it."""
        ingested = dict.fromkeys(("impressions", "clicks", "quarantine", "audit", "holds"), "ingest")
        counted = {self.counters(key): "count" for key in self.contract.counted_keys}
        labelled = dict.fromkeys(("labels", "click_fates"), "label")
        return {**ingested, **labelled, **counted, CLOCK: "count", "training_set": "build_training_set"}
