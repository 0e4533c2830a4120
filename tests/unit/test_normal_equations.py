"""The solver's arithmetic without Spark: rows against dense equations, blocks of rows, vectors in
files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys_spark.baselines.least_squares import csr_blocks, factors, normal_equations
from recsys_spark.baselines.least_squares.factors import Factors
from recsys_spark.core.contracts import NormalEquations

IALS = NormalEquations(unobserved=0.2, observed=1.0, pull=1.0, reg=0.05, exponent=0.7, offset=3.0)
SPARK = NormalEquations(unobserved=1.0, observed=4.0, pull=5.0, reg=0.1, exponent=1.0, offset=0.0)


def problem(
    rows: int = 9, others: int = 30, dim: int = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(indptr, indices, vectors of the others, the same events as a dense 0/1 matrix); row 0 is
    empty, another one too, one is full.
    """
    rng = np.random.default_rng(0)
    dense = rng.random((rows, others)) < 0.3
    dense[[0, 4]], dense[:, 0] = False, False
    dense[6, 1:] = True
    vectors = rng.normal(size=(others, dim)).astype(np.float32)
    vectors[0] = 0
    return (
        np.append(0, np.cumsum(dense.sum(axis=1))),
        np.nonzero(dense)[1].astype(np.int32),
        vectors,
        dense.astype(float),
    )


def objective(
    equations: NormalEquations, x: np.ndarray, vectors: np.ndarray, dense: np.ndarray
) -> tuple[float, float]:
    """(what both sides share, the ridges), cell by cell."""
    scores = x @ vectors.T
    fit = (
        equations.unobserved * (scores**2).sum()
        + (
            dense * (equations.observed * scores**2 - 2 * equations.pull * scores + equations.pull)
        ).sum()
    )
    return fit, float(
        (equations.reg * (dense.sum(axis=1) + equations.offset) ** equations.exponent)
        @ (x**2).sum(axis=1)
    )


@pytest.mark.parametrize("equations", [IALS, SPARK])
@pytest.mark.parametrize("run", [4096, 7])  # 7: the full row comes in five pieces
def test_rows_solve_their_equations(equations: NormalEquations, run: int) -> None:
    indptr, indices, vectors, dense = problem()
    gram = normal_equations.gram_of(vectors, block=11)
    np.testing.assert_allclose(gram, vectors.astype(float).T @ vectors, rtol=1e-12)
    found = normal_equations.solve(
        indptr, indices, lambda rows: vectors.take(rows, axis=0), gram, equations, run
    )
    wide = vectors.astype(float)
    for row, events in enumerate(dense):
        ridge = equations.reg * (events.sum() + equations.offset) ** equations.exponent * np.eye(5)
        matrix = (
            equations.unobserved * wide.T @ wide
            + equations.observed * (wide.T * events) @ wide
            + ridge
        )
        expected = (
            np.linalg.solve(matrix, equations.pull * events @ wide) if events.any() else np.zeros(5)
        )
        np.testing.assert_allclose(found.vectors[row], expected, rtol=1e-5, atol=1e-6)
    fit, penalty = objective(equations, found.vectors.astype(float), wide, dense)
    assert (found.fit, found.penalty, found.singular) == (
        pytest.approx(fit, rel=1e-5),
        pytest.approx(penalty, rel=1e-5),
        -1,
    )


def test_two_items_by_hand() -> None:
    """Items (1, 0) and (1, 1), both seen; unobserved .5, reg 1, exponent 1, offset .5 * 2: the
    matrix is 1.5 * [[2, 1], [1, 1]] + 3 * 1, the right side (2, 1): determinant 6 * 4.5 - 1.5^2 =
    24.75, so x = (9 - 1.5, 6 - 3) / 24.75.
    """
    vectors = np.array([[0, 0], [1, 0], [1, 1]], dtype=np.float32)
    equations = NormalEquations(
        unobserved=0.5, observed=1.0, pull=1.0, reg=1.0, exponent=1.0, offset=1.0
    )
    found = normal_equations.solve(
        np.array([0, 2]),
        np.array([1, 2], np.int32),
        lambda rows: vectors[rows],
        normal_equations.gram_of(vectors),
        equations,
    )
    assert found.vectors[0] == pytest.approx([7.5 / 24.75, 3.0 / 24.75])


def test_a_row_does_not_depend_on_its_block() -> None:
    indptr, indices, vectors, _ = problem()
    gram = normal_equations.gram_of(vectors)

    def take(rows: np.ndarray) -> np.ndarray:
        return vectors[rows]

    whole = normal_equations.solve(indptr, indices, take, gram, IALS).vectors
    for row in range(9):
        begin, end = indptr[row], indptr[row + 1]
        alone = normal_equations.solve(
            np.array([0, end - begin]), indices[begin:end], take, gram, IALS
        )
        np.testing.assert_array_equal(alone.vectors[0], whole[row])


def test_equations_without_a_single_solution_are_named_by_their_row() -> None:
    vectors = np.array([[0, 0], [1, 0]], dtype=np.float32)
    free = NormalEquations(
        unobserved=1.0, observed=1.0, pull=1.0, reg=0.0, exponent=0.0, offset=0.0
    )
    found = normal_equations.solve(
        np.array([0, 0, 1]),
        np.array([1], np.int32),
        lambda rows: vectors[rows],
        normal_equations.gram_of(vectors),
        free,
    )
    assert found.singular == 1


def test_vectors_are_read_from_whole_and_from_mapped_blocks_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    made = Factors(str(tmp_path), (0, 4, 5, 20), 3)
    for number in range(3):
        rows = vectors[made.bounds[number] : made.bounds[number + 1]]
        factors.save(made.path(number), rows)
        factors.save(made.gram_path(number), normal_equations.gram_of(rows))
    rows = np.array([19, 0, 4, 4, 3, 12, 5], dtype=np.int32)
    np.testing.assert_array_equal(made.reader()(rows), vectors[rows])
    monkeypatch.setattr(factors, "WHOLE_BYTES", 0)
    np.testing.assert_array_equal(made.reader()(rows), vectors[rows])
    made.add_grams()
    np.testing.assert_allclose(made.gram(), vectors.astype(float).T @ vectors, rtol=1e-12)


def test_a_file_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    class Broken:
        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise KeyboardInterrupt

    factors.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(KeyboardInterrupt):
        factors.save(tmp_path / "a.npy", Broken())  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"] and not np.load(
        tmp_path / "a.npy"
    ).any()


def test_drawn_vectors_are_normal_and_belong_to_their_rows() -> None:
    whole = factors.normal(0, 4000, 6, seed=5, scale=0.5)
    np.testing.assert_array_equal(factors.normal(1234, 50, 6, seed=5, scale=0.5), whole[1234:1284])
    assert whole.shape == (4000, 6) and not np.array_equal(
        whole, factors.normal(0, 4000, 6, seed=6, scale=0.5)
    )
    wide = whole.astype(
        float
    ).ravel()  # 24,000 numbers: mean and deviation to about .003, fourth moment 3 to about .03
    assert (
        abs(wide.mean()) < 0.015
        and abs(wide.std() - 0.5) < 0.015
        and abs((wide**4).mean() / wide.var() ** 2 - 3) < 0.2
    )
    assert np.abs(np.corrcoef(whole.T.astype(float)) - np.eye(6)).max() < 0.08


def test_blocks_are_of_equal_work_and_none_is_without_events() -> None:
    counts = np.array([0, 5, 0, 0, 90, 1, 1, 1, 2, 0, 0])
    assert csr_blocks.cut(counts, 1) == (0, 11)
    for blocks in (2, 3, 5, 40):
        bounds = csr_blocks.cut(counts, blocks)
        assert bounds[0] == 0 and bounds[-1] == 11 and 2 <= len(bounds) <= min(blocks, 6) + 1
        assert all(counts[a:b].sum() > 0 for a, b in zip(bounds, bounds[1:], strict=False))
    even = csr_blocks.cut(np.append(0, np.full(1000, 7)), 4)
    assert np.ptp(np.diff(even)) <= 2
