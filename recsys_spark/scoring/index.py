"""Reads an index artefact (contracts.Index): what baselines write, and scoring needs of them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys_spark.core import artifacts
from recsys_spark.core.contracts import Index
from recsys_spark.core.errors import CheckpointError

FILE = "index.json"
_AGAIN = "run the step that wrote it again"


def facts(folder: Path) -> Index:
    """`index.json`. Raises CheckpointError when it is missing or not what it should be."""
    return artifacts.read_model(folder / FILE, Index, error=CheckpointError, remedy=_AGAIN)


def array(folder: Path, name: str, shape: tuple[int, ...]) -> Tensor:
    """A float32 .npy file of this shape. Raises CheckpointError: missing, cut short, of another shape."""
    path, expected = folder / name, f"float32 of shape {shape}"
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        raise CheckpointError(str(path), found=" ".join(str(problem).split())[:120], expected=expected, remedy=_AGAIN) from None
    if found.shape != shape or found.dtype != np.float32:
        raise CheckpointError(str(path), found=f"{found.dtype} of shape {found.shape}", expected=expected, remedy=_AGAIN)
    return torch.from_numpy(found)


def item_to_item(folder: Path, index: Index) -> Tensor:
    """Sparse CSR (I + 1, I + 1) float32: row j holds what item j in a history adds to the others' scores."""
    path, size = folder / index.weights, index.num_items + 1
    try:
        with np.load(path, allow_pickle=False) as saved:
            indptr, indices, data = saved["indptr"], saved["indices"], saved["data"]
    except (OSError, ValueError, EOFError, KeyError) as problem:
        raise CheckpointError(str(path), found=" ".join(str(problem).split())[:120], expected="a CSR in .npz", remedy=_AGAIN) from None
    if len(indptr) != size + 1:
        raise CheckpointError(str(path), found=f"{len(indptr) - 1} rows", expected=f"{size}", remedy=_AGAIN)
    rows, columns = torch.from_numpy(indptr.astype(np.int64)), torch.from_numpy(indices.astype(np.int64))
    with warnings.catch_warnings():  # that sparse tensors are young; products with a dense or sparse right side are what is used
        warnings.simplefilter("ignore")
        return torch.sparse_csr_tensor(rows, columns, torch.from_numpy(data.astype(np.float32)), size=(size, size), check_invariants=True)
