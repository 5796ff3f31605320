"""The Spark session. Its settings stand in conf/spark-defaults.conf, so that spark-submit, tests and Feast get the same."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from conf.settings import CONF


@contextmanager
def spark_session(name: str) -> Iterator[SparkSession]:
    """A session that ends with the block. Under spark-submit it is the one that spark-submit configured."""
    os.environ.setdefault("SPARK_CONF_DIR", str(CONF))
    spark = SparkSession.builder.appName(f"clickodds {name}").getOrCreate()
    try:
        yield spark
    finally:
        spark.stop()
