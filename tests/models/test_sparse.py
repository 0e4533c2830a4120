"""Scores that are sums of rows of a matrix: by hand, against dense numpy, in any blocks, and from
files that are broken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import sparse as scipy_sparse

from recsys_spark.batches.base import Ragged
from recsys_spark.core import artifacts
from recsys_spark.core.contracts import Index
from recsys_spark.core.errors import CheckpointError
from recsys_spark.scoring import sparse
from recsys_spark.scoring.scorer import load
from recsys_spark.scoring.sparse import Csr, SparseIndex
from recsys_spark.scoring.topk import top_k

POPULARITY = np.array([0, 3, 9, 1, 5], dtype=np.float32)
# item 1 -> 2 (0.5), 3 (0.25); item 2 -> 1 (1), 3 (0.5); items 3 and 4: nothing
SMALL = np.array(
    [[0, 0, 0, 0, 0], [0, 0, 0.5, 0.25, 0], [0, 1, 0, 0.5, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
    dtype=np.float32,
)


def folder_of(folder: Path, matrix: np.ndarray, dense: bool = False, **facts: Any) -> Path:
    made = scipy_sparse.csr_array(matrix)
    np.save(folder / "indptr.npy", made.indptr.astype(np.int64))
    np.save(folder / "indices.npy", made.indices.astype(np.int32))
    np.save(folder / "data.npy", made.data)
    np.save(folder / "matrix.npy", matrix)
    np.save(folder / "fallback.npy", POPULARITY[: matrix.shape[1]])
    files = (
        {"matrix": "matrix.npy"}
        if dense
        else {name: f"{name}.npy" for name in ("indptr", "indices", "data")}
    )
    artifacts.write_model(
        folder / "index.json",
        Index(
            **{
                "kind": "sparse",
                "model": "item_knn",
                "num_items": matrix.shape[1] - 1,
                "num_rows": len(matrix) - 1,
                "fallback_scores": "fallback.npy",
            }
            | files
            | facts
        ),
    )
    return folder


def batch_of(
    users: list[int], history: list[list[int] | None], rows: Any = None, weights: Any = None
) -> pa.RecordBatch:
    columns: dict[str, Any] = {
        "query_idx": pa.array(users, pa.int32()),
        "history": pa.array(history, pa.list_(pa.int32())),
    }
    if rows is not None:
        columns |= {
            "rows": pa.array(rows, pa.list_(pa.int32())),
            "weights": pa.array(weights, pa.list_(pa.float32())),
        }
    return pa.RecordBatch.from_pydict(columns)


@pytest.mark.parametrize("dense", [False, True])
def test_items_younger_than_the_catalogue_are_as_if_they_were_not_there(
    tmp_path: Path, dense: bool
) -> None:
    index = load(folder_of(tmp_path, SMALL, dense), k=2, seed=1)
    plain = index.rank(batch_of([1, 2, 3], [[1], [2, 1], []]))
    assert index.rank(batch_of([1, 2, 3], [[1, 9], [7, 2, 1], [5]])) == plain


@pytest.mark.parametrize("dense", [False, True])
def test_a_history_adds_its_rows(tmp_path: Path, dense: bool) -> None:
    """Without history, or with one that leads nowhere (3), a query is cold; an item counts once."""
    made = load(folder_of(tmp_path, SMALL, dense), k=2, seed=1)
    found = made.rank(batch_of([1, 2, 3, 4, 5, 6], [[1], [2, 1], [], None, [3], [1, 1]]))
    assert found.column("item_idx").to_pylist() == [[2, 3], [3, 4], [2, 4], [2, 4], [2, 4], [2, 3]]
    assert found.column("score").to_pylist() == [
        [0.5, 0.25],
        [0.75, 0.0],
        [9.0, 5.0],
        [9.0, 5.0],
        [9.0, 5.0],
        [0.5, 0.25],
    ]
    assert found.column("cold").to_pylist() == [False, False, True, True, True, False]
    offered = pa.array([[1, 2, 3], [4, 3, 1, 2], [3, 1]], pa.list_(pa.int32()))
    found = made.rank(batch_of([1, 2, 3], [[1], [2, 1], []]).append_column("candidates", offered))
    assert found.column("item_idx").to_pylist() == [[2, 3, 1], [1, 3, 2, 4], [1, 3]]
    assert found.column("score").to_pylist() == [
        [0.5, 0.25, 0.0],
        [1.0, 0.75, 0.5, 0.0],
        [3.0, 1.0],
    ]


@pytest.mark.parametrize("dense", [False, True])
def test_the_newest_items_of_a_history_count_most(tmp_path: Path, dense: bool) -> None:
    """Oldest first: of [2, 1] item 1 counts 1 and item 2 a half; with `last` 1 item 1 alone, and a
    history whose newest item leads nowhere is cold.
    """
    scorer = load(folder_of(tmp_path, SMALL, dense, decay=0.5), k=1, seed=1)
    ranked = scorer.rank(batch_of([1, 2, 3], [[2, 1], [1, 2], [1, 3, 4]]))
    assert ranked.column("item_idx").to_pylist() == [[3], [3], [2]]
    assert ranked.column("score").to_pylist() == [[0.25 + 0.25], [0.5 + 0.125], [0.125]]
    scorer = load(folder_of(tmp_path, SMALL, dense, decay=0.5, last=1), k=1, seed=1)
    ranked = scorer.rank(batch_of([1, 2, 3], [[2, 1], [1, 2], [1, 3]]))
    assert ranked.column("score").to_pylist() == [[0.25], [0.5], [9.0]]
    assert ranked.column("cold").to_pylist() == [False, False, True]
    offered = pa.array([[3, 2], [3, 1]], pa.list_(pa.int32()))
    batch = batch_of([1, 2], [[2, 1], [1, 2]]).append_column("candidates", offered)
    ranked = scorer.rank(batch)
    assert ranked.column("score").to_pylist() == [[0.5, 0.25], [1.0, 0.5]]


def test_a_query_brings_its_own_rows(tmp_path: Path) -> None:
    """Rows are users 1..3 here. The history is only left out; a query without rows, or with unknown
    ones, is cold.
    """
    ratings = np.array([[0, 0, 0], [0, 1, 1], [0, 0, 1], [0, 1, 0]], dtype=np.float32)
    made = load(folder_of(tmp_path, ratings, queries="queries", model="user_knn"), k=2, seed=1)
    rows, weights = [[3, 2], [1, 3], None, [9], [2]], [[0.5, 0.25], [0.75, 1], None, [1], [1]]
    found = made.rank(batch_of([1, 2, 7, 8, 3], [[], [1], [1], None, []], rows, weights))
    assert found.column("item_idx").to_pylist() == [[1, 2], [2], [2], [2, 1], [2, 1]]
    assert found.column("score").to_pylist() == [[0.5, 0.25], [0.75], [9.0], [9.0, 3.0], [1.0, 0.0]]
    assert found.column("cold").to_pylist() == [False, False, True, True, False]
    offered = pa.array([[2, 1], [1, 2], [1, 2]], pa.list_(pa.int32()))
    found = made.rank(
        batch_of([1, 2, 7], [[], [1], [1]], rows[:3], weights[:3]).append_column(
            "candidates", offered
        )
    )
    assert found.column("score").to_pylist() == [[0.5, 0.25], [1.75, 0.75], [9.0, 3.0]]


def drawn(
    rows: int, columns: int, each: int, draw: np.random.Generator, signed: bool = False
) -> np.ndarray:
    made = np.zeros((rows, columns), dtype=np.float32)
    for row in range(1, rows):
        # Quarters: sums are exact, and tie
        made[row, draw.integers(1, columns, each)] = draw.integers(-2 if signed else 1, 4, each) / 4
    return made


def test_a_history_stands_for_pairs_that_are_missing(tmp_path: Path) -> None:
    """Queries: own pairs; none; pairs that reach nothing (3); neither pairs nor history. In order,
    wherever the missing ones stand.
    """
    made = load(folder_of(tmp_path, SMALL, queries="queries", history=True), k=2, seed=1)
    batch = batch_of(
        [1, 2, 3, 4, 5],
        [[1], [1], [2], [3], [1]],
        rows=[[2], None, [3], None, [1, 2]],
        weights=[[2.0], None, [1.0], None, [1.0, 4.0]],
    )
    found = made.rank(batch)
    # 2 and 4 tie at 0 for the first
    assert found.column("item_idx").to_pylist() == [
        [3, 4],
        [2, 3],
        [1, 3],
        [2, 4],
        [3, 2],
    ]
    assert found.column("score").to_pylist() == [
        [1.0, 0.0],
        [0.5, 0.25],
        [1.0, 0.5],
        [9.0, 5.0],
        [2.25, 0.5],
    ]
    assert found.column("cold").to_pylist() == [False, False, False, True, False]


@pytest.mark.parametrize("way", ["ranked whole", "reached alone", "read by rows", "dense"])
@pytest.mark.parametrize("signed", [False, True])
def test_every_way_ranks_as_all_scores_do(
    monkeypatch: pytest.MonkeyPatch, way: str, signed: bool
) -> None:
    draw = np.random.default_rng(3)
    matrix = drawn(60, 300, 4, draw, signed)
    lists = [
        sorted(set(draw.integers(1, 60, int(draw.integers(1, 9))).tolist())) for _ in range(80)
    ]
    history = ragged_of([draw.integers(1, 300, 5).tolist() for _ in range(80)])
    own = ragged_of(lists)
    weights = draw.integers(1, 5, len(own.values)).astype(np.float32) / 2
    profile = np.zeros((80, 60), dtype=np.float32)
    profile[np.repeat(np.arange(80), own.offsets.diff()), own.values] = weights
    expected = top_k(torch.from_numpy(profile @ matrix), torch.arange(80), history, 9, 5)

    monkeypatch.setattr(sparse, "_CELLS", 700)
    monkeypatch.setattr(sparse, "_DENSE", 10 if way in ("reached alone", "read by rows") else 1000)
    monkeypatch.setattr(sparse, "_WHOLE", 0 if way == "read by rows" else 1000)
    made = scipy_sparse.csr_array(matrix)
    csr = Csr(made.indptr.astype(np.int64), made.indices.astype(np.int32), made.data)
    index = SparseIndex(matrix if way == "dense" else csr, 299, "m")
    found = index.top_k(index.pairs(own, weights), torch.arange(80), history, 9, 5)
    assert torch.equal(found.items, expected.items) and torch.equal(found.scores, expected.scores)
    assert torch.equal(index.scores(index.pairs(own, weights)), torch.from_numpy(profile @ matrix))


def ragged_of(lists: list[list[int]]) -> Ragged:
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])])
    return Ragged(
        torch.from_numpy(offsets),
        torch.tensor([value for one in lists for value in one], dtype=torch.int32),
    )


def test_a_score_depends_on_its_own_query_alone() -> None:
    """Bit for bit, whatever the order of a history and the queries beside it: the order of addition
    is that of the rows.
    """
    draw = np.random.default_rng(1)
    matrix = draw.random((50, 90), dtype=np.float32)
    matrix[0] = matrix[:, 0] = 0
    lists = [draw.permutation(49)[:20] + 1 for _ in range(12)]
    for index in (SparseIndex(matrix, 89, "m"), SparseIndex(Csr(*csr_of(matrix)), 89, "m")):
        together = index.scores(index.pairs(ragged_of([one.tolist() for one in lists])))
        for number, one in enumerate(lists):
            alone = index.scores(index.pairs(ragged_of([sorted(one.tolist())])))
            assert torch.equal(alone[0], together[number])


def csr_of(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    made = scipy_sparse.csr_array(matrix)
    return made.indptr.astype(np.int64), made.indices.astype(np.int32), made.data


def spoil(name: str, values: Any) -> Any:
    return lambda folder: np.save(folder / f"{name}.npy", values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            spoil("indptr", np.array([0, 0, 2, 4])),
            r"indptr\.npy: found int64 of shape \(4,\); expected int64 of shape \(6,\)\. To "
            r"mend: run",
        ),
        (
            spoil("indptr", np.array([0, 0, 3, 2, 4, 4])),
            r"indptr\.npy: found numbers that fall, or entries in row 0; expected 0, 0 and then",
        ),
        (
            spoil("indices", np.array([2, 3, 1], dtype=np.int32)),
            r"indices\.npy: found int32 of shape \(3,\); expected int32 of shape \(4,\)",
        ),
        (
            spoil("indices", np.array([2, 3, 1, 5], dtype=np.int32)),
            r"matrix of item_knn: found columns 1 to 5; expected 0 to 4\. To mend: run",
        ),
        (
            lambda folder: (folder / "data.npy").write_bytes(b"\x93NUMPY"),
            r"data\.npy: found .*; expected float32 of shape \(4,\)\. To mend",
        ),
        (lambda folder: (folder / "data.npy").unlink(), r"data\.npy: found .*No such file"),
    ],
)
def test_a_spoilt_matrix_is_named(tmp_path: Path, change: Any, message: str) -> None:
    folder = folder_of(tmp_path, SMALL)
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        load(folder, k=2, seed=0)
