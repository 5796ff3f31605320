"""The Feast objects of the contract in force (CLICKODDS_CONTRACT); `feast apply` reads this module.

One entity for each column that a key is made of, one view for each key, the view `clock`, one feature service. Stored are
integers and times only.
"""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.table_format import DeltaFormat
from feast.types import Int64, String

from conf.contract import CLOCK, Contract
from conf.contract_file import load_contract
from conf.settings import load_settings
from conf.tables import Tables

AS_OF = "as_of_us"
SERVICE = "ctr"


def entities(contract: Contract) -> dict[str, Entity]:
    """Column name -> entity, for every column of a key. Ids are canonical text, hashed where personal."""
    columns = dict.fromkeys(column for key in contract.keys.values() for column in key)
    return {name: Entity(name=name, join_keys=[name], value_type=ValueType.STRING) for name in columns}


def views(contract: Contract, tables: Tables) -> list[FeatureView]:
    """A view for each key, in the contract's order, then the clock. No ttl: a sparse row may be old and right."""
    by_column = entities(contract)

    def view(name: str, table: str, columns: tuple[str, ...], features: tuple[str, ...]) -> FeatureView:
        source = SparkSource(
            name=f"{table}_source",
            path=tables.path(table),
            table_format=DeltaFormat(),
            timestamp_field="published_at",
            created_timestamp_column="created",
        )
        schema = [Field(name=c, dtype=String) for c in columns] + [Field(name=f, dtype=Int64) for f in features]
        return FeatureView(
            name=name,
            entities=[by_column[c] for c in columns],
            schema=schema,
            source=source,
            ttl=timedelta(0),
            tags={"contract": contract.hash},
        )

    counted = contract.counted_keys.items()
    counters = [view(key, tables.counters(key), columns, contract.counter_columns) for key, columns in counted]
    return [*counters, view(CLOCK, CLOCK, (), (AS_OF,))]


_settings = load_settings()
_contract = load_contract(_settings.contract)
FEAST_ENTITIES = list(entities(_contract).values())
FEAST_VIEWS = views(_contract, Tables(str(_settings.warehouse), _contract))
FEAST_SERVICE = FeatureService(name=SERVICE, features=FEAST_VIEWS, tags={"contract": _contract.hash})
