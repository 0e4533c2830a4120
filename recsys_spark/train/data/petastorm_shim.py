"""Makes petastorm 0.12.1 work with current pyarrow.

petastorm needs two things that pyarrow has removed: the legacy filesystems (imported by name,
removed in 16) and the legacy Parquet dataset (removed in 15). `load()` supplies the names while
petastorm is imported, and replaces `ParquetDataset` and `ParquetDatasetPiece` in its modules by the
classes below, for a list of files whose footers our own `Files` reads, on this host or in an object
store. Nothing outside petastorm's modules changes, and other users' petastorm readers behave as
before. Not supported: partitioned folders, a schema, the process pool (its children import
petastorm by themselves).
"""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any, Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.train.data.arrow_engine import Files


class LocalFiles:
    """petastorm's file system; it only uses `open`."""

    open = staticmethod(pa.OSFile)


class Piece:
    """A Parquet file, or one row group of it."""

    partition_keys: Sequence[Any] = ()

    def __init__(
        self,
        path: str,
        open_file_func: Callable[..., Any] = pa.OSFile,
        row_group: int | None = None,
        partition_keys: Sequence[Any] = (),
        metadata: pq.FileMetaData = None,
    ) -> None:
        self.path, self.row_group, self._metadata = path, row_group, metadata

    def get_metadata(self) -> pq.FileMetaData:
        return self._metadata

    def read(self, columns: Iterable[str], partitions: None = None) -> pa.Table:
        with pq.ParquetFile(self.path) as file:
            return file.read_row_group(self.row_group, sorted(columns), use_threads=False)


class Dataset:
    """Whole files, in the given order, without petastorm's own metadata, so that petastorm takes
    schema and row groups from the footers.

    The footers are read here: petastorm would read them in a pool of threads that it leaves running
    when one fails.
    """

    fs, partitions, metadata, common_metadata = LocalFiles, None, None, None

    def __init__(
        self, paths: Sequence[str], filesystem: Files | None = None, **_legacy: Any
    ) -> None:
        self.paths, self.ours = paths, isinstance(filesystem, Files)
        files = filesystem if isinstance(filesystem, Files) else Files([])
        self.pieces = [Piece(path, metadata=files.footer(path)) for path in paths]


def load() -> ModuleType:
    """The module `petastorm.reader`, ready to use."""
    if "petastorm.reader" not in sys.modules:
        _import_with(_legacy_names())
        for name in ("reader", "arrow_reader_worker", "etl.dataset_metadata"):
            module = importlib.import_module(f"petastorm.{name}")
            module.pq = SimpleNamespace(ParquetDataset=Dataset, ParquetDatasetPiece=Piece)  # type: ignore[attr-defined]
        unischema = importlib.import_module("petastorm.unischema")
        schema = unischema.Unischema(
            "rows", [unischema.UnischemaField("row", np.int64, (), None, False)]
        )
        reader = sys.modules["petastorm.reader"]
        infer = reader.infer_or_load_unischema
        # Our engine returns tables as they are, and inferring a schema would fail where a file has
        # a column of strings, read or not.
        reader.infer_or_load_unischema = lambda dataset: schema if dataset.ours else infer(dataset)  # type: ignore[attr-defined]
    return sys.modules["petastorm.reader"]


def _legacy_names() -> dict[str, ModuleType]:
    filesystem, hdfs = ModuleType("pyarrow.filesystem"), ModuleType("pyarrow.hdfs")
    filesystem.LocalFileSystem = LocalFiles  # type: ignore[attr-defined]
    hdfs.HadoopFileSystem = type("HadoopFileSystem", (), {})  # type: ignore[attr-defined]
    return {module.__name__: module for module in (filesystem, hdfs)}


def _import_with(modules: dict[str, ModuleType]) -> None:
    added = {name: module for name, module in modules.items() if name not in sys.modules}
    io_error = not hasattr(pa.lib, "ArrowIOError")
    sys.modules.update(added)
    if io_error:
        pa.lib.ArrowIOError = OSError
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # distutils, pkg_resources
            importlib.import_module("petastorm.reader")
    finally:
        for name in added:
            del sys.modules[name]
        if io_error:
            del pa.lib.ArrowIOError
