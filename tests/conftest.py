"""What the rooms' tests share: one Spark session, a contract of small windows, a context in a folder of its own."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.contract import Contract
from conf.contract_file import load_contract
from conf.environment import environment
from conf.personal import IdKey
from conf.settings import CONF, Settings, load_settings
from conf.tables import Tables
from jobs.command import Context
from jobs.warehouse import Warehouse

ID_KEY_HEX = b"a key that only tests know, 32 b.".hex()
ID_KEY = IdKey(bytes.fromhex(ID_KEY_HEX))
REAL_LOGS = Path(os.environ.get("CLICKODDS_REAL_LOGS", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """local[2], UTC, Delta: conf/spark-defaults.conf, set for plans of few rows."""
    settings = load_settings()
    for name, value in environment(settings).items():
        if not name.startswith("CLICKODDS_"):
            os.environ[name] = value
    # compiling and replanning take longer than a few rows do; jobs started as processes do both, as users' do
    small: dict[str, bool | float | int | str | None] = {
        "spark.driver.defaultJavaOptions": "-XX:+UseSerialGC",
        "spark.sql.shuffle.partitions": 2,
        "spark.databricks.delta.snapshotPartitions": 1,
        "spark.sql.adaptive.enabled": False,
        "spark.sql.codegen.wholeStage": False,
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    session = SparkSession.builder.appName("clickodds tests").config(map=small).getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="session")
def demo_contract() -> Contract:
    return load_contract(CONF / "contracts" / "demo.yaml")


@contextmanager
def another_size_of_machine(spark: SparkSession) -> Iterator[None]:
    """Another number of shuffle partitions for the block."""
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", 7)
    try:
        yield
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", str(before))


def context_in(folder: Path, spark: SparkSession, contract: Contract) -> Context:
    """A context whose tables, models and bundles lie in `folder`."""
    settings: Settings = load_settings().model_copy(
        update={"state": folder, "warehouse": str(folder / "warehouse"), "mlflow": f"sqlite:///{folder / 'mlflow.db'}"}
    )
    return Context(settings, contract, Warehouse(spark, Tables(str(settings.warehouse), contract), ID_KEY), ID_KEY)


@pytest.fixture
def make_context(spark: SparkSession, tmp_path: Path) -> Callable[[Contract], Context]:
    """Contexts in the test's own folder."""
    return partial(context_in, tmp_path, spark)


@pytest.fixture(scope="module")
def make_module_context(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Contract], Context]:
    """Contexts in a folder that a module's tests share."""
    return partial(context_in, tmp_path_factory.mktemp("module"), spark)


@pytest.fixture(scope="session")
def real_logs() -> Path:
    """The folder of the real logs; a test that needs them is skipped, saying so, where it is absent."""
    if not REAL_LOGS.is_dir():
        pytest.skip(f"real click logs are not at {REAL_LOGS} (CLICKODDS_REAL_LOGS)")
    return REAL_LOGS
