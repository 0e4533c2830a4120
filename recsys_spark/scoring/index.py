"""Reads an index artefact (contracts.Index), which baselines write and scoring reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark.core import artifacts
from recsys_spark.core.contracts import Index
from recsys_spark.core.errors import CheckpointError
from recsys_spark.scoring.sparse import Csr

FILE = "index.json"
_AGAIN = "run the step that wrote it again"


def facts(folder: Path) -> Index:
    """The facts of `index.json`. Raises CheckpointError when it is missing or invalid."""
    return artifacts.read_model(folder / FILE, Index, error=CheckpointError, remedy=_AGAIN)


def array(folder: Path, name: str, shape: tuple[int, ...]) -> Tensor:
    """A float32 .npy file of this shape. Raises CheckpointError when it is missing, truncated or of
    another shape.
    """
    return torch.from_numpy(_loaded(folder / name, np.float32, shape))


def gram(folder: Path, index: Index) -> Tensor:
    """Gram matrix of the items, float64 (dim, dim), which `fold_in` needs."""
    return torch.from_numpy(_loaded(folder / index.gram, np.float64, (index.dim, index.dim)))


def matrix(folder: Path, index: Index) -> Csr | NDArray[np.float32]:
    """The matrix of kind `sparse`, memory-mapped. Raises CheckpointError when its files contradict
    each other.
    """
    rows = index.num_rows + 1
    if index.matrix:
        return _loaded(folder / index.matrix, np.float32, (rows, index.num_items + 1), mapped=True)
    return _csr(folder, index.indptr, index.indices, index.data, rows)


def sessions(folder: Path, index: Index) -> tuple[Csr, NDArray[np.int64]]:
    """(postings, latest) of kind `sessions`; raises as `matrix`."""
    names = index.postings_indptr, index.postings_indices, index.postings_data
    postings = _csr(folder, *names, index.num_items + 1)
    rows = index.num_rows + 1
    if len(postings.indices) and not 0 < postings.indices.min() <= postings.indices.max() < rows:
        raise CheckpointError(
            str(folder / index.postings_indices),
            found=f"sessions {postings.indices.min()} to {postings.indices.max()}",
            expected=f"1 to {index.num_rows}",
            remedy=_AGAIN,
        )
    return postings, _loaded(folder / index.latest, np.int64, (rows,), mapped=True)


def _csr(folder: Path, indptr_name: str, indices: str, data: str, rows: int) -> Csr:
    indptr = _loaded(folder / indptr_name, np.int64, (rows + 1,))
    entries = int(indptr[-1])
    if indptr[0] != 0 or indptr[1] != 0 or (np.diff(indptr) < 0).any():
        raise CheckpointError(
            str(folder / indptr_name),
            found="numbers that fall, or entries in row 0",
            expected="0, 0 and then rising",
            remedy=_AGAIN,
        )
    return Csr(
        indptr,
        _loaded(folder / indices, np.int32, (entries,), mapped=True),
        _loaded(folder / data, np.float32, (entries,), mapped=True),
    )


def trees(folder: Path, index: Index) -> Any:
    """A lightgbm.Booster. Raises CheckpointError when its file is missing or broken, or is of other
    fields.
    """
    try:
        import lightgbm
    except ImportError:
        raise CheckpointError(
            str(folder / index.trees),
            found="no package lightgbm",
            expected="the package that reads it",
            remedy="pip install 'recsys_spark[boost]' here and on the executors",
        ) from None
    path = folder / index.trees
    try:
        booster = lightgbm.Booster(model_str=path.read_text())
    except (OSError, UnicodeDecodeError, lightgbm.basic.LightGBMError) as problem:
        raise CheckpointError(
            str(path), found=str(problem)[:120], expected="trees of LightGBM", remedy=_AGAIN
        ) from None
    if booster.num_feature() != len(index.fields):
        raise CheckpointError(
            str(path),
            found=f"trees over {booster.num_feature()} fields",
            expected=f"{len(index.fields)}",
            remedy=_AGAIN,
        )
    return booster


def _loaded(
    path: Path, dtype: type[np.generic], shape: tuple[int, ...], mapped: bool = False
) -> NDArray[Any]:
    expected = f"{np.dtype(dtype)} of shape {shape}"
    try:
        # An empty array cannot be memory-mapped
        values = np.load(
            path, allow_pickle=False, mmap_mode="r" if mapped and 0 not in shape else None
        )
    except (OSError, ValueError, EOFError) as problem:
        raise CheckpointError(
            str(path), found=" ".join(str(problem).split())[:120], expected=expected, remedy=_AGAIN
        ) from None
    if values.shape != shape or values.dtype != dtype:
        raise CheckpointError(
            str(path),
            found=f"{values.dtype} of shape {values.shape}",
            expected=expected,
            remedy=_AGAIN,
        )
    return values
