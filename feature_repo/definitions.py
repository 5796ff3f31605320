"""The Feast objects of the contract in force (CLICKODDS_CONTRACT); `feast apply` reads this module.

One entity for each column that a key is made of, one view for each key, the view `clock`, one feature service. Stored are
integers and times only.
"""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.table_format import DeltaFormat
from feast.types import Int64, String

from conf.contract import AS_OF, CLOCK, SCOPE, Contract
from conf.contract_file import load_contract
from conf.settings import load_settings
from conf.tables import Tables

SERVICE = "ctr"


def entities(contract: Contract) -> dict[str, Entity]:
    """Column name -> entity, for every column of a key, and the one entity of what has none.

    Ids are canonical text, hashed where personal. Views without entities would do for the latter, but Feast 0.67's local engine
    cannot write them from a Spark source.
    """
    columns = dict.fromkeys(column for key in contract.keys.values() for column in key) | {SCOPE: None}
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
    counters = [view(key, tables.counters(key), columns or (SCOPE,), contract.counter_columns) for key, columns in counted]
    return [*counters, view(CLOCK, CLOCK, (SCOPE,), (AS_OF,))]


_settings = load_settings()
_contract = load_contract(_settings.contract)
_views = views(_contract, Tables(str(_settings.warehouse), _contract))
service = FeatureService(name=SERVICE, features=[*_views], tags={"contract": _contract.hash})
# `feast apply` takes the objects that this module names itself, not those in a list
globals().update({f"entity_{name}": entity for name, entity in entities(_contract).items()})
globals().update({f"view_{view.name}": view for view in _views})
