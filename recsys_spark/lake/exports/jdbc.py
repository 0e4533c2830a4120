"""Lists in a table of a database, over JDBC, as Spark's executors write it.

The rows go to a table beside it first, then one transaction replaces those of the name: a reader
sees the old lists or the new ones, and a database that fails half-way still has the old ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError, DataError

_NO_DRIVER = "No suitable driver"


def write(
    lists: DataFrame, *, url: str, table: str, name: str, suffix: str, properties: Mapping[str, str]
) -> None:
    """lists: rows of `current_recommendations` of one name. suffix: ends the name of the table
    beside, the same when a killed run is run again. properties: of the driver, such as user and
    password.

    Makes `table` where it is missing, with columns as Spark maps them; a table that is there keeps
    its types, keys and indexes and may have more columns. Raises DataError, the table as it was,
    when the database does; ConfigError where there is no driver for the url.
    """
    beside, columns = f"{table}_{suffix}", [*lists.columns]
    try:
        _to_table(lists.where(F.lit(False)), url, table, "append", properties)
        _to_table(lists, url, beside, "overwrite", properties)
        _switch(lists.sparkSession, url, table, beside, columns, name, properties)
    except (Py4JJavaError, PySparkException) as problem:
        raise _spelled_out(problem, url, table) from None


def _to_table(
    rows: DataFrame, url: str, table: str, mode: str, properties: Mapping[str, str]
) -> None:
    rows.write.mode(mode).jdbc(url, table, properties=dict(properties))


def _switch(
    spark: SparkSession,
    url: str,
    table: str,
    beside: str,
    columns: Sequence[str],
    name: str,
    properties: Mapping[str, str],
) -> None:
    """Replace the rows of the name, on one connection of Spark's own driver."""
    dialect, connection = _connect(spark, {"url": url, "dbtable": table, **properties})
    # `rank` is a word of some databases
    named = {column: dialect.quoteIdentifier(column) for column in columns}
    try:
        connection.setAutoCommit(False)
        delete = connection.prepareStatement(f"DELETE FROM {table} WHERE {named[c.NAME]} = ?")
        delete.setString(1, name)
        delete.executeUpdate()
        listed = ", ".join(named.values())
        insert = connection.createStatement()
        insert.executeUpdate(f"INSERT INTO {table} ({listed}) SELECT {listed} FROM {beside}")
        connection.commit()
        connection.createStatement().executeUpdate(f"DROP TABLE {beside}")
        connection.commit()
    finally:
        connection.close()


def _connect(spark: SparkSession, options: Mapping[str, str]) -> tuple[Any, Any]:
    """Spark's dialect of the database, and a connection by the driver that Spark writes with."""
    jvm: Any = spark.sparkContext._jvm
    jdbc = jvm.org.apache.spark.sql.execution.datasources.jdbc
    settings = jdbc.JdbcOptionsInWrite(jvm.PythonUtils.toScalaMap(dict(options)))
    dialect = jvm.org.apache.spark.sql.jdbc.JdbcDialects.get(options["url"])
    return dialect, dialect.createConnectionFactory(settings).apply(-1)  # -1: of no partition


def _spelled_out(problem: Exception, url: str, table: str) -> Exception:
    """The database's own words, in a line; a url may hold a password behind its `?`."""
    where = f"{url.split('?')[0]}, table {table}"
    if _NO_DRIVER in str(problem):
        return ConfigError(
            where,
            found="no JDBC driver for it",
            expected="one that Spark can load",
            remedy="add it under env.spark.conf, such as spark.jars.packages: "
            "org.postgresql:postgresql:42.7.8, or name its class by `driver`",
        )
    causes = re.findall(r"^(?:Caused by: |: )?[\w.$]*(?:SQL|PSQL)\w*: (.+)$", str(problem), re.M)
    said = causes[-1] if causes else str(problem).strip().splitlines()[0]
    return DataError(
        where,
        found=f"{said[:160]}; its lists are as they were",
        expected="a database that takes the lists",
        remedy="look at the database, then run this again",
    )
