"""Contracts between the Spark side and the torch side, as JSON files next to the data they
describe.

`ShardSet` (etl writes, train reads), `TrainJob`/`TrainResult` (stages write and read, every rank
reads), `Index` (baselines write, scoring reads), `Run` (a row of the `runs` table). Change a
contract only together with all its users.
"""

from recsys_spark.core.contracts.index import Index, NormalEquations
from recsys_spark.core.contracts.run import Run
from recsys_spark.core.contracts.shards import (
    MANIFEST,
    Array,
    Column,
    Csr,
    Feature,
    Numbers,
    Part,
    ShardFile,
    ShardSet,
    Table,
)
from recsys_spark.core.contracts.training import (
    Optim,
    Reader,
    Seen,
    Train,
    TrainJob,
    TrainResult,
    Workers,
)
from recsys_spark.core.contracts.version import VERSION

__all__ = [
    "Array",
    "Column",
    "Csr",
    "Feature",
    "Index",
    "MANIFEST",
    "NormalEquations",
    "Numbers",
    "Optim",
    "Part",
    "Reader",
    "Run",
    "Seen",
    "ShardFile",
    "ShardSet",
    "Table",
    "Train",
    "TrainJob",
    "TrainResult",
    "VERSION",
    "Workers",
]
