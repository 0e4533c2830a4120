"""Folding in: queries with a history but without a vector, against the solver's own equations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys_spark.baselines.least_squares import normal_equations
from recsys_spark.batches.base import Ragged
from recsys_spark.core import artifacts
from recsys_spark.core.contracts import Index, NormalEquations
from recsys_spark.core.errors import CheckpointError, RecsysError
from recsys_spark.scoring import fold_in, worker
from recsys_spark.scoring.fold_in import FoldIn
from recsys_spark.scoring.scorer import load
from recsys_spark.scoring.worker import Settings, rank_batches

IALS = NormalEquations(unobserved=0.2, observed=1.0, pull=1.0, reg=0.05, exponent=0.7, offset=3.0)
SPARK = NormalEquations(unobserved=1.0, observed=4.0, pull=5.0, reg=0.1, exponent=1.0, offset=0.0)


def ragged(lists: list[list[int]]) -> Ragged:
    return Ragged(
        torch.tensor([0, *np.cumsum([len(one) for one in lists])]),
        torch.tensor(sum(lists, []), dtype=torch.int32),
    )


def world(items: int = 50, dim: int = 6) -> torch.Tensor:
    vectors = np.random.default_rng(2).normal(size=(items + 1, dim)).astype(np.float32)
    vectors[[0, 9]] = 0  # item 9 had no event
    return torch.from_numpy(vectors)


def folded(equations: NormalEquations, vectors: torch.Tensor) -> FoldIn:
    return FoldIn(
        equations, vectors, torch.from_numpy(normal_equations.gram_of(vectors.numpy())), "ials"
    )


@pytest.mark.parametrize("equations", [IALS, SPARK])
@pytest.mark.parametrize("cells", [1 << 22, 1])  # 1: a block a query
@pytest.mark.parametrize("none", [(0,), ()])  # without such a query all are solved in one block
def test_a_query_gets_what_a_half_step_gives(
    monkeypatch: pytest.MonkeyPatch, equations: NormalEquations, cells: int, none: tuple[int, ...]
) -> None:
    monkeypatch.setattr(fold_in, "CELLS", cells)
    vectors, draw = world(), np.random.default_rng(3)
    known = [item for item in range(1, 51) if item != 9]
    sizes = (3, *none, 1, 40, 7, 7, 2)
    lists = [sorted(draw.choice(known, size, replace=False).tolist()) for size in sizes]
    found = folded(equations, vectors).vectors(ragged(lists)).numpy()
    indptr, indices = np.cumsum([0, *map(len, lists)]), np.array(sum(lists, []), np.int32)
    solved = normal_equations.solve(
        indptr,
        indices,
        lambda rows: vectors.numpy()[rows],
        normal_equations.gram_of(vectors.numpy()),
        equations,
    )
    np.testing.assert_allclose(found, solved.vectors, rtol=1e-5, atol=1e-6)
    assert found.any(axis=1).tolist() == [size > 0 for size in sizes]


def test_two_items_by_hand() -> None:
    """Items (1, 0) and (1, 1), both seen; unobserved .5, ridge 1 * (2 + 1)^1: matrix 1.5 * [[2, 1],
    [1, 1]] + 3 * 1, right side (2, 1).
    """
    vectors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    equations = NormalEquations(
        unobserved=0.5, observed=1.0, pull=1.0, reg=1.0, exponent=1.0, offset=1.0
    )
    assert folded(equations, vectors).vectors(ragged([[1, 2]]))[0].tolist() == pytest.approx(
        [7.5 / 24.75, 3.0 / 24.75]
    )


def test_repeats_and_unknown_items_count_for_nothing() -> None:
    made = folded(IALS, world())
    plain, odd = made.vectors(ragged([[4, 7]])), made.vectors(ragged([[7, 4, 9, 7, 51, 4, 0]]))
    assert torch.equal(plain, odd)
    assert made.reaches(ragged([[9, 51], [], [4], [9, 4]])).tolist() == [False, False, True, True]


def test_equations_without_a_single_solution_are_named() -> None:
    free = NormalEquations(
        unobserved=1.0, observed=1.0, pull=1.0, reg=0.0, exponent=0.0, offset=0.0
    )
    vectors = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(
        RecsysError,
        match=r"ials, folding in query 1 of its batch: found equations without.*larger `reg`",
    ):
        folded(free, vectors).vectors(ragged([[], [1]]))


def index_folder(folder: Path, **facts: Any) -> Path:
    vectors = world().numpy()
    np.save(folder / "items.npy", vectors)
    np.save(folder / "gram.npy", normal_equations.gram_of(vectors))
    np.save(folder / "fallback.npy", np.arange(51, dtype=np.float32))
    artifacts.write_model(
        folder / "index.json",
        Index(
            **{
                "kind": "dot",
                "model": "ials",
                "num_items": 50,
                "dim": 6,
                "items": "items.npy",
                "queries": "queries",
                "fold_in": IALS,
                "gram": "gram.npy",
                "fallback_scores": "fallback.npy",
            }
            | facts
        ),
    )
    return folder


def test_the_scorer_folds_in_whoever_has_a_history_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_loaded", {})
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    vectors = world()
    lists, own = (
        [[4, 7], [4, 7], None, [9], [3]],
        [None, [1.0, 0, 0, 0, 0, 0], None, None, [0, 1.0, 0, 0, 0, 0]],
    )
    batch = pa.RecordBatch.from_pydict(
        {
            "query_idx": pa.array([1, 2, 3, 4, 5], pa.int32()),
            "history": pa.array(lists, pa.list_(pa.int32())),
            "vector": pa.array(own, pa.list_(pa.float32())),
        }
    )
    (found,) = rank_batches(Settings(str(index_folder(tmp_path)), k=3, seed=1), iter([batch]))
    assert found.column("cold").to_pylist() == [False, False, True, True, False]
    assert found.column("folded").to_pylist() == [True, False, False, False, False]
    folded_in = folded(IALS, vectors).vectors(ragged([[4, 7]]))[0]
    for row, vector, seen in (
        (0, folded_in, [4, 7]),
        (1, torch.eye(6)[0], [4, 7]),
        (4, torch.eye(6)[1], [3]),
    ):
        scores = vectors @ vector
        scores[[0, *seen]] = -torch.inf
        best = scores.topk(3)
        assert found.column("item_idx")[row].as_py() == best.indices.tolist()
        assert found.column("score")[row].as_py() == pytest.approx(best.values.tolist(), abs=1e-6)
    assert found.column("item_idx").to_pylist()[2:4] == [[50, 49, 48]] * 2

    monkeypatch.setattr(worker, "_loaded", {})
    (without,) = rank_batches(
        Settings(str(index_folder(tmp_path, fold_in=None, gram="")), k=3, seed=1), iter([batch])
    )
    assert without.column("cold").to_pylist() == [True, False, True, True, False] and not any(
        without.column("folded").to_pylist()
    )


def test_a_missing_gram_matrix_is_named(tmp_path: Path) -> None:
    (index_folder(tmp_path) / "gram.npy").unlink()
    with pytest.raises(
        CheckpointError,
        match=r"gram\.npy: found .*; expected float64 of shape \(6, 6\)\. To mend: run the step",
    ):
        load(tmp_path, k=3, seed=0)
