"""What the Spark side and the torch side hand to each other, as JSON beside the data it describes.

`ShardSet` (etl writes, train reads), `TrainJob`/`TrainResult` (stages write and read, every rank reads),
`Index` (baselines write, scoring reads), `Run` (a row of the `runs` table). Change one only with all who rely on it.
"""

from recsys_spark.core.contracts.index import Index, NormalEquations
from recsys_spark.core.contracts.run import Run
from recsys_spark.core.contracts.shards import MANIFEST, Column, Csr, Feature, Numbers, Part, ShardFile, ShardSet, Table
from recsys_spark.core.contracts.training import Optim, Reader, Train, TrainJob, TrainResult, Workers
from recsys_spark.core.contracts.version import VERSION

__all__ = [
    "Column", "Csr", "Feature", "Index", "MANIFEST", "NormalEquations", "Numbers", "Optim", "Part", "Reader", "Run",
    "ShardFile", "ShardSet", "Table", "Train", "TrainJob", "TrainResult", "VERSION", "Workers",
]
